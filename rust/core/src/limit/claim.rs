//! Owns what goes into `reserve` and what comes out: claims, what they hold, what is left.
//! Must not know: buckets, locks, time.
//! On failure: cannot fail.

use super::cell::Rule;
use super::leased::{LeaseState, LeasedRule};
use super::scope::ScopeValue;
use super::shard::Address;
use super::spec::{Kind, LimitId, LimitSpec};

/// One limit, one value of its scope, one amount.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The limit, from the policy in force.
    pub limit: &'a LimitSpec,
    /// Who is charged.
    pub scope: ScopeValue,
    /// How much, in the limit's unit.
    pub amount: u64,
    /// Of a leased limit: the period that pays. Others have none. A leased claim without one counts as in a period
    /// that is over: a hard one never fits.
    pub period: Option<ClaimPeriod>,
}

/// The period of a budget that a claim is counted in: each period is a bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimPeriod {
    /// When it began, in unix seconds.
    pub start_s: i64,
    /// When it ends, on the limiter's monotonic clock.
    pub ends_ns: u64,
}

/// Odd, so that multiplying by it keeps different starts apart; and the bits of near ones differ widely.
const SPREAD: u128 = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835;

// === impl Claim ===

impl Claim<'_> {
    /// Which shard and bucket it is counted in.
    #[inline]
    pub(super) fn key(&self) -> u128 {
        self.scope.bucket_key(self.limit.identity()) ^ self.period_bits()
    }

    #[inline]
    pub(super) fn address(&self) -> Address {
        let rule = match self.limit.rule() {
            Rule::Leased(rule) => {
                let ends_ns = self.period.map_or(0, |period| period.ends_ns);
                Rule::Leased(LeasedRule { ends_ns, ..rule })
            }
            rule => rule,
        };
        Address { key: self.key(), identity: self.limit.identity(), rule }
    }

    /// Each period's start gives other bits.
    #[inline]
    fn period_bits(&self) -> u128 {
        if !matches!(self.limit.rule(), Rule::Leased(_)) {
            return 0;
        }
        let start_s = self.period.map_or(i64::MIN, |period| period.start_s);
        u128::from(start_s.cast_unsigned()).wrapping_mul(SPREAD)
    }
}

/// What is left of one limit for one scope value, for `x-ratelimit-*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// The most the limit admits at once: its capacity, or a token bucket's burst.
    pub limit: u64,
    /// What is left now.
    pub remaining: u64,
    /// Until all of it is there again, if nothing more is taken. 0 for concurrency.
    pub reset_ns: u64,
}

/// One charge that a [`Held`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// The limit's index in the policy it was reserved under.
    pub limit: LimitId,
    /// What it counts.
    pub kind: Kind,
    /// What was charged.
    pub amount: u64,
    /// What was left just after.
    pub remaining: u64,
    /// Of a leased limit: what of the lease was left just after. `None`: not leased, or not counted
    /// (see `overflowed`).
    pub lease_left: Option<u64>,
    /// What is spent or reserved above the lease: a soft budget's, or settled above its reservation.
    pub lease_short: u64,
    /// The store may have more for this bucket, and nobody is asking for it.
    pub lease_may_grow: bool,
    /// A soft budget is overspent: the lease does not cover this, and the store has no more.
    pub over: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct HeldItem {
    pub address: Address,
    /// The shard's clock when it was charged: where a refund belongs.
    pub charged_ns: u64,
    pub amount: u64,
    pub remaining: u64,
    pub limit: LimitId,
    pub kind: Kind,
    pub overflowed: bool,
}

/// What a successful `reserve` took. It must reach `settle` and `release`, once each.
///
/// Dropping it frees nothing: only [`super::ReservationTable`] knows which end of a request came
/// first.
#[derive(Debug, Default)]
#[must_use = "a reservation that is dropped is never released"]
pub struct Held {
    pub(super) items: Vec<HeldItem>,
    /// How the leases of the leased items stood, by item; kept apart so that limits do not carry it.
    pub(super) leases: Vec<(usize, LeaseState)>,
}

// === impl Held ===

impl Held {
    /// Takes over what a later `reserve` of the same request took.
    pub fn join(&mut self, later: Self) {
        let before = self.items.len();
        self.items.extend(later.items);
        self.leases.extend(later.leases.into_iter().map(|(item, lease)| (before + item, lease)));
    }

    /// What was charged, in the order of the claims.
    pub fn charges(&self) -> impl Iterator<Item = Charge> + '_ {
        self.items.iter().enumerate().map(|(at, item)| {
            let lease = self.leases.iter().find(|(item, _)| *item == at).map(|(_, lease)| *lease);
            Charge {
                limit: item.limit,
                kind: item.kind,
                amount: item.amount,
                remaining: item.remaining,
                lease_left: lease.map(|lease| lease.left),
                lease_short: lease.map_or(0, |lease| lease.short_by),
                lease_may_grow: lease.is_some_and(|lease| lease.may_grow),
                over: lease.is_some_and(|lease| lease.over),
            }
        })
    }

    /// How many claims it stands for.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing was taken.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}
