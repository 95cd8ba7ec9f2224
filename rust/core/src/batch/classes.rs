//! Owns: to which length a request is padded: a person's classes, or classes learned from the lengths that come.
//! Must not know: tensors, queues, latency. A learned class costs nothing but its padding, so the classes with the
//! least padding are those with the least expected cost, whatever a token costs.
//! On failure: open; a length that no class holds is a class of its own.

use std::collections::BTreeMap;

use super::LengthClasses;

/// Lengths up to this one are counted exactly; above, in steps of a sixteenth of their power of two.
const EXACT: u64 = 16;
/// Lengths seen before classes are learned for the first time, and between two times.
const FIRST_LEARNED_AFTER: u64 = 256;
const LEARNED_EVERY: u64 = 1024;
/// More steps than this are counted in pairs, so that learning stays well below a millisecond.
const MAX_STEPS: usize = 96;
/// What is left of old counts when classes are learned anew; a count below the second is forgotten.
const KEPT: f64 = 0.5;
const FORGOTTEN: f64 = 0.1;

/// The classes of a lane.
#[derive(Debug)]
pub(super) struct Classes {
    chosen: LengthClasses,
    seen: BTreeMap<u64, Seen>,
    lengths_seen: u64,
    learn_at: u64,
    bounds: Vec<u64>,
    /// The longest padded length that the model has answered
    proven: u64,
}

/// Lengths of one step.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    count: f64,
    longest: u64,
}

// === impl Classes ===

impl Classes {
    pub(super) fn new(chosen: LengthClasses) -> Self {
        Self {
            chosen,
            seen: BTreeMap::new(),
            lengths_seen: 0,
            learn_at: FIRST_LEARNED_AFTER,
            bounds: Vec::new(),
            proven: 0,
        }
    }

    /// Changes what a person chose; whether requests that wait now stand on other rungs.
    pub(super) fn choose(&mut self, chosen: &LengthClasses) -> bool {
        if self.chosen == *chosen {
            return false;
        }
        self.chosen = chosen.clone();
        self.learn_at = self.lengths_seen;
        true
    }

    /// A request of this length came.
    pub(super) fn saw(&mut self, length: u64) {
        let LengthClasses::Learned { max_classes } = self.chosen else { return };
        let seen = self.seen.entry(step(length)).or_default();
        seen.count += 1.0;
        seen.longest = seen.longest.max(length);
        self.lengths_seen += 1;
        if self.lengths_seen >= self.learn_at.max(FIRST_LEARNED_AFTER) {
            self.learn_at = self.lengths_seen + LEARNED_EVERY;
            let steps: Vec<Seen> = self.seen.values().copied().collect();
            self.bounds = least_padding(&coarse(steps), max_classes);
            self.seen.retain(|_, seen| {
                seen.count *= KEPT;
                seen.count > FORGOTTEN
            });
        }
    }

    /// The model answered a batch of this padded length. A learned class above all that it answered is not used: it
    /// may come from a request that the model refuses, and would take others with it.
    pub(super) fn answered(&mut self, length: u64) {
        self.proven = self.proven.max(length);
    }

    /// Where a request of this length waits: near those of the same class. Stands until [`Classes::choose`].
    pub(super) fn rung(&self, length: u64) -> u64 {
        match &self.chosen {
            LengthClasses::Fixed(classes) => class_of(classes, length).unwrap_or_else(|| step(length)),
            LengthClasses::Learned { .. } => step(length),
        }
    }

    /// The length that a batch is padded to whose longest request has this one.
    pub(super) fn padded(&self, length: u64) -> u64 {
        let class = match &self.chosen {
            LengthClasses::Fixed(classes) => class_of(classes, length),
            LengthClasses::Learned { .. } if self.bounds.is_empty() => {
                Some(half_power(length)).filter(|&class| class <= self.proven)
            }
            LengthClasses::Learned { .. } => {
                class_of(&self.bounds, length).filter(|&class| class <= self.proven)
            }
        };
        class.unwrap_or(length)
    }

    /// The classes as they are; empty before any is learned.
    pub(super) fn bounds(&self) -> &[u64] {
        match &self.chosen {
            LengthClasses::Fixed(classes) => classes,
            LengthClasses::Learned { .. } => &self.bounds,
        }
    }
}

fn class_of(classes: &[u64], length: u64) -> Option<u64> {
    classes.get(classes.partition_point(|&class| class < length)).copied()
}

