//! Owns: the counters of what requests used and cost, and how long they took; labels come from policy, so they are
//! bounded.
//! Must not know: who scrapes, how an end was found.
//! On failure: a label set above the bound is counted under `other`; counting never fails a request.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;

use super::MAX_SERIES;
use crate::account::{Outcome, Settlement};
use crate::record::Record;

/// Upper bounds of a whole request, in milliseconds, and of a first byte or token.
const DURATION_MS: [u64; 14] =
    [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000];

/// One request that is over.
#[derive(Debug, Clone, Copy)]
pub struct SettledAs<'a> {
    /// Its decision
    pub record: &'a Record,
    /// How it ended and what it used
    pub settlement: &'a Settlement,
    /// What it cost; `None`: the model has no price
    pub nanousd: Option<u64>,
    /// HTTP status that the client got; 0: none
    pub status: u16,
    /// From its first byte to its last
    pub duration_ns: u64,
    /// From its first byte to the answer's; 0: there was none
    pub first_byte_ns: u64,
    /// From its first byte to the first event of a stream; 0: there was none
    pub first_token_ns: u64,
}

/// All that is counted about ends.
#[derive(Debug, Default)]
pub(super) struct Settled {
    ends: Family<(Arc<str>, &'static str, &'static str), AtomicU64>,
    spend: Family<(Arc<str>, Arc<str>), Spend>,
    unknown: Family<Arc<str>, AtomicU64>,
    wasted: Family<(Arc<str>, &'static str), AtomicU64>,
    slo: Family<(Arc<str>, &'static str), AtomicU64>,
    duration: Family<(Arc<str>, Arc<str>), Milliseconds>,
    first_byte: Family<Arc<str>, Milliseconds>,
    first_token: Family<Arc<str>, Milliseconds>,
}

/// What one tenant used of one model.
#[derive(Debug, Default)]
struct Spend {
    prompt: AtomicU64,
    cached_prompt: AtomicU64,
    cache_write: AtomicU64,
    output: AtomicU64,
    reasoning: AtomicU64,
    nanousd: AtomicU64,
}

/// A histogram of times.
#[derive(Debug, Default)]
struct Milliseconds {
    buckets: [AtomicU64; DURATION_MS.len()],
    count: AtomicU64,
    sum_ns: AtomicU64,
}

/// Values by label set, at most so many sets.
#[derive(Debug)]
struct Family<K, V> {
    values: RwLock<HashMap<K, Arc<V>>>,
}

/// A label set of which every label says `other`.
trait Other {
    fn other() -> Self;
}

impl Other for Arc<str> {
    fn other() -> Self {
        Arc::from("other")
    }
}

impl Other for &'static str {
    fn other() -> Self {
        "other"
    }
}

impl<A: Other, B: Other> Other for (A, B) {
    fn other() -> Self {
        (A::other(), B::other())
    }
}

impl<A: Other, B: Other, C: Other> Other for (A, B, C) {
    fn other() -> Self {
        (A::other(), B::other(), C::other())
    }
}

// === impl Settled ===

impl Settled {
    pub fn count(&self, end: &SettledAs<'_>) {
        let SettledAs { record, settlement, nanousd, .. } = *end;
        let (model, outcome, used) = (&record.model, settlement.outcome, settlement.used);
        self.ends.of((model.clone(), outcome.name(), settlement.source.name())).fetch_add(1, Relaxed);
        if used.total() > 0 {
            let spend = self.spend.of((record.tenant.clone(), model.clone()));
            for (counter, tokens) in [
                (&spend.prompt, used.prompt),
                (&spend.cached_prompt, used.cached),
                (&spend.cache_write, used.cache_write),
                (&spend.output, used.output),
                (&spend.reasoning, used.reasoning),
                (&spend.nanousd, nanousd.unwrap_or_default()),
            ] {
                if tokens > 0 {
                    counter.fetch_add(tokens, Relaxed);
                }
            }
            if nanousd.is_none() {
                self.unknown.of(model.clone()).fetch_add(1, Relaxed);
            }
        }
        if let Some(nanousd) = nanousd.filter(|n| *n > 0)
            && outcome.is_wasted()
        {
            self.wasted.of((model.clone(), outcome.name())).fetch_add(nanousd, Relaxed);
        }
        if outcome == Outcome::Ok {
            self.duration.of((record.route.clone(), model.clone())).observe(end.duration_ns);
            if end.first_byte_ns > 0 {
                self.first_byte.of(model.clone()).observe(end.first_byte_ns);
            }
            if record.stream && end.first_token_ns > 0 {
                self.first_token.of(model.clone()).observe(end.first_token_ns);
            }
        }
        self.objective(&record.route, outcome, end.status);
    }

