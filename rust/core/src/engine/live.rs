//! Owns: the policy in force together with what its parts need while it runs: pools' states, cache, flights.
//! Must not know: requests.
//! On failure: it cannot fail; a change of the cache's bounds starts an empty cache.

use std::fmt;
use std::sync::Arc;

use super::recall::Waiter;
use crate::answer::CaptureBudget;
use crate::cache::{CacheConfig, ExactCache};
use crate::flight::{FlightConfig, Flights};
use crate::metrics::push_gauge;
use crate::policy::{CachePolicy, Snapshot};
use crate::pool::{PoolState, Pools};

/// Requests in flight that equal ones may follow.
const MAX_FLIGHTS: usize = 65_536;

/// A policy in force.
#[derive(Debug)]
pub struct Live {
    /// The policy
    pub snapshot: Snapshot,
    /// The state of each pool, by the snapshot's index
    pub pools: Vec<Arc<PoolState>>,
    /// The exact cache, if the policy has one
    pub cache: Option<Arc<CacheRuntime>>,
}

/// The exact cache and what belongs to it.
pub struct CacheRuntime {
    /// Its bounds
    pub policy: CachePolicy,
    /// The answers
    pub exact: ExactCache,
    /// Equal requests in flight
    pub flights: Flights<Waiter>,
    /// Bytes of all captures
    pub budget: Arc<CaptureBudget>,
}

// === impl Live ===

impl Live {
    pub(super) fn new(snapshot: Snapshot, pools: &Pools, before: Option<&Live>) -> Self {
        for model in &snapshot.models {
            // A vocabulary's tables take long to build; no request waits for that.
            model.rules.tokenizer.warm();
        }
        let states = snapshot.pools.iter().map(|p| pools.state(&p.name)).collect();
        let kept = before.and_then(|b| b.cache.clone());
        let cache = snapshot.cache.as_ref().map(|policy| match kept {
            Some(runtime) if runtime.policy == *policy => runtime,
            _ => Arc::new(CacheRuntime::new(policy.clone(), snapshot.timing.reservation_ns)),
        });
        Self { snapshot, pools: states, cache }
    }
}

// === impl CacheRuntime ===

impl fmt::Debug for CacheRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheRuntime").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl CacheRuntime {
    fn new(policy: CachePolicy, lead_ns: u64) -> Self {
        Self {
            exact: ExactCache::new(CacheConfig {
                max_bytes: policy.max_bytes as usize,
                max_entry_bytes: policy.max_entry_bytes as usize,
                shards: 16,
            }),
            flights: Flights::new(FlightConfig {
                max_followers_per_flight: policy.max_followers,
                max_followers: policy.max_followers_total,
                max_flights: MAX_FLIGHTS,
                lead_ns,
            }),
            budget: CaptureBudget::new(policy.capture_total_bytes as usize),
            policy,
        }
    }

    pub(super) fn render(&self, out: &mut String) {
        let stats = self.exact.stats();
        push_gauge(out, "forebay_cache_entries", "answers in the exact cache", stats.entries);
        push_gauge(out, "forebay_cache_bytes", "bytes that the exact cache accounts for", stats.bytes);
        push_gauge(out, "forebay_cache_evictions", "answers evicted for room", stats.evictions);
        push_gauge(out, "forebay_cache_expired", "answers past their time", stats.expired);
        push_gauge(out, "forebay_cache_invalidated", "answers invalidated", stats.invalidated);
        push_gauge(
            out,
            "forebay_capture_bytes",
            "bytes held by captures in flight",
            self.budget.held_bytes() as u64,
        );
    }
}
