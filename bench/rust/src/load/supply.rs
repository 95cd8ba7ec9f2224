//! Owns the requests of a run before they are sent: written ahead while they fit in memory, so that making them is not timed.
//! Must not know of sockets.
//! On failure: nothing here can fail; a run too large to prepare is written as it goes.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use super::plan::Plan;

/// Most memory for requests written ahead.
const PREPARED_BYTES: u64 = 512 << 20;

/// Hands out requests, each once, until the plan's number or time is spent.
#[derive(Debug)]
pub struct Supply {
    started: Instant,
    turn: Cell<u64>,
    prepared: Vec<u8>,
    ends: Vec<usize>,
}

// === impl Supply ===

impl Supply {
    /// Writes the plan's requests ahead if they fit; the clock of the run starts afterwards.
    pub fn prepare(plan: &Plan) -> Self {
        let mut prepared = Vec::new();
        let mut ends = Vec::new();
        if plan.requests.saturating_mul(plan.request_bytes()) <= PREPARED_BYTES {
            for turn in 0..plan.requests {
                plan.write_request(turn, &mut prepared);
                ends.push(prepared.len());
            }
        }
        Self { started: Instant::now(), turn: Cell::new(0), prepared, ends }
    }

    /// The next request; `scratch` holds it when it was not written ahead.
    pub fn next<'a>(&'a self, plan: &Plan, scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let turn = self.turn.get();
        if turn >= plan.requests || plan.duration.is_some_and(|limit| self.elapsed() >= limit) {
            return None;
        }
        self.turn.set(turn + 1);
        let index = turn as usize;
        if let Some(end) = self.ends.get(index) {
            let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
            return Some(&self.prepared[start..*end]);
        }
        scratch.clear();
        plan.write_request(turn, scratch);
        Some(scratch)
    }

    /// Time since the first request could be sent.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
