//! Owns what is between `reserve` and the end of a request, and hands each out exactly once.
//! Must not know: which ends there are, what the owner's data means, how slots are freed.
//! On failure: a full table refuses the insertion and gives the reservation back to be released.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use ahash::RandomState;
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::claim::Held;
use super::wheel::{MAX_VALUES, Wheel};

/// How large a table may become, and how finely it tells time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservationConfig {
    /// Reservations kept at once: one per request in flight. Beyond it, requests are refused.
    pub max_reservations: usize,
    /// Locks, rounded up to a power of two.
    pub shards: usize,
    /// Expiry is never early and at most this late, for example 1 s.
    pub tick_ns: u64,
}

impl Default for ReservationConfig {
    fn default() -> Self {
        Self { max_reservations: 100_000, shards: 16, tick_ns: 1_000_000_000 }
    }
}

/// What a request in flight has taken, and whose it is.
#[derive(Debug)]
pub struct Reservation<T> {
    /// What to settle and release.
    pub held: Held,
    /// What the ends of the request need to know; opaque here.
    pub owner: T,
    /// When nobody is expected to end it any more. Later than the longest stream plus the access
    /// log's flush.
    pub expires_ns: u64,
}

/// Why a reservation was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertRefusedReason {
    /// `max_reservations` are in flight.
    Full,
    /// The id is in flight already.
    Duplicate,
}

/// The reservation was not taken in, and comes back to be released.
#[derive(Debug)]
pub struct InsertRefused<T> {
    /// Why.
    pub reason: InsertRefusedReason,
    /// What still has to be settled and released.
    pub reservation: Reservation<T>,
}

// === impl InsertRefused ===

impl<T> InsertRefused<T> {
    /// The stable name of the error.
    pub const fn slug(&self) -> &'static str {
        match self.reason {
            InsertRefusedReason::Full => "reservations_full",
            InsertRefusedReason::Duplicate => "reservation_duplicate",
        }
    }
}

impl<T> fmt::Display for InsertRefused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            InsertRefusedReason::Full => {
                "as many requests are in flight as `max_reservations` allows; retry later"
            }
            InsertRefusedReason::Duplicate => "a reservation of this id is in flight; mint a new id",
        })
    }
}

impl<T: fmt::Debug> std::error::Error for InsertRefused<T> {}

#[derive(Debug)]
struct Shard<T> {
    index: HashTable<(u128, u32)>,
    wheel: Wheel<(u128, Reservation<T>)>,
}

/// Reservations in flight, by id. The first end of a request takes its reservation; every later
/// one finds nothing.
#[derive(Debug)]
pub struct ReservationTable<T> {
    shards: Box<[Mutex<Shard<T>>]>,
    hasher: RandomState,
    max: usize,
    len: AtomicUsize,
    /// Where the next `expire` begins, so that a small `max` starves no shard.
    turn: AtomicUsize,
}

// === impl ReservationTable ===

impl<T: Send> ReservationTable<T> {
    /// An empty table.
    pub fn new(config: ReservationConfig) -> Self {
        let shards = config.shards.clamp(1, 1024).next_power_of_two();
        Self {
            shards: (0..shards)
                .map(|_| Mutex::new(Shard { index: HashTable::new(), wheel: Wheel::new(config.tick_ns) }))
                .collect(),
            // Ids are random and ours, so the hash needs no secret.
            hasher: RandomState::with_seeds(1, 2, 3, 4),
            max: config.max_reservations.min(MAX_VALUES),
            len: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
        }
    }

