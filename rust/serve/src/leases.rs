//! Owns: the wait of whoever draws leases for the asks of the request path.
//! Must not know: what a lease is drawn from.
//! On failure: closed; asks that nobody serves stay in the engine, whose requests give up by their own deadlines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_core::engine::{Engine, LeaseAsk};
use parking_lot::{Condvar, Mutex};

/// Asks of one call, at most.
const MAX_ASKS: usize = 1_024;

/// The asks of an engine, for a thread that waits for them.
#[derive(Debug)]
pub struct Leases {
    engine: Arc<Engine>,
    bell: Arc<Bell>,
}

#[derive(Debug, Default)]
struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rung: bool,
    closed: bool,
}

// === impl Leases ===

impl Leases {
    /// The asks of this engine, from now on.
    pub fn new(engine: Arc<Engine>) -> Self {
        let bell = Arc::new(Bell::default());
        let mine = bell.clone();
        engine.on_lease_ask(Box::new(move || {
            mine.state.lock().rung = true;
            mine.rung.notify_one();
        }));
        Self { engine, bell }
    }

    /// The next asks. Blocks at most `timeout`; empty then. `None`: closed.
    pub fn next(&self, timeout: Duration) -> Option<Vec<LeaseAsk>> {
        let until = Instant::now() + timeout;
        loop {
            let asks = self.engine.take_lease_asks(MAX_ASKS);
            let mut state = self.bell.state.lock();
            if state.closed {
                return None;
            }
            if !asks.is_empty() {
                return Some(asks);
            }
            if !state.rung && self.bell.rung.wait_until(&mut state, until).timed_out() {
                return Some(asks);
            }
            state.rung = false;
        }
    }

    /// [`Leases::next`] returns `None` from now on.
    pub fn close(&self) {
        self.bell.state.lock().closed = true;
        self.bell.rung.notify_all();
    }
}
