//! Owns: what is in flight at each pool, whether it may be used, and the choice between pools.
//! Must not know: how health is observed, which request it is.
//! On failure: closed; a pool that Envoy does not have, or that is ejected or full, is not picked.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;

/// Consecutive failures to reach a pool after which it rests.
pub const EJECT_AFTER: u32 = 5;
/// How long it rests.
pub const EJECT_NS: u64 = 5_000_000_000;

/// The live state of one pool. It outlives policies: counts in flight stay right over a change.
#[derive(Debug)]
pub struct PoolState {
    name: Arc<str>,
    requests: AtomicU32,
    tokens: AtomicU64,
    routable: AtomicBool,
    healthy: AtomicBool,
    failures: AtomicU32,
    ejected_until_ns: AtomicU64,
}

/// All pools that were ever named by a policy of this process.
#[derive(Debug, Default)]
pub struct Pools {
    by_name: RwLock<HashMap<Arc<str>, Arc<PoolState>>>,
}

/// A place in a pool. Dropping it gives the place back.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<PoolState>,
    tokens: u64,
}

/// Why no pool was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// Some are healthy, all of those are full
    Full,
    /// None is healthy and routable
    Unhealthy,
}

/// What an operator sees of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// Its name
    pub name: Arc<str>,
    /// Requests in flight
    pub requests: u32,
    /// Tokens reserved by them
    pub tokens: u64,
    /// Envoy has it
    pub routable: bool,
    /// Observed healthy and not ejected
    pub healthy: bool,
}

// === impl Pools ===

impl Pools {
    /// The state of the pool of this name, made on first use.
    pub fn state(&self, name: &Arc<str>) -> Arc<PoolState> {
        if let Some(state) = self.by_name.read().get(name) {
            return state.clone();
        }
        let mut map = self.by_name.write();
        map.entry(name.clone()).or_insert_with(|| Arc::new(PoolState::new(name.clone()))).clone()
    }

    /// Says whether Envoy has the pool and finds it healthy. A pool that no policy names yet begins so.
    pub fn observe(&self, name: &str, routable: bool, healthy: bool) {
        let state = self.state(&Arc::from(name));
        state.routable.store(routable, Relaxed);
        state.healthy.store(healthy, Relaxed);
    }

    /// Every pool's state, by name.
    pub fn view(&self, now_ns: u64) -> Vec<PoolView> {
        let mut views: Vec<PoolView> = self.by_name.read().values().map(|s| s.view(now_ns)).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }
}

// === impl PoolState ===

impl PoolState {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            requests: AtomicU32::new(0),
            tokens: AtomicU64::new(0),
            routable: AtomicBool::new(true),
            healthy: AtomicBool::new(true),
            failures: AtomicU32::new(0),
            ejected_until_ns: AtomicU64::new(0),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn usable(&self, now_ns: u64) -> bool {
        self.routable.load(Relaxed)
            && self.healthy.load(Relaxed)
            && self.ejected_until_ns.load(Relaxed) <= now_ns
    }

    fn view(&self, now_ns: u64) -> PoolView {
        PoolView {
            name: self.name.clone(),
            requests: self.requests.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            routable: self.routable.load(Relaxed),
            healthy: self.healthy.load(Relaxed) && self.ejected_until_ns.load(Relaxed) <= now_ns,
        }
    }

    /// A request reached the pool: its failures in a row are over.
    pub fn succeeded(&self) {
        self.failures.store(0, Relaxed);
    }

    /// A request could not reach the pool. After several in a row it rests.
    pub fn failed(&self, now_ns: u64) {
        if self.failures.fetch_add(1, Relaxed) + 1 >= EJECT_AFTER {
            self.failures.store(0, Relaxed);
            self.ejected_until_ns.store(now_ns.saturating_add(EJECT_NS), Relaxed);
        }
    }

    fn enter(self: &Arc<Self>, max_concurrency: u32, tokens: u64) -> Option<Lease> {
        let before = self.requests.fetch_add(1, Relaxed);
        if max_concurrency != 0 && before >= max_concurrency {
            self.requests.fetch_sub(1, Relaxed);
            return None;
        }
        self.tokens.fetch_add(tokens, Relaxed);
        Some(Lease { pool: self.clone(), tokens })
    }
}

