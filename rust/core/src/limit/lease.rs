//! Owns how a limiter's leased buckets and the store that leases meet: needs, grants, what stands.
//! Must not know: the store, names of budgets, calendars.
//! On failure: a grant that has no place is said, so that it can be given back.

use super::claim::Claim;
use super::limiter::Limiter;

/// A claim would fit if more were leased to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseNeed {
    /// Index of the claim in the slice that `reserve` got.
    pub claim: usize,
    /// The least that must be granted: for the claim, and for what was spent above its lease before.
    pub short_by: u64,
    /// What is leased already.
    pub granted: u64,
    /// What of it is reserved or spent.
    pub used: u64,
}

/// What became of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a grant that was not kept must go back to the store"]
pub enum Granted {
    /// It can be spent.
    Kept,
    /// Its period is over: give it back.
    Ended,
    /// The table is full of what may not be forgotten, or the limit is not leased: give it back.
    NoPlace,
}

/// One leased bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseStanding {
    /// [`Limiter::lease_key`] of its claims.
    pub key: u128,
    /// What was leased to this process in its period.
    pub granted: u64,
    /// What of it is reserved or spent; above `granted` where more was spent than reserved.
    pub used: u64,
    /// What the store could still give. `None`: unknown.
    pub left: Option<u64>,
    /// Whether its period is over. Such a bucket may be forgotten at any time.
    pub ended: bool,
}

// === impl Limiter ===

impl Limiter {
    /// What identifies the bucket of a leased claim: limit, scope value and start of the period. The amount is not
    /// looked at.
    pub fn lease_key(claim: &Claim<'_>) -> u128 {
        claim.key()
    }

    /// Adds `claim.amount` to what is leased to the claim's bucket; the store could still give `left`.
    ///
    /// The claim carries the limit as it was when the store was asked. A bucket that is gone is made again, within
    /// its period. A grant of 0 says that the store had nothing.
    pub fn grant(&self, claim: &Claim<'_>, left: u64, now_ns: u64) -> Granted {
        let address = claim.address();
        let mut shard = self.shard(address.key);
        shard.tick(now_ns);
        shard.grant(address, claim.amount, left)
    }

    /// Whether the caller is to ask the store for more. Until the answer reaches `grant`, or `stop_asking` says that
    /// none comes, nobody else is told so. The claim's amount is not looked at.
    pub fn begin_asking(&self, claim: &Claim<'_>, now_ns: u64) -> bool {
        let address = claim.address();
        let mut shard = self.shard(address.key);
        shard.tick(now_ns);
        shard.begin_asking(address)
    }

    /// The store did not answer: somebody else may ask.
    pub fn stop_asking(&self, claim: &Claim<'_>) {
        let address = claim.address();
        self.shard(address.key).stop_asking(address);
    }

    /// Every leased bucket, shard by shard: not one instant.
    ///
    /// Cost: O(buckets), under one shard's lock at a time.
    pub fn leases(&self, now_ns: u64) -> Vec<LeaseStanding> {
        let mut standings = Vec::new();
        for shard in self.every_shard() {
            shard.lock().leases(now_ns, &mut standings);
        }
        standings
    }
}
