//! Owns: what answers without usage probably cost, learned per model from those with it.
//! Must not know: why an answer has no usage.
//! On failure: a model that was never seen with usage is estimated by fixed factors; an estimate never passes its cap.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

/// Each answer weighs this much less with every later one: the last few hundred count.
const MEMORY: f64 = 0.995;
/// Answers before a fit is trusted.
const TRUSTED: f64 = 8.0;
/// Bytes of one output token before anything was learned: an event of a stream, four characters of an answer.
const STREAM_BYTES: f64 = 180.0;
const PLAIN_BYTES: f64 = 4.5;
/// Nanoseconds of one output token before anything was learned.
const TOKEN_NS: f64 = 20e6;
/// Models that are remembered.
const MAX_MODELS: usize = 4_096;

/// What one model's answers have in common.
#[derive(Debug, Default)]
pub struct Calibration {
    inner: Mutex<Fits>,
}

/// The calibrations of all models, by name: they outlive policies.
#[derive(Debug, Default)]
pub struct Calibrations {
    models: RwLock<HashMap<Arc<str>, Arc<Calibration>>>,
}

#[derive(Debug, Default)]
struct Fits {
    stream_bytes: Fit,
    plain_bytes: Fit,
    plain_ns: Fit,
    counted_prompt: f64,
    real_prompt: f64,
}

/// A line through weighted points, by least squares.
#[derive(Debug, Default, Clone, Copy)]
struct Fit {
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

// === impl Calibrations ===

impl Calibrations {
    /// The calibration of a model.
    pub fn of(&self, model: &Arc<str>) -> Arc<Calibration> {
        if let Some(found) = self.models.read().get(model) {
            return found.clone();
        }
        let mut models = self.models.write();
        if models.len() >= MAX_MODELS && !models.contains_key(model) {
            // Policies have changed thousands of models since: begin again.
            models.clear();
        }
        models.entry(model.clone()).or_default().clone()
    }
}

// === impl Calibration ===

impl Calibration {
    /// Learns from a whole answer whose use the upstream told.
    pub fn learn(&self, stream: bool, answer_bytes: u64, generation_ns: u64, output_tokens: u64) {
        let mut fits = self.inner.lock();
        let y = output_tokens as f64;
        if stream {
            fits.stream_bytes.add(answer_bytes as f64, y);
        } else {
            fits.plain_bytes.add(answer_bytes as f64, y);
            fits.plain_ns.add(generation_ns as f64, y);
        }
    }

    /// Learns how far the count of prompts is off.
    pub fn learn_prompt(&self, counted: u64, real: u64) {
        let mut fits = self.inner.lock();
        fits.counted_prompt = fits.counted_prompt * MEMORY + counted as f64;
        fits.real_prompt = fits.real_prompt * MEMORY + real as f64;
    }

    /// Prompt tokens, from our count of them.
    pub fn prompt(&self, counted: u64) -> u64 {
        let fits = self.inner.lock();
        if fits.counted_prompt < 1.0 {
            return counted;
        }
        (counted as f64 * fits.real_prompt / fits.counted_prompt).round() as u64
    }

    /// Output tokens of an answer of which this much was seen, at most `cap`.
    pub fn output(&self, stream: bool, answer_bytes: u64, cap: u64) -> u64 {
        let fits = self.inner.lock();
        let (fit, bytes) =
            if stream { (&fits.stream_bytes, STREAM_BYTES) } else { (&fits.plain_bytes, PLAIN_BYTES) };
        clamp(fit.at(answer_bytes as f64).unwrap_or(answer_bytes as f64 / bytes), cap)
    }

    /// Output tokens of a plain answer that was given up after so long, before a byte of it was seen, at most `cap`.
    pub fn output_within(&self, generation_ns: u64, cap: u64) -> u64 {
        let fits = self.inner.lock();
        clamp(fits.plain_ns.at(generation_ns as f64).unwrap_or(generation_ns as f64 / TOKEN_NS), cap)
    }
}

fn clamp(tokens: f64, cap: u64) -> u64 {
    // The cast of a negative number is 0, that of a huge one the largest.
    (tokens.round() as u64).min(cap)
}

// === impl Fit ===

impl Fit {
    fn add(&mut self, x: f64, y: f64) {
        for sum in [&mut self.n, &mut self.x, &mut self.y, &mut self.xx, &mut self.xy] {
            *sum *= MEMORY;
        }
        self.n += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.xy += x * y;
    }

    fn at(&self, x: f64) -> Option<f64> {
        if self.n < TRUSTED {
            return None;
        }
        let (mean_x, mean_y) = (self.x / self.n, self.y / self.n);
        let spread = self.xx / self.n - mean_x * mean_x;
        if spread <= mean_x * mean_x * 1e-6 {
            // All alike: through the origin.
            return (mean_x > 0.0).then(|| mean_y * x / mean_x);
        }
        let slope = (self.xy / self.n - mean_x * mean_y) / spread;
        if slope <= 0.0 {
            return (mean_x > 0.0).then(|| mean_y * x / mean_x);
        }
        Some(mean_y + slope * (x - mean_x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_again() {
        let calibration = Calibration::default();
        for tokens in 1..200_u64 {
            calibration.learn(true, 300 + 190 * tokens, 0, tokens);
            calibration.learn(false, 400 + 4 * tokens, 5_000_000 + 1_000_000 * tokens, tokens);
        }
        for tokens in [1, 50, 500] {
            assert_eq!(calibration.output(true, 300 + 190 * tokens, 1_000), tokens);
            assert_eq!(calibration.output(false, 400 + 4 * tokens, 1_000), tokens);
            assert_eq!(calibration.output_within(5_000_000 + 1_000_000 * tokens, 1_000), tokens);
        }
        assert_eq!(calibration.output(true, 1 << 40, 70), 70, "never above the cap");
        assert_eq!(calibration.output(true, 0, 70), 0, "never below nothing");
    }

    #[test]
    fn before_anything_was_learned_there_are_factors() {
        let calibration = Calibration::default();
        assert_eq!(calibration.output(true, 1_800, 1_000), 10);
        assert_eq!(calibration.output(false, 450, 1_000), 100);
        assert_eq!(calibration.output_within(200_000_000, 1_000), 10);
        assert_eq!(calibration.prompt(123), 123);
    }

    #[test]
    fn prompts_follow_their_ratio() {
        let calibration = Calibration::default();
        for _ in 0..50 {
            calibration.learn_prompt(100, 80);
        }
        assert_eq!(calibration.prompt(1_000), 800);
    }

    #[test]
    fn equal_answers_are_scaled() {
        let calibration = Calibration::default();
        for _ in 0..50 {
            calibration.learn(true, 1_000, 0, 10);
        }
        assert_eq!(calibration.output(true, 500, 100), 5);
    }

    #[test]
    fn models_are_bounded() {
        let all = Calibrations::default();
        for i in 0..=MAX_MODELS {
            let _ = all.of(&Arc::from(format!("m{i}")));
        }
        assert!(all.models.read().len() <= MAX_MODELS);
    }
}
