//! Owns: one request between its head and its end: who asks, what was taken for it so far, its record.
//! Must not know: the order of stages.
//! On failure: dropped before it was handed on, it gives back everything that was taken.

use std::fmt;
use std::sync::Arc;

use super::Clock;
use super::live::{CacheRuntime, Live};
use super::recall::FollowOutcome;
use super::take::Seen;
use crate::cache::CacheKey;
use crate::limit::{Held, Kind, Limiter};
use crate::policy::KeyRecord;
use crate::record::{Record, Stage};
use crate::refusal::ErrorShape;
use crate::request::CacheControl;
use crate::trace::TraceContext;

/// A request that is being decided.
#[derive(Debug)]
pub struct Session {
    pub(super) live: Arc<Live>,
    pub(super) route: u32,
    pub(super) caller: Caller,
    pub(super) cache_control: CacheControl,
    pub(super) is_grpc: bool,
    pub(super) record: Box<Record>,
    pub(super) taken: Taken,
    pub(super) limited: bool,
    /// What budgets were charged, in the order of their charges
    pub(super) charges: Vec<BudgetNote>,
    /// When it stops waiting for leases; 0: it does not wait
    pub(super) lease_until_ns: u64,
    /// A soft budget let it pass without a bound, or above the amount
    pub(super) is_soft: bool,
    /// Where it stands in its trace; `None`: nobody takes traces and the client sent none
    pub(super) tracing: Option<TraceContext>,
    /// By which Envoy names the request in its log; 0: it does not
    pub(super) envoy_id: u128,
    /// In whose shape an error is told
    pub(super) errors: ErrorShape,
    /// What the answer from the cache would have cost
    pub(super) saved_nanousd: u64,
    /// The model that the request named; `None`: none that is known
    pub(super) named: Option<u32>,
    pub(super) resolution: Option<super::Resolution>,
    pub(super) followed: Option<FollowOutcome>,
    pub(super) aboard: Option<Aboard>,
    pub(super) trace: Option<Vec<(Stage, String)>>,
    last_ns: u64,
}

/// A budget that a request was charged to.
#[derive(Debug, Clone)]
pub(super) struct BudgetNote {
    pub budget: Arc<str>,
    pub value: Arc<str>,
    pub period_start_s: i64,
    pub kind: Kind,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub key: u32,
    pub user: Arc<str>,
    pub feature: u32,
    pub address: Box<str>,
}

/// Limits taken so far. Dropped without being handed on, they are given back whole.
pub(super) struct Taken {
    limiter: Arc<Limiter>,
    held: Held,
    now_ns: u64,
}

/// This request is aboard a flight, leading or following. Dropped without an end, it leaves, and whoever leads then
/// is told.
pub(super) struct Aboard {
    pub cache: Arc<CacheRuntime>,
    pub key: CacheKey,
    pub id: u128,
    pub now_ns: u64,
}

// === impl Session ===

impl Session {
    pub(super) fn new(live: Arc<Live>, record: Box<Record>, taken: Taken, clock: &impl Clock) -> Self {
        Self {
            live,
            route: 0,
            caller: Caller { key: 0, user: Arc::from(""), feature: 0, address: Box::from("") },
            cache_control: CacheControl::default(),
            is_grpc: false,
            record,
            taken,
            limited: false,
            charges: Vec::new(),
            lease_until_ns: 0,
            is_soft: false,
            tracing: None,
            envoy_id: 0,
            errors: ErrorShape::OpenAi,
            saved_nanousd: 0,
            named: None,
            resolution: None,
            followed: None,
            aboard: None,
            trace: None,
            last_ns: clock.now_ns(),
        }
    }

    /// The reservation id.
    pub fn id(&self) -> u128 {
        self.record.id
    }

    /// How long Envoy waits for one answer under the policy that decides.
    pub fn message_timeout_ns(&self) -> u64 {
        self.live.snapshot.timing.message_timeout_ns
    }

    /// The longest wait that may be announced to Envoy instead.
    pub fn max_message_timeout_ns(&self) -> u64 {
        self.live.snapshot.timing.max_message_timeout_ns
    }

    /// Ends a stage: its time is what passed since the last one ended.
    pub(super) fn mark(&mut self, stage: Stage, clock: &impl Clock) {
        let now = clock.now_ns();
        let spent = u32::try_from(now.saturating_sub(self.last_ns)).unwrap_or(u32::MAX);
        self.record.stage_ns[stage as usize] =
            self.record.stage_ns[stage as usize].saturating_add(spent.max(1));
        self.last_ns = now;
        self.taken.now_ns = now;
        if let Some(aboard) = &mut self.aboard {
            aboard.now_ns = now;
        }
    }

    /// Waiting outside the engine is no stage: the next one begins now.
    pub(super) fn wake(&mut self, clock: &impl Clock) {
        self.last_ns = clock.now_ns();
    }

    /// Writes a line of explanation, where somebody asked for it.
    pub(super) fn note(&mut self, stage: Stage, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push((stage, line()));
        }
    }

    /// The request as limits and budgets see it.
    pub(super) fn seen(&self) -> Seen<'_> {
        Seen { live: &self.live, record: &self.record, key: self.caller.key, address: &self.caller.address }
    }

    pub(super) fn key(&self) -> Option<&KeyRecord> {
        self.live.snapshot.key(self.caller.key)
    }

    /// Says how the waiting that [`super::BodyStep::Follow`] asked for ended.
    pub fn followed(&mut self, outcome: FollowOutcome) {
        self.followed = Some(outcome);
    }

    /// Says what the person's stage answered, or that it failed.
    pub fn resolved(&mut self, resolution: super::Resolution) {
        self.resolution = Some(resolution);
    }
}

// === impl Taken ===

impl Taken {
    pub fn new(limiter: Arc<Limiter>) -> Self {
        Self { limiter, held: Held::default(), now_ns: 0 }
    }

    pub fn join(&mut self, held: Held) {
        self.held.join(held);
    }

    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Hands everything on to the open reservation.
    pub fn hand_on(&mut self) -> Held {
        std::mem::take(&mut self.held)
    }

    /// The request was answered by us: requests stay counted, slots and tokens come back.
    pub fn answered(&mut self, now_ns: u64) {
        let held = self.hand_on();
        self.limiter.settle(&held, 0, now_ns);
        self.limiter.settle_money(&held, 0, now_ns);
        self.limiter.release(&held, now_ns);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.held.is_empty() {
            self.limiter.cancel(&self.held, self.now_ns);
        }
    }
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Taken").field(&self.held.len()).finish()
    }
}

// === impl Aboard ===

impl Drop for Aboard {
    fn drop(&mut self) {
        if let Some(wake) = self.cache.flights.leave(&self.key, self.id, self.now_ns).promoted() {
            (wake.waiter)(wake.outcome);
        }
    }
}

impl fmt::Debug for Aboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Aboard").field(&self.key).finish()
    }
}
