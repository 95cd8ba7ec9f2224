//! Owns: what the queue counts for every model: batches, requests by how they ended, and how long things took.
//! Must not know: queues, the text that metrics become.
//! On failure: open; above a bound of models, newcomers are counted together under `other`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use forebay_core::batch::{Batch, LaneKey, Priority};
use parking_lot::Mutex;
use tonic::Code;

use super::{BatchEnd, QueueStats};

/// Names come from the policy, so this is out of reach unless a policy leaves models open.
const MAX_MODELS: usize = 1024;
const OTHER: &str = "other";

/// Upper bounds of waits and services: 100 µs to 10 s.
pub(super) const NS_BOUNDS: [u64; 16] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// Upper bounds of the rows of a batch.
pub(super) const ROW_BOUNDS: [u64; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

/// Pool and model.
pub(super) type ModelKey = (Arc<str>, Arc<str>);

/// All models.
#[derive(Debug, Default)]
pub(super) struct Counters {
    models: Mutex<AHashMap<ModelKey, ModelCounters>>,
    sent: Mutex<SentCounters>,
}

/// What was sent to servers, over all models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SentCounters {
    /// Batches and calls that went to a second server after the first failed
    pub resends: u64,
    /// Batches, calls and models to learn that failed, by the name of their gRPC status
    pub failures: BTreeMap<&'static str, u64>,
}

/// One model of one pool, all its versions.
#[derive(Debug, Clone, Default)]
pub(super) struct ModelCounters {
    /// Batches that left, those that were sent again in halves among them
    pub batches: u64,
    /// Rows in them
    pub rows: u64,
    /// Rows times length, unpadded
    pub tokens: u64,
    /// Rows times the length that they were padded to
    pub padded_tokens: u64,
    /// Batches that were refused and left again in halves
    pub bisected: u64,
    /// Requests that left, by class
    pub left: [u64; 3],
    /// Requests answered by a batch
    pub answered: u64,
    /// Requests answered by an equal one's batch
    pub followed: u64,
    /// Requests answered from the cache
    pub recalled: u64,
    /// Requests whose client left
    pub cancelled: u64,
    /// Requests whose time was over
    pub expired: u64,
    /// Requests that ended with another error, by its name
    pub rejected: BTreeMap<&'static str, u64>,
    /// From arrival to leaving, by class
    pub wait: [Histogram<16>; 3],
    /// From leaving to the answer
    pub service: Histogram<16>,
    /// Rows of a batch
    pub batch_rows: Histogram<10>,
}

/// How often a value was at most each of the bounds.
#[derive(Debug, Clone)]
pub(super) struct Histogram<const N: usize> {
    pub buckets: [u64; N],
    pub count: u64,
    pub sum: u64,
}

// === impl Counters ===

impl Counters {
    /// A batch leaves.
    pub(super) fn leaves<W>(&self, batch: &Batch<W>) {
        self.of(&batch.lane, |model| {
            model.batches += 1;
            model.rows += batch.rows;
            model.tokens += batch.tokens;
            model.padded_tokens += batch.padded_tokens();
            model.batch_rows.observe(batch.rows, &ROW_BOUNDS);
        });
    }

    /// The requests of a batch leave for the first time.
    pub(super) fn members_leave<W>(&self, batch: &Batch<W>) {
        self.of(&batch.lane, |model| {
            for member in &batch.members {
                let class = member.priority as usize;
                model.left[class] += 1;
                model.wait[class].observe(batch.left_ns.saturating_sub(member.queued_ns), &NS_BOUNDS);
            }
        });
    }

    /// A batch was answered.
    pub(super) fn answered(&self, lane: &LaneKey, service_ns: u64) {
        self.of(lane, |model| model.service.observe(service_ns, &NS_BOUNDS));
    }

    /// A batch leaves again in halves.
    pub(super) fn bisected(&self, lane: &LaneKey) {
        self.of(lane, |model| model.bisected += 1);
    }

    /// A request ended.
    pub(super) fn ended(&self, lane: &LaneKey, end: &BatchEnd) {
        self.of(lane, |model| match end {
            BatchEnd::Answered { .. } => model.answered += 1,
            BatchEnd::Followed { .. } => model.followed += 1,
            BatchEnd::Recalled { .. } => model.recalled += 1,
            BatchEnd::Cancelled => model.cancelled += 1,
            BatchEnd::Failed { slug: "batch_deadline", .. } => model.expired += 1,
            BatchEnd::Failed { slug, .. } => *model.rejected.entry(slug).or_default() += 1,
            BatchEnd::Forwarded => {}
        });
    }

    /// Something goes to a second server.
    pub(super) fn resent(&self) {
        self.sent.lock().resends += 1;
    }

    /// Something that was sent failed.
    pub(super) fn failed(&self, code: Code) {
        *self.sent.lock().failures.entry(code_name(code)).or_default() += 1;
    }

    /// What was sent.
    pub(super) fn sent(&self) -> SentCounters {
        self.sent.lock().clone()
    }

    /// All models by name.
    pub(super) fn models(&self) -> BTreeMap<ModelKey, ModelCounters> {
        self.models.lock().iter().map(|(key, model)| (key.clone(), model.clone())).collect()
    }

    /// The sums over all models.
    pub(super) fn sums(&self) -> QueueStats {
        let mut sums = QueueStats::default();
        for model in self.models.lock().values() {
            sums.batches += model.batches;
            sums.requests += model.left.iter().sum::<u64>();
            sums.rows += model.rows;
            sums.refused += model.rejected.values().sum::<u64>();
            sums.cancelled += model.cancelled + model.expired;
        }
        sums
    }

    fn of(&self, lane: &LaneKey, count: impl FnOnce(&mut ModelCounters)) {
        let key = (Arc::clone(&lane.pool), Arc::clone(&lane.model));
        let mut models = self.models.lock();
        let full = models.len() >= MAX_MODELS && !models.contains_key(&key);
        let key = if full { (OTHER.into(), OTHER.into()) } else { key };
        count(models.entry(key).or_default());
    }
}

// === impl Histogram ===

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: [0; N], count: 0, sum: 0 }
    }
}

impl<const N: usize> Histogram<N> {
    fn observe(&mut self, value: u64, bounds: &[u64; N]) {
        if let Some(at) = bounds.iter().position(|&bound| value <= bound) {
            self.buckets[at] += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
    }
}

/// The names of the classes, in the order of the counters.
pub(super) const CLASSES: [Priority; 3] = Priority::ALL;

/// A status as gRPC writes it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
