//! Owns: how long a batch takes: a fixed part and a part for every padded token, learned from batches that ended.
//! Must not know: queues, clocks; when a batch began is told.
//! On failure: open; before anything is learned, and where samples tell nothing, a plain guess stands in.

use super::FitView;

/// What a sample of long ago still counts, for every newer one: about the last 50 batches are seen.
const KEPT: f64 = 0.98;
/// Samples before predictions are believed.
const BELIEVED_AFTER: u64 = 4;
/// A sample further from the prediction than this many usual errors is taken as if it were that far.
const OUTLIER: f64 = 5.0;
/// What a batch is guessed to take: ms, ms for 1024 padded tokens, ms more on an idle instance.
const GUESS: [f64; 3] = [2.0, 1.0, 0.5];
/// Weight of each guess beside one sample. The last needs samples of both kinds to be told from the first: while all
/// batches find an idle instance, their time is not taken for the way there.
const GUESS_WEIGHT: [f64; 3] = [0.01, 0.01, 0.5];
/// How far the time of one range of lengths may be from the common line.
const RATIO: (f64, f64) = (0.25, 4.0);

const TOKENS: f64 = 1024.0;
const MS: f64 = 1e6;

/// The latency of one lane.
#[derive(Debug)]
pub(super) struct Fit {
    /// Weighted sums of the products of what a batch is, with itself and with its time
    products: [[f64; 3]; 3],
    times: [f64; 3],
    line: [f64; 3],
    error_ms: f64,
    samples: u64,
    /// By the power of two of the length: time beside the common line, as attention grows faster than a line
    ratios: [f64; 64],
}

/// A batch that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub padded_tokens: u64,
    pub length: u64,
    /// Whether it found an instance idle, so that its way there is part of the time
    pub from_idle: bool,
    pub took_ns: u64,
}

// === impl Fit ===

impl Fit {
    pub(super) fn new() -> Self {
        let mut fit = Self {
            products: [[0.0; 3]; 3],
            times: [0.0; 3],
            line: GUESS,
            error_ms: 0.0,
            samples: 0,
            ratios: [1.0; 64],
        };
        for (at, guess) in GUESS.into_iter().enumerate() {
            fit.products[at][at] = GUESS_WEIGHT[at];
            fit.times[at] = GUESS_WEIGHT[at] * guess;
        }
        fit
    }

    /// Learns from one batch.
    pub(super) fn learn(&mut self, sample: Sample) {
        let is = [1.0, sample.padded_tokens as f64 / TOKENS, f64::from(u8::from(sample.from_idle))];
        let expected = self.on_line(is);
        let ratio = &mut self.ratios[octave(sample.length)];
        let mut took = sample.took_ns as f64 / MS;
        let mut error = took - expected * *ratio;
        if self.samples >= BELIEVED_AFTER {
            let most = OUTLIER * self.error_ms.max(0.05 * expected);
            error = error.clamp(-most, most);
            took = expected * *ratio + error;
            *ratio = (*ratio + 0.1 * (took / expected.max(1e-3) - *ratio)).clamp(RATIO.0, RATIO.1);
        }
        let weight = if self.samples == 0 { 1.0 } else { 0.1 };
        self.error_ms += weight * (error.abs() - self.error_ms);
        for row in 0..3 {
            for column in 0..3 {
                let guess = if row == column { GUESS_WEIGHT[row] } else { 0.0 };
                let learned = self.products[row][column] - guess;
                self.products[row][column] = guess + KEPT * learned + is[row] * is[column];
            }
            let guess = GUESS_WEIGHT[row] * GUESS[row];
            self.times[row] = guess + KEPT * (self.times[row] - guess) + is[row] * took;
        }
        self.samples += 1;
        self.solve();
    }

    /// What a batch takes on a busy lane, as far as is known, for comparing batches.
    pub(super) fn cost_ns(&self, padded_tokens: u64, length: u64) -> f64 {
        let line = self.line[0] + self.line[1] * (padded_tokens as f64 / TOKENS);
        line * self.ratios[octave(length)] * MS
    }

    /// How long a batch will take; `None` before that is known.
    pub(super) fn predicted_ns(&self, padded_tokens: u64, length: u64, from_idle: bool) -> Option<u64> {
        let way = if from_idle { self.line[2] * MS } else { 0.0 };
        (self.samples >= BELIEVED_AFTER).then(|| (self.cost_ns(padded_tokens, length) + way) as u64)
    }

    /// How long the way to an idle instance is.
    pub(super) fn way_ns(&self) -> u64 {
        (self.line[2] * MS) as u64
    }

    /// How far predictions usually are from what happens.
    pub(super) fn error_ns(&self) -> u64 {
        (self.error_ms * MS) as u64
    }

