//! Owns: a queue's work for tests that do it themselves: batches, calls and unknown models from one place.
//! Must not know: what is done with it.
//! On failure: the test fails; every wait has a bound.

use std::time::{Duration, Instant};

use forebay_serve::kserve::{Alarm, BatchQueue, Next};
use tokio::runtime::Builder;

/// The queue tells of batches and of unknown models in two ways; this looks at both in turn.
const TURN: Duration = Duration::from_millis(1);

/// Whatever there is to do next. Not for a thread of a runtime.
pub fn next_blocking(queue: &BatchQueue, timeout: Duration) -> Next {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let until = Instant::now() + timeout;
    loop {
        match queue.next_unknown_blocking(Duration::ZERO) {
            Next::Idle => {}
            next => return next,
        }
        let left = until.saturating_duration_since(Instant::now());
        match runtime
            .block_on(async { tokio::time::timeout(left.min(TURN), queue.next(&Alarm::new())).await })
        {
            Ok(Some(work)) => return Next::Work(work),
            Ok(None) => return Next::Closed,
            Err(_) if left.is_zero() => return Next::Idle,
            Err(_) => {}
        }
    }
}
