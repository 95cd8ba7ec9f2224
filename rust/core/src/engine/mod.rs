//! Owns: the decision, from a request's head to its end; the only place where the parts meet.
//! Must not know: gRPC, sockets, threads, what time it is (a [`Clock`] is passed in).
//! On failure: closed; what cannot be decided is refused, and what was taken for it is given back.
//!
//! ```text
//! head    identify, route                      -> Answer | Forward | Body (send the body)
//! body    read .. shape                        -> Answer | Forward | Resolve | Follow
//! end     stream closed, access log, batch, expiry: the first frees the slot, the log settles
//! ```

mod answer;
mod batch;
mod body;
mod capture;
mod counted;
mod end;
mod explain;
mod head;
mod lease;
mod ledger;
mod left;
mod live;
mod place;
mod rates;
mod recall;
mod session;
mod take;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

pub use answer::{Answer, Forward, MetaValue};
pub use batch::{BatchCaller, BatchEnded, BatchPlaced, BatchRecall, BatchTake, Ran, TensorsUsed};
pub use body::{BodyStep, Resolution, StageCall, StageView};
pub use capture::Capture;
pub use end::{Endpoint, LogEntry, Logged, Open, UsageText};
pub use explain::{ExplainRequest, explain};
pub use head::HeadStep;
pub use lease::{LeaseAsk, LeaseBalance};
pub use live::{CacheRuntime, Live};
pub use recall::{FollowOutcome, Waiter};
pub use session::Session;

use lease::LeaseDesk;

use crate::account::{Calibrations, Outbox};
use crate::key::KeySecret;
use crate::limit::{HashKey, Limiter, LimiterConfig, ReservationConfig, ReservationTable};
use crate::metrics::{Metrics, push_counter, push_gauge};
use crate::policy::{Finding, Snapshot};
use crate::pool::{PoolView, Pools};
use crate::record::Ring;
use crate::tokens::Memo;

/// Many, so that the growth of one moves few buckets in the middle of a request.
const LIMIT_SHARDS: usize = 64;

/// Of the reservations that may be open, this part may be expired and waiting for a late entry.
const LATE_SHARE: usize = 4;

/// Where time comes from.
pub trait Clock {
    /// Monotonic nanoseconds since some start.
    fn now_ns(&self) -> u64;
    /// Nanoseconds since 1970.
    fn unix_ns(&self) -> u64;
}

/// What an engine is made with. Sizes are fixed for its life; the policy's are taken from the first one.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Keys the hashes of cached answers and of limit scopes: 32 bytes, secret
    pub secret: [u8; 32],
    /// Who this process is, in metadata
    pub owner: Arc<str>,
    /// Reservations open at once
    pub max_reservations: usize,
    /// Limit buckets at once
    pub max_buckets: usize,
    /// Decision records kept
    pub max_records: usize,
    /// Messages whose token count is remembered
    pub memo_entries: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            secret: [0; 32],
            owner: Arc::from("forebay"),
            max_reservations: 262_144,
            max_buckets: 1_048_576,
            max_records: 8_192,
            memo_entries: 65_536,
        }
    }
}

/// The decision and all its state. Shared between threads.
#[derive(Debug)]
pub struct Engine {
    live: ArcSwap<Live>,
    secret: KeySecret,
    scope_key: HashKey,
    owner: Arc<str>,
    limiter: Arc<Limiter>,
    open: ReservationTable<Open>,
    /// Those that expired: charged at their bound until their entry comes after all
    late: ReservationTable<Open>,
    calibrations: Calibrations,
    leases: LeaseDesk,
    left: left::Left,
    unread: left::Unread,
    /// Where records of what requests cost go; empty while nobody keeps them
    outbox: OnceLock<Arc<Outbox>>,
    memo: Memo,
    pools: Pools,
    records: Ring,
    metrics: Metrics,
    draining: AtomicBool,
    last_tick_ns: AtomicU64,
}

// === impl Engine ===

impl Engine {
    /// An engine under a first policy.
    pub fn new(config: EngineConfig, snapshot: Snapshot) -> Self {
        let pools = Pools::default();
        let live = Live::new(snapshot, &pools, None);
        let scope_key = blake3::derive_key("forebay limit scopes v1", &config.secret);
        let cache_key = blake3::derive_key("forebay cache keys v1", &config.secret);
        Self {
            live: ArcSwap::from_pointee(live),
            secret: KeySecret::new(cache_key),
            scope_key: HashKey::new(scope_key),
            owner: config.owner,
            limiter: Arc::new(Limiter::new(LimiterConfig {
                max_buckets: config.max_buckets,
                shards: LIMIT_SHARDS,
            })),
            open: ReservationTable::new(ReservationConfig {
                max_reservations: config.max_reservations,
                ..ReservationConfig::default()
            }),
            late: ReservationTable::new(ReservationConfig {
                max_reservations: (config.max_reservations / LATE_SHARE).max(1),
                ..ReservationConfig::default()
            }),
            calibrations: Calibrations::default(),
            leases: LeaseDesk::default(),
            left: left::Left::default(),
            unread: left::Unread::default(),
            outbox: OnceLock::new(),
            memo: Memo::new(config.memo_entries),
            pools,
            records: Ring::new(config.max_records),
            metrics: Metrics::default(),
            draining: AtomicBool::new(false),
            last_tick_ns: AtomicU64::new(0),
        }
    }

