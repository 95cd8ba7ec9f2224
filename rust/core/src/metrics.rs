//! Owns: the counters of decisions and their rendering as Prometheus text; labels come from policy, so they are bounded.
//! Must not know: HTTP, who scrapes.
//! On failure: a label set above the bound is counted under `other`; counting never fails a request.

mod settled;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;

pub use settled::SettledAs;

use crate::account::Outcome;
use crate::record::{Record, STAGES, Stage};

/// Label sets of one family. A policy has few routes and models; this bound is for a policy that has many.
const MAX_SERIES: usize = 4_096;
/// Upper bounds of the decision histogram, in nanoseconds.
const BUCKETS_NS: [u64; 10] =
    [5_000, 10_000, 20_000, 50_000, 100_000, 250_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// A counter that is only a number. The names are those of the exposition.
macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident: $name:literal, $help:literal;)*) => {
        /// Counters without labels.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $field: AtomicU64,)*
        }

        impl Counters {
            fn render(&self, out: &mut String) {
                $(
                    let _ = writeln!(out, concat!("# HELP ", $name, " ", $help, "\n# TYPE ", $name, " counter"));
                    let _ = writeln!(out, concat!($name, " {}"), self.$field.load(Relaxed));
                )*
            }

            /// Every counter's name and value.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$(($name, self.$field.load(Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Streams of decide
    decide_streams: "forebay_decide_streams_total", "ext_proc streams that asked for a decision";
    /// Streams of capture
    capture_streams: "forebay_capture_streams_total", "ext_proc streams that brought a copy of a response";
    /// Response body messages, of any stream
    response_body_messages: "forebay_response_body_messages_total", "response body messages that Envoy sent";
    /// Messages that the protocol does not allow at that point
    protocol_errors: "forebay_protocol_errors_total", "ext_proc messages that could not be answered";
    /// Panics caught on the request path
    panics: "forebay_panics_total", "panics caught on the request path, each answered with an error";
    /// Streams that ended before an answer
    streams_reset: "forebay_streams_reset_total", "streams that Envoy ended before an answer";
    /// Access log entries
    log_entries: "forebay_log_entries_total", "access log entries received";
    /// Access log entries without an open reservation
    log_unknown: "forebay_log_entries_unknown_total", "access log entries that named no open reservation";
    /// Reservations that nothing ended
    expired: "forebay_reservations_expired_total", "reservations that expired because nothing ended them";
    /// Tokens counted in prompts
    prompt_tokens: "forebay_prompt_tokens_total", "prompt tokens of forwarded requests";
    /// Tokens reserved
    bound_tokens: "forebay_reserved_tokens_total", "tokens reserved for forwarded requests";
    /// Answers put into the cache
    cache_stored: "forebay_cache_stored_total", "answers put into the cache";
    /// Captured answers that were not kept
    cache_rejected: "forebay_cache_rejected_total", "captured answers that were not kept";
    /// Tokens that cached answers did not cost
    saved_tokens: "forebay_saved_tokens_total", "tokens of answers that came from the cache";
    /// Money that cached answers did not cost
    saved_nanousd: "forebay_saved_nanousd_total", "nano-USD that answers from the cache did not cost, by policy prices";
    /// Money that another model than the one asked for did not cost
    saved_by_routing_nanousd: "forebay_saved_by_routing_nanousd_total", "nano-USD that the model which was asked for would have cost more";
    /// Policies taken
    policies: "forebay_policies_total", "policies put into force";
    /// Policies refused
    policies_refused: "forebay_policies_refused_total", "policies refused whole";
    /// Usage that was no usage
    usage_invalid: "forebay_usage_invalid_total", "answers whose usage was malformed, too large or contradicted itself";
    /// Entries after expiry
    settled_late: "forebay_settled_late_total", "requests settled after their reservation had expired";
    /// Entries for another process
    settled_foreign: "forebay_settled_foreign_total", "requests of a process that is gone, settled from their log entry";
    /// Entries for what was settled before
    settled_twice: "forebay_settled_twice_total", "access log entries for a request that was settled already";
    /// A clock that stepped back
    clock_steps: "forebay_clock_steps_total", "times that the clock stood before the period it had reached";
    /// Leases asked for
    lease_asks: "forebay_lease_asks_total", "leases that were asked for";
    /// Requests that waited for a lease
    lease_waits: "forebay_lease_waits_total", "waits of requests for a lease";
    /// Requests that a budget refused
    budget_refused: "forebay_budget_refused_total", "times that a hard budget had no room for a request";
    /// Requests that a soft budget let pass
    budget_soft: "forebay_budget_soft_total", "requests that a soft budget let pass unbounded or above its amount";
    /// Stages of a person that failed
    stage_failures: "forebay_stage_failures_total", "python stages that were slow, failing or absent";
}

/// All that is counted about decisions.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Counters without labels
    pub counters: Counters,
    requests: RwLock<HashMap<Series, AtomicU64>>,
    stage_ns: [AtomicU64; STAGES],
    stage_count: [AtomicU64; STAGES],
    decide: Histogram,
    ends: settled::Settled,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Series {
    route: Arc<str>,
    model: Arc<str>,
    outcome: &'static str,
    cache: &'static str,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS_NS.len()],
    count: AtomicU64,
    sum_ns: AtomicU64,
}

// === impl Metrics ===