    /// Takes a reservation in, or gives it back.
    pub fn insert(&self, id: u128, reservation: Reservation<T>) -> Result<(), InsertRefused<T>> {
        let refuse = |reason, reservation| Err(InsertRefused { reason, reservation });
        if self.len.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return refuse(InsertRefusedReason::Full, reservation);
        }
        let hash = self.hasher.hash_one(id);
        let mut guard = self.shard(hash).lock();
        let shard = &mut *guard;
        if shard.index.find(hash, |(other, _)| *other == id).is_some() {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return refuse(InsertRefusedReason::Duplicate, reservation);
        }
        let handle = shard.wheel.insert(reservation.expires_ns, (id, reservation));
        let rehash = |(id, _): &(u128, u32)| self.hasher.hash_one(id);
        shard.index.insert_unique(hash, (id, handle), rehash);
        Ok(())
    }

    /// Hands the reservation to the caller, who alone settles and releases it. `None`: unknown,
    /// or another end was first.
    pub fn take(&self, id: u128) -> Option<Reservation<T>> {
        let hash = self.hasher.hash_one(id);
        let mut shard = self.shard(hash).lock();
        let entry = shard.index.find_entry(hash, |(other, _)| *other == id).ok()?;
        let ((_, handle), _) = entry.remove();
        let (_, reservation) = shard.wheel.remove(handle)?;
        drop(shard);
        self.len.fetch_sub(1, Ordering::Relaxed);
        Some(reservation)
    }

    /// Takes out what nobody ended in time, at most `max`, in no particular order.
    ///
    /// Cost: O(expired + ticks since the last call); call it about once a tick, and again at once
    /// while it returns `max`.
    pub fn expire(&self, now_ns: u64, max: usize) -> Vec<(u128, Reservation<T>)> {
        let mut out = Vec::new();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for step in 0..self.shards.len() {
            if out.len() >= max {
                break;
            }
            let mut guard = self.shards[turn.wrapping_add(step) & (self.shards.len() - 1)].lock();
            let Shard { index, wheel } = &mut *guard;
            let room = max - out.len();
            wheel.expire(now_ns, room, |(id, reservation)| {
                let hash = self.hasher.hash_one(id);
                if let Ok(entry) = index.find_entry(hash, |(other, _)| *other == id) {
                    entry.remove();
                }
                out.push((id, reservation));
            });
        }
        self.len.fetch_sub(out.len(), Ordering::Relaxed);
        out
    }

    /// Changes a reservation in flight without taking it, under its shard's lock: for an end that
    /// finishes only a part, as a stream's end frees slots while the use is still to come.
    ///
    /// With another `expires_ns` it expires then.
    pub fn amend<R>(&self, id: u128, change: impl FnOnce(&mut Reservation<T>) -> R) -> Option<R> {
        let hash = self.hasher.hash_one(id);
        let mut guard = self.shard(hash).lock();
        let Shard { index, wheel } = &mut *guard;
        let (_, handle) = index.find_mut(hash, |(other, _)| *other == id)?;
        let (_, reservation) = wheel.get_mut(*handle)?;
        let before_ns = reservation.expires_ns;
        let result = change(reservation);
        let expires_ns = reservation.expires_ns;
        if expires_ns != before_ns {
            let moved = wheel.remove(*handle)?;
            *handle = wheel.insert(expires_ns, moved);
        }
        Some(result)
    }

    /// Reservations in flight.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed).min(self.max)
    }

    /// Whether none is in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard<T>> {
        // Bits that the table within the shard does not use.
        &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn table(max_reservations: usize) -> ReservationTable<u32> {
        ReservationTable::new(ReservationConfig { max_reservations, shards: 4, tick_ns: 10 })
    }

    fn reservation(owner: u32, expires_ns: u64) -> Reservation<u32> {
        Reservation { held: Held::default(), owner, expires_ns }
    }

    #[test]
    fn the_first_end_takes_it() {
        let table = table(9);
        table.insert(1, reservation(7, 100)).unwrap();
        assert_eq!(table.amend(1, |r| std::mem::replace(&mut r.owner, 8)), Some(7));
        assert_eq!(table.take(1).unwrap().owner, 8);
        assert_eq!(table.amend(1, |r| r.owner), None);
        assert!(table.take(1).is_none());
        assert!(table.expire(1_000, 9).is_empty());
        assert!(table.is_empty());
    }

    #[test]
    fn expiry_is_an_end() {
        let table = table(9);
        for id in 0..5 {
            table.insert(id, reservation(0, 100 + id as u64)).unwrap();
        }
        assert!(table.expire(100, 9).is_empty());
        assert_eq!(table.expire(110, 3).len(), 3);
        assert_eq!(table.expire(110, 9).len(), 2);
        assert!((0..5).all(|id| table.take(id).is_none()));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn an_amended_expiry_holds() {
        let table = table(9);
        table.insert(1, reservation(7, 100_000)).unwrap();
        table.insert(2, reservation(8, 100)).unwrap();
        table.amend(1, |r| r.expires_ns = 200).unwrap();
        table.amend(2, |r| r.expires_ns = 100_000).unwrap();
        assert!(table.expire(200, 9).is_empty());
        assert_eq!(table.expire(210, 9)[0].1.owner, 7);
        assert!(table.take(1).is_none());
        assert_eq!((table.take(2).unwrap().owner, table.len()), (8, 0));
    }

    #[test]
    fn full_and_duplicate_give_it_back() {
        let table = table(2);
        table.insert(1, reservation(1, 100)).unwrap();
        let duplicate = table.insert(1, reservation(2, 100)).unwrap_err();
        assert_eq!((duplicate.slug(), duplicate.reservation.owner), ("reservation_duplicate", 2));
        table.insert(2, reservation(2, 100)).unwrap();
        let full = table.insert(3, reservation(3, 100)).unwrap_err();
        assert_eq!((full.slug(), full.reservation.owner), ("reservations_full", 3));
        table.take(1).unwrap();
        table.insert(3, reservation(3, 100)).unwrap();
    }
}
