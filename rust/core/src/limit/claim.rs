//! Owns what goes into `reserve` and what comes out: claims, what they hold, what is left.
//! Must not know: buckets, locks, time.
//! On failure: cannot fail.

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
}

#[derive(Debug, Clone, Copy)]
pub(super) struct HeldItem {
    pub address: Address,
    /// The shard's clock when it was charged: where a refund belongs.
    pub charged_ns: u64,
    pub charge: Charge,
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
}

// === impl Held ===

impl Held {
    /// Takes over what a later `reserve` of the same request took.
    pub fn join(&mut self, later: Self) {
        self.items.extend(later.items);
    }

    /// What was charged, in the order of the claims.
    pub fn charges(&self) -> impl Iterator<Item = Charge> + '_ {
        self.items.iter().map(|item| item.charge)
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
