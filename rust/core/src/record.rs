//! Owns: the decision record (who, what, why, how long) and the bounded ring that holds the last of them.
//! Must not know: who reads it.
//! On failure: the oldest record is overwritten and counted; deciding never waits for a reader.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::account::Settlement;
use crate::engine::BatchEnded;
use crate::refusal::push_json_string;

/// The stages of a decision, in order. A stage that did not run has no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Headers read, key looked up, route found
    Identify,
    /// Body parsed and checked
    Read,
    /// Model and feature allowed
    Authorise,
    /// Request rates and concurrency taken
    Limit,
    /// Name made a model
    Resolve,
    /// Cache key computed
    Key,
    /// Cache asked, flight joined
    Recall,
    /// Tokens counted, window checked
    Count,
    /// Pool picked
    Place,
    /// Tokens taken
    Reserve,
    /// Body, headers and metadata made
    Shape,
}

/// How many stages there are.
pub const STAGES: usize = 11;

impl Stage {
    /// All stages in order.
    pub const ALL: [Self; STAGES] = [
        Self::Identify,
        Self::Read,
        Self::Authorise,
        Self::Limit,
        Self::Resolve,
        Self::Key,
        Self::Recall,
        Self::Count,
        Self::Place,
        Self::Reserve,
        Self::Shape,
    ];

    /// The stage's name, as metrics and records spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identify => "identify",
            Self::Read => "read",
            Self::Authorise => "authorise",
            Self::Limit => "limit",
            Self::Resolve => "resolve",
            Self::Key => "key",
            Self::Recall => "recall",
            Self::Count => "count",
            Self::Place => "place",
            Self::Reserve => "reserve",
            Self::Shape => "shape",
        }
    }
}

/// What became of a request at the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CacheState {
    /// Not asked: no cache, a stateful or sampled request, or the client's wish
    #[default]
    Bypass,
    /// Answered from the cache
    Hit,
    /// Asked and not there
    Miss,
    /// Answered with the answer of an equal request in flight
    Follow,
}

impl CacheState {
    /// The word in headers, metrics and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Follow => "follow",
        }
    }
}

/// One decision.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Reservation id
    pub id: u128,
    /// When the headers came, nanoseconds since 1970
    pub unix_ns: u64,
    /// Which policy decided
    pub policy: Arc<str>,
    /// The route's name; empty: none matched
    pub route: Arc<str>,
    /// The key's id; empty: none
    pub key: Arc<str>,
    /// The tenant; empty: none
    pub tenant: Arc<str>,
    /// The user; empty: none
    pub user: Arc<str>,
    /// The feature; empty: none
    pub feature: Arc<str>,
    /// The run of an agent; empty: none
    pub run: Arc<str>,
    /// The evaluation; empty: none
    pub eval: Arc<str>,
    /// What was asked for, as the route says; empty: no route matched
    pub operation: &'static str,
    /// The answer is a stream of events
    pub stream: bool,
    /// The model as it was asked for
    pub asked: String,
    /// The model that serves; empty: none
    pub model: Arc<str>,
    /// The pool; empty: none
    pub pool: Arc<str>,
    /// Who is paid; empty: nobody was named
    pub provider: Arc<str>,
    /// `forward`, `answer` or a refusal's code
    pub outcome: &'static str,
    /// Why it is this model, this pool, this outcome
    pub reason: &'static str,
    /// HTTP status of an answer of ours; 0: the upstream answers
    pub status: u16,
    /// At the cache
    pub cache: CacheState,
    /// Tokens of the prompt
    pub prompt_tokens: u64,
    /// Whether that count is exact
    pub exact: bool,
    /// The most output of all choices; 0: there is none; the largest: nobody says
    pub output_cap_tokens: u64,
    /// Tokens reserved
    pub bound_tokens: u64,
    /// Money reserved; 0 where the model has no price
    pub reserved_nanousd: u64,
    /// Time of each stage
    pub stage_ns: [u32; STAGES],
    /// How it ended at the batch service; `None`: it was not there, or is there still
    pub batch: Option<BatchEnded>,
    /// How it ended; `None` while it is open or when we answered ourselves
    pub end: Option<RecordEnd>,
    /// What it cost; `None` as for `end`
    pub spent: Option<Spent>,
}

/// What a request cost in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// How it ended, what it used, and whether that is known
    pub settlement: Settlement,
    /// `None`: the model has no price
    pub nanousd: Option<u64>,
}

/// What the access log added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordEnd {
    /// HTTP status that the client got; 0: none
    pub status: u16,
    /// From the request's first byte to the response's last
    pub duration_ns: u64,
    /// From the request's first byte to the upstream's first
    pub first_byte_ns: u64,
    /// Tries by Envoy
    pub attempts: u32,
    /// No upstream answered: Envoy did
    pub local_reply: bool,
    /// The client left before the end
    pub aborted: bool,
}

/// The last records, bounded.
#[derive(Debug)]
pub struct Ring {
    inner: Mutex<Inner>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Inner {
    records: VecDeque<Record>,
    overwritten: u64,
    total: u64,
}

// === impl Record ===

impl Record {
    /// Time of all stages.
    pub fn total_ns(&self) -> u64 {
        self.stage_ns.iter().map(|ns| u64::from(*ns)).sum()
    }

