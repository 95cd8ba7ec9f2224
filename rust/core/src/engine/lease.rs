//! Owns: what requests ask to be leased for their budgets, who waits for it, and whose each lease is.
//! Must not know: where leases are drawn, who waits how.
//! On failure: closed; a full desk or an ask that nobody serves leaves the request without a lease, and it is refused.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::recall::{FollowOutcome, Waiter};
use crate::limit::{Claim, ClaimPeriod, Granted, LimitSpec, Limiter, ScopeValue};

/// Buckets that may wait for a lease at once.
const MAX_PENDING: usize = 65_536;
/// Requests that may wait for one lease. One that gave up is not missed until the ask ends, so that an ask which nobody
/// serves would gather them without end.
const MAX_WAITERS: usize = 16_384;

/// One bucket of a budget that needs more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAsk {
    /// By which it is granted
    pub token: u64,
    /// The budget's name
    pub budget: Arc<str>,
    /// Whose: the scope's value, such as `acme/bob`
    pub value: Arc<str>,
    /// `nanousd` or `tokens`
    pub unit: &'static str,
    /// When the period began, seconds since 1970
    pub period_start_s: i64,
    /// When it ends
    pub period_end_s: i64,
    /// The most that the budget gives in the period
    pub amount: u64,
    /// What is wanted now
    pub want: u64,
}

/// What one bucket was leased, and what of it is spent or reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseBalance {
    /// The budget's name
    pub budget: Arc<str>,
    /// Whose
    pub value: Arc<str>,
    /// When the period began, seconds since 1970
    pub period_start_s: i64,
    /// Leased in all
    pub granted: u64,
    /// Spent and reserved
    pub used: u64,
}

/// A bucket that needs a lease, before it has a token.
pub(super) struct Need<'a> {
    pub claim: Claim<'a>,
    pub key: u128,
    pub budget: &'a Arc<str>,
    pub value: &'a Arc<str>,
    pub unit: &'static str,
    pub period_end_s: i64,
    pub want: u64,
}

/// All asks of an engine.
#[derive(Default)]
pub(super) struct LeaseDesk {
    inner: Mutex<Inner>,
    bell: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct Inner {
    tokens: u64,
    queue: VecDeque<LeaseAsk>,
    by_key: HashMap<u128, u64>,
    pending: HashMap<u64, Pending>,
    /// Asks that failed. They stay until the next turn of [`LeaseDesk::forget_failed`], so that nobody asks a drawer that
    /// fails over and over.
    failed: Vec<u64>,
    names: HashMap<u128, Name>,
    unused: Vec<LeaseBalance>,
}

struct Pending {
    key: u128,
    budget: Arc<str>,
    value: Arc<str>,
    limit: LimitSpec,
    scope: ScopeValue,
    period: ClaimPeriod,
    waiters: Vec<Waiter>,
}

struct Name {
    budget: Arc<str>,
    value: Arc<str>,
    period: ClaimPeriod,
}

// === impl LeaseDesk ===

impl LeaseDesk {
    pub fn on_ask(&self, bell: Box<dyn Fn() + Send + Sync>) {
        // One drawer for the engine's life; a second would wait for asks that the first takes.
        let _ = self.bell.set(bell);
    }

    /// Whether anybody draws leases for the asks.
    pub fn is_served(&self) -> bool {
        self.bell.get().is_some()
    }

    /// Asks for a lease. The waiter is called when it came, or will not. False: there is no room for more asks, or for
    /// more who wait for this one.
    pub fn ask(&self, need: &Need<'_>, waiter: Option<Waiter>, limiter: &Limiter) -> bool {
        let Some(period) = need.claim.period else { return false };
        let mut inner = self.inner.lock();
        if let Some(token) = inner.by_key.get(&need.key).copied() {
            if let Some(pending) = inner.pending.get_mut(&token) {
                if waiter.is_some() && pending.waiters.len() >= MAX_WAITERS {
                    return false;
                }
                pending.waiters.extend(waiter);
                // As the bucket does: where the clock was set back, the period ends later than it seemed.
                pending.period.ends_ns = pending.period.ends_ns.max(period.ends_ns);
            }
            return true;
        }
        if inner.pending.len() >= MAX_PENDING {
            return false;
        }
        // So that no later charge asks ahead for what is on its way.
        limiter.begin_asking(&need.claim, 0);
        inner.tokens += 1;
        let token = inner.tokens;
        inner.by_key.insert(need.key, token);
        let name = inner.names.entry(need.key).or_insert_with(|| Name {
            budget: need.budget.clone(),
            value: need.value.clone(),
            period,
        });
        name.period.ends_ns = name.period.ends_ns.max(period.ends_ns);
        inner.pending.insert(
            token,
            Pending {
                key: need.key,
                budget: need.budget.clone(),
                value: need.value.clone(),
                limit: need.claim.limit.clone(),
                scope: need.claim.scope,
                period,
                waiters: waiter.into_iter().collect(),
            },
        );
        inner.queue.push_back(LeaseAsk {
            token,
            budget: need.budget.clone(),
            value: need.value.clone(),
            unit: need.unit,
            period_start_s: period.start_s,
            period_end_s: need.period_end_s,
            amount: need.claim.limit.capacity,
            want: need.want,
        });
        drop(inner);
        if let Some(bell) = self.bell.get() {
            bell();
        }
        true
    }

