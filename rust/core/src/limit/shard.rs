//! Owns a bounded table of buckets: finding, making, forgetting, and sharing one when it is full.
//! Must not know: other shards, who is counted.
//! On failure: closed. Only what equals a fresh bucket is forgotten; without room, newcomers of a
//! limit share that limit's overflow bucket, and what they used there goes with them when they
//! get their own. (Leased buckets are never shared: `shard_leases`.)

use hashbrown::{HashMap, HashTable};

use super::cell::{Cell, Rule};
use super::concurrency::Concurrency;

/// How many places of a full table are looked at for something to forget. The hand goes on from
/// there the next time, so a newcomer pays a bounded price and the whole table is seen.
const EVICTION_PROBES: usize = 16;

/// Where a bucket is and how it counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub key: u128,
    pub identity: u128,
    pub rule: Rule,
}

/// How a bucket stands after `take` or `look`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub used: u64,
    pub overflowed: bool,
}

/// A bucket had no room.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoRoom {
    pub standing: Standing,
    pub retry_after_ns: Option<u64>,
}

#[derive(Debug)]
struct Entry {
    key: u128,
    cell: Cell,
}

#[derive(Debug)]
pub(super) struct Shard {
    max_buckets: usize,
    clock_ns: u64,
    table: HashTable<Entry>,
    hand: usize,
    /// By limit identity: what newcomers share while the table is full.
    overflow: HashMap<u128, Cell>,
    pub evicted: u64,
    pub overflowed: u64,
}

fn table_hash(key: u128) -> u64 {
    // Keys are outputs of a keyed hash already.
    key as u64
}

// === impl Shard ===