    /// Appends the record as one JSON object.
    pub fn push_json(&self, out: &mut String) {
        let _ = write!(out, "{{\"id\":\"{:032x}\",\"unix_ns\":{}", self.id, self.unix_ns);
        let texts: [(&str, &str); 16] = [
            ("policy", &self.policy),
            ("route", &self.route),
            ("key", &self.key),
            ("tenant", &self.tenant),
            ("user", &self.user),
            ("feature", &self.feature),
            ("run", &self.run),
            ("eval", &self.eval),
            ("operation", self.operation),
            ("asked", &self.asked),
            ("model", &self.model),
            ("pool", &self.pool),
            ("provider", &self.provider),
            ("outcome", self.outcome),
            ("reason", self.reason),
            ("cache", self.cache.name()),
        ];
        for (name, text) in texts {
            let _ = write!(out, ",\"{name}\":");
            push_json_string(out, text);
        }
        let _ = write!(
            out,
            ",\"status\":{},\"prompt_tokens\":{},\"exact\":{},\"bound_tokens\":{},\"reserved_nanousd\":{},\
             \"stages_ns\":{{",
            self.status, self.prompt_tokens, self.exact, self.bound_tokens, self.reserved_nanousd
        );
        let mut first = true;
        for (stage, ns) in Stage::ALL.iter().zip(self.stage_ns) {
            if ns > 0 {
                let _ = write!(out, "{}\"{}\":{ns}", if first { "" } else { "," }, stage.name());
                first = false;
            }
        }
        out.push('}');
        if let Some(batch) = &self.batch {
            let _ = write!(
                out,
                ",\"batch\":{{\"outcome\":\"{}\",\"code\":\"{}\",\"rows\":{},\"batch_rows\":{},\"tokens\":{},\
                 \"padded_tokens\":{},\"queue_ns\":{},\"service_ns\":{}}}",
                batch.outcome.name(),
                batch.code,
                batch.rows,
                batch.batch_rows,
                batch.tokens,
                batch.padded_tokens,
                batch.queue_ns,
                batch.service_ns
            );
        }
        if let Some(end) = &self.end {
            let _ = write!(
                out,
                ",\"end\":{{\"status\":{},\"duration_ns\":{},\"first_byte_ns\":{},\"attempts\":{},\"local_reply\":{},\
                 \"aborted\":{}}}",
                end.status, end.duration_ns, end.first_byte_ns, end.attempts, end.local_reply, end.aborted
            );
        }
        if let Some(spent) = &self.spent {
            let Settlement { outcome, used, source } = spent.settlement;
            let _ = write!(
                out,
                ",\"spent\":{{\"outcome\":\"{}\",\"usage\":\"{}\",\"prompt_tokens\":{},\"output_tokens\":{},\"nanousd\":",
                outcome.name(),
                source.name(),
                used.prompt,
                used.output
            );
            match spent.nanousd {
                Some(nanousd) => {
                    let _ = write!(out, "{nanousd}}}");
                }
                None => out.push_str("null}"),
            }
        }
        out.push('}');
    }
}

// === impl Ring ===

impl Ring {
    /// A ring of at most `capacity` records.
    pub fn new(capacity: usize) -> Self {
        Self { inner: Mutex::default(), capacity: capacity.max(1) }
    }

    /// Adds a record, over the oldest if need be.
    pub fn push(&self, record: Record) {
        let mut inner = self.inner.lock();
        inner.total += 1;
        let dropped = if inner.records.len() >= self.capacity {
            inner.overwritten += 1;
            inner.records.pop_front()
        } else {
            None
        };
        inner.records.push_back(record);
        drop(inner);
        // Freed outside the lock.
        drop(dropped);
    }

    /// The last `limit` records, oldest first, as a JSON array.
    pub fn json(&self, limit: usize) -> String {
        let last: Vec<Record> = {
            let inner = self.inner.lock();
            inner.records.iter().rev().take(limit).cloned().collect()
        };
        let mut out = String::with_capacity(last.len() * 640 + 2);
        out.push('[');
        for (i, record) in last.iter().rev().enumerate() {
            if i > 0 {
                out.push(',');
            }
            record.push_json(&mut out);
        }
        out.push(']');
        out
    }

    /// Records ever made, and records overwritten unread.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.total, inner.overwritten)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::json::{Bounds, Document};

    #[test]
    fn the_ring_keeps_the_last() {
        let ring = Ring::new(3);
        for id in 0..5 {
            let end = Some(RecordEnd { status: 200, ..RecordEnd::default() });
            let spent = Some(Spent { nanousd: (id > 3).then_some(7), ..Spent::default() });
            ring.push(Record { id, asked: format!("m\"{id}"), end, spent, ..Record::default() });
        }
        assert_eq!(ring.counts(), (5, 2));
        let json = format!("{{\"r\":{}}}", ring.json(2));
        let doc = Document::parse(json.as_bytes(), Bounds::default()).unwrap();
        let records = doc.get("r").unwrap().as_array().unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(records[1].get("asked").unwrap().as_str(), Some("m\"4"));
        assert_eq!(records[1].get("spent").unwrap().get("nanousd").unwrap().as_u64(), Some(7));
        assert_eq!(records[1].get("end").unwrap().get("status").unwrap().as_u64(), Some(200));
    }
}
