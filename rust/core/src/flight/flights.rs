//! Owns the flights as others see them: sharded, safe to share, bounded per flight and in all.
//! Must not know time but as an argument, nor how a follower waits.
//! On failure: no room means going alone, so that equal requests never refuse each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::outcome::{Join, Left, Outcome, Wake};
use super::table::{Aboard, Table};
use crate::cache::{CacheKey, Entry};

const SHARDS: usize = 16;

/// The bounds of all flights.
#[derive(Clone, Copy, Debug)]
pub struct FlightConfig {
    /// Flights in all, for example 65,536; what comes above goes alone.
    pub max_flights: usize,
    /// Followers of one flight, for example 256.
    pub max_followers_per_flight: usize,
    /// Followers in all, for example 4,096: each holds an open stream.
    pub max_followers: usize,
    /// How long a leader may lead before it counts as lost, for example 120 s: the longest upstream answer.
    pub lead_ns: u64,
}

/// The table of equal requests in flight. `W` is what a follower waits with, such as the sending half of a channel.
///
/// Every follower gets its handle back exactly once: from `complete`, `leave` or `expire`. At any time a key has at
/// most one leader. Handles come back by value, so that they are resolved outside the lock.
/// *Cost*: one lock and a few steps in a table and an ordered set; completing costs a step per follower.
#[derive(Debug)]
pub struct Flights<W> {
    config: FlightConfig,
    shards: Box<[Mutex<Table<W>>]>,
    followers: AtomicUsize,
}

// === impl Flights ===

impl<W: Send> Flights<W> {
    /// No flights.
    pub fn new(config: FlightConfig) -> Self {
        Self {
            config,
            shards: (0..SHARDS).map(|_| Mutex::new(Table::new())).collect(),
            followers: AtomicUsize::new(0),
        }
    }

    /// Joins the flight under `key`, or begins it. `waiter` is called, under a lock, only for `Join::Follow`.
    ///
    /// A follower is given up at `follow_until_ns`. A request that is aboard already and joins again is told what it
    /// is if it leads, and goes alone if it follows.
    pub fn join(
        &self,
        key: CacheKey,
        request_id: u128,
        now_ns: u64,
        follow_until_ns: u64,
        waiter: impl FnOnce() -> W,
    ) -> Join {
        let mut table = self.shard(&key).lock();
        match (table.followers(&key), table.aboard(&key, request_id)) {
            (None, _) => self.lead_in(&mut table, key, request_id, now_ns),
            (_, Aboard::AsLeader) => Join::Lead,
            (Some(followers), Aboard::No)
                if followers < self.config.max_followers_per_flight
                    && follow_until_ns > now_ns
                    && self.take_seat() =>
            {
                table.follow(key, request_id, follow_until_ns, waiter());
                Join::Follow
            }
            _ => Join::Full,
        }
    }

    /// Begins the flight under `key` if there is none: for streamed requests, which never wait but may be followed.
    pub fn lead(&self, key: CacheKey, request_id: u128, now_ns: u64) -> Join {
        let mut table = self.shard(&key).lock();
        if table.followers(&key).is_some() {
            return Join::Full;
        }
        self.lead_in(&mut table, key, request_id, now_ns)
    }

    /// Ends the flight with the leader's complete answer; everyone who followed, to be told.
    ///
    /// Empty if `leader_id` does not lead (any more). Call it only with an answer that may be shared
    /// (`StoreOutcome::may_be_shared`); otherwise `leave`.
    pub fn complete(&self, key: &CacheKey, leader_id: u128, answer: &Arc<Entry>) -> Vec<Wake<W>> {
        let followers = self.shard(key).lock().complete(key, leader_id);
        self.free_seats(followers.len());
        followers
            .into_iter()
            .map(|(request_id, waiter)| Wake {
                request_id,
                waiter,
                outcome: Outcome::Answered(Arc::clone(answer)),
            })
            .collect()
    }

    /// Takes a leader off that failed, aborted or got an answer that may not be shared; who leads now, to be told.
    /// The others keep following. Nothing happens if `leader_id` does not lead.
    #[must_use = "a promoted follower that is not told leaves a flight without a leader"]
    pub fn abandon(&self, key: &CacheKey, leader_id: u128, now_ns: u64) -> Option<Wake<W>> {
        let mut table = self.shard(key).lock();
        if table.aboard(key, leader_id) != Aboard::AsLeader {
            return None;
        }
        let left = table.leave(key, leader_id, self.lead_until(now_ns));
        drop(table);
        let promoted = left.promoted();
        self.free_seats(usize::from(promoted.is_some()));
        promoted
    }

    /// Takes a request off whose stream ended, whatever it is by now: a follower may have been promoted meanwhile.
    pub fn leave(&self, key: &CacheKey, request_id: u128, now_ns: u64) -> Left<W> {
        let left = self.shard(key).lock().leave(key, request_id, self.lead_until(now_ns));
        self.free_seats(usize::from(matches!(left, Left::Follower(_) | Left::Leader(Some(_)))));
        left
    }

    /// Gives up whoever's time is over: followers go alone, lost leaders are succeeded.
    pub fn expire(&self, now_ns: u64) -> Vec<Wake<W>> {
        let mut woken = Vec::new();
        for shard in &self.shards {
            shard.lock().expire(now_ns, self.lead_until(now_ns), &mut woken);
        }
        self.free_seats(woken.len());
        woken
    }

    /// When `expire` has something to do next.
    pub fn next_end_ns(&self) -> Option<u64> {
        self.shards.iter().filter_map(|shard| shard.lock().next_end_ns()).min()
    }

    /// Followers waiting now.
    pub fn followers(&self) -> usize {
        self.followers.load(Ordering::Relaxed)
    }

    /// Flights under way now.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// True where nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lead_in(&self, table: &mut Table<W>, key: CacheKey, request_id: u128, now_ns: u64) -> Join {
        if table.len() >= self.config.max_flights.div_ceil(SHARDS) {
            return Join::Full;
        }
        table.lead(key, request_id, self.lead_until(now_ns));
        Join::Lead
    }

    /// At least one step ahead, so that a promoted follower is not given up in the same `expire`.
    fn lead_until(&self, now_ns: u64) -> u64 {
        now_ns.saturating_add(self.config.lead_ns.max(1))
    }

    fn take_seat(&self) -> bool {
        self.followers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seated| {
                (seated < self.config.max_followers).then_some(seated + 1)
            })
            .is_ok()
    }

    fn free_seats(&self, count: usize) {
        self.followers.fetch_sub(count, Ordering::Relaxed);
    }

    fn shard(&self, key: &CacheKey) -> &Mutex<Table<W>> {
        &self.shards[key.shard_hash() % SHARDS]
    }
}

#[cfg(test)]
#[path = "flights_tests.rs"]
mod tests;
