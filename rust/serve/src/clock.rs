//! Owns: the time of this process.
//! Must not know: who asks.
//! On failure: it cannot fail; the wall clock before 1970 reads as 0.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use forebay_core::engine::Clock;

/// Monotonic nanoseconds since it was made, and the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now_ns(&self) -> u64 {
        // 584 years fit.
        self.start.elapsed().as_nanos() as u64
    }

    fn unix_ns(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
    }
}
