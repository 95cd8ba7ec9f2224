//! Owns: the set of all tokens, asked whether a whole piece is one token.
//! Must not know: ranks, merges, the split pattern.
//! On failure: cannot fail; a piece that is in no table is not a token.
//!
//! Most words of real text are one token, so this look-up decides the speed of counting. A piece of up to 15
//! bytes is packed with its length into one integer, which is the key itself: no second look at the token's
//! bytes, and no two pieces share a key. The tables are filled once from a public vocabulary, so no text can
//! make their probe sequences longer.

#![expect(clippy::inline_always, reason = "a call per piece or byte costs a third of the speed")]

use ahash::RandomState;
use hashbrown::HashSet;

use super::vocab::Vocab;

/// Longest piece that is packed into a [`Key`].
pub(super) const PACKED_BYTES: usize = 15;
/// Longest piece whose key fits 64 bits.
pub(super) const SHORT_BYTES: usize = 7;

/// A piece of 1 to 15 bytes: its bytes, zero-padded, below its length in the top byte. Never 0.
pub(super) type Key = u128;

/// Every token of a vocabulary, in three tables by length.
pub(super) struct Pieces {
    short: Table<u64>,
    packed: Table<u128>,
    long: HashSet<&'static [u8], RandomState>,
}

/// Open addressing, linear probing, at most half full; 0 is an empty slot.
struct Table<K> {
    slots: Box<[K]>,
    shift: u32,
}

/// Packs `text[at..end]`, which has 1 to 15 bytes.
#[inline(always)]
pub(super) fn key(text: &[u8], at: usize, end: usize) -> Key {
    let length = end - at;
    let bytes = if let Some(chunk) = text[at..].first_chunk::<16>() {
        u128::from_le_bytes(*chunk) & ((1 << (8 * length)) - 1)
    } else {
        let mut padded = [0; 16];
        padded[..length].copy_from_slice(&text[at..end]);
        u128::from_le_bytes(padded)
    };
    bytes | (length as u128) << 120
}

/// Packs the first `length` bytes, 1 to 15, of two chunks.
#[inline(always)]
pub(super) fn packed_key([low, high]: [u64; 2], length: u32) -> Key {
    let bytes = u128::from(high) << 64 | u128::from(low);
    bytes & ((1 << (8 * length)) - 1) | u128::from(length) << 120
}

/// Spreads a key over 64 bits; the high bits are the good ones.
#[inline(always)]
pub(super) fn spread(key: Key) -> u64 {
    let folded = (key as u64) ^ ((key >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    folded.wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

/// The same in 64 bits for a piece of 1 to 7 bytes.
pub(super) type ShortKey = u64;

/// Packs the first `length` bytes, 1 to 7, of a chunk.
#[inline(always)]
pub(super) fn short_key(chunk: u64, length: u32) -> ShortKey {
    chunk & ((1 << (8 * length)) - 1) | u64::from(length) << 56
}

#[inline(always)]
pub(super) fn spread_short(key: ShortKey) -> u64 {
    (key ^ key >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}

// === impl Pieces ===

impl Pieces {
    pub(super) fn new(vocab: &Vocab) -> Self {
        let (mut short_keys, mut packed_keys) = (Vec::new(), Vec::new());
        let mut long = HashSet::with_hasher(RandomState::with_seeds(1, 2, 3, 4));
        for (_, token) in vocab.iter() {
            if token.len() <= SHORT_BYTES {
                short_keys.push(short_key(key(token, 0, token.len()) as u64, token.len() as u32));
            } else if token.len() <= PACKED_BYTES {
                packed_keys.push(key(token, 0, token.len()));
            } else {
                long.insert(token);
            }
        }
        Self { short: Table::new(&short_keys, spread_short), packed: Table::new(&packed_keys, spread), long }
    }

    /// Whether the piece with this key and [`spread_short`] of it is a token.
    pub(super) fn has_short(&self, key: ShortKey, spread: u64) -> bool {
        self.short.has(key, spread)
    }

    /// Whether the piece with this key, of 8 to 15 bytes, and [`spread`] of it is a token.
    pub(super) fn has_packed(&self, key: Key, spread: u64) -> bool {
        self.packed.has(key, spread)
    }

    /// Whether a piece of more than [`PACKED_BYTES`] bytes is a token.
    #[inline]
    pub(super) fn has_long(&self, piece: &[u8]) -> bool {
        self.long.contains(piece)
    }
}

// === impl Table ===

impl<K: Copy + Default + PartialEq> Table<K> {
    fn new(keys: &[K], spread: impl Fn(K) -> u64) -> Self {
        let capacity = (keys.len() * 2).next_power_of_two().max(2);
        let shift = 64 - capacity.trailing_zeros();
        let mut slots = vec![K::default(); capacity].into_boxed_slice();
        for &key in keys {
            let mut slot = (spread(key) >> shift) as usize;
            while slots[slot] != K::default() && slots[slot] != key {
                slot = (slot + 1) & (capacity - 1);
            }
            slots[slot] = key;
        }
        Self { slots, shift }
    }

    #[inline(always)]
    fn has(&self, key: K, spread: u64) -> bool {
        let mask = self.slots.len() - 1;
        let mut slot = (spread >> self.shift) as usize & mask;
        loop {
            let found = self.slots[slot];
            if found == key {
                return true;
            }
            if found == K::default() {
                return false;
            }
            slot = (slot + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_found_and_its_extensions_only_if_they_are_tokens() {
        let vocab = Vocab::read(splintr_vocab_cl100k::CL100K_BASE_VOCAB_PACKED);
        let pieces = Pieces::new(&vocab);
        let all: std::collections::HashSet<Vec<u8>> = vocab.iter().map(|(_, token)| token.to_vec()).collect();
        let has = |piece: &[u8]| {
            let length = piece.len();
            if length <= SHORT_BYTES {
                let key = short_key(key(piece, 0, length) as u64, length as u32);
                pieces.has_short(key, spread_short(key))
            } else if length <= PACKED_BYTES {
                let key = key(piece, 0, length);
                pieces.has_packed(key, spread(key))
            } else {
                pieces.has_long(piece)
            }
        };
        for token in &all {
            assert!(has(token));
            for byte in [0, b'a', b' ', 0xFF] {
                let mut longer = token.clone();
                longer.push(byte);
                assert_eq!(has(&longer), all.contains(&longer), "{longer:?}");
            }
        }
    }

    #[test]
    fn a_key_is_the_same_inside_a_text_and_at_its_end() {
        let text = b"abcdefghijklmnopqrstuvwxyz";
        for length in 1..=PACKED_BYTES {
            assert_eq!(key(text, 3, 3 + length), key(&text[..3 + length], 3, 3 + length));
        }
        assert_ne!(key(b"a", 0, 1), key(b"a\0", 0, 2));
    }
}
