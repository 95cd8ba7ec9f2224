//! Owns: asking and filling the exact cache for the answers of deterministic models.
//! Must not know: what an answer's bytes mean.
//! On failure: no answer; the request runs.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use crate::answer::{AnswerKind, Usage};
use crate::cache::{CacheKey, Entry, StoreOutcome, Streams};
use crate::engine::end::Open;
use crate::engine::{Engine, Live};
use crate::key::Identity;
use crate::policy::pb::route::Operation;
use crate::policy::pb::tensors::Answers;
use crate::policy::{FeaturePolicy, ModelPolicy};

/// What the exact cache says about an inference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchRecall {
    /// Its model's answers vary, its feature shares none, or the client wants a fresh one
    Off,
    /// Equal requests may share an answer under this key; nobody has it yet
    Miss {
        /// Names tenant, model and inputs
        key: CacheKey,
        /// Whether the answer may be kept
        keeps: bool,
    },
    /// The answer, as it was kept
    Hit(Bytes),
}

/// Who may share, out of its reservation.
struct Sharer {
    live: Arc<Live>,
    model: u32,
    feature: u32,
    tenant: Arc<str>,
    user: Arc<str>,
    max_age_ns: Option<u64>,
    /// An answer from the cache costs nothing. (An answer of `OpenAI`'s API tells its whole use, and is charged by it.)
    is_saved: bool,
}

// === impl Engine ===

impl Engine {
    /// Asks the exact cache about an inference. `parts` together are all of it but tenant and model.
    pub fn batch_recall(&self, id: u128, model: &str, parts: &[&[u8]], now_ns: u64) -> BatchRecall {
        let sharer = self.open.amend(id, |reservation| Sharer::of(&reservation.owner, model)).flatten();
        let Some(sharer) = sharer else { return BatchRecall::Off };
        let Some((feature, policy)) = sharer.policies() else { return BatchRecall::Off };
        let cache = sharer.live.cache.as_ref().filter(|_| feature.cached);
        // Before the look-up, so that no invalidation falls between the two.
        let ticket = cache.map(|cache| cache.exact.begin_fill());
        let identity = Identity {
            tenant: &sharer.tenant,
            user: feature.per_user.then_some(&*sharer.user),
            feature: &feature.name,
            model: &policy.name,
            revision: &policy.revision,
        };
        let key = self.secret.tensor_key(&identity, parts);
        if let Some(entry) = cache.and_then(|cache| cache.exact.lookup(&key, now_ns, sharer.max_age_ns)) {
            if sharer.is_saved {
                let saved = self.count_saved(&sharer.live.snapshot, &entry);
                self.open.amend(id, |reservation| reservation.owner.at_batch().saved_nanousd += saved);
            }
            return BatchRecall::Hit(entry.body.clone());
        }
        let keeps = cache.is_some() && feature.kept;
        self.open.amend(id, |reservation| {
            let batch = reservation.owner.at_batch();
            batch.ticket = batch.ticket.or(ticket);
        });
        BatchRecall::Miss { key, keeps }
    }

    /// Keeps the answer of an inference that missed.
    pub fn batch_keep(&self, id: u128, key: CacheKey, answer: Bytes, now_ns: u64) -> Option<StoreOutcome> {
        let (entry, ticket, live) = self.open.amend(id, |reservation| {
            let open = &reservation.owner;
            let live = open.live.clone();
            let feature = live.snapshot.features.get(open.feature as usize)?;
            let model = live.snapshot.models.get(open.model? as usize)?;
            let batch = open.batch.as_ref()?;
            let tokens = batch.parts.last().map(|part| part.tokens);
            let entry = Entry {
                body: answer,
                // No stream is ever made of it.
                kind: AnswerKind::Embedding,
                tenant: open.record.tenant.clone(),
                model: model.name.clone(),
                revision: model.revision.clone(),
                tags: feature.tags.iter().chain(&model.tags).cloned().collect(),
                usage: tokens.map(|tokens| Usage {
                    prompt_tokens: tokens,
                    completion_tokens: 0,
                    cached_tokens: 0,
                    reasoning_tokens: 0,
                }),
                stored_ns: now_ns,
                expires_ns: now_ns.saturating_add(feature.ttl_ns),
                streams: Streams::default(),
            };
            let ticket = batch.ticket.filter(|_| feature.kept)?;
            Some((entry, ticket, live))
        })??;
        let (outcome, _) = live.cache.as_ref()?.exact.store(key, entry, ticket, now_ns);
        let counters = &self.metrics.counters;
        let counter = match outcome {
            StoreOutcome::Stored | StoreOutcome::Replaced => &counters.cache_stored,
            _ => &counters.cache_rejected,
        };
        counter.fetch_add(1, Relaxed);
        Some(outcome)
    }
}

// === impl Sharer ===

impl Sharer {
    /// `None`: it shares no answer.
    fn of(open: &Open, model: &str) -> Option<Self> {
        let snapshot = &open.live.snapshot;
        let at = match open.operation() {
            Operation::Kserve => snapshot.model_named(model)?,
            _ => open.model?,
        };
        let tensors = snapshot.models.get(at as usize)?.tensors.as_ref()?;
        let feature = snapshot.features.get(open.feature as usize)?;
        let control = open.cache_control;
        let wants_fresh = control.no_store || control.no_cache || control.max_age_s == Some(0);
        if tensors.answers() != Answers::Deterministic
            || !feature.shared
            || wants_fresh
            || (feature.per_user && open.record.user.is_empty())
        {
            return None;
        }
        Some(Self {
            live: open.live.clone(),
            model: at,
            feature: open.feature,
            tenant: open.record.tenant.clone(),
            user: open.record.user.clone(),
            max_age_ns: control.max_age_s.map(|s| s.saturating_mul(1_000_000_000)),
            is_saved: open.operation() == Operation::Kserve,
        })
    }

    fn policies(&self) -> Option<(&FeaturePolicy, &ModelPolicy)> {
        let snapshot = &self.live.snapshot;
        Some((snapshot.features.get(self.feature as usize)?, snapshot.models.get(self.model as usize)?))
    }
}
