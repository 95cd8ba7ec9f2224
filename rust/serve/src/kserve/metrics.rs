//! Owns: the queue's metrics as Prometheus text (exposition format 0.0.4).
//! Must not know: how anything is counted.
//! On failure: not applicable.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;

use forebay_core::batch::{LaneView, Waiting};

use super::counters::{CLASSES, Histogram, ModelCounters, ModelKey, NS_BOUNDS, ROW_BOUNDS, SentCounters};

/// One model as it stands: its versions together.
#[derive(Debug, Default)]
pub(super) struct Standing {
    waiting: [Waiting; 3],
    oldest_age_ns: u64,
    in_flight: u64,
    slots: u64,
    lead_ns: u64,
    call_ns: f64,
    token_ns: f64,
    samples: u64,
    classes: usize,
}

type Counter = (&'static str, &'static str, fn(&ModelCounters) -> u64);

const COUNTERS: [Counter; 10] = [
    ("batches_total", "batches that left, those sent again in halves among them", |m| m.batches),
    ("rows_total", "rows of these batches", |m| m.rows),
    ("tokens_total", "rows times length of their requests, unpadded", |m| m.tokens),
    ("padded_tokens_total", "rows times the length that they were padded to", |m| m.padded_tokens),
    ("bisected_total", "batches that a model server refused and that left again in halves", |m| m.bisected),
    ("answered_requests_total", "requests that a batch answered", |m| m.answered),
    ("followed_requests_total", "requests that an equal one's batch answered", |m| m.followed),
    ("recalled_requests_total", "requests that the cache answered", |m| m.recalled),
    ("cancelled_requests_total", "requests whose client left", |m| m.cancelled),
    ("expired_requests_total", "requests whose time was over", |m| m.expired),
];

type Gauge = (&'static str, &'static str, fn(&Standing) -> f64);

const GAUGES: [Gauge; 8] = [
    ("oldest_age_seconds", "how long the oldest request waits; 0: none does", |s| {
        s.oldest_age_ns as f64 / 1e9
    }),
    ("in_flight", "batches at the model's servers", |s| s.in_flight as f64),
    ("slots", "batches that may be there", |s| s.slots as f64),
    ("lead_ns", "how long before an instance is expected to be idle a batch leaves for it", |s| {
        s.lead_ns as f64
    }),
    ("call_ns", "what any batch takes, as learned", |s| s.call_ns),
    ("token_ns", "what every padded token takes more, as learned", |s| s.token_ns),
    ("latency_samples", "batches that this was learned from", |s| s.samples as f64),
    ("length_classes", "lengths that requests are padded to; 0: each batch to its longest", |s| {
        s.classes as f64
    }),
];

type Depth = (&'static str, &'static str, fn(&Waiting) -> u64);

const DEPTHS: [Depth; 3] = [
    ("queue_requests", "requests that wait", |w| w.requests),
    ("queue_rows", "rows that wait", |w| w.rows),
    ("queue_tokens", "rows times length that wait, unpadded", |w| w.tokens),
];

// === impl Standing ===

impl Standing {
    /// Puts the lanes of each model together. Where versions differ in what was learned, the one that is known best
    /// speaks.
    pub(super) fn of_lanes<'a>(
        lanes: impl Iterator<Item = LaneView<'a>>,
        now_ns: u64,
    ) -> BTreeMap<ModelKey, Self> {
        let mut standing: BTreeMap<ModelKey, Self> = BTreeMap::new();
        for lane in lanes {
            let key = (Arc::clone(&lane.key.pool), Arc::clone(&lane.key.model));
            let model = standing.entry(key).or_default();
            for (sum, waiting) in model.waiting.iter_mut().zip(lane.waiting) {
                sum.requests += waiting.requests;
                sum.rows += waiting.rows;
                sum.tokens += waiting.tokens;
            }
            let age_ns = lane.oldest_ns.map_or(0, |oldest_ns| now_ns.saturating_sub(oldest_ns));
            model.oldest_age_ns = model.oldest_age_ns.max(age_ns);
            model.in_flight += u64::from(lane.in_flight);
            model.slots += u64::from(lane.capacity.slots);
            if lane.fit.samples >= model.samples {
                model.samples = lane.fit.samples;
                (model.call_ns, model.token_ns) = (lane.fit.fixed_ns, lane.fit.ns_per_token);
                (model.lead_ns, model.classes) = (lane.lead_ns, lane.classes.len());
            }
        }
        standing
    }
}