    /// The oldest asks that nobody took yet.
    pub fn take(&self, max: usize) -> Vec<LeaseAsk> {
        let mut inner = self.inner.lock();
        let count = inner.queue.len().min(max);
        inner.queue.drain(..count).collect()
    }

    /// Puts a lease into its bucket and wakes who waits for it. An unknown token changes nothing.
    pub fn grant(&self, token: u64, granted: u64, left: u64, limiter: &Limiter, now_ns: u64) {
        let Some(pending) = self.remove(token) else { return };
        if limiter.grant(&pending.claim(granted), left, now_ns) != Granted::Kept {
            self.keep_unused(&pending, granted);
        }
        wake(pending.waiters);
    }

    /// A lease whose period ended meanwhile, or that found no place, goes back with the balances.
    fn keep_unused(&self, pending: &Pending, granted: u64) {
        let mut inner = self.inner.lock();
        if granted == 0 || inner.unused.len() >= MAX_PENDING {
            return;
        }
        inner.unused.push(LeaseBalance {
            budget: pending.budget.clone(),
            value: pending.value.clone(),
            period_start_s: pending.period.start_s,
            granted,
            used: 0,
        });
    }

    /// Says that nothing could be drawn. The ask stands until the next [`LeaseDesk::forget_failed`].
    pub fn fail(&self, token: u64) {
        let mut inner = self.inner.lock();
        if inner.pending.contains_key(&token) {
            inner.failed.push(token);
        }
    }

    /// Ends the asks that failed: who waits is woken, and asks again or gives up.
    pub fn forget_failed(&self, limiter: &Limiter) {
        let failed = std::mem::take(&mut self.inner.lock().failed);
        for pending in failed.into_iter().filter_map(|token| self.remove(token)) {
            limiter.stop_asking(&pending.claim(0));
            wake(pending.waiters);
        }
    }

    fn remove(&self, token: u64) -> Option<Pending> {
        let mut inner = self.inner.lock();
        let pending = inner.pending.remove(&token)?;
        inner.by_key.remove(&pending.key);
        Some(pending)
    }

    /// What every bucket has and has used.
    pub fn balances(&self, limiter: &Limiter, now_ns: u64) -> Vec<LeaseBalance> {
        let standings = limiter.leases(now_ns);
        let inner = self.inner.lock();
        let named = standings.into_iter().filter_map(|s| {
            let name = inner.names.get(&s.key)?;
            Some(LeaseBalance {
                budget: name.budget.clone(),
                value: name.value.clone(),
                period_start_s: name.period.start_s,
                granted: s.granted,
                used: s.used,
            })
        });
        named.chain(inner.unused.iter().cloned()).collect()
    }

    /// Forgets whose the leases of ended periods were.
    pub fn forget_ended(&self, now_ns: u64) {
        self.inner.lock().names.retain(|_, name| name.period.ends_ns > now_ns);
    }
}

// === impl Pending ===

impl Pending {
    fn claim(&self, amount: u64) -> Claim<'_> {
        Claim { limit: &self.limit, scope: self.scope, amount, period: Some(self.period) }
    }
}

impl fmt::Debug for LeaseDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseDesk").field("pending", &self.inner.lock().pending.len()).finish_non_exhaustive()
    }
}

/// Called under no lock.
fn wake(waiters: Vec<Waiter>) {
    for waiter in waiters {
        waiter(FollowOutcome::GoAlone);
    }
}
