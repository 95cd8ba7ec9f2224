//! Owns who is counted: the scopes, and the keyed hash that stands for one value of a scope.
//! Must not know: limits, counts, where a user's name comes from.
//! On failure: cannot fail. Two tenants' same user can never be one value, by construction.

use std::fmt;

/// Per what a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One API key.
    Key,
    /// One user of one tenant.
    User,
    /// One tenant.
    Tenant,
    /// One tier, over all its tenants or within one.
    Tier,
    /// One feature of one tenant.
    Feature,
    /// One model.
    Model,
    /// One pool of endpoints.
    Pool,
    /// One provider.
    Provider,
    /// One client address.
    ClientAddress,
    /// One run of an agent, within its tenant.
    Run,
    /// One evaluation, within its tenant.
    Eval,
}

impl Scope {
    /// Every scope, in the order of documentation.
    pub const ALL: [Self; 11] = [
        Self::Key,
        Self::User,
        Self::Tenant,
        Self::Tier,
        Self::Feature,
        Self::Model,
        Self::Pool,
        Self::Provider,
        Self::ClientAddress,
        Self::Run,
        Self::Eval,
    ];

    /// The stable name, as policy and refusals spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::User => "user",
            Self::Tenant => "tenant",
            Self::Tier => "tier",
            Self::Feature => "feature",
            Self::Model => "model",
            Self::Pool => "pool",
            Self::Provider => "provider",
            Self::ClientAddress => "client_address",
            Self::Run => "run",
            Self::Eval => "eval",
        }
    }

    /// The scope of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

/// The scopes whose values may be counted over all tenants together.
///
/// `key`, `user`, `tenant`, `feature`, `run` and `eval` are not among them: their names mean something only
/// within a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SharedScope {
    /// One tier.
    Tier,
    /// One model.
    Model,
    /// One pool of endpoints.
    Pool,
    /// One provider.
    Provider,
    /// One client address.
    ClientAddress,
}

impl From<SharedScope> for Scope {
    fn from(shared: SharedScope) -> Self {
        match shared {
            SharedScope::Tier => Self::Tier,
            SharedScope::Model => Self::Model,
            SharedScope::Pool => Self::Pool,
            SharedScope::Provider => Self::Provider,
            SharedScope::ClientAddress => Self::ClientAddress,
        }
    }
}

/// The secret that scope values are hashed with.
///
/// Without it a client could choose names that meet in one bucket. Replicas that share state
/// share it.
#[derive(Clone)]
pub struct HashKey([u8; 32]);

impl HashKey {
    /// A key from 32 random bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// One value of one scope, for example user `7` of tenant `acme`: 128 bits of a keyed BLAKE3.
///
/// 128 bits and a secret key, since a collision would let one party spend another's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScopeValue(u128);

const WITHIN_TENANT: u8 = 0;
const OVER_TENANTS: u8 = 1;

// === impl ScopeValue ===

impl ScopeValue {
    /// The value of a scope within a tenant.
    ///
    /// Values that do not change from request to request (tenant, tier, pool) are worth computing
    /// once, when the policy is compiled: about 0.1 µs each.
    pub fn new(key: &HashKey, tenant: &str, scope: Scope, value: &str) -> Self {
        Self::hash(key, [WITHIN_TENANT, scope as u8], tenant, value)
    }

    /// The value of a scope that is counted over all tenants together.
    pub fn shared(key: &HashKey, scope: SharedScope, value: &str) -> Self {
        Self::hash(key, [OVER_TENANTS, Scope::from(scope) as u8], "", value)
    }

    fn hash(key: &HashKey, tag: [u8; 2], tenant: &str, value: &str) -> Self {
        // The tenant's length goes first: ("ab", "c") and ("a", "bc") stay apart.
        let length = (tenant.len() as u64).to_le_bytes();
        let parts: [&[u8]; 4] = [&tag, &length, tenant.as_bytes(), value.as_bytes()];
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut buffer = [0_u8; 192];
        // One call over a short buffer costs a third of an incremental hasher.
        let digest = if let Some(short) = buffer.get_mut(..total) {
            let mut rest = &mut short[..];
            for part in parts {
                let (head, tail) = rest.split_at_mut(part.len());
                head.copy_from_slice(part);
                rest = tail;
            }
            blake3::keyed_hash(&key.0, short)
        } else {
            let mut hasher = blake3::Hasher::new_keyed(&key.0);
            for part in parts {
                hasher.update(part);
            }
            hasher.finalize()
        };
        let mut half = [0_u8; 16];
        half.copy_from_slice(&digest.as_bytes()[..16]);
        Self(u128::from_le_bytes(half))
    }

    /// Where this value's bucket of a limit is kept.
    pub(super) fn bucket_key(self, identity: u128) -> u128 {
        // Both sides are outputs of BLAKE3, and this one's key is secret: their XOR is as even.
        self.0 ^ identity
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const KEY: HashKey = HashKey::new([7; 32]);

    #[test]
    fn tenant_scope_and_value_all_count() {
        let base = ScopeValue::new(&KEY, "acme", Scope::User, "7");
        assert_eq!(base, ScopeValue::new(&KEY, "acme", Scope::User, "7"));
        for other in [
            ScopeValue::new(&KEY, "blue", Scope::User, "7"),
            ScopeValue::new(&KEY, "acme", Scope::Key, "7"),
            ScopeValue::new(&KEY, "acme", Scope::User, "8"),
            ScopeValue::new(&KEY, "acme7", Scope::User, ""),
            ScopeValue::new(&KEY, "", Scope::User, "acme7"),
            ScopeValue::new(&HashKey::new([8; 32]), "acme", Scope::User, "7"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn shared_values_are_apart_from_a_nameless_tenants() {
        assert_ne!(
            ScopeValue::shared(&KEY, SharedScope::Pool, "a"),
            ScopeValue::new(&KEY, "", Scope::Pool, "a")
        );
    }

    #[test]
    fn long_values_are_hashed_whole() {
        let long = "x".repeat(500);
        let longer = format!("{long}y");
        assert_ne!(
            ScopeValue::new(&KEY, "acme", Scope::User, &long),
            ScopeValue::new(&KEY, "acme", Scope::User, &longer)
        );
    }

    #[test]
    fn scopes_are_read_back_and_keys_never_print() {
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
        }
        assert_eq!(format!("{KEY:?}"), "HashKey(..)");
    }
}
