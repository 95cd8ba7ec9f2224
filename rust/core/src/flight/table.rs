//! Owns the flights of one shard.
//! Must not know locks, nor the bound over all shards.
//! On failure: whoever is not aboard is told so and changes nothing.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;

use super::outcome::{Left, Outcome, Wake};
use crate::cache::CacheKey;

/// One flight: a leader, and followers in the order in which they came.
#[derive(Debug)]
struct Flight<W> {
    leader_id: u128,
    leader_until_ns: u64,
    followers: VecDeque<Follower<W>>,
}

#[derive(Debug)]
struct Follower<W> {
    request_id: u128,
    until_ns: u64,
    waiter: W,
}

/// The keys are keyed hashes: their own bits serve.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyBits;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyBitsHasher(u64);

/// How a follower was taken aboard, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aboard {
    No,
    AsLeader,
    Known,
}

/// The flights of one shard.
#[derive(Debug)]
pub(super) struct Table<W> {
    flights: HashMap<CacheKey, Flight<W>, KeyBits>,
    /// Everyone aboard, by the time at which they are given up.
    ends: BTreeSet<(u64, CacheKey, u128)>,
}

// === impl KeyBits ===

impl std::hash::BuildHasher for KeyBits {
    type Hasher = KeyBitsHasher;

    fn build_hasher(&self) -> KeyBitsHasher {
        KeyBitsHasher::default()
    }
}

impl std::hash::Hasher for KeyBitsHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length: usize) {}
}

// === impl Table ===

impl<W> Table<W> {
    pub(super) fn new() -> Self {
        Self { flights: HashMap::with_hasher(KeyBits), ends: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }

    pub(super) fn next_end_ns(&self) -> Option<u64> {
        self.ends.first().map(|(until_ns, _, _)| *until_ns)
    }

    /// How many follow under `key`; `None` without a flight.
    pub(super) fn followers(&self, key: &CacheKey) -> Option<usize> {
        self.flights.get(key).map(|flight| flight.followers.len())
    }

    /// Whether a request is aboard already.
    pub(super) fn aboard(&self, key: &CacheKey, request_id: u128) -> Aboard {
        match self.flights.get(key) {
            Some(flight) if flight.leader_id == request_id => Aboard::AsLeader,
            Some(flight) if flight.followers.iter().any(|follower| follower.request_id == request_id) => {
                Aboard::Known
            }
            _ => Aboard::No,
        }
    }

    /// Begins a flight; there must be none under `key`.
    pub(super) fn lead(&mut self, key: CacheKey, request_id: u128, until_ns: u64) {
        self.ends.insert((until_ns, key, request_id));
        let flight = Flight { leader_id: request_id, leader_until_ns: until_ns, followers: VecDeque::new() };
        self.flights.insert(key, flight);
    }

    /// Joins the flight under `key`.
    pub(super) fn follow(&mut self, key: CacheKey, request_id: u128, until_ns: u64, waiter: W) {
        if let Some(flight) = self.flights.get_mut(&key) {
            flight.followers.push_back(Follower { request_id, until_ns, waiter });
            self.ends.insert((until_ns, key, request_id));
        }
    }

    /// Ends the flight that `leader_id` leads; its followers, in order.
    pub(super) fn complete(&mut self, key: &CacheKey, leader_id: u128) -> Vec<(u128, W)> {
        let Some(flight) = self.flights.get(key).filter(|flight| flight.leader_id == leader_id) else {
            return Vec::new();
        };
        self.ends.remove(&(flight.leader_until_ns, *key, leader_id));
        let flight = self.flights.remove(key);
        let followers = flight.map(|flight| flight.followers).unwrap_or_default();
        for follower in &followers {
            self.ends.remove(&(follower.until_ns, *key, follower.request_id));
        }
        followers.into_iter().map(|follower| (follower.request_id, follower.waiter)).collect()
    }

    /// Takes anyone off: a follower goes, a leader is succeeded by the follower that waited longest.
    pub(super) fn leave(&mut self, key: &CacheKey, request_id: u128, next_until_ns: u64) -> Left<W> {
        let Some(flight) = self.flights.get_mut(key) else { return Left::Absent };
        if flight.leader_id != request_id {
            let at = flight.followers.iter().position(|follower| follower.request_id == request_id);
            let Some(follower) = at.and_then(|at| flight.followers.remove(at)) else { return Left::Absent };
            self.ends.remove(&(follower.until_ns, *key, request_id));
            return Left::Follower(follower.waiter);
        }
        self.ends.remove(&(flight.leader_until_ns, *key, request_id));
        let Some(next) = flight.followers.pop_front() else {
            self.flights.remove(key);
            return Left::Leader(None);
        };
        flight.leader_id = next.request_id;
        flight.leader_until_ns = next_until_ns;
        self.ends.remove(&(next.until_ns, *key, next.request_id));
        self.ends.insert((next_until_ns, *key, next.request_id));
        Left::Leader(Some(Wake { request_id: next.request_id, waiter: next.waiter, outcome: Outcome::Lead }))
    }

    /// Gives up whoever's time is over: followers go alone, lost leaders are succeeded.
    pub(super) fn expire(&mut self, now_ns: u64, next_until_ns: u64, woken: &mut Vec<Wake<W>>) {
        while let Some((until_ns, key, request_id)) = self.ends.pop_first() {
            if until_ns > now_ns {
                self.ends.insert((until_ns, key, request_id));
                return;
            }
            match self.leave(&key, request_id, next_until_ns) {
                Left::Follower(waiter) => woken.push(Wake { request_id, waiter, outcome: Outcome::GoAlone }),
                left => woken.extend(left.promoted()),
            }
        }
    }
}
