//! Owns: what the batch service may ask about a request that decide let through to it.
//! Must not know: tensors.
//! On failure: closed; an unknown id, or a model outside pool and permission, is refused.

use std::sync::Arc;

use super::{Engine, Live};
use crate::policy::pb::model::Capability;
use crate::refusal::Refusal;

/// Who is behind a request at the batch service.
#[derive(Debug, Clone)]
pub struct BatchCaller {
    /// The pool that decide picked
    pub pool: Arc<str>,
    /// The tenant
    pub tenant: Arc<str>,
    /// The key's id
    pub key: Arc<str>,
    live: Arc<Live>,
    key_at: u32,
}

// === impl Engine ===

impl Engine {
    /// The caller of an open reservation.
    pub fn batch_caller(&self, id: u128) -> Option<BatchCaller> {
        self.open.amend(id, |reservation| {
            let open = &reservation.owner;
            BatchCaller {
                pool: open.record.pool.clone(),
                tenant: open.record.tenant.clone(),
                key: open.record.key.clone(),
                live: open.live.clone(),
                key_at: open.key,
            }
        })
    }
}

// === impl BatchCaller ===

impl BatchCaller {
    /// The name that the pool knows the model by, if the caller may use it there.
    pub fn may_use(&self, model: &str) -> Result<Arc<str>, Refusal> {
        let snapshot = &self.live.snapshot;
        let at = snapshot.model_named(model).ok_or_else(|| Refusal::UnknownModel(model.to_owned()))?;
        let policy = snapshot.models.get(at as usize).ok_or(Refusal::Internal)?;
        let allowed = snapshot.key(self.key_at).is_some_and(|k| k.models.allows(at));
        if !allowed {
            return Err(Refusal::ModelForbidden(model.to_owned()));
        }
        let here =
            policy.pools.iter().any(|p| snapshot.pools.get(*p as usize).is_some_and(|p| p.name == self.pool));
        if !here || !policy.capabilities.has(Capability::Tensors) {
            return Err(Refusal::Incapable { model: model.to_owned(), what: "tensors in this pool" });
        }
        Ok(policy.upstream_name.clone())
    }
}
