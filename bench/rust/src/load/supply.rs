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

/// A request and when it is to be sent.
#[derive(Debug)]
pub struct Turn<'a> {
    /// Head and body.
    pub request: &'a [u8],
    /// Not before this; `None`: at once.
    pub due: Option<Instant>,
}

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
    pub fn next<'a>(&'a self, plan: &Plan, scratch: &'a mut Vec<u8>) -> Option<Turn<'a>> {
        let turn = self.turn.get();
        if turn >= plan.requests || plan.duration.is_some_and(|limit| self.elapsed() >= limit) {
            return None;
        }
        self.turn.set(turn + 1);
        let due = plan.gap.map(|gap| self.started + gap.mul_f64(turn as f64));
        let index = turn as usize;
        if let Some(end) = self.ends.get(index) {
            let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
            return Some(Turn { request: &self.prepared[start..*end], due });
        }
        scratch.clear();
        plan.write_request(turn, scratch);
        Some(Turn { request: scratch, due })
    }

    /// Time since the first request could be sent.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::args::Args;

    #[test]
    fn a_rate_spaces_requests_evenly() {
        let words = "--addr 127.0.0.1:1 --requests 3 --per-second 100";
        let plan = Plan::take(&mut Args::parse(words.split(' ').map(str::to_owned)).unwrap()).unwrap();
        let supply = Supply::prepare(&plan);
        let mut scratch = Vec::new();
        let after: Vec<_> = std::iter::from_fn(|| supply.next(&plan, &mut scratch)?.due)
            .map(|due| (due - supply.started).as_millis())
            .collect();
        assert_eq!(after, [0, 10, 20]);
    }
}
