//! Owns the counts that the cache reports.
//! Must not know metrics' names.
//! On failure: nothing here fails.

/// What the cache holds and has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Entries held now.
    pub entries: u64,
    /// Bytes held now, overhead included.
    pub bytes: u64,
    /// Look-ups that found an answer.
    pub hits: u64,
    /// Look-ups that did not, for whatever reason.
    pub misses: u64,
    /// Answers stored, replacements included.
    pub stored: u64,
    /// Entries that made room for others.
    pub evictions: u64,
    /// Entries removed because their time was over.
    pub expired: u64,
    /// Entries removed by an invalidation.
    pub invalidated: u64,
    /// Stores refused because an invalidation came between decision and store.
    pub refused_stale: u64,
    /// Stores refused because the answer is larger than an entry may be.
    pub refused_too_large: u64,
}

// === impl CacheStats ===

impl std::ops::AddAssign for CacheStats {
    fn add_assign(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.hits += other.hits;
        self.misses += other.misses;
        self.stored += other.stored;
        self.evictions += other.evictions;
        self.expired += other.expired;
        self.invalidated += other.invalidated;
        self.refused_stale += other.refused_stale;
        self.refused_too_large += other.refused_too_large;
    }
}
