//! Owns: who is behind a request at the batch service, and which models it may use there.
//! Must not know: tensors.
//! On failure: closed; an unknown id, or a model outside pool and permission, is refused.

use std::sync::Arc;

use crate::batch::Priority;
use crate::engine::end::Open;
use crate::engine::{Engine, Live};
use crate::policy::pb::model::Capability;
use crate::policy::pb::route::Operation;
use crate::policy::{ModelPolicy, pb};
use crate::refusal::Refusal;

/// Who is behind a request at the batch service.
#[derive(Debug, Clone)]
pub struct BatchCaller {
    /// The pool that decide picked
    pub pool: Arc<str>,
    /// The tenant
    pub tenant: Arc<str>,
    /// Its share beside other tenants that wait
    pub weight: u32,
    /// The key's id
    pub key: Arc<str>,
    /// In which class it waits
    pub priority: Priority,
    /// What was decided from its body; `None`: it names its model itself
    pub placed: Option<BatchPlaced>,
    live: Arc<Live>,
    key_at: u32,
}

/// An `OpenAI` request that becomes tensors.
#[derive(Debug, Clone)]
pub struct BatchPlaced {
    /// Embeddings, chat or text completions
    pub operation: Operation,
    /// The model as clients name it
    pub model: Arc<str>,
    /// The model as the pool knows it
    pub upstream: Arc<str>,
    /// How it becomes tensors and back, defaults filled in
    pub tensors: Arc<pb::Tensors>,
    /// The model's tokenizer as the policy names it
    pub tokenizer: &'static str,
    /// Prompt and output together; 0: unknown
    pub context_window_tokens: u64,
}

// === impl Engine ===

impl Engine {
    /// The caller of an open reservation.
    pub fn batch_caller(&self, id: u128) -> Option<BatchCaller> {
        self.open.amend(id, |reservation| BatchCaller::of(&reservation.owner))
    }

    /// The name that the pool knows the model by, if the request may use it there. The record says from now on that it
    /// asked for it.
    pub fn batch_model(&self, id: u128, model: &str) -> Result<Arc<str>, Refusal> {
        let amended = self.open.amend(id, |reservation| {
            let open = &mut reservation.owner;
            let (at, policy) = usable(&open.live, open.key, &open.record.pool, model)?;
            let (name, upstream) = (policy.name.clone(), policy.upstream_name.clone());
            if open.operation() == Operation::Kserve {
                open.model = Some(at);
                open.named = Some(at);
                open.record.model = name;
                model.clone_into(&mut open.record.asked);
            }
            Ok(upstream)
        });
        amended.unwrap_or(Err(Refusal::UnknownKey))
    }
}

// === impl BatchCaller ===

impl BatchCaller {
    fn of(open: &Open) -> Self {
        let snapshot = &open.live.snapshot;
        let key = snapshot.key(open.key);
        let tenant = key.and_then(|k| snapshot.tenants.get(k.tenant as usize));
        let feature = snapshot.features.get(open.feature as usize).and_then(|f| f.priority);
        Self {
            pool: open.record.pool.clone(),
            tenant: open.record.tenant.clone(),
            weight: tenant.map_or(1, |t| t.weight),
            key: open.record.key.clone(),
            priority: feature.or(key.map(|k| k.priority)).unwrap_or_default(),
            placed: BatchPlaced::of(open),
            live: open.live.clone(),
            key_at: open.key,
        }
    }

    /// The name that the pool knows the model by, if the caller may use it there.
    pub fn may_use(&self, model: &str) -> Result<Arc<str>, Refusal> {
        usable(&self.live, self.key_at, &self.pool, model).map(|(_, policy)| policy.upstream_name.clone())
    }

    /// Whether the caller may use a model, by the name that the pool knows.
    pub fn may_see(&self, upstream: &str) -> bool {
        let models = self.live.snapshot.models.iter().filter(|m| *m.upstream_name == *upstream);
        models.into_iter().any(|m| self.may_use(&m.name).is_ok())
    }
}

// === impl BatchPlaced ===

impl BatchPlaced {
    fn of(open: &Open) -> Option<Self> {
        let operation = open.operation();
        if operation == Operation::Kserve {
            return None;
        }
        let model = open.live.snapshot.models.get(open.model? as usize)?;
        Some(Self {
            operation,
            model: model.name.clone(),
            upstream: model.upstream_name.clone(),
            tensors: model.tensors.clone()?,
            tokenizer: model.rules.tokenizer.name(),
            context_window_tokens: model.context_window_tokens,
        })
    }
}

fn usable<'l>(live: &'l Live, key: u32, pool: &str, model: &str) -> Result<(u32, &'l ModelPolicy), Refusal> {
    let snapshot = &live.snapshot;
    let at = snapshot.model_named(model).ok_or_else(|| Refusal::UnknownModel(model.to_owned()))?;
    let policy = snapshot.models.get(at as usize).ok_or(Refusal::Internal)?;
    if !snapshot.key(key).is_some_and(|k| k.models.allows(at)) {
        return Err(Refusal::ModelForbidden(model.to_owned()));
    }
    let mut pools = policy.pools.iter().filter_map(|at| snapshot.pools.get(*at as usize));
    if !pools.any(|p| *p.name == *pool) || !policy.capabilities.has(Capability::Tensors) {
        return Err(Refusal::Incapable { model: model.to_owned(), what: "tensors in this pool" });
    }
    Ok((at, policy))
}
