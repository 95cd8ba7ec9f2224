//! Owns: whom each scope counts, for a request as far as it is known, and the name that the ledger has for it.
//! Must not know: limits, budgets, where a request's facts come from.
//! On failure: a scope in which a request has nothing counts nobody.

use crate::limit::{HashKey, Scope, ScopeValue, SharedScope};

/// What is known of a request. Empty: nothing, or not yet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Who<'a> {
    pub tenant: &'a str,
    pub key: &'a str,
    pub user: &'a str,
    pub feature: &'a str,
    pub run: &'a str,
    pub eval: &'a str,
    pub tier: &'a str,
    pub model: &'a str,
    pub pool: &'a str,
    pub provider: &'a str,
    /// `None`: not known. A client without an address counts with the others that have none.
    pub address: Option<&'a str>,
}

/// One value of one scope.
#[derive(Debug, Clone, Copy)]
pub(super) enum Counted<'a> {
    /// It means something only within its tenant
    Within { tenant: &'a str, scope: Scope, value: &'a str },
    /// The tenant itself
    Tenant(&'a str),
    /// It means the same for all tenants
    Shared(SharedScope, &'a str),
}

// === impl Who ===

impl<'a> Who<'a> {
    /// Whom the scope counts.
    pub fn under(&self, scope: Scope) -> Option<Counted<'a>> {
        let tenant = self.tenant;
        let within = |value| Counted::Within { tenant, scope, value };
        let shared = |scope| move |value| Counted::Shared(scope, value);
        match scope {
            Scope::Key => some(self.key).map(within),
            Scope::User => some(self.user).map(within),
            Scope::Feature => some(self.feature).map(within),
            Scope::Run => some(self.run).map(within),
            Scope::Eval => some(self.eval).map(within),
            Scope::Tenant => some(tenant).map(Counted::Tenant),
            Scope::Tier => some(self.tier).map(shared(SharedScope::Tier)),
            Scope::Model => some(self.model).map(shared(SharedScope::Model)),
            Scope::Pool => some(self.pool).map(shared(SharedScope::Pool)),
            Scope::Provider => some(self.provider).map(shared(SharedScope::Provider)),
            Scope::ClientAddress => self.address.map(shared(SharedScope::ClientAddress)),
        }
    }
}

// === impl Counted ===

impl Counted<'_> {
    /// The value that a bucket goes by.
    pub fn value(self, key: &HashKey) -> ScopeValue {
        match self {
            Self::Within { tenant, scope, value } => ScopeValue::new(key, tenant, scope, value),
            Self::Tenant(tenant) => ScopeValue::new(key, tenant, Scope::Tenant, tenant),
            Self::Shared(scope, value) => ScopeValue::shared(key, scope, value),
        }
    }

    /// The value as the ledger names it, such as `acme/bob`.
    pub fn name(self) -> String {
        match self {
            Self::Within { tenant, value, .. } => format!("{tenant}/{value}"),
            Self::Tenant(value) | Self::Shared(_, value) => value.to_owned(),
        }
    }
}

fn some(value: &str) -> Option<&str> {
    (!value.is_empty()).then_some(value)
}
