//! Owns the limiter: all claims of a request at once, over shards that are locked in one order.
//! Must not know: what ends a request, policies, HTTP.
//! On failure: closed; a refusal leaves every bucket as it was.

use std::cmp::Ordering;

use parking_lot::{Mutex, MutexGuard};

use super::cell::Rule;
use super::claim::{Claim, Held, HeldItem, Remaining};
use super::lease::LeaseNeed;
use super::leased::{LeaseState, LeasedRule, Shortfall};
use super::refused::Refused;
use super::shard::{Address, NoRoom, Shard, Standing};
use super::spec::Kind;

const MAX_SHARDS: usize = 64;

/// How large a limiter may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimiterConfig {
    /// Buckets kept, one for each limit and scope value that was seen lately: about 200 bytes
    /// each, so 100,000 of them take 20 MB, touched only as they are used.
    pub max_buckets: usize,
    /// Locks. Rounded up to a power of two, at most 64; 16 serve 16 threads well.
    pub shards: usize,
}

impl Default for LimiterConfig {
    fn default() -> Self {
        Self { max_buckets: 100_000, shards: 16 }
    }
}

/// What a limiter holds and has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimiterStats {
    /// Buckets in the tables.
    pub buckets: usize,
    /// Overflow buckets, one per limit and shard that had newcomers while it was full.
    pub overflow_buckets: usize,
    /// Buckets forgotten, each as good as new at that time.
    pub evicted: u64,
    /// Claims charged to an overflow bucket: while this grows, `max_buckets` is too small.
    pub overflowed: u64,
}

// Two cache lines, so that one shard's lock does not slow its neighbour's.
#[derive(Debug)]
#[repr(align(128))]
struct Padded(Mutex<Shard>);

/// Counts what scope values take, and says no.
///
/// Any number of threads may call it. `now_ns` is monotonic; where it steps back, time stands
/// still.
#[derive(Debug)]
pub struct Limiter {
    shards: Box<[Padded]>,
}

// === impl Limiter ===

impl Limiter {
    /// An empty limiter. Its tables are allocated here, once.
    pub fn new(config: LimiterConfig) -> Self {
        let shards = config.shards.clamp(1, MAX_SHARDS).next_power_of_two();
        let per_shard = config.max_buckets.div_ceil(shards).max(1);
        Self { shards: (0..shards).map(|_| Padded(Mutex::new(Shard::new(per_shard)))).collect() }
    }