/// The end of the step that holds `length`.
fn step(length: u64) -> u64 {
    if length <= EXACT {
        return length;
    }
    let width = 1 << ((length - 1).ilog2() - EXACT.ilog2());
    length.div_ceil(width).saturating_mul(width)
}

/// The next power of the root of two, rounded up: sane classes before any is learned.
fn half_power(length: u64) -> u64 {
    let whole = length.max(1).checked_next_power_of_two().unwrap_or(length);
    let half = (whole as f64 / std::f64::consts::SQRT_2).ceil() as u64;
    if length <= half { half } else { whole }
}

fn coarse(mut steps: Vec<Seen>) -> Vec<Seen> {
    while steps.len() > MAX_STEPS {
        let pair = |pair: &[Seen]| Seen {
            count: pair.iter().map(|seen| seen.count).sum(),
            longest: pair.iter().map(|seen| seen.longest).max().unwrap_or_default(),
        };
        steps = steps.chunks(2).map(pair).collect();
    }
    steps
}

/// At most `max_classes` upper bounds, with the least padding for the lengths in `steps`, which rise.
fn least_padding(steps: &[Seen], max_classes: usize) -> Vec<u64> {
    let mut counts = vec![0.0];
    for seen in steps {
        counts.push(counts[counts.len() - 1] + seen.count);
    }
    // `best[n]`: the least padded tokens of the first `n` steps, first in one class, then in one more each round.
    let mut best: Vec<f64> = (0..=steps.len()).map(|n| if n == 0 { 0.0 } else { f64::INFINITY }).collect();
    let mut cuts: Vec<Vec<usize>> = Vec::new();
    for _ in 0..max_classes.min(steps.len()) {
        let mut next = best.clone();
        let mut cut: Vec<usize> = (0..=steps.len()).collect();
        for n in 1..=steps.len() {
            let longest = steps[n - 1].longest as f64;
            for from in 0..n {
                let padded = best[from] + (counts[n] - counts[from]) * longest;
                if padded < next[n] {
                    (next[n], cut[n]) = (padded, from);
                }
            }
        }
        best = next;
        cuts.push(cut);
    }
    let mut bounds = Vec::new();
    let mut n = steps.len();
    for cut in cuts.iter().rev() {
        if n > 0 && cut[n] < n {
            bounds.push(steps[n - 1].longest);
            n = cut[n];
        }
    }
    bounds.reverse();
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEARNED: LengthClasses = LengthClasses::Learned { max_classes: 2 };

    #[test]
    fn a_person_s_classes_hold_and_a_longer_request_pads_to_itself() {
        let classes = Classes::new(LengthClasses::Fixed([64, 128].into()));
        assert_eq!([1, 64, 65, 129].map(|length| classes.padded(length)), [64, 64, 128, 129]);
        assert_eq!([1, 64, 65].map(|length| classes.rung(length)), [64, 64, 128]);
    }

    #[test]
    fn two_classes_stand_where_padding_is_least() {
        let mut classes = Classes::new(LEARNED);
        for at in 0..300 {
            classes.saw(if at % 3 == 0 { 500 } else { 10 });
        }
        assert_eq!(classes.bounds(), [10, 500]);
        classes.answered(500);
        assert_eq!([3, 10, 11, 500, 501].map(|length| classes.padded(length)), [10, 10, 500, 500, 501]);
    }

    #[test]
    fn nothing_is_padded_to_a_length_that_the_model_never_answered() {
        let mut classes = Classes::new(LEARNED);
        assert_eq!(classes.padded(33), 33);
        classes.answered(50);
        assert_eq!([33, 46, 60].map(|length| classes.padded(length)), [46, 46, 60]);
        for _ in 0..300 {
            classes.saw(100_000);
        }
        assert_eq!(classes.padded(60), 60);
    }

    #[test]
    fn steps_are_narrow_and_hold_their_lengths() {
        let mut last = 0;
        for length in 1..5000 {
            let end = step(length);
            assert!(end >= length && end >= last && (end - length) * 16 <= length, "{length} {end}");
            assert_eq!(step(end), end);
            last = end;
        }
        assert_eq!((half_power(1), half_power(91), half_power(92)), (1, 91, 128));
    }

    #[test]
    fn learning_many_lengths_keeps_the_number_of_classes() {
        let mut classes = Classes::new(LengthClasses::Learned { max_classes: 32 });
        for length in 1..3000 {
            classes.saw(length * 7919 % 100_000);
        }
        assert!(classes.bounds().len() <= 32);
        assert!(classes.bounds().windows(2).all(|pair| pair[0] < pair[1]));
    }
}