impl Metrics {
    /// Counts one decision.
    pub fn decided(&self, record: &Record) {
        let series = Series {
            route: record.route.clone(),
            model: record.model.clone(),
            outcome: record.outcome,
            cache: record.cache.name(),
        };
        self.count(series);
        for (i, &ns) in record.stage_ns.iter().enumerate() {
            if ns > 0 {
                self.stage_ns[i].fetch_add(u64::from(ns), Relaxed);
                self.stage_count[i].fetch_add(1, Relaxed);
            }
        }
        self.decide.observe(record.total_ns());
    }

    /// Counts a request that an upstream had, at its end.
    pub fn settled(&self, end: &SettledAs<'_>) {
        self.ends.count(end);
    }

    /// Counts a request that we answered ourselves for the error objective.
    pub fn answered(&self, record: &Record, outcome: Outcome) {
        self.ends.objective(&record.route, outcome, record.status);
    }

    fn count(&self, series: Series) {
        if let Some(counter) = self.requests.read().get(&series) {
            counter.fetch_add(1, Relaxed);
            return;
        }
        let mut map = self.requests.write();
        let series = if map.len() < MAX_SERIES {
            series
        } else {
            Series { route: Arc::from("other"), model: Arc::from("other"), ..series }
        };
        map.entry(series).or_default().fetch_add(1, Relaxed);
    }

    /// The Prometheus text (exposition format 0.0.4).
    pub fn render(&self, out: &mut String) {
        let _ = writeln!(
            out,
            "# HELP forebay_requests_total decisions by route, model, outcome and cache state\n\
             # TYPE forebay_requests_total counter"
        );
        let mut rows: Vec<(Series, u64)> =
            self.requests.read().iter().map(|(s, n)| (s.clone(), n.load(Relaxed))).collect();
        rows.sort_by(|(a, _), (b, _)| {
            (&a.route, &a.model, a.outcome, a.cache).cmp(&(&b.route, &b.model, b.outcome, b.cache))
        });
        for (s, n) in rows {
            let _ = writeln!(
                out,
                "forebay_requests_total{{route=\"{}\",model=\"{}\",outcome=\"{}\",cache=\"{}\"}} {n}",
                s.route, s.model, s.outcome, s.cache
            );
        }
        for (name, help, values) in [
            ("forebay_stage_ns_total", "time spent in a stage of deciding", &self.stage_ns),
            ("forebay_stage_runs_total", "how often a stage ran", &self.stage_count),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
            for (stage, value) in Stage::ALL.iter().zip(values) {
                let _ = writeln!(out, "{name}{{stage=\"{}\"}} {}", stage.name(), value.load(Relaxed));
            }
        }
        self.decide.render(out);
        self.ends.render(out);
        self.counters.render(out);
    }
}

// === impl Histogram ===

impl Histogram {
    fn observe(&self, ns: u64) {
        if let Some(i) = BUCKETS_NS.iter().position(|&le| ns <= le) {
            self.buckets[i].fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    fn render(&self, out: &mut String) {
        let name = "forebay_decide_seconds";
        let _ =
            writeln!(out, "# HELP {name} time of a whole decision, waits left out\n# TYPE {name} histogram");
        let mut below = 0;
        for (le, bucket) in BUCKETS_NS.iter().zip(&self.buckets) {
            below += bucket.load(Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {below}", *le as f64 / 1e9);
        }
        let count = self.count.load(Relaxed);
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum {}", self.sum_ns.load(Relaxed) as f64 / 1e9);
        let _ = writeln!(out, "{name}_count {count}");
    }
}

/// Appends one counter without labels.
pub fn push_counter(out: &mut String, name: &str, help: &str, value: u64) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
}

/// Appends one gauge without labels.
pub fn push_gauge(out: &mut String, name: &str, help: &str, value: u64) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_one_that_a_scraper_reads() {
        let metrics = Metrics::default();
        for ns in [1, 5_000, 5_001, 2_000_000_000] {
            let mut record = Record { outcome: "forward", ..Record::default() };
            record.stage_ns[0] = ns;
            metrics.decided(&record);
        }
        let mut out = String::new();
        metrics.render(&mut out);
        let mut families = std::collections::HashSet::new();
        for line in out.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(families.insert(rest.split(' ').next()), "{line}: twice");
            } else if !line.starts_with("# HELP ") {
                assert!(line.rsplit(' ').next().is_some_and(|v| v.parse::<f64>().is_ok()), "{line}");
                let name = line.split(['{', ' ']).next().unwrap_or_default();
                let family =
                    ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
                assert!(families.contains(&Some(family)), "{line}: no type before it");
            }
        }
        let buckets: Vec<&str> = out
            .lines()
            .filter(|l| l.contains("_bucket{"))
            .map(|l| l.rsplit(' ').next().unwrap_or(""))
            .collect();
        assert_eq!(
            buckets,
            ["2", "3", "3", "3", "3", "3", "3", "3", "3", "3", "4"],
            "cumulative, a bound being within"
        );
        assert!(out.contains("forebay_decide_seconds_count 4"));
    }

    #[test]
    fn series_are_bounded_and_sums_stay_right() {
        let metrics = Metrics::default();
        for i in 0..MAX_SERIES + 10 {
            let record =
                Record { route: Arc::from(format!("r{i}")), outcome: "forward", ..Record::default() };
            metrics.decided(&record);
        }
        let mut out = String::new();
        metrics.render(&mut out);
        assert!(out.contains("route=\"other\",model=\"other\",outcome=\"forward\",cache=\"bypass\"} 10"));
        assert!(out.contains(&format!("forebay_decide_seconds_count {}", MAX_SERIES + 10)));
    }
}
