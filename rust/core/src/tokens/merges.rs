//! Owns: byte-pair merging of one piece, counted in time linear in the piece.
//! Must not know: the split pattern, texts, threads.
//! On failure: cannot fail; on a vocabulary that lacks a byte, that byte counts as one token.
//!
//! Merging by a queue of pairs costs n·log n and a bad constant on a megabyte of one letter. Instead the
//! tokens are found from left to right: take the longest token that may follow the one before it; when none
//! fits, that one was too long. A pair of tokens may stand side by side exactly when merging would never have
//! crossed the border between them, and a text has exactly one sequence in which every neighbouring pair is
//! of that kind: the one that merging gives. Each position is given up at most once, so the work is linear.
//! Source: A. van Antwerpen, H. Neubeck, "So many tokens, so little time", GitHub blog, 2024.

#![expect(clippy::inline_always, reason = "a call per piece or byte costs a third of the speed")]

use super::tree::{NONE, Tree};
use super::vocab::{Rank, Vocab};

/// Bits of a rank inside a slot of the pair table: three ranks fill 54 of 64 bits.
const RANK_BITS: u32 = 18;
/// A slot that holds no pair; no real slot has its top bits set.
const EMPTY: u64 = u64::MAX;

/// Tables for merging: which pairs merge, how each token came to be, and all tokens as a tree of bytes.
pub(super) struct Merges {
    pairs: Pairs,
    tree: Tree,
    // By rank, each in its own array: a count asks for halves most of the time.
    /// The two tokens it was merged from; a single byte names itself twice.
    halves: Vec<(Rank, Rank)>,
    /// The longest token that is a proper prefix, or `NONE`.
    shorter: Vec<Rank>,
    bytes: Vec<u32>,
}

/// Buffers that one count leaves to the next, so that a piece costs no allocation.
pub(super) struct Scratch {
    taken: Vec<Rank>,
    given_up: Vec<u64>,
    /// Pairs of tokens, packed above one bit that says whether the second may follow the first: 64 KiB. Texts
    /// without spaces are long pieces that never come again, of pairs that do.
    pairs: Box<[u64]>,
}

const PAIRS_KEPT: usize = 8192;
/// Set in every pair that is known, so that an empty slot is none.
const PAIR_KNOWN: u64 = 1 << 63;

/// What a thread may keep between counts: a text of one huge piece does not stay paid for.
const SCRATCH_KEEP: usize = 64 * 1024;

impl Default for Scratch {
    fn default() -> Self {
        Self { taken: Vec::new(), given_up: Vec::new(), pairs: vec![0; PAIRS_KEPT].into_boxed_slice() }
    }
}

// === impl Scratch ===

impl Scratch {
    fn shrink(&mut self) {
        self.taken.truncate(0);
        self.taken.shrink_to(SCRATCH_KEEP);
        self.given_up.truncate(SCRATCH_KEEP);
        self.given_up.shrink_to(SCRATCH_KEEP);
    }
}

// === impl Merges ===

impl Merges {
    pub(super) fn new(vocab: &Vocab) -> Self {
        let mut byte_ranks = [NONE; 256];
        for (rank, token) in vocab.iter() {
            if let [byte] = token {
                byte_ranks[*byte as usize] = rank;
            }
        }
        let mut pairs = Pairs::with_capacity(vocab.len());
        let mut halves = vec![(NONE, NONE); vocab.len()];
        let mut shorter = vec![NONE; vocab.len()];
        let mut bytes = vec![1; vocab.len()];
        let mut reachable = Vec::with_capacity(vocab.len());
        let mut parts = Vec::new();
        // In rank order, so that all merges that come before a token's own are known when it is taken apart.
        for (rank, token) in vocab.iter() {
            if token.len() == 1 {
                halves[rank as usize] = (rank, rank);
            } else {
                parts.clear();
                parts.extend(token.iter().map(|&byte| byte_ranks[byte as usize]));
                pairs.merge(&mut parts);
                // A token that its own bytes do not merge to is found as a whole piece only.
                let &[left, right] = parts.as_slice() else { continue };
                pairs.insert(left, right, rank);
                halves[rank as usize] = (left, right);
            }
            bytes[rank as usize] = token.len() as u32;
            reachable.push((token, rank));
        }
        reachable.sort_unstable();
        let tree = Tree::new(&reachable, |token, prefix| shorter[token as usize] = prefix);
        Self { pairs, tree, halves, shorter, bytes }
    }

    /// Number of tokens that merging leaves of `piece`.
    pub(super) fn count(&self, piece: &[u8], scratch: &mut Scratch) -> usize {
        let whole = self.cut(piece, scratch);
        let count = if whole { scratch.taken.len() } else { piece.len() };
        scratch.shrink();
        count
    }

    /// Appends the tokens that merging leaves of `piece`.
    pub(super) fn ranks(&self, piece: &[u8], scratch: &mut Scratch, ranks: &mut Vec<Rank>) {
        self.cut(piece, scratch);
        ranks.extend_from_slice(&scratch.taken);
        scratch.shrink();
    }