// === impl Lease ===

impl Lease {
    /// The pool that the place is in.
    pub fn pool(&self) -> &Arc<PoolState> {
        &self.pool
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.requests.fetch_sub(1, Relaxed);
        self.pool.tokens.fetch_sub(self.tokens, Relaxed);
    }
}

/// Takes a place in the usable pool with the fewest outstanding tokens; the earlier one of equals.
///
/// `candidates` are pools in order of preference with their bound on requests in flight (0: none).
pub fn pick(candidates: &[(&Arc<PoolState>, u32)], tokens: u64, now_ns: u64) -> Result<Lease, NoPlace> {
    let mut tried = [false; 64];
    let mut any_usable = false;
    // Each round picks the least loaded of those not tried; a lost race for the last place tries the next.
    for _ in 0..candidates.len().min(tried.len()) {
        let best = candidates
            .iter()
            .enumerate()
            .filter(|(i, (state, max))| {
                let usable = !tried.get(*i).copied().unwrap_or(true) && state.usable(now_ns);
                any_usable |= usable;
                usable && (*max == 0 || state.requests.load(Relaxed) < *max)
            })
            .min_by_key(|(_, (state, _))| state.tokens.load(Relaxed));
        let Some((i, (state, max))) = best else { break };
        if let Some(lease) = state.enter(*max, tokens) {
            return Ok(lease);
        }
        tried[i] = true;
    }
    Err(if any_usable { NoPlace::Full } else { NoPlace::Unhealthy })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn two() -> (Pools, Arc<PoolState>, Arc<PoolState>) {
        let pools = Pools::default();
        let (a, b) = (pools.state(&Arc::from("a")), pools.state(&Arc::from("b")));
        (pools, a, b)
    }

    #[test]
    fn the_least_loaded_pool_is_picked_and_equals_go_by_order() {
        let (_, a, b) = two();
        let first = pick(&[(&a, 0), (&b, 0)], 100, 0).unwrap();
        assert_eq!(&**first.pool().name(), "a");
        let second = pick(&[(&a, 0), (&b, 0)], 10, 0).unwrap();
        assert_eq!(&**second.pool().name(), "b");
        drop(first);
        assert_eq!(&**pick(&[(&a, 0), (&b, 0)], 1, 0).unwrap().pool().name(), "a");
    }

    #[test]
    fn full_is_not_unhealthy() {
        let (pools, a, b) = two();
        let _one = pick(&[(&a, 1)], 1, 0).unwrap();
        assert_eq!(pick(&[(&a, 1)], 1, 0).unwrap_err(), NoPlace::Full);
        assert_eq!(&**pick(&[(&a, 1), (&b, 1)], 1, 0).unwrap().pool().name(), "b");
        pools.observe("a", true, false);
        pools.observe("b", false, true);
        assert_eq!(pick(&[(&a, 1), (&b, 1)], 1, 0).unwrap_err(), NoPlace::Unhealthy);
        assert_eq!(pick(&[], 1, 0).unwrap_err(), NoPlace::Unhealthy);
    }

    #[test]
    fn failures_in_a_row_eject_for_a_while() {
        let (_, a, _) = two();
        for _ in 0..EJECT_AFTER - 1 {
            a.failed(7);
        }
        a.succeeded();
        a.failed(7);
        assert!(pick(&[(&a, 0)], 1, 7).is_ok());
        for _ in 0..EJECT_AFTER {
            a.failed(7);
        }
        assert_eq!(pick(&[(&a, 0)], 1, 8).unwrap_err(), NoPlace::Unhealthy);
        assert!(pick(&[(&a, 0)], 1, 7 + EJECT_NS).is_ok());
    }

    #[test]
    fn racing_entries_never_pass_the_bound() {
        let (_, a, _) = two();
        let most = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        if let Ok(lease) = pick(&[(&a, 3)], 1, 0) {
                            // The counter itself may overshoot for an instant; leases held may not.
                            most.fetch_max(0, Relaxed);
                            drop(lease);
                        }
                    }
                });
            }
        });
        assert_eq!((a.requests.load(Relaxed), a.tokens.load(Relaxed)), (0, 0));
    }
}
