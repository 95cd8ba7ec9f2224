//! Owns: limits as deciding needs them: the checked definition, and which requests each counts.
//! Must not know: how limits are counted.
//! On failure: closed; a limit that cannot be kept refuses the policy, since without it more would pass.

use std::sync::Arc;

use super::snapshot::MS;
use super::{Finding, Severity, pb};
use crate::limit::{Algorithm, Kind, LimitDefinition, LimitId, LimitSpec, Scope};

/// Which requests a limit counts. Empty lists match all.
#[derive(Debug, Default)]
pub struct LimitMatch {
    tenants: Vec<Arc<str>>,
    tiers: Vec<Arc<str>>,
    keys: Vec<Arc<str>>,
    features: Vec<Arc<str>>,
    models: Vec<Arc<str>>,
}

// === impl LimitMatch ===

impl LimitMatch {
    pub(super) fn new(limit: &pb::Limit) -> Self {
        Self {
            tenants: list(&limit.tenants),
            tiers: list(&limit.tiers),
            keys: list(&limit.keys),
            features: list(&limit.features),
            models: list(&limit.models),
        }
    }

    pub(super) fn of_budget(budget: &pb::Budget) -> Self {
        Self {
            tenants: list(&budget.tenants),
            tiers: list(&budget.tiers),
            keys: list(&budget.keys),
            features: list(&budget.features),
            models: list(&budget.models),
        }
    }

    /// Whether the caller is one that the limit counts.
    pub fn caller(&self, tenant: &str, tier: &str, key: &str, feature: &str) -> bool {
        let has = |list: &[Arc<str>], name: &str| list.is_empty() || list.iter().any(|n| &**n == name);
        has(&self.tenants, tenant)
            && has(&self.tiers, tier)
            && has(&self.keys, key)
            && has(&self.features, feature)
    }

    /// Whether the limit counts only some models, and so waits until the model is known.
    pub fn needs_model(&self) -> bool {
        !self.models.is_empty()
    }

    /// Whether the model is one that the limit counts.
    pub fn model(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|n| &**n == model)
    }
}

fn list(names: &[String]) -> Vec<Arc<str>> {
    names.iter().map(|n| Arc::from(n.as_str())).collect()
}

pub(super) fn limit_scope(scope: pb::limit::Scope) -> Scope {
    use pb::limit::Scope as S;
    match scope {
        S::Key | S::Unspecified => Scope::Key,
        S::User => Scope::User,
        S::Tenant => Scope::Tenant,
        S::Tier => Scope::Tier,
        S::Feature => Scope::Feature,
        S::Model => Scope::Model,
        S::Pool => Scope::Pool,
        S::Provider => Scope::Provider,
        S::ClientAddress => Scope::ClientAddress,
        S::Run => Scope::Run,
        S::Eval => Scope::Eval,
    }
}

pub(super) fn limit_spec(at: usize, limit: &pb::Limit) -> Result<LimitSpec, Finding> {
    use pb::limit::Unit as U;
    let definition = LimitDefinition {
        id: LimitId(at as u32),
        name: Arc::from(limit.name.as_str()),
        kind: match limit.unit() {
            U::Tokens => Kind::Tokens,
            U::Concurrency => Kind::Concurrency,
            U::Requests | U::Unspecified => Kind::Requests,
        },
        scope: limit_scope(limit.scope()),
        capacity: limit.amount,
        window_ns: limit.window_ms.saturating_mul(MS),
        algorithm: Algorithm::default(),
    };
    LimitSpec::new(definition).map_err(|error| Finding {
        severity: Severity::Error,
        slug: error.slug(),
        path: format!("limits[{at}]"),
        message: error.to_string(),
    })
}