    /// Leaves the tokens of `piece` in `taken`. False: a byte of it is no token.
    #[inline(always)]
    fn cut(&self, piece: &[u8], scratch: &mut Scratch) -> bool {
        let Scratch { taken, given_up, pairs } = scratch;
        taken.clear();
        given_up.clear();
        given_up.resize(piece.len() / 64 + 1, 0);
        let mut at = 0;
        let mut candidate = self.tree.longest(piece);
        while at < piece.len() {
            let (token, bytes) = candidate;
            if token == NONE {
                return false;
            }
            let end = at + bytes;
            let dead = given_up[end / 64] >> (end % 64) & 1 != 0;
            if !dead && taken.last().is_none_or(|&last| self.may_follow(last, token, pairs)) {
                taken.push(token);
                at = end;
                candidate = self.tree.longest(&piece[at..]);
                continue;
            }
            let mut shorter = self.shorter[token as usize];
            if shorter == NONE {
                given_up[at / 64] |= 1 << (at % 64);
                let Some(last) = taken.pop() else { return false };
                at -= self.bytes[last as usize] as usize;
                shorter = last;
            }
            candidate = (shorter, self.bytes[shorter as usize] as usize);
        }
        true
    }

    /// Whether merging leaves a border between `left` and `right` where they meet.
    #[inline(always)]
    fn may_follow(&self, left: Rank, right: Rank, pairs: &mut [u64]) -> bool {
        let pair = Pairs::pack(left, right) << 1 | PAIR_KNOWN;
        let slot = &mut pairs[(Pairs::spread(pair) >> (64 - PAIRS_KEPT.trailing_zeros())) as usize];
        if *slot & !1 != pair {
            *slot = pair | u64::from(self.derive_may_follow(left, right));
        }
        *slot & 1 != 0
    }

    /// Undoes, latest first, the merges on both sides of the border. Whenever the two tokens at the border
    /// could have merged before either was used up by the next merge on its own side, merging would have
    /// crossed the border. Of two equal merges the left one comes first, hence `+ 1` on the right.
    #[expect(clippy::needless_bitwise_bool, reason = "the branch that `||` makes is mispredicted")]
    fn derive_may_follow(&self, mut left: Rank, mut right: Rank) -> bool {
        let mut used_at = Rank::MAX;
        loop {
            if self.pairs.get(left, right).is_some_and(|merged| merged < used_at) {
                return false;
            }
            let (left_half, right_half) = (self.halves[left as usize].1, self.halves[right as usize].0);
            let (left_whole, right_whole) = (left_half == left, right_half == right);
            if left_whole && right_whole {
                return true;
            }
            // The token that was merged later is the one to take apart; single bytes were never merged. Which
            // one is data, so the choice is made without a branch.
            let take_left = right_whole | (!left_whole & (left > right));
            used_at = if take_left { left } else { right + 1 };
            (left, right) = if take_left { (left_half, right) } else { (left, right_half) };
        }
    }
}

// === Pairs ===

/// Which two tokens merge to which: open addressing, at most half full.
///
/// Most look-ups ask for a pair that does not merge. A bit per hash says so from 256 KiB, which stay in a
/// core's cache while the 4 MiB of slots do not.
struct Pairs {
    slots: Box<[u64]>,
    shift: u32,
    filter: Box<[u64]>,
}

/// Bits of the filter, as a power of two: ten per pair of the larger vocabulary.
const FILTER_BITS: u32 = 21;

impl Pairs {
    fn with_capacity(pairs: usize) -> Self {
        let capacity = (pairs * 2).next_power_of_two().max(2);
        Self {
            slots: vec![EMPTY; capacity].into_boxed_slice(),
            shift: 64 - capacity.trailing_zeros(),
            filter: vec![0; 1 << (FILTER_BITS - 6)].into_boxed_slice(),
        }
    }

    #[inline(always)]
    fn pack(left: Rank, right: Rank) -> u64 {
        u64::from(left) << RANK_BITS | u64::from(right)
    }

    #[inline(always)]
    fn spread(pair: u64) -> u64 {
        pair.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// Index of the word and the bit of the filter.
    #[inline(always)]
    fn filter_bit(spread: u64) -> (usize, u64) {
        let bit = spread >> (64 - FILTER_BITS);
        ((bit / 64) as usize, 1 << (bit % 64))
    }

    fn insert(&mut self, left: Rank, right: Rank, merged: Rank) {
        let pair = Self::pack(left, right);
        let spread = Self::spread(pair);
        let (word, bit) = Self::filter_bit(spread);
        self.filter[word] |= bit;
        let mut slot = (spread >> self.shift) as usize;
        while self.slots[slot] != EMPTY {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        self.slots[slot] = pair << RANK_BITS | u64::from(merged);
    }

    #[inline(always)]
    fn get(&self, left: Rank, right: Rank) -> Option<Rank> {
        let pair = Self::pack(left, right);
        let spread = Self::spread(pair);
        let (word, bit) = Self::filter_bit(spread);
        if self.filter[word] & bit == 0 {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut slot = (spread >> self.shift) as usize & mask;
        loop {
            let found = self.slots[slot];
            if found >> RANK_BITS == pair {
                return Some((found & ((1 << RANK_BITS) - 1)) as Rank);
            }
            if found == EMPTY {
                return None;
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Merges by the definition: the lowest rank first, the leftmost of equals. For building only.
    fn merge(&self, parts: &mut Vec<Rank>) {
        loop {
            let next = parts
                .windows(2)
                .enumerate()
                .filter_map(|(index, pair)| Some((self.get(pair[0], pair[1])?, index)))
                .min();
            let Some((merged, index)) = next else { return };
            parts[index] = merged;
            parts.remove(index + 1);
        }
    }
}
