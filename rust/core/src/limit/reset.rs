//! Owns when what was charged is all there again, for `x-ratelimit-reset-*`.
//! Must not know: headers.
//! On failure: cannot fail; a charge that is not there resets at once.

use super::claim::Held;
use super::limiter::Limiter;

// === impl Limiter ===

impl Limiter {
    /// Until the bucket of the charge at `at` (in the order of the claims) is as good as new, if nothing more is taken.
    pub fn reset_ns(&self, held: &Held, at: usize, now_ns: u64) -> u64 {
        held.items.get(at).map_or(0, |item| self.shard(item.address.key).look(item.address, now_ns).1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use crate::limit::spec::tests::definition;
    use crate::limit::{Claim, HashKey, Held, Kind, LimitSpec, Limiter, LimiterConfig, Scope, ScopeValue};

    #[test]
    fn a_charge_resets_when_its_window_has_passed() {
        let limiter = Limiter::new(LimiterConfig::default());
        let limit = LimitSpec::new(definition(Kind::Requests, 5, 1_500)).unwrap();
        let scope = ScopeValue::new(&HashKey::new([1; 32]), "acme", Scope::User, "bob");
        let held =
            limiter.reserve(&[Claim { limit: &limit, scope, amount: 1, period: None }], 1_000).unwrap();
        let reset_ns = limiter.reset_ns(&held, 0, 1_000);
        assert!((1_500..=1_600).contains(&reset_ns), "{reset_ns}");
        assert_eq!(limiter.reset_ns(&held, 1, 1_000), 0);
        assert_eq!(limiter.reset_ns(&Held::default(), 0, 1_000), 0);
    }
}
