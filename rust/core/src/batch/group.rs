//! Owns: requests of one signature, on rungs by length: what may share a batch, and the next one of each rung.
//! Must not know: tensors, bounds; what a tenant was served is read from its queue.
//! On failure: not applicable.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use ahash::AHashMap;

use super::compose::Step;
use super::fair::{FairQueue, Place};

/// More steps than this are put together in pairs before the cheapest parting is sought.
const MAX_STEPS: usize = 64;

/// Requests of one signature.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// By priority, then by length
    levels: [BTreeMap<u64, Rung>; 3],
}

/// Requests of about one length and one priority.
#[derive(Debug, Default)]
struct Rung {
    rows: u64,
    /// The longest that stood here since it was empty
    longest: u64,
    tenants: AHashMap<Arc<str>, Line>,
    /// Tenants by what they were served when that was last looked at, which is never more than the truth
    turns: BTreeSet<(u64, Arc<str>)>,
}

#[derive(Debug)]
struct Line {
    served: u64,
    places: BTreeSet<Place>,
}

/// Where a request stands in its group.
#[derive(Debug, Clone)]
pub(super) struct Spot {
    pub level: usize,
    pub rung: u64,
    pub tenant: Arc<str>,
    pub place: Place,
    pub rows: u64,
    pub length: u64,
}

/// A request that may be taken: what its tenant was served, its place, its rung, its tenant. The least goes first.
pub(super) type Turn = (u64, Place, u64, Arc<str>);

// === impl Group ===

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        self.levels.iter().all(BTreeMap::is_empty)
    }

    pub(super) fn add(&mut self, spot: &Spot, served: u64) {
        let rung = self.levels[spot.level].entry(spot.rung).or_default();
        rung.rows += spot.rows;
        rung.longest = rung.longest.max(spot.length);
        let fresh = || Line { served, places: BTreeSet::new() };
        let line = rung.tenants.entry(Arc::clone(&spot.tenant)).or_insert_with(fresh);
        line.places.insert(spot.place);
        rung.turns.insert((line.served, Arc::clone(&spot.tenant)));
    }

    pub(super) fn remove(&mut self, spot: &Spot) {
        let level = &mut self.levels[spot.level];
        let Some(rung) = level.get_mut(&spot.rung) else { return };
        let Some(line) = rung.tenants.get_mut(&spot.tenant) else { return };
        if line.places.remove(&spot.place) {
            rung.rows = rung.rows.saturating_sub(spot.rows);
        }
        if line.places.is_empty() {
            rung.turns.remove(&(line.served, Arc::clone(&spot.tenant)));
            rung.tenants.remove(&spot.tenant);
        }
        if rung.tenants.is_empty() {
            level.remove(&spot.rung);
        }
    }

    /// The rungs of the levels up to `level` as steps of rising padded length, each with the rungs that it holds.
    pub(super) fn steps(
        &self,
        level: usize,
        padded: impl Fn(u64) -> u64,
    ) -> (Vec<Step>, Vec<RangeInclusive<u64>>) {
        let mut rungs: Vec<(u64, u64, u64)> = Vec::new();
        for level in &self.levels[..=level] {
            rungs.extend(level.iter().map(|(&rung, line)| (rung, line.longest, line.rows)));
        }
        rungs.sort_unstable();
        let (mut steps, mut spans): (Vec<Step>, Vec<RangeInclusive<u64>>) = (Vec::new(), Vec::new());
        for (rung, longest, rows) in rungs {
            let length = padded(longest);
            match (steps.last_mut(), spans.last_mut()) {
                (Some(step), Some(span)) if length <= step.padded || rung == *span.end() => {
                    step.rows += rows;
                    step.padded = step.padded.max(length);
                    *span = *span.start()..=rung;
                }
                _ => {
                    steps.push(Step { padded: length, rows });
                    spans.push(rung..=rung);
                }
            }
        }
        while steps.len() > MAX_STEPS {
            let step = |pair: &[Step]| Step {
                padded: pair.iter().map(|step| step.padded).max().unwrap_or_default(),
                rows: pair.iter().map(|step| step.rows).sum(),
            };
            let span = |pair: &[RangeInclusive<u64>]| *pair[0].start()..=*pair[pair.len() - 1].end();
            steps = steps.chunks(2).map(step).collect();
            spans = spans.chunks(2).map(span).collect();
        }
        (steps, spans)
    }

    /// Rows of one level on some rungs.
    pub(super) fn rows(&self, level: usize, rungs: &RangeInclusive<u64>) -> u64 {
        self.levels[level].range(rungs.clone()).map(|(_, rung)| rung.rows).sum()
    }

    /// The next request of every one of some rungs.
    pub(super) fn turns(&mut self, level: usize, rungs: &RangeInclusive<u64>, fair: &FairQueue) -> Vec<Turn> {
        let level = self.levels[level].range_mut(rungs.clone());
        level.filter_map(|(&at, rung)| rung.next(at, fair)).collect()
    }

    /// The next request of one rung.
    pub(super) fn turn(&mut self, level: usize, rung: u64, fair: &FairQueue) -> Option<Turn> {
        self.levels[level].get_mut(&rung)?.next(rung, fair)
    }
}

// === impl Rung ===

impl Rung {
    /// The next request. Tenants that were served elsewhere since the last look are put where they belong: each
    /// service makes a tenant move here once at most, when it is its turn.
    fn next(&mut self, at: u64, fair: &FairQueue) -> Option<Turn> {
        loop {
            let (known, tenant) = self.turns.first()?.clone();
            let line = self.tenants.get_mut(&tenant)?;
            let served = fair.served(&tenant);
            if served > known {
                line.served = served;
                self.turns.pop_first();
                self.turns.insert((served, tenant));
                continue;
            }
            return Some((known, *line.places.first()?, at, tenant));
        }
    }
}
