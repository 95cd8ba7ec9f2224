//! Owns one shard of the cache: its table, its queues, its eviction (S3-FIFO).
//! Must not know other shards, nor invalidations that race; `exact` orders those.
//! On failure: a miss.
//!
//! *Source*: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023. Chosen over SIEVE because
//! that one is not resistant to scans, and a nightly evaluation run is a scan. Bytes instead of objects are counted,
//! and one repeat promotes (the paper asks for two): a repeat is a person asking again, not a block read twice.

use std::sync::Arc;

use hashbrown::HashTable;

use super::entry::{ARC_BYTES, Entry};
use super::ghost::Ghost;
use super::invalidation::Selector;
use super::key::CacheKey;
use super::queue::{Lane, Queues};
use super::stats::CacheStats;

/// What an entry is counted with beside its text: node, table slot at its emptiest, entry, and the blocks that
/// `Bytes` and its renderings share.
pub(super) const ENTRY_OVERHEAD_BYTES: usize =
    Queues::NODE_BYTES + 16 + size_of::<Entry>() + ARC_BYTES + 3 * (2 * ARC_BYTES);

/// The part of a shard that new entries share until they are asked for again.
const SMALL_SHARE: usize = 10;
/// Bytes of cache for which one evicted key is remembered.
const BYTES_PER_GHOST: usize = 1024;

/// One shard.
#[derive(Debug)]
pub(super) struct Shard {
    table: HashTable<u32>,
    queues: Queues,
    ghost: Ghost,
    max_bytes: usize,
    pub(super) stats: CacheStats,
}

/// What an entry is counted as. An eighth is added to its text for the allocator's size classes.
pub(super) fn cost_bytes(payload_bytes: usize) -> usize {
    payload_bytes + payload_bytes / 8 + ENTRY_OVERHEAD_BYTES
}

// === impl Shard ===

impl Shard {
    /// An empty shard of at most `max_bytes`.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            table: HashTable::new(),
            queues: Queues::new(),
            ghost: Ghost::new(max_bytes.div_ceil(BYTES_PER_GHOST).max(16)),
            max_bytes,
            stats: CacheStats::default(),
        }
    }

    /// The entry under `key`, if it is neither past its time nor older than was asked.
    pub(super) fn lookup(
        &mut self,
        key: &CacheKey,
        now_ns: u64,
        max_age_ns: Option<u64>,
    ) -> Option<Arc<Entry>> {
        let found = self.find(key).and_then(|at| Some((at, self.queues.get_mut(at)?)));
        let Some((at, node)) = found else {
            self.stats.misses += 1;
            return None;
        };
        if now_ns >= node.entry.expires_ns {
            self.remove(at);
            self.stats.expired += 1;
            self.stats.misses += 1;
            return None;
        }
        let age_ns = now_ns.saturating_sub(node.entry.stored_ns);
        if max_age_ns.is_some_and(|max_age_ns| age_ns > max_age_ns) {
            self.stats.misses += 1;
            return None;
        }
        node.asked = (node.asked + 1).min(3);
        self.stats.hits += 1;
        Some(Arc::clone(&node.entry))
    }

    /// Stores an entry of `cost_bytes`; true if it replaced one.
    pub(super) fn store(&mut self, key: CacheKey, entry: Arc<Entry>, cost_bytes: usize) -> bool {
        self.stats.stored += 1;
        let known = self.find(&key);
        if let Some(at) = known {
            self.remove(at);
        }
        let hash = key.slot_hash();
        self.make_room(cost_bytes);
        // An answer that is stored again was asked for again.
        let proven = known.is_some() || self.ghost.take(hash, self.table.len());
        let lane = if proven { Lane::Main } else { Lane::Small };
        let at = self.queues.insert(lane, key, entry, cost_bytes);
        let queues = &self.queues;
        self.table.insert_unique(hash, at, |at| queues.get(*at).map_or(0, |node| node.key.slot_hash()));
        known.is_some()
    }

    /// Counts `entry` anew after it grew, if it is still the one under `key`.
    pub(super) fn recount(&mut self, key: &CacheKey, entry: &Arc<Entry>, cost_bytes: usize) {
        let Some(at) = self.find(key) else { return };
        if self.queues.get(at).is_some_and(|node| Arc::ptr_eq(&node.entry, entry)) {
            self.queues.set_cost(at, cost_bytes);
            self.make_room(0);
        }
    }

    /// Removes what `selector` matches; says how many.
    pub(super) fn invalidate(&mut self, selector: &Selector) -> u64 {
        let matched: Vec<u32> = self
            .queues
            .indices()
            .filter(|at| self.queues.get(*at).is_some_and(|node| selector.matches(&node.entry)))
            .collect();
        for at in &matched {
            self.remove(*at);
        }
        let count = matched.len() as u64;
        self.stats.invalidated += count;
        count
    }

    /// The counts, with what is held now.
    pub(super) fn stats(&self) -> CacheStats {
        CacheStats { entries: self.table.len() as u64, bytes: self.bytes() as u64, ..self.stats }
    }

    fn bytes(&self) -> usize {
        self.queues.bytes(Lane::Small) + self.queues.bytes(Lane::Main)
    }

    fn find(&self, key: &CacheKey) -> Option<u32> {
        let queues = &self.queues;
        self.table.find(key.slot_hash(), |at| queues.get(*at).is_some_and(|node| node.key == *key)).copied()
    }

    fn remove(&mut self, at: u32) {
        let Some(node) = self.queues.remove(at) else { return };
        if let Ok(slot) = self.table.find_entry(node.key.slot_hash(), |known| *known == at) {
            slot.remove();
        }
    }

    /// Evicts until `more_bytes` fit: before a newcomer stands in a queue, so that it survives its own arrival.
    fn make_room(&mut self, more_bytes: usize) {
        while self.bytes() + more_bytes > self.max_bytes && !self.table.is_empty() {
            let small_is_full = self.queues.bytes(Lane::Small) > self.max_bytes / SMALL_SHARE;
            let main_is_empty = self.queues.oldest(Lane::Main).is_none();
            self.test_oldest(if small_is_full || main_is_empty { Lane::Small } else { Lane::Main });
        }
    }

    /// The oldest of a queue is moved if it was asked for, evicted otherwise. Ends: every move lowers a count.
    fn test_oldest(&mut self, lane: Lane) {
        let Some(at) = self.queues.oldest(lane) else { return };
        let Some(node) = self.queues.get_mut(at) else { return };
        if node.asked > 0 {
            node.asked = if lane == Lane::Main { node.asked - 1 } else { 0 };
            self.queues.requeue(at, Lane::Main);
            return;
        }
        if lane == Lane::Small {
            let hash = node.key.slot_hash();
            self.ghost.insert(hash);
        }
        self.remove(at);
        self.stats.evictions += 1;
    }
}