    /// Puts a policy into force, at once and whole. Counters, places in flight and, where its bounds stay, the cache
    /// live on. An invalid one changes nothing.
    pub fn swap(&self, policy: &[u8]) -> Result<Arc<str>, Vec<Finding>> {
        match crate::policy::compile(policy) {
            Ok(snapshot) => {
                let revision = snapshot.revision.clone();
                let before = self.live.load_full();
                self.live.store(Arc::new(Live::new(snapshot, &self.pools, Some(&before))));
                self.metrics.counters.policies.fetch_add(1, Relaxed);
                Ok(revision)
            }
            Err(findings) => {
                self.metrics.counters.policies_refused.fetch_add(1, Relaxed);
                Err(findings)
            }
        }
    }

    /// The policy in force, with what belongs to it.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The last decision records, oldest first, as a JSON array.
    pub fn records_json(&self, limit: usize) -> String {
        self.records.json(limit)
    }

    /// Says whether Envoy has a pool and finds it healthy.
    pub fn observe_pool(&self, name: &str, routable: bool, healthy: bool) {
        self.pools.observe(name, routable, healthy);
    }

    /// Every pool's state.
    pub fn pool_views(&self, now_ns: u64) -> Vec<PoolView> {
        self.pools.view(now_ns)
    }

    /// From now on new requests are refused; those in flight go on.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether new requests are refused.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Reservations that are open.
    pub fn open_reservations(&self) -> usize {
        self.open.len()
    }

    /// From now on records of what requests cost are kept, in an outbox that somebody empties.
    pub fn keep_records(&self, max_bytes: usize) -> Arc<Outbox> {
        self.outbox.get_or_init(|| Arc::new(Outbox::new(max_bytes))).clone()
    }

    /// Calls `bell` whenever a request needs a lease. Only the first bell counts. Without one budgets count in memory,
    /// from nothing.
    pub fn on_lease_ask(&self, bell: Box<dyn Fn() + Send + Sync>) {
        self.leases.on_ask(bell);
    }

    /// The oldest asks for leases that nobody took yet.
    pub fn take_lease_asks(&self, max: usize) -> Vec<LeaseAsk> {
        self.leases.take(max)
    }

    /// Grants what was drawn for an ask; `left` is what its bucket could still be granted.
    pub fn grant_lease(&self, token: u64, granted: u64, left: u64, now_ns: u64) {
        self.leases.grant(token, granted, left, &self.limiter, now_ns);
    }

    /// Says that nothing could be drawn for an ask: at the next [`Engine::tick`] whoever waits for it asks again or gives
    /// up.
    pub fn fail_lease(&self, token: u64) {
        self.leases.fail(token);
    }

    /// What every bucket of a budget was leased and has used.
    pub fn lease_balances(&self, now_ns: u64) -> Vec<LeaseBalance> {
        self.leases.balances(&self.limiter, now_ns)
    }

    /// The Prometheus text.
    pub fn metrics_text(&self, now_ns: u64) -> String {
        let mut out = String::with_capacity(16 << 10);
        self.metrics.render(&mut out);
        push_gauge(
            &mut out,
            "forebay_open_reservations",
            "reservations that nothing ended yet",
            self.open.len() as u64,
        );
        let (records, overwritten) = self.records.counts();
        push_gauge(&mut out, "forebay_records", "decision records made", records);
        push_gauge(
            &mut out,
            "forebay_records_overwritten",
            "decision records overwritten unread",
            overwritten,
        );
        if let Some(outbox) = self.outbox.get() {
            let (made, lost) = outbox.counts();
            push_counter(&mut out, "forebay_ledger_made_total", "records made for the ledger", made);
            push_counter(
                &mut out,
                "forebay_journal_lost_total",
                "records that could not be written down",
                lost,
            );
        }
        let limits = self.limiter.stats();
        push_gauge(&mut out, "forebay_limit_buckets", "limit buckets held", limits.buckets as u64);
        push_gauge(
            &mut out,
            "forebay_limit_overflowed",
            "claims charged to a shared bucket",
            limits.overflowed,
        );
        let live = self.live.load();
        if let Some(cache) = &live.cache {
            cache.render(&mut out);
        }
        let pools = self.pools.view(now_ns);
        for (name, help, value) in [
            (
                "forebay_pool_requests",
                "requests in flight at a pool",
                (|p| u64::from(p.requests)) as fn(&PoolView) -> u64,
            ),
            ("forebay_pool_reserved_tokens", "tokens reserved in flight at a pool", |p| p.tokens),
            ("forebay_pool_routable", "1: Envoy has the pool", |p| u64::from(p.routable)),
            ("forebay_pool_healthy", "1: the pool is healthy", |p| u64::from(p.healthy)),
        ] {
            use std::fmt::Write as _;
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
            for pool in &pools {
                let _ = writeln!(out, "{name}{{pool=\"{}\"}} {}", pool.name, value(pool));
            }
        }
        out
    }
}
