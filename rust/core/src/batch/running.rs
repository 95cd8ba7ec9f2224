//! Owns: the batches of a lane that are in flight: which of them run, since when, and when an instance is idle again.
//! Must not know: requests, how latency is fitted.
//! On failure: open; a batch that nobody knows ends as the oldest of which nothing is known.

use super::fit::Sample;
use super::{Capacity, Departed};

/// What a lane has in flight.
#[derive(Debug, Default)]
pub(super) struct Running {
    flights: Vec<Flight>,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    /// `None`: it left again, nobody said when
    left_ns: Option<u64>,
    padded_tokens: u64,
    length: u64,
    began: Began,
}

/// When a batch began to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Began {
    /// It waits behind another one
    NotYet,
    /// When it left: an instance was idle
    OnLeaving,
    /// When another one ended
    At(u64),
    /// It runs, and nobody knows since when
    Unknown,
}

// === impl Running ===

impl Running {
    pub(super) fn count(&self) -> u32 {
        self.flights.len() as u32
    }

    /// A batch leaves.
    pub(super) fn leave(&mut self, left_ns: u64, padded_tokens: u64, length: u64, capacity: Capacity) {
        let idle = self.running() < capacity.instances;
        let began = if idle { Began::OnLeaving } else { Began::NotYet };
        self.flights.push(Flight { left_ns: Some(left_ns), padded_tokens, length, began });
    }

    /// A batch leaves once more.
    pub(super) fn again(&mut self) {
        let began = Began::Unknown;
        self.flights.push(Flight { left_ns: None, padded_tokens: 0, length: 1, began });
    }

    /// A batch ended. What it took is known if it was answered and its beginning is known; `way_ns` is how long a
    /// batch needs to an instance.
    pub(super) fn ended(&mut self, departed: &Departed, done_ns: Option<u64>, way_ns: u64) -> Option<Sample> {
        let same = |flight: &Flight| {
            flight.left_ns == Some(departed.left_ns) && flight.padded_tokens == departed.padded_tokens
        };
        let unknown = || self.flights.iter().position(|flight| flight.left_ns.is_none());
        let at = self.flights.iter().position(same).or_else(unknown).unwrap_or(0);
        if at >= self.flights.len() {
            return None;
        }
        let flight = self.flights.remove(at);
        if flight.began != Began::NotYet
            && let Some(next) = self.flights.iter_mut().find(|flight| flight.began == Began::NotYet)
        {
            next.began = done_ns.map_or(Began::Unknown, Began::At);
        }
        let (done_ns, left_ns) = (done_ns?, flight.left_ns?);
        let (began_ns, from_idle) = match flight.began {
            Began::OnLeaving => (left_ns, true),
            Began::At(at_ns) => (at_ns.max(left_ns.saturating_add(way_ns)), false),
            Began::NotYet | Began::Unknown => return None,
        };
        let took_ns = done_ns.checked_sub(began_ns)?;
        let Flight { padded_tokens, length, .. } = flight;
        Some(Sample { padded_tokens, length, from_idle, took_ns })
    }

    /// When an instance is idle for the next batch, if all run; `None`: nobody knows. `predicted` tells how long a
    /// batch takes by its padded tokens, its length, and whether it found an idle instance.
    pub(super) fn next_idle_ns(&self, predicted: impl Fn(u64, u64, bool) -> Option<u64>) -> Option<u64> {
        let mut ends = Vec::with_capacity(self.flights.len());
        for flight in self.flights.iter().filter(|flight| flight.began != Began::NotYet) {
            let (began_ns, from_idle) = match flight.began {
                Began::OnLeaving => (flight.left_ns?, true),
                Began::At(at_ns) => (at_ns, false),
                Began::NotYet | Began::Unknown => return None,
            };
            ends.push(began_ns.saturating_add(predicted(flight.padded_tokens, flight.length, from_idle)?));
        }
        for flight in self.flights.iter().filter(|flight| flight.began == Began::NotYet) {
            let first = ends.iter_mut().min()?;
            *first = first.saturating_add(predicted(flight.padded_tokens, flight.length, false)?);
        }
        ends.into_iter().min()
    }

    fn running(&self) -> u32 {
        self.flights.iter().filter(|flight| flight.began != Began::NotYet).count() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::LaneKey;

    const ONE: Capacity = Capacity { instances: 1, slots: 2 };

    fn departed(left_ns: u64, padded_tokens: u64) -> Departed {
        let lane = LaneKey { pool: "".into(), model: "".into(), version: "".into() };
        Departed { lane, rows: 1, padded_tokens, left_ns }
    }

    #[test]
    fn one_behind_another_begins_when_that_one_ends() {
        let mut running = Running::default();
        running.leave(0, 100, 10, ONE);
        running.leave(900, 50, 10, ONE);
        assert_eq!(running.next_idle_ns(|tokens, _, _| Some(tokens * 10)), Some(1500));
        let first = running.ended(&departed(0, 100), Some(1010), 0);
        assert_eq!(first.map(|sample| (sample.took_ns, sample.from_idle)), Some((1010, true)));
        assert_eq!(running.next_idle_ns(|tokens, _, _| Some(tokens * 10)), Some(1510));
        let second = running.ended(&departed(900, 50), Some(1500), 0);
        assert_eq!(second.map(|sample| (sample.took_ns, sample.from_idle)), Some((490, false)));
    }

    #[test]
    fn one_that_left_too_late_begins_when_it_arrives() {
        let mut running = Running::default();
        running.leave(0, 100, 10, ONE);
        running.leave(900, 50, 10, ONE);
        running.ended(&departed(0, 100), Some(910), 40);
        let second = running.ended(&departed(900, 50), Some(1500), 40);
        assert_eq!(second.map(|sample| sample.took_ns), Some(560));
    }

    #[test]
    fn a_failure_and_one_that_left_again_teach_nothing() {
        let mut running = Running::default();
        running.leave(0, 100, 10, ONE);
        assert_eq!(running.ended(&departed(0, 100), None, 0), None);
        running.again();
        assert_eq!(running.next_idle_ns(|tokens, _, _| Some(tokens)), None);
        assert_eq!(running.ended(&departed(0, 100), Some(50), 0), None);
        assert_eq!((running.count(), running.ended(&departed(0, 100), Some(50), 0)), (0, None));
    }
}