    pub(super) fn view(&self) -> FitView {
        FitView {
            fixed_ns: self.line[0] * MS,
            ns_per_token: self.line[1] * MS / TOKENS,
            idle_ns: self.line[2] * MS,
            samples: self.samples,
        }
    }

    fn on_line(&self, is: [f64; 3]) -> f64 {
        is.iter().zip(self.line).map(|(is, part)| is * part).sum()
    }

    /// The line with the least squared error. A part that comes out below zero is held at zero and the others are
    /// found anew; if that fails too, the line stays.
    fn solve(&mut self) {
        let mut held = [false; 3];
        for _ in 0..3 {
            let Some(line) = solved(&self.products, &self.times, held) else { return };
            let Some(at) = line.iter().position(|&part| part < 0.0) else {
                self.line = line;
                return;
            };
            held[at] = true;
        }
    }
}

/// The power of two above a length.
fn octave(length: u64) -> usize {
    length.max(1).ilog2() as usize
}

/// Solves three linear equations by elimination; the unknowns in `held` are zero.
fn solved(products: &[[f64; 3]; 3], times: &[f64; 3], held: [bool; 3]) -> Option<[f64; 3]> {
    let mut rows: [[f64; 4]; 3] = [[0.0; 4]; 3];
    for (at, row) in rows.iter_mut().enumerate() {
        if held[at] {
            row[at] = 1.0;
            continue;
        }
        for column in 0..3 {
            row[column] = if held[column] { 0.0 } else { products[at][column] };
        }
        row[3] = times[at];
    }
    for at in 0..3 {
        let pivot = (at..3).max_by(|&one, &two| rows[one][at].abs().total_cmp(&rows[two][at].abs()))?;
        rows.swap(at, pivot);
        if rows[at][at].abs() < 1e-12 {
            return None;
        }
        let lead = rows[at];
        for (other, row) in rows.iter_mut().enumerate() {
            if other != at {
                let times = row[at] / lead[at];
                row.iter_mut().zip(lead).for_each(|(cell, part)| *cell -= times * part);
            }
        }
    }
    Some([0, 1, 2].map(|at| rows[at][3] / rows[at][at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(padded_tokens: u64, from_idle: bool, took_ns: u64) -> Sample {
        Sample { padded_tokens, length: 1, from_idle, took_ns }
    }

    fn close(found: f64, wanted: f64) -> bool {
        (found - wanted).abs() <= 0.03 * wanted
    }

    #[test]
    fn a_line_is_found_from_few_samples() {
        let mut fit = Fit::new();
        assert_eq!(fit.predicted_ns(1, 1, false), None);
        for at in 0..40 {
            let tokens = 500 + at * 97 % 3000;
            let idle = at % 4 == 0;
            fit.learn(sample(tokens, idle, 4_000_000 + 2000 * tokens + u64::from(idle) * 700_000));
        }
        let view = fit.view();
        assert!(close(view.fixed_ns, 4e6) && close(view.ns_per_token, 2000.0), "{view:?}");
        assert!(close(fit.predicted_ns(1000, 1, true).unwrap_or_default() as f64, 6.7e6));
    }

    #[test]
    fn a_change_is_learned_and_one_stall_is_not() {
        let mut fit = Fit::new();
        for at in 0..200 {
            fit.learn(sample(1000 + at % 7 * 100, false, 5_000_000));
        }
        fit.learn(sample(1000, false, 900_000_000));
        assert!(fit.cost_ns(1000, 1) < 6e6);
        for at in 0..200 {
            fit.learn(sample(1000 + at % 7 * 100, false, 20_000_000));
        }
        assert!(close(fit.cost_ns(1000, 1), 20e6), "{:?}", fit.view());
    }

    #[test]
    fn no_part_is_below_zero() {
        let mut fit = Fit::new();
        for at in 0..50 {
            fit.learn(sample(1000 * (1 + at % 5), at % 2 == 0, 9_000_000 - 1_000_000 * (at % 5)));
        }
        let view = fit.view();
        assert!(view.fixed_ns >= 0.0 && view.ns_per_token >= 0.0 && view.idle_ns >= 0.0);
    }

    #[test]
    fn lengths_that_cost_more_than_the_line_are_predicted_apart() {
        let mut fit = Fit::new();
        for at in 0..400_u64 {
            let length = [16, 512][at as usize % 2];
            let took_ns = 1_000_000 + 1000 * 2048 * if length == 512 { 3 } else { 1 };
            fit.learn(Sample { padded_tokens: 2048, length, from_idle: false, took_ns });
        }
        assert!(fit.cost_ns(2048, 512) > 1.8 * fit.cost_ns(2048, 16));
    }
}