    /// Takes all claims or none.
    ///
    /// Cost: about 0.3 µs for three claims; locks the shards of the claims, in ascending order.
    pub fn reserve(&self, claims: &[Claim<'_>], now_ns: u64) -> Result<Held, Refused> {
        let mut shards = self.lock(claims);
        let mut items: Vec<HeldItem> = Vec::with_capacity(claims.len());
        let mut leases = Leases::default();
        let mut refused: Option<Refused> = None;
        for (at, claim) in claims.iter().enumerate() {
            let spec = claim.limit;
            let address = claim.address();
            let shard = shards.get(self.index(address.key));
            let charged_ns = shard.tick(now_ns);
            let taken = match address.rule {
                Rule::Leased(rule) => leases.take(shard, (address, rule), (at, items.len()), claim.amount),
                _ => shard.take(address, claim.amount),
            };
            match taken {
                Ok(standing) => items.push(HeldItem {
                    address,
                    charged_ns,
                    amount: claim.amount,
                    remaining: address.rule.limit().saturating_sub(standing.used),
                    limit: spec.id,
                    kind: spec.kind,
                    overflowed: standing.overflowed,
                }),
                Err(NoRoom { standing, retry_after_ns }) => {
                    let this = Refused {
                        retry_after_ns,
                        overflowed: standing.overflowed,
                        leases: leases.needed_by(at),
                        ..Refused::new(spec, claim.amount, standing.used)
                    };
                    if refused.as_ref().is_none_or(|other| this.outlasts(other)) {
                        refused = Some(this);
                    }
                }
            }
        }
        let Some(mut refused) = refused else {
            return Ok(Held { items, leases: leases.states });
        };
        // Nobody has seen these charges: the locks are still held.
        for item in &items {
            let shard = shards.get(self.index(item.address.key));
            shard.undo(item.address, item.overflowed, item.amount);
        }
        if !refused.leases.is_empty() {
            refused.leases = leases.needs;
        }
        Err(refused)
    }

    /// What is left of a claim's limit; its amount is not looked at. Changes nothing.
    pub fn peek(&self, claim: &Claim<'_>, now_ns: u64) -> Remaining {
        let address = claim.address();
        let limit = address.rule.limit();
        let (standing, reset_ns) = self.shard(address.key).look(address, now_ns);
        Remaining { limit, remaining: limit.saturating_sub(standing.used), reset_ns }
    }

    /// Replaces the tokens that were reserved by those really used, at every scope held.
    ///
    /// What was reserved above them is given back as far as it still counts; what they exceed is
    /// charged now, room or not, since it has been spent. Call it once.
    pub fn settle(&self, held: &Held, actual_tokens: u64, now_ns: u64) {
        self.settle_kind(held, Kind::Tokens, actual_tokens, now_ns);
    }

    /// Replaces the money that was reserved by what was really spent, as [`Limiter::settle`] does with tokens. Call
    /// it once.
    pub fn settle_money(&self, held: &Held, actual_nanousd: u64, now_ns: u64) {
        self.settle_kind(held, Kind::Money, actual_nanousd, now_ns);
    }

    fn settle_kind(&self, held: &Held, kind: Kind, actual: u64, now_ns: u64) {
        for item in held.items.iter().filter(|item| item.kind == kind) {
            let reserved = item.amount;
            match actual.cmp(&reserved) {
                Ordering::Equal => {}
                Ordering::Less => self.give_back(item, reserved - actual, now_ns),
                Ordering::Greater => {
                    let mut shard = self.shard(item.address.key);
                    shard.tick(now_ns);
                    shard.owe(item.address, item.overflowed, actual - reserved);
                }
            }
        }
    }

    /// Frees the concurrency slots. Call it once, at the end of the request.
    pub fn release(&self, held: &Held, now_ns: u64) {
        for item in &held.items {
            if item.kind.is_released() {
                self.give_back(item, item.amount, now_ns);
            }
        }
    }

    /// Gives back everything, requests too, as far as it still counts: for a request that was
    /// refused after this part of it had been reserved. Call it instead of `settle` and `release`.
    pub fn cancel(&self, held: &Held, now_ns: u64) {
        for item in &held.items {
            self.give_back(item, item.amount, now_ns);
        }
    }

    fn give_back(&self, item: &HeldItem, amount: u64, now_ns: u64) {
        let mut shard = self.shard(item.address.key);
        shard.tick(now_ns);
        shard.refund(item.address, item.overflowed, item.charged_ns, amount);
    }

    /// What it holds, shard by shard: not one instant.
    pub fn stats(&self) -> LimiterStats {
        let mut stats = LimiterStats::default();
        for shard in &self.shards {
            let shard = shard.0.lock();
            stats.buckets += shard.len();
            stats.overflow_buckets += shard.overflow_len();
            stats.evicted += shard.evicted;
            stats.overflowed += shard.overflowed;
        }
        stats
    }

    fn index(&self, key: u128) -> usize {
        // The upper half: the lower one places the bucket within its shard.
        (key >> 64) as usize & (self.shards.len() - 1)
    }

    pub(super) fn every_shard(&self) -> impl Iterator<Item = &Mutex<Shard>> {
        self.shards.iter().map(|shard| &shard.0)
    }

    pub(super) fn shard(&self, key: u128) -> MutexGuard<'_, Shard> {
        self.shards[self.index(key)].0.lock()
    }

    /// Locks every shard that a claim needs, each once and in ascending order: two requests can
    /// never wait for each other.
    fn lock(&self, claims: &[Claim<'_>]) -> Locked<'_> {
        let needed = claims.iter().fold(0_u64, |needed, claim| needed | 1 << self.index(claim.key()));
        let mut guards = Vec::with_capacity(needed.count_ones() as usize);
        let mut rest = needed;
        while rest != 0 {
            guards.push(self.shards[rest.trailing_zeros() as usize].0.lock());
            rest &= rest - 1;
        }
        Locked { needed, guards }
    }
}

/// What one `reserve` learns about leases. Empty, and nothing allocated, where no claim is leased.
#[derive(Default)]
struct Leases {
    /// By item.
    states: Vec<(usize, LeaseState)>,
    needs: Vec<LeaseNeed>,
}

// === impl Leases ===

impl Leases {
    #[cold]
    fn take(
        &mut self,
        shard: &mut Shard,
        (address, rule): (Address, LeasedRule),
        (claim, item): (usize, usize),
        amount: u64,
    ) -> Result<Standing, NoRoom> {
        match shard.take_leased(address, rule, amount) {
            Ok((standing, lease)) => {
                self.states.extend(lease.map(|lease| (item, lease)));
                Ok(standing)
            }
            Err((no_room, short)) => {
                self.needs.extend(short.map(|Shortfall { missing, granted, used }| LeaseNeed {
                    claim,
                    short_by: missing,
                    granted,
                    used,
                }));
                Err(no_room)
            }
        }
    }

    /// What the claim that was just refused needs, if a lease is all it lacks.
    fn needed_by(&self, claim: usize) -> Vec<LeaseNeed> {
        self.needs.last().filter(|need| need.claim == claim).copied().into_iter().collect()
    }
}

/// The shards of one `reserve`, all locked.
struct Locked<'a> {
    needed: u64,
    guards: Vec<MutexGuard<'a, Shard>>,
}

// === impl Locked ===

impl Locked<'_> {
    fn get(&mut self, shard: usize) -> &mut Shard {
        let before = self.needed & ((1 << shard) - 1);
        &mut self.guards[before.count_ones() as usize]
    }
}
