//! Owns telling when something is due, to a twentieth of a millisecond; the runtime's own timers know milliseconds only.
//! Must not know what is due.
//! On failure: a receiver that is gone ends the thread.

use std::{
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::UnboundedSender;

/// Times after `start`, rising.
#[derive(Debug)]
pub struct Due {
    /// When the first nanosecond began
    pub start: Instant,
    /// Nanoseconds
    pub times: Vec<u64>,
}

// === impl Due ===

impl Due {
    /// Sends the index of each time when it has come, from a thread of its own.
    pub fn tell(self, sender: UnboundedSender<usize>) {
        thread::spawn(move || {
            for (index, ns) in self.times.iter().enumerate() {
                let left = Duration::from_nanos(*ns).saturating_sub(self.start.elapsed());
                if !left.is_zero() {
                    thread::sleep(left);
                }
                if sender.send(index).is_err() {
                    return;
                }
            }
        });
    }
}