    /// Whether the service kept its word. A client that left, or sent what no server takes, says nothing about that.
    pub fn objective(&self, route: &Arc<str>, outcome: Outcome, status: u16) {
        let result = match outcome {
            Outcome::Ok | Outcome::Hit | Outcome::Follow => "ok",
            Outcome::LocalReply | Outcome::Timeout | Outcome::Reset | Outcome::Expired => "error",
            // An upstream that takes no more is no fault of the client's.
            Outcome::UpstreamError if status >= 500 || status == 429 => "error",
            Outcome::Refused if status >= 500 => "error",
            Outcome::Refused | Outcome::Aborted | Outcome::UpstreamError => return,
        };
        self.slo.of((route.clone(), result)).fetch_add(1, Relaxed);
    }

    pub fn render(&self, out: &mut String) {
        head(
            out,
            "forebay_settled_total",
            "requests that are over, by how they ended and how their use is known",
            "counter",
        );
        for ((model, outcome, usage), n) in self.ends.rows() {
            let _ = writeln!(
                out,
                "forebay_settled_total{{model=\"{model}\",outcome=\"{outcome}\",usage=\"{usage}\"}} {}",
                n.load(Relaxed)
            );
        }
        let spend = self.spend.rows();
        head(
            out,
            "forebay_tokens_total",
            "tokens that models read (prompt) and wrote (output); the other kinds are parts of these",
            "counter",
        );
        for ((tenant, model), s) in &spend {
            for (kind, n) in [
                ("prompt", &s.prompt),
                ("cached_prompt", &s.cached_prompt),
                ("cache_write", &s.cache_write),
                ("output", &s.output),
                ("reasoning", &s.reasoning),
            ] {
                let _ = writeln!(
                    out,
                    "forebay_tokens_total{{tenant=\"{tenant}\",model=\"{model}\",kind=\"{kind}\"}} {}",
                    n.load(Relaxed)
                );
            }
        }
        head(out, "forebay_cost_nanousd_total", "what requests cost, by policy prices", "counter");
        for ((tenant, model), s) in &spend {
            let _ = writeln!(
                out,
                "forebay_cost_nanousd_total{{tenant=\"{tenant}\",model=\"{model}\"}} {}",
                s.nanousd.load(Relaxed)
            );
        }
        head(
            out,
            "forebay_cost_unknown_total",
            "requests that used tokens of a model without a price",
            "counter",
        );
        for (model, n) in self.unknown.rows() {
            let _ = writeln!(out, "forebay_cost_unknown_total{{model=\"{model}\"}} {}", n.load(Relaxed));
        }
        head(out, "forebay_wasted_nanousd_total", "what requests cost that did not end well", "counter");
        for ((model, outcome), n) in self.wasted.rows() {
            let _ = writeln!(
                out,
                "forebay_wasted_nanousd_total{{model=\"{model}\",outcome=\"{outcome}\"}} {}",
                n.load(Relaxed)
            );
        }
        head(out, "forebay_slo_requests_total", "requests that count for the error objective", "counter");
        for ((route, result), n) in self.slo.rows() {
            let _ = writeln!(
                out,
                "forebay_slo_requests_total{{route=\"{route}\",result=\"{result}\"}} {}",
                n.load(Relaxed)
            );
        }
        let name = "forebay_request_duration_seconds";
        head(out, name, "from a request's first byte to its last, where it ended well", "histogram");
        for ((route, model), h) in self.duration.rows() {
            h.render(out, name, &format!("route=\"{route}\",model=\"{model}\""));
        }
        let name = "forebay_time_to_first_byte_seconds";
        head(out, name, "from a request's first byte to the answer's", "histogram");
        for (model, h) in self.first_byte.rows() {
            h.render(out, name, &format!("model=\"{model}\""));
        }
        let name = "forebay_time_to_first_token_seconds";
        head(out, name, "from a request's first byte to the first event of a stream", "histogram");
        for (model, h) in self.first_token.rows() {
            h.render(out, name, &format!("model=\"{model}\""));
        }
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

// === impl Milliseconds ===

impl Milliseconds {
    fn observe(&self, ns: u64) {
        let bucket = DURATION_MS.iter().position(|&le| ns <= le * 1_000_000);
        if let Some(bucket) = bucket.and_then(|at| self.buckets.get(at)) {
            bucket.fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    fn render(&self, out: &mut String, name: &str, labels: &str) {
        let mut below = 0;
        for (le, bucket) in DURATION_MS.iter().zip(&self.buckets) {
            below += bucket.load(Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{}\"}} {below}", *le as f64 / 1e3);
        }
        let count = self.count.load(Relaxed);
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", self.sum_ns.load(Relaxed) as f64 / 1e9);
        let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
    }
}

// === impl Family ===

impl<K, V> Default for Family<K, V> {
    fn default() -> Self {
        Self { values: RwLock::default() }
    }
}

impl<K: Eq + Hash + Ord + Clone + Other, V: Default> Family<K, V> {
    fn of(&self, key: K) -> Arc<V> {
        if let Some(value) = self.values.read().get(&key) {
            return value.clone();
        }
        let mut values = self.values.write();
        let key = if values.len() < MAX_SERIES { key } else { K::other() };
        values.entry(key).or_default().clone()
    }

    fn rows(&self) -> Vec<(K, Arc<V>)> {
        let mut rows: Vec<_> = self.values.read().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Source;
    use crate::usage::TokenUse;

    fn end(settled: &Settled, model: &str, outcome: Outcome) {
        let record = Record { model: Arc::from(model), tenant: Arc::from("acme"), ..Record::default() };
        let used = TokenUse { prompt: 10, output: 5, cached: 3, ..TokenUse::default() };
        settled.count(&SettledAs {
            record: &record,
            settlement: &Settlement { outcome, used, source: Source::Exact },
            nanousd: (model != "free").then_some(7),
            status: 200,
            duration_ns: 30_000_000,
            first_byte_ns: 2_000_000,
            first_token_ns: 0,
        });
    }

    #[test]
    fn what_is_spent_is_counted_once_and_waste_beside_it() {
        let settled = Settled::default();
        end(&settled, "m", Outcome::Ok);
        end(&settled, "m", Outcome::Aborted);
        end(&settled, "free", Outcome::Ok);
        let mut out = String::new();
        settled.render(&mut out);
        for line in [
            "forebay_settled_total{model=\"m\",outcome=\"ok\",usage=\"exact\"} 1",
            "forebay_tokens_total{tenant=\"acme\",model=\"m\",kind=\"prompt\"} 20",
            "forebay_tokens_total{tenant=\"acme\",model=\"m\",kind=\"cached_prompt\"} 6",
            "forebay_cost_nanousd_total{tenant=\"acme\",model=\"m\"} 14",
            "forebay_wasted_nanousd_total{model=\"m\",outcome=\"aborted\"} 7",
            "forebay_cost_unknown_total{model=\"free\"} 1",
            "forebay_slo_requests_total{route=\"\",result=\"ok\"} 2",
            "forebay_request_duration_seconds_bucket{route=\"\",model=\"m\",le=\"0.05\"} 1",
            "forebay_request_duration_seconds_count{route=\"\",model=\"m\"} 1",
        ] {
            assert!(out.contains(line), "{line} is not in\n{out}");
        }
    }

    #[test]
    fn label_sets_are_bounded() {
        let settled = Settled::default();
        for i in 0..MAX_SERIES + 5 {
            end(&settled, &format!("m{i}"), Outcome::Ok);
        }
        let mut out = String::new();
        settled.render(&mut out);
        assert!(out.contains("forebay_cost_nanousd_total{tenant=\"other\",model=\"other\"} 35"));
    }
}
