//! Owns the key under which an answer is stored and a flight is joined.
//! Must not know how it is built: a keyed hash over the effective request, with the tenant inside.
//! On failure: nothing here fails.

/// 256 bits of a keyed hash, hence uniform: its own bytes choose shard and slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey(pub [u8; 32]);

// === impl CacheKey ===

impl CacheKey {
    /// 64 of the key's bits for a hash table.
    pub(crate) const fn slot_hash(&self) -> u64 {
        match self.0.first_chunk() {
            Some(first) => u64::from_le_bytes(*first),
            None => 0,
        }
    }

    /// Other bits than those of `slot_hash`, so that a shard's table stays uniform.
    pub(crate) const fn shard_hash(&self) -> usize {
        self.0[31] as usize | (self.0[30] as usize) << 8
    }
}

/// Shows the first bytes only: enough to tell keys apart in a log, too little to look one up.
impl std::fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = self.0.first_chunk().map_or(0, |first| u32::from_be_bytes(*first));
        write!(f, "CacheKey({first:08x}…)")
    }
}
