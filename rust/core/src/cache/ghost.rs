//! Owns the memory of keys that were evicted before they were asked for again (the ghost queue of S3-FIFO).
//! Must not know entries; it keeps 8 bytes a key.
//! On failure: forgets, or takes one key for another; both cost a place in the queue, never a wrong answer.

/// Fingerprints in a direct-mapped table, each with the eviction at which it was written.
#[derive(Debug)]
pub(super) struct Ghost {
    slots: Vec<(u32, u32)>,
    clock: u32,
}

// === impl Ghost ===

impl Ghost {
    /// Room for about `keys` keys.
    pub(super) fn new(keys: usize) -> Self {
        Self { slots: vec![(0, 0); keys.next_power_of_two()], clock: 0 }
    }

    /// Remembers an evicted key.
    pub(super) fn insert(&mut self, hash: u64) {
        self.clock = self.clock.wrapping_add(1);
        let at = self.at(hash);
        self.slots[at] = (fingerprint(hash), self.clock);
    }

    /// Forgets the key and tells whether it was evicted within the last `window` evictions.
    pub(super) fn take(&mut self, hash: u64, window: usize) -> bool {
        let at = self.at(hash);
        let (known, written) = self.slots[at];
        let found = known == fingerprint(hash) && self.clock.wrapping_sub(written) as usize <= window;
        if found {
            self.slots[at] = (0, 0);
        }
        found
    }

    fn at(&self, hash: u64) -> usize {
        hash as usize & (self.slots.len() - 1)
    }
}

/// The other half of the hash than the one that chooses the slot; never that of an empty slot.
fn fingerprint(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}
