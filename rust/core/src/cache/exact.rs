//! Owns the exact cache as others see it: sharded, safe to share, with invalidation that no late fill undoes.
//! Must not know requests, policies or clocks; `now_ns` is any monotonic clock, the same in every call.
//! On failure: a miss, or a store that says why it was refused.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::entry::Entry;
use super::invalidation::{FillTicket, Invalidations, Selector};
use super::key::CacheKey;
use super::shard::{Shard, cost_bytes};
use super::stats::CacheStats;
use crate::answer::{NotStreamable, StreamUsage};

/// A shard holds at least this many of the largest entries, so that one of them does not empty it.
const LARGEST_PER_SHARD: usize = 8;
const MAX_SHARDS: usize = 256;

/// The bounds of a cache.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// Bytes in all, overhead included; for example 67,108,864. 0 keeps nothing.
    pub max_bytes: usize,
    /// Bytes of one entry, overhead included; for example 1,048,576.
    pub max_entry_bytes: usize,
    /// Shards wanted, for example 16; fewer are made where they would be too small for the largest entries.
    pub shards: usize,
}

/// What became of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// Stored under a new key.
    Stored,
    /// Stored in the place of an older answer.
    Replaced,
    /// Refused: larger than an entry may be.
    TooLarge,
    /// Refused: `expires_ns` is not after `now_ns`.
    Expired,
    /// Refused: an invalidation came after the fill began. The answer must not be given to followers either.
    Stale,
}

/// The exact cache.
///
/// *Accounting*: an entry counts as its text (body, labels, memoised streams) plus an eighth for the allocator's size
/// classes plus a fixed overhead of under 900 bytes. The sum never passes `max_bytes`; beside it stand 8 bytes of
/// ghost for each 1,024 of `max_bytes`.
/// *Cost*: look-up one uncontended lock and one probe; an invalidation walks all entries, one shard locked at a time.
#[derive(Debug)]
pub struct ExactCache {
    shards: Box<[Mutex<Shard>]>,
    invalidations: Invalidations,
    max_entry_bytes: usize,
}

// === impl StoreOutcome ===

impl StoreOutcome {
    /// The stable slug.
    pub const fn slug(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Replaced => "replaced",
            Self::TooLarge => "too_large",
            Self::Expired => "expired",
            Self::Stale => "stale",
        }
    }

    /// True if followers of the request may be given the answer: all but a stale one.
    pub const fn may_be_shared(self) -> bool {
        !matches!(self, Self::Stale)
    }
}

// === impl ExactCache ===

impl ExactCache {
    /// An empty cache.
    pub fn new(config: CacheConfig) -> Self {
        let mut shards = config.shards.clamp(1, MAX_SHARDS).next_power_of_two();
        while shards > 1 && config.max_bytes / shards < LARGEST_PER_SHARD * config.max_entry_bytes {
            shards /= 2;
        }
        let shard_bytes = config.max_bytes / shards;
        Self {
            shards: (0..shards).map(|_| Mutex::new(Shard::new(shard_bytes))).collect(),
            invalidations: Invalidations::default(),
            max_entry_bytes: config.max_entry_bytes.min(shard_bytes),
        }
    }

    /// The answer under `key`, no older than `max_age_ns` where the request says so.
    pub fn lookup(&self, key: &CacheKey, now_ns: u64, max_age_ns: Option<u64>) -> Option<Arc<Entry>> {
        self.shard(key).lock().lookup(key, now_ns, max_age_ns)
    }

    /// A ticket for a fill. Take it before the look-up, so that no invalidation falls between the two.
    pub fn begin_fill(&self) -> FillTicket {
        self.invalidations.ticket()
    }

    /// Stores an answer of a fill that began with `ticket`.
    ///
    /// The entry comes back as it is kept, so that followers can be given it, also where it was refused.
    pub fn store(
        &self,
        key: CacheKey,
        mut entry: Entry,
        ticket: FillTicket,
        now_ns: u64,
    ) -> (StoreOutcome, Arc<Entry>) {
        // A slice would keep the whole buffer alive that it was cut from, and the bound would be a fiction.
        entry.body = Bytes::copy_from_slice(&entry.body);
        let cost_bytes = cost_bytes(entry.payload_bytes());
        let entry = Arc::new(entry);
        let mut shard = self.shard(&key).lock();
        // Under the shard's lock: an invalidation is recorded before it takes this lock to remove entries.
        let outcome = if self.invalidations.covers(ticket, &entry) {
            shard.stats.refused_stale += 1;
            StoreOutcome::Stale
        } else if cost_bytes > self.max_entry_bytes {
            shard.stats.refused_too_large += 1;
            StoreOutcome::TooLarge
        } else if entry.expires_ns <= now_ns {
            StoreOutcome::Expired
        } else if shard.store(key, Arc::clone(&entry), cost_bytes) {
            StoreOutcome::Replaced
        } else {
            StoreOutcome::Stored
        };
        (outcome, entry)
    }

    /// The answer as a stream; rendered once, then memoised in the entry and counted in its bytes.
    ///
    /// A rendering that would make the entry larger than one may be is made anew each time.
    pub fn stream(
        &self,
        key: &CacheKey,
        entry: &Arc<Entry>,
        usage: StreamUsage,
    ) -> Result<Bytes, NotStreamable> {
        if let Some(rendered) = entry.memoised(usage) {
            return rendered;
        }
        let rendered = entry.render(usage);
        let more = rendered.as_ref().map_or(0, Bytes::len);
        if cost_bytes(entry.payload_bytes() + more) <= self.max_entry_bytes {
            entry.memoise(usage, rendered.clone());
            self.shard(key).lock().recount(key, entry, cost_bytes(entry.payload_bytes()));
        }
        rendered
    }

    /// Removes what `selector` matches and refuses fills of it that are under way; says how many were removed.
    pub fn invalidate(&self, selector: &Selector) -> u64 {
        self.invalidations.record(selector.clone());
        self.shards.iter().map(|shard| shard.lock().invalidate(selector)).sum()
    }

    /// Removes what carries `tag`.
    pub fn invalidate_tag(&self, tag: &str) -> u64 {
        self.invalidate(&Selector::Tag(tag.into()))
    }

    /// Removes what `model` answered, of one revision or of all.
    pub fn invalidate_model(&self, model: &str, revision: Option<&str>) -> u64 {
        self.invalidate(&Selector::Model { model: model.into(), revision: revision.map(Arc::from) })
    }

    /// Removes what belongs to `tenant`.
    pub fn invalidate_tenant(&self, tenant: &str) -> u64 {
        self.invalidate(&Selector::Tenant(tenant.into()))
    }

    /// Removes everything.
    pub fn clear(&self) -> u64 {
        self.invalidate(&Selector::All)
    }

    /// What the cache holds and has done.
    pub fn stats(&self) -> CacheStats {
        let mut sum = CacheStats::default();
        for shard in &self.shards {
            sum += shard.lock().stats();
        }
        sum
    }

    fn shard(&self, key: &CacheKey) -> &Mutex<Shard> {
        &self.shards[key.shard_hash() & (self.shards.len() - 1)]
    }
}

#[cfg(test)]
#[path = "exact_tests.rs"]
mod tests;
