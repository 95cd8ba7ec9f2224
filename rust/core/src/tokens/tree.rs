//! Owns: all tokens as a tree of bytes: the longest token that a text starts with.
//! Must not know: merging, pieces.
//! On failure: cannot fail; a text that starts with no token has none.
//!
//! The nodes lie in one array. The child of a node by a byte is at `base ^ byte`, and the slot belongs to that
//! node exactly when it carries that byte, since no two nodes share a base: one load a byte, no search.

#![expect(clippy::inline_always, reason = "a call per piece or byte costs a third of the speed")]

use super::vocab::Rank;

/// No token.
pub(super) const NONE: Rank = Rank::MAX;

/// A tree over byte strings in a double array.
pub(super) struct Tree {
    root: Node,
    slots: Box<[Node]>,
}

/// Base of the children in the upper 24 bits, the byte that leads here in the lower 8; and the token that
/// ends here.
#[derive(Clone, Copy)]
struct Node {
    base_and_byte: u32,
    token: Rank,
}

/// An unused slot carries a byte that no UTF-8 text has, so no walk ever takes it for a child.
const FREE: Node = Node { base_and_byte: 0xFF, token: NONE };

/// The base of leaves: the first block of slots stays free.
const LEAF: u32 = 0;

/// Free slots that are tried for a node before it goes to the end of the array.
const TRIES: usize = 64;

// === impl Node ===

impl Node {
    #[inline(always)]
    fn child(self, byte: u8) -> usize {
        (self.base_and_byte >> 8 ^ u32::from(byte)) as usize
    }

    #[inline(always)]
    fn byte(self) -> u8 {
        self.base_and_byte as u8
    }
}

// === impl Tree ===

impl Tree {
    /// Builds from tokens in byte order; `prefix(token, its longest proper prefix or NONE)` is told of each.
    pub(super) fn new(tokens: &[(&[u8], Rank)], mut prefix: impl FnMut(Rank, Rank)) -> Self {
        let mut builder =
            Builder { slots: vec![FREE; 512], free: vec![u64::MAX; 8], bases: vec![0; 8], from: [256; 3] };
        let root = builder.node(tokens, 0, 0, NONE, &mut prefix);
        Self { root, slots: builder.slots.into_boxed_slice() }
    }

    /// The longest token that the UTF-8 `text`, or a part of one, starts with, and its length; else `NONE`.
    #[inline(always)]
    pub(super) fn longest(&self, text: &[u8]) -> (Rank, usize) {
        let mut longest = (NONE, 0);
        let mut node = self.root;
        for (index, &byte) in text.iter().enumerate() {
            match self.slots.get(node.child(byte)) {
                Some(&next) if next.byte() == byte => node = next,
                _ => break,
            }
            if node.token != NONE {
                longest = (node.token, index + 1);
            }
        }
        longest
    }
}

// === Builder ===

struct Builder {
    slots: Vec<Node>,
    /// One bit per slot: free. Whole words of slots without room are skipped at once.
    free: Vec<u64>,
    /// One bit per base: in use.
    bases: Vec<u64>,
    /// Where the search for room begins: for one child, for a few, for many. What lies before was tried.
    from: [usize; 3],
}

impl Builder {
    /// Places the subtree of `tokens`, which all start with the same `depth` bytes, and returns its top.
    fn node(
        &mut self,
        mut tokens: &[(&[u8], Rank)],
        depth: usize,
        byte: u8,
        mut above: Rank,
        prefix: &mut impl FnMut(Rank, Rank),
    ) -> Node {
        let mut token = NONE;
        if let Some((&(bytes, rank), longer)) = tokens.split_first()
            && bytes.len() == depth
        {
            prefix(rank, above);
            (token, above, tokens) = (rank, rank, longer);
        }
        let groups: Vec<_> = tokens.chunk_by(|(one, _), (other, _)| one[depth] == other[depth]).collect();
        let bytes: Vec<u8> = groups.iter().map(|group| group[0].0[depth]).collect();
        let base = if bytes.is_empty() { LEAF } else { self.place(&bytes) };
        for (group, &byte) in groups.iter().zip(&bytes) {
            let child = self.node(group, depth + 1, byte, above, prefix);
            self.slots[(base ^ u32::from(byte)) as usize] = child;
        }
        Node { base_and_byte: base << 8 | u32::from(byte), token }
    }

    /// A base at which the slots of all these children are free; takes the base.
    fn place(&mut self, bytes: &[u8]) -> u32 {
        let class = match bytes.len() {
            1 => 0,
            2..=8 => 1,
            _ => 2,
        };
        let mut slot = self.from[class];
        for tries in 0..TRIES {
            let Some(free) = self.next_free(slot) else { break };
            let base = free as u32 ^ u32::from(bytes[0]);
            if self.fits(base, bytes) {
                if tries == 0 {
                    self.from[class] = free;
                }
                return self.take(base, bytes);
            }
            slot = free + 1;
            if tries + 1 == TRIES {
                self.from[class] = slot;
            }
        }
        self.take(self.slots.len() as u32, bytes)
    }

    fn next_free(&self, from: usize) -> Option<usize> {
        let mut word = from / 64;
        let mut bits = self.free.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.free.get(word)?;
        }
        Some(word * 64 + bits.trailing_zeros() as usize)
    }

    fn fits(&self, base: u32, bytes: &[u8]) -> bool {
        let bit = |words: &[u64], at: u32| words.get(at as usize / 64).map(|word| word >> (at % 64) & 1);
        let free = |&byte: &u8| bit(&self.free, base ^ u32::from(byte)) != Some(0);
        base >= 256 && bit(&self.bases, base) != Some(1) && bytes.iter().all(free)
    }

    /// Takes the base and the slots of these children, before any slot below them is placed.
    fn take(&mut self, base: u32, bytes: &[u8]) -> u32 {
        let slots = (base as usize | 0xFF) + 1;
        if self.slots.len() < slots {
            self.slots.resize(slots, FREE);
            self.bases.resize(slots / 64, 0);
            self.free.resize(slots / 64, u64::MAX);
        }
        self.bases[base as usize / 64] |= 1 << (base % 64);
        for byte in bytes {
            let slot = base ^ u32::from(*byte);
            self.free[slot as usize / 64] &= !(1 << (slot % 64));
        }
        base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_longest_token_and_names_prefixes() {
        let tokens: [(&[u8], Rank); 6] =
            [(b"a", 0), (b"ab", 1), (b"abcd", 2), (b"b", 3), (b"\xFF", 4), (b"\0", 5)];
        let mut ordered = tokens;
        ordered.sort_unstable();
        let mut prefixes = std::collections::BTreeMap::new();
        let tree = Tree::new(&ordered, |token, prefix| {
            prefixes.insert(token, prefix);
        });
        assert_eq!(prefixes.into_values().collect::<Vec<_>>(), [NONE, 0, 1, NONE, NONE, NONE]);
        for (text, longest) in
            [("a", 0), ("ac", 0), ("abc", 1), ("abcde", 2), ("bab", 3), ("\0\0", 5), ("c", NONE), ("", NONE)]
        {
            assert_eq!(tree.longest(text.as_bytes()).0, longest, "{text:?}");
        }
    }
}
