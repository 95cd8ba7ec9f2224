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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use forebay_core::engine::EngineConfig;

    use super::*;

    fn leases() -> Leases {
        let snapshot = forebay_core::policy::compile(b"").unwrap();
        Leases::new(Arc::new(Engine::new(EngineConfig::default(), snapshot)))
    }

    #[test]
    fn without_asks_its_time_passes() {
        assert!(leases().next(Duration::ZERO).unwrap().is_empty());
        let rung = leases();
        rung.bell.state.lock().rung = true;
        assert!(rung.next(Duration::from_millis(1)).unwrap().is_empty(), "an ask that another call took");
        assert!(!rung.bell.state.lock().rung);
    }

    #[test]
    fn closing_ends_a_wait_and_every_later_one() {
        let leases = leases();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| leases.next(Duration::from_secs(600)).is_none());
            leases.close();
            assert!(waiting.join().unwrap());
        });
        assert!(leases.next(Duration::from_secs(600)).is_none());
    }
}