impl Shard {
    pub fn new(max_buckets: usize) -> Self {
        Self {
            max_buckets,
            clock_ns: 0,
            // It grows with use; many shards keep each move short.
            table: HashTable::new(),
            hand: 0,
            overflow: HashMap::new(),
            evicted: 0,
            overflowed: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn overflow_len(&self) -> usize {
        self.overflow.len()
    }

    /// The shard's clock: the latest `now` it has seen. A bucket that was forgotten at a later
    /// time cannot come back fresh at an earlier one.
    pub fn tick(&mut self, now_ns: u64) -> u64 {
        self.clock_ns = self.clock_ns.max(now_ns);
        self.clock_ns
    }

    /// Charges `amount` if the bucket has room for it. Of leased buckets, see `take_leased`.
    #[inline]
    pub fn take(&mut self, address: Address, amount: u64) -> Result<Standing, NoRoom> {
        let now_ns = self.clock_ns;
        let rule = address.rule;
        let place = self.locate(address);
        let overflowed = matches!(place, Place::Overflow);
        let shadow = match rule {
            Rule::Concurrency { .. } => self.shadow(address, place),
            _ => 0,
        };
        let Some(cell) = self.cell_at(address, place) else {
            // `locate` has just made sure of the cell.
            return Err(NoRoom {
                standing: Standing { used: rule.limit(), overflowed },
                retry_after_ns: None,
            });
        };
        cell.advance(rule, now_ns);
        let used = cell.used().saturating_add(shadow);
        let Some(after) = used.checked_add(amount).filter(|after| *after <= rule.limit()) else {
            let retry_after_ns = cell.retry_after_ns(rule, amount, now_ns);
            return Err(NoRoom { standing: Standing { used, overflowed }, retry_after_ns });
        };
        cell.charge(amount);
        self.overflowed += u64::from(overflowed);
        Ok(Standing { used: after, overflowed })
    }

    /// Takes back a `take` of the same critical section.
    pub fn undo(&mut self, address: Address, overflowed: bool, amount: u64) {
        if let Some(cell) = self.existing(address, overflowed) {
            cell.undo(amount);
        }
        self.overflowed -= u64::from(overflowed);
    }

    /// Charges what is owed already, room or not.
    pub fn owe(&mut self, address: Address, overflowed: bool, amount: u64) {
        if let Rule::Leased(rule) = address.rule {
            if !overflowed {
                self.owe_leased(address, rule, amount);
            }
            return;
        }
        let now_ns = self.clock_ns;
        let place = if overflowed { Place::Overflow } else { self.locate(address) };
        if let Place::Overflow = place {
            self.ensure_overflow(address);
        }
        if let Some(cell) = self.cell_at(address, place) {
            cell.pass_time(now_ns);
            cell.charge(amount);
        }
    }

    /// Gives back part of an earlier `take`. A bucket that is gone, or counts another way by now,
    /// has nothing to give.
    pub fn refund(&mut self, address: Address, overflowed: bool, charged_ns: u64, amount: u64) {
        let now_ns = self.clock_ns;
        if let Some(cell) = self.existing(address, overflowed)
            && cell.is_under(address.rule)
        {
            cell.pass_time(now_ns);
            cell.refund(charged_ns, amount);
        }
    }

    /// How the bucket stands and how long until it is full again, changing nothing.
    #[inline]
    pub fn look(&self, address: Address, now_ns: u64) -> (Standing, u64) {
        let now_ns = now_ns.max(self.clock_ns);
        let own = self
            .table
            .find(table_hash(address.key), |entry| entry.key == address.key)
            .map(|entry| &entry.cell);
        let full = self.table.len() >= self.max_buckets;
        let shared = self.overflow.get(&address.identity);
        let (mut cell, overflowed) = match (own, shared) {
            (Some(own), _) => (own.clone(), false),
            (None, Some(shared)) => (shared.clone(), full),
            (None, None) => (Cell::fresh(address.rule, now_ns), full),
        };
        cell.advance(address.rule, now_ns);
        let mut used = cell.used();
        if let (Cell::Concurrency(Concurrency { shadowed: true, .. }), Some(shared)) = (&cell, shared) {
            used = used.saturating_add(shared.used());
        }
        (Standing { used, overflowed }, cell.reset_ns(now_ns))
    }

    /// Finds the bucket, or makes it, evicting or sharing where there is no room.
    #[inline]
    fn locate(&mut self, address: Address) -> Place {
        if let Some(index) = self.own_index(address) {
            return Place::Own(index);
        }
        self.ensure_overflow(address);
        Place::Overflow
    }

    /// The value's own bucket, found or made.
    pub(super) fn own(&mut self, address: Address) -> Option<&mut Cell> {
        let index = self.own_index(address)?;
        self.table.get_bucket_mut(index).map(|entry| &mut entry.cell)
    }

    #[inline]
    fn own_index(&mut self, address: Address) -> Option<usize> {
        let hash = table_hash(address.key);
        if let Some(index) = self.table.find_bucket_index(hash, |entry| entry.key == address.key) {
            return Some(index);
        }
        if self.table.len() >= self.max_buckets && !self.evict_one() {
            return None;
        }
        let cell = self.newcomer(address);
        let entry = Entry { key: address.key, cell };
        let made = self.table.insert_unique(hash, entry, |entry| table_hash(entry.key));
        Some(made.bucket_index())
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.clock_ns
    }

    pub(super) fn cells(&self) -> impl Iterator<Item = (u128, &Cell)> {
        self.table.iter().map(|entry| (entry.key, &entry.cell))
    }

    fn cell_at(&mut self, address: Address, place: Place) -> Option<&mut Cell> {
        match place {
            Place::Own(index) => self.table.get_bucket_mut(index).map(|entry| &mut entry.cell),
            Place::Overflow => self.overflow.get_mut(&address.identity),
        }
    }

    pub(super) fn existing(&mut self, address: Address, overflowed: bool) -> Option<&mut Cell> {
        if overflowed {
            return self.overflow.get_mut(&address.identity);
        }
        self.table
            .find_mut(table_hash(address.key), |entry| entry.key == address.key)
            .map(|entry| &mut entry.cell)
    }

    /// A bucket for a value that has none. It may have been charged in the overflow bucket before,
    /// so it starts as used as that one is.
    fn newcomer(&mut self, address: Address) -> Cell {
        let now_ns = self.clock_ns;
        let Some(shared) = self.overflow.get(&address.identity) else {
            return Cell::fresh(address.rule, now_ns);
        };
        if shared.is_idle(now_ns) {
            self.overflow.remove(&address.identity);
            return Cell::fresh(address.rule, now_ns);
        }
        shared.inherit(now_ns)
    }

    /// What a shadowed concurrency bucket must count of the overflow bucket.
    fn shadow(&mut self, address: Address, place: Place) -> u64 {
        let shared = match self.overflow.get(&address.identity) {
            Some(Cell::Concurrency(shared)) => shared.in_use,
            _ => 0,
        };
        match (place, self.cell_at(address, place)) {
            (Place::Own(_), Some(Cell::Concurrency(own))) if own.shadowed => {
                own.shadowed = shared > 0;
                shared
            }
            _ => 0,
        }
    }

    fn ensure_overflow(&mut self, address: Address) {
        let now_ns = self.clock_ns;
        if !self.overflow.contains_key(&address.identity) {
            // Limits of former policies leave here.
            self.overflow.retain(|_, cell| !cell.is_idle(now_ns));
            self.overflow.insert(address.identity, Cell::fresh(address.rule, now_ns));
        }
    }

    fn evict_one(&mut self) -> bool {
        let places = self.table.num_buckets();
        for _ in 0..EVICTION_PROBES.min(places) {
            self.hand = (self.hand + 1) % places;
            if let Ok(entry) = self.table.get_bucket_entry(self.hand)
                && entry.get().cell.is_idle(self.clock_ns)
            {
                entry.remove();
                self.evicted += 1;
                return true;
            }
        }
        false
    }
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// Index in the table, good until the table changes.
    Own(usize),
    Overflow,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const WINDOW: Rule = Rule::Fixed { capacity: 10, window_ns: 100 };
    const SLOTS: Rule = Rule::Concurrency { capacity: 3 };

    fn at(key: u128, rule: Rule) -> Address {
        Address { key, identity: 77, rule }
    }

    #[test]
    fn a_full_table_shares_and_never_refills() {
        let mut shard = Shard::new(2);
        shard.tick(0);
        shard.take(at(1, WINDOW), 10).unwrap();
        shard.take(at(2, WINDOW), 1).unwrap();
        let third = shard.take(at(3, WINDOW), 6).unwrap();
        assert!(third.overflowed);
        let fourth = shard.take(at(4, WINDOW), 6).unwrap_err();
        assert!(fourth.standing.overflowed, "3 and 4 share one bucket");
        assert!(shard.take(at(1, WINDOW), 1).is_err(), "1 was not forgotten");
        assert_eq!((shard.len(), shard.overflow_len()), (2, 1));
    }

    #[test]
    fn what_was_shared_goes_along() {
        let mut shard = Shard::new(1);
        shard.tick(0);
        shard.take(at(1, SLOTS), 1).unwrap();
        shard.take(at(3, WINDOW), 9).unwrap();
        // The table's one place comes free within the window.
        shard.refund(at(1, SLOTS), false, 0, 1);
        let own = shard.take(at(3, WINDOW), 1).unwrap();
        assert_eq!((own.used, own.overflowed), (10, false));
        assert!(shard.take(at(3, WINDOW), 1).is_err());
    }

    #[test]
    fn shared_slots_count_until_they_are_freed() {
        let mut shard = Shard::new(1);
        shard.tick(0);
        shard.take(at(1, WINDOW), 1).unwrap();
        assert!(shard.take(at(2, SLOTS), 2).unwrap().overflowed);
        shard.tick(100);
        let own = shard.take(at(2, SLOTS), 1).unwrap();
        assert_eq!((own.used, own.overflowed), (3, false));
        assert!(shard.take(at(2, SLOTS), 1).is_err());
        assert_eq!(shard.look(at(2, SLOTS), 100).0.used, 3);
        shard.refund(at(2, SLOTS), true, 0, 2);
        assert_eq!(shard.take(at(2, SLOTS), 2).unwrap().used, 3);
    }

    #[test]
    fn only_idle_buckets_are_forgotten() {
        let mut shard = Shard::new(1);
        shard.tick(5);
        shard.take(at(1, WINDOW), 1).unwrap();
        assert!(shard.take(at(2, WINDOW), 1).unwrap().overflowed);
        shard.tick(100);
        assert!(!shard.take(at(2, WINDOW), 1).unwrap().overflowed);
        assert_eq!(shard.evicted, 1);
        shard.tick(20);
        assert!(shard.take(at(1, WINDOW), 10).unwrap().overflowed, "the clock did not step back");
    }

    #[test]
    fn a_changed_window_carries_what_was_used() {
        let mut shard = Shard::new(4);
        shard.tick(50);
        shard.take(at(1, WINDOW), 8).unwrap();
        let sliding = Rule::Sliding { capacity: 10, slot_ns: 20 };
        assert!(shard.take(at(1, sliding), 3).is_err());
        assert_eq!(shard.take(at(1, sliding), 2).unwrap().used, 10);
        shard.refund(at(1, WINDOW), false, 50, 8);
        assert_eq!(shard.look(at(1, sliding), 50).0.used, 10);
    }
}
