//! Owns the summary of a set of durations.
//! Must not know what was timed.
//! On failure: an empty set gives `null`, never 0, which would read as fast.

use std::fmt::Write;

/// Durations of one run, kept whole: quantiles are exact.
#[derive(Debug, Default)]
pub struct Durations {
    ns: Vec<u64>,
}

// === impl Durations ===

impl Durations {
    /// Adds one duration.
    pub fn push(&mut self, ns: u64) {
        self.ns.push(ns);
    }

    /// One JSON object in microseconds, or `null` when nothing was timed.
    pub fn json_us(&mut self) -> String {
        if self.ns.is_empty() {
            return "null".to_owned();
        }
        self.ns.sort_unstable();
        let mean = self.ns.iter().sum::<u64>() as f64 / self.ns.len() as f64;
        let mut out = format!("{{\"count\":{},\"mean\":{:.1}", self.ns.len(), mean / 1e3);
        for (name, quantile) in [("p50", 0.50), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)] {
            let _ = write!(out, ",\"{name}\":{:.1}", self.quantile(quantile) as f64 / 1e3);
        }
        out.push('}');
        out
    }

    /// The nearest-rank quantile of a sorted, non-empty set.
    fn quantile(&self, quantile: f64) -> u64 {
        let rank = (quantile * self.ns.len() as f64).ceil() as usize;
        self.ns[rank.clamp(1, self.ns.len()) - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_rank() {
        let mut durations = Durations::default();
        (1..=100).rev().for_each(|ms| durations.push(ms * 1_000_000));
        assert_eq!(
            durations.json_us(),
            r#"{"count":100,"mean":50500.0,"p50":50000.0,"p95":95000.0,"p99":99000.0,"max":100000.0}"#
        );
        assert_eq!(Durations::default().json_us(), "null");
    }
}
