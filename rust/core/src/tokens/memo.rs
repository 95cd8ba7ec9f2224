//! Owns: a bounded memory of what texts cost, so that a conversation pays for its new turn only.
//! Must not know: texts, tokenizers; keys come ready-made and stand for both.
//! On failure: open; what was forgotten is counted again.
//!
//! Keys are 128 bits of BLAKE3 keyed by tokenizer and kind of text. A fast unkeyed hash will not do: whoever
//! finds two texts with one key makes the dear one count as the cheap one. Finding such a pair costs 2^64
//! hashes, and gains nothing against another tenant, for whose text a second preimage is needed: 2^128.

use parking_lot::Mutex;

use super::count::Count;

/// Counts by 128-bit key; 32 bytes an entry, allocated at once, never more.
pub struct Memo {
    shards: Box<[Mutex<Shard>]>,
    /// Slots per shard, a power of two, at least [`WAYS`].
    slots: usize,
}

/// How often a memo knew the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoStats {
    /// Look-ups that found their key
    pub hits: u64,
    /// Look-ups that did not
    pub misses: u64,
}

/// Threads that count at once seldom meet in one of this many shards.
const SHARDS: usize = 64;
/// Slots that a key may lie in. The one that was used longest ago is overwritten.
const WAYS: usize = 4;

struct Shard {
    entries: Box<[Entry]>,
    /// Look-ups so far: the shard's clock.
    now: u32,
    stats: MemoStats,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    /// The key's halves; both 0 in an unused entry, which is the key of no text.
    key: [u64; 2],
    tokens: u32,
    /// Margin shifted left by one, and 1 in the lowest bit if the count is exact.
    margin_and_exact: u32,
    used: u32,
}

// === impl Memo ===

impl Memo {
    /// A memo of at least `capacity_entries` entries (rounded up to a power of two, at least 256), 32 bytes each.
    pub fn new(capacity_entries: usize) -> Self {
        let slots = capacity_entries.div_ceil(SHARDS).next_power_of_two().clamp(WAYS, 1 << 24);
        let shard = || Shard {
            entries: vec![Entry::default(); slots].into_boxed_slice(),
            now: 0,
            stats: MemoStats::default(),
        };
        Self { shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(), slots }
    }

    /// The count under `key`, if it is remembered.
    pub fn get(&self, key: u128) -> Option<Count> {
        let mut shard = self.shard(key).lock();
        shard.now = shard.now.wrapping_add(1);
        let now = shard.now;
        let set = self.set(key);
        let found = shard.entries[set..set + WAYS].iter_mut().find(|entry| entry.key == halves(key));
        let count = found.map(|entry| {
            entry.used = now;
            entry.count()
        });
        if count.is_some() {
            shard.stats.hits += 1;
        } else {
            shard.stats.misses += 1;
        }
        count
    }

    /// Remembers a count; one that does not fit 32 bits is not remembered.
    pub fn put(&self, key: u128, count: Count) {
        let Some(mut entry) = Entry::new(key, count) else { return };
        let mut shard = self.shard(key).lock();
        shard.now = shard.now.wrapping_add(1);
        let now = shard.now;
        entry.used = now;
        let set = self.set(key);
        let ways = &mut shard.entries[set..set + WAYS];
        let known = ways.iter().position(|way| way.key == entry.key);
        let oldest =
            || (0..WAYS).max_by_key(|&way| (ways[way].key == [0; 2], now.wrapping_sub(ways[way].used)));
        if let Some(way) = known.or_else(oldest) {
            ways[way] = entry;
        }
    }

    /// Look-ups since the memo was made.
    pub fn stats(&self) -> MemoStats {
        self.shards.iter().map(|shard| shard.lock().stats).fold(MemoStats::default(), |sum, stats| {
            MemoStats { hits: sum.hits + stats.hits, misses: sum.misses + stats.misses }
        })
    }

    /// Memory that the entries take, whether used or not.
    pub fn bytes(&self) -> usize {
        SHARDS * self.slots * size_of::<Entry>()
    }

    fn shard(&self, key: u128) -> &Mutex<Shard> {
        &self.shards[key as usize % SHARDS]
    }

    fn set(&self, key: u128) -> usize {
        (key >> 64) as usize & (self.slots - 1) & !(WAYS - 1)
    }
}

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memo").field("bytes", &self.bytes()).field("stats", &self.stats()).finish()
    }
}

// === impl Entry ===

impl Entry {
    fn new(key: u128, count: Count) -> Option<Self> {
        let tokens = u32::try_from(count.tokens).ok()?;
        let margin = u32::try_from(count.margin_tokens).ok().filter(|margin| margin >> 31 == 0)?;
        Some(Self {
            key: halves(key),
            tokens,
            margin_and_exact: margin << 1 | u32::from(count.exact),
            used: 0,
        })
    }

    fn count(&self) -> Count {
        Count {
            tokens: u64::from(self.tokens),
            margin_tokens: u64::from(self.margin_and_exact >> 1),
            exact: self.margin_and_exact & 1 == 1,
        }
    }
}

fn halves(key: u128) -> [u64; 2] {
    [key as u64, (key >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u64) -> u128 {
        let hash = blake3::hash(&seed.to_le_bytes());
        u128::from_le_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 16]))
    }

    #[test]
    fn remembers_what_it_was_told() {
        let memo = Memo::new(1000);
        assert_eq!(memo.get(key(1)), None);
        memo.put(key(1), Count::exact(7));
        memo.put(key(2), Count::estimate(8, 9));
        memo.put(key(1), Count::exact(10));
        assert_eq!(memo.get(key(1)), Some(Count::exact(10)));
        assert_eq!(memo.get(key(2)), Some(Count::estimate(8, 9)));
        assert_eq!(memo.stats(), MemoStats { hits: 2, misses: 1 });
        memo.put(key(3), Count::exact(1 << 32));
        memo.put(key(4), Count::estimate(1, 1 << 31));
        assert_eq!((memo.get(key(3)), memo.get(key(4))), (None, None));
    }

    #[test]
    fn is_bounded_and_keeps_what_is_used() {
        let memo = Memo::new(1024);
        assert_eq!(memo.bytes(), 1024 * 32);
        memo.put(key(0), Count::exact(42));
        for seed in 1..100_000 {
            memo.put(key(seed), Count::exact(seed));
            if seed % 8 == 0 {
                assert_eq!(memo.get(key(0)), Some(Count::exact(42)), "after {seed}");
            }
        }
        assert_eq!(memo.bytes(), 1024 * 32);
        let kept = (0..100_000).filter(|&seed| memo.get(key(seed)).is_some()).count();
        assert!((900..=1024).contains(&kept), "{kept}");
    }

    #[test]
    fn threads_never_read_a_count_of_another_key() {
        let memo = Memo::new(256);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let memo = &memo;
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let seed = (round * 31 + thread) % 2000;
                        match memo.get(key(seed)) {
                            Some(count) => assert_eq!(count, Count::exact(seed)),
                            None => memo.put(key(seed), Count::exact(seed)),
                        }
                    }
                });
            }
        });
        let stats = memo.stats();
        assert_eq!(stats.hits + stats.misses, 80_000);
    }
}