/// The whole text.
pub(super) fn text(
    standing: &BTreeMap<ModelKey, Standing>,
    counted: &BTreeMap<ModelKey, ModelCounters>,
) -> String {
    let mut out = String::with_capacity(4096 + 8192 * counted.len());
    for (name, help, value) in DEPTHS {
        head(&mut out, name, help, "gauge");
        for (key, model) in standing {
            for (class, waiting) in CLASSES.iter().zip(&model.waiting) {
                let labels = format!("{},priority=\"{}\"", labels(key), class.name());
                line(&mut out, name, &labels, value(waiting));
            }
        }
    }
    for (name, help, value) in GAUGES {
        head(&mut out, name, help, "gauge");
        for (key, model) in standing {
            line(&mut out, name, &labels(key), value(model));
        }
    }
    for (name, help, value) in COUNTERS {
        head(&mut out, name, help, "counter");
        for (key, model) in counted {
            line(&mut out, name, &labels(key), value(model));
        }
    }
    let name = "requests_total";
    head(&mut out, name, "requests that left in a batch", "counter");
    for (key, model) in counted {
        for (class, requests) in CLASSES.iter().zip(model.left) {
            line(&mut out, name, &format!("{},priority=\"{}\"", labels(key), class.name()), requests);
        }
    }
    let name = "rejected_requests_total";
    head(&mut out, name, "requests that ended with an error, by its name", "counter");
    for (key, model) in counted {
        for (reason, requests) in &model.rejected {
            line(&mut out, name, &format!("{},reason=\"{reason}\"", labels(key)), requests);
        }
    }
    let name = "queue_wait_seconds";
    head(&mut out, name, "from a request's arrival to its leaving", "histogram");
    for (key, model) in counted {
        for (class, waits) in CLASSES.iter().zip(&model.wait) {
            let labels = format!("{},priority=\"{}\"", labels(key), class.name());
            histogram(&mut out, name, &labels, &Scaled { of: waits, bounds: &NS_BOUNDS, unit: 1e9 });
        }
    }
    let name = "service_seconds";
    head(&mut out, name, "from a batch's leaving to its answer", "histogram");
    for (key, model) in counted {
        let services = Scaled { of: &model.service, bounds: &NS_BOUNDS, unit: 1e9 };
        histogram(&mut out, name, &labels(key), &services);
    }
    let name = "size_rows";
    head(&mut out, name, "rows of a batch", "histogram");
    for (key, model) in counted {
        let rows = Scaled { of: &model.batch_rows, bounds: &ROW_BOUNDS, unit: 1.0 };
        histogram(&mut out, name, &labels(key), &rows);
    }
    out
}

/// What was sent, and what servers have not answered.
pub(super) fn write_sent(out: &mut String, sent: &SentCounters, outstanding: &[(Arc<str>, String, u64)]) {
    out.push_str("# HELP forebay_sender_failures_total batches and calls that failed, by gRPC status\n");
    out.push_str("# TYPE forebay_sender_failures_total counter\n");
    for (code, count) in &sent.failures {
        let _ = writeln!(out, "forebay_sender_failures_total{{code=\"{code}\"}} {count}");
    }
    out.push_str("# HELP forebay_sender_resends_total batches and calls that went to a second server\n");
    out.push_str("# TYPE forebay_sender_resends_total counter\n");
    let _ = writeln!(out, "forebay_sender_resends_total {}", sent.resends);
    out.push_str("# HELP forebay_endpoint_tokens padded tokens that a server has not answered yet\n");
    out.push_str("# TYPE forebay_endpoint_tokens gauge\n");
    for (pool, address, tokens) in outstanding {
        let (pool, address) = (escaped(pool), escaped(address));
        let _ = writeln!(out, "forebay_endpoint_tokens{{pool=\"{pool}\",endpoint=\"{address}\"}} {tokens}");
    }
}

/// A histogram in the unit of its name.
struct Scaled<'a, const N: usize> {
    of: &'a Histogram<N>,
    bounds: &'a [u64; N],
    unit: f64,
}

fn histogram<const N: usize>(out: &mut String, name: &str, labels: &str, shown: &Scaled<'_, N>) {
    let Scaled { of, bounds, unit } = shown;
    let bucket = format!("{name}_bucket");
    let mut below = 0;
    for (bound, count) in bounds.iter().zip(of.buckets) {
        below += count;
        line(out, &bucket, &format!("{labels},le=\"{}\"", *bound as f64 / unit), below);
    }
    line(out, &bucket, &format!("{labels},le=\"+Inf\""), of.count);
    line(out, &format!("{name}_sum"), labels, of.sum as f64 / unit);
    line(out, &format!("{name}_count"), labels, of.count);
}

// Writing into a String cannot fail.
fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP forebay_batch_{name} {help}\n# TYPE forebay_batch_{name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: impl Display) {
    let _ = writeln!(out, "forebay_batch_{name}{{{labels}}} {value}");
}

fn labels((pool, model): &ModelKey) -> String {
    format!("pool=\"{}\",model=\"{}\"", escaped(pool), escaped(model))
}

fn escaped(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_has_a_type_and_names_are_escaped() {
        let mut counted = BTreeMap::new();
        let mut model = ModelCounters { batches: 2, ..ModelCounters::default() };
        model.rejected.insert("batch_queue_full", 3);
        counted.insert(("p".into(), "a\"b\\".into()), model);
        let standing = BTreeMap::from([(("p".into(), "m".into()), Standing::default())]);
        let text = text(&standing, &counted);
        let typed: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, _) = line.split_once('{').unwrap_or_default();
            assert!(typed.iter().any(|typed| name.starts_with(typed)), "{line}");
            assert!(line.rsplit(' ').next().is_some_and(|value| value.parse::<f64>().is_ok()), "{line}");
        }
        assert!(text.contains("forebay_batch_batches_total{pool=\"p\",model=\"a\\\"b\\\\\"} 2\n"));
        assert!(text.contains("reason=\"batch_queue_full\"} 3\n"));
        assert!(text.contains("forebay_batch_queue_rows{pool=\"p\",model=\"m\",priority=\"P0\"} 0\n"));
    }
}
