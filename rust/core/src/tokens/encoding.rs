//! Owns: the two exact encodings: their tables, built once per process, and counting a text with them.
//! Must not know: messages, requests, estimates.
//! On failure: cannot fail; every text has a count.

#![expect(clippy::inline_always, reason = "a call per piece or byte costs a third of the speed")]

use std::cell::RefCell;
use std::sync::OnceLock;

use ahash::RandomState;
use hashbrown::HashMap;

use super::classes::Classes;
use super::merges::{Merges, Scratch};
use super::pieces::{self, Key, PACKED_BYTES, Pieces, SHORT_BYTES, ShortKey};
use super::split::{Cl100k, O200k, Pattern};
use super::vocab::{Rank, Vocab};

/// A published encoding whose vocabulary is compiled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `o200k_base`: GPT-4o and later
    O200kBase,
    /// `cl100k_base`: GPT-4, GPT-3.5, the third generation of embedding models
    Cl100kBase,
}

/// Everything that counting reads. About 10 MiB for `cl100k_base` and 20 MiB for `o200k_base`.
struct Tables {
    classes: Classes,
    pieces: Pieces,
    merges: Merges,
    /// Longest token in bytes: a piece of n bytes has at least n divided by this many tokens.
    longest_token_bytes: usize,
    packed: &'static [u8],
    /// By bytes; built when token numbers are first asked for, since counting needs none.
    ranks: OnceLock<HashMap<&'static [u8], Rank, RandomState>>,
}

// Constants in all but name: built on first use from bytes that are compiled in, never changed.
static O200K_BASE: OnceLock<Tables> = OnceLock::new();
static CL100K_BASE: OnceLock<Tables> = OnceLock::new();

/// What one thread remembers per encoding, 768 KiB: recent pieces that are one token, and recent pieces that
/// merging cut, each of up to 7 and of 8 to 15 bytes. A piece overwrites another with the same slot, so the
/// memory is fixed whatever the texts are. Common words lie close together here; in the tables of all tokens
/// they lie far apart and do not fit a core's cache. A cut is dear to find again, so tokens do not evict it.
struct Worker {
    short_tokens: Box<[ShortKey]>,
    /// Keys with the number of tokens above the length in the top byte, here and in `packed_cuts`.
    short_cuts: Box<[ShortKey]>,
    packed_tokens: Box<[Key]>,
    packed_cuts: Box<[Key]>,
    scratch: Scratch,
}

const SHORT_TOKEN_SLOTS: u32 = 16_384;
const PACKED_TOKEN_SLOTS: u32 = 8192;
const SHORT_CUT_SLOTS: u32 = 32_768;
const PACKED_CUT_SLOTS: u32 = 16_384;

/// Slot of a spread key among a power of two of them.
#[inline(always)]
const fn slot(spread: u64, slots: u32) -> usize {
    (spread >> (64 - slots.trailing_zeros())) as usize
}

thread_local! {
    static WORKERS: [RefCell<Option<Worker>>; 2] = const { [RefCell::new(None), RefCell::new(None)] };
}

// === impl Encoding ===

impl Encoding {
    /// All encodings.
    pub const ALL: [Self; 2] = [Self::O200kBase, Self::Cl100kBase];

    /// The published name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::O200kBase => "o200k_base",
            Self::Cl100kBase => "cl100k_base",
        }
    }

    /// The encoding with this published name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|encoding| encoding.name() == name)
    }

    /// Number of tokens of `text`; the names of special tokens count as the ordinary text that they are in a
    /// user's message.
    ///
    /// Cost: linear in the text; about 4 µs for a kilobyte of English that is new. The first call builds the tables (see
    /// [`Self::warm`]).
    pub fn count(self, text: &str) -> u64 {
        self.count_until(text, u64::MAX).unwrap_or_default()
    }

    /// Number of tokens of `text`, or `None` once it is above `limit`, without reading on.
    pub fn count_up_to(self, text: &str, limit: u64) -> Option<u64> {
        self.count_until(text, limit)
    }

    /// The token numbers of `text`, as many as [`Self::count`] says.
    ///
    /// Cost: linear in the text; the first call for an encoding builds a table of about 10 MiB more.
    pub fn ids(self, text: &str) -> Vec<u32> {
        let tables = self.tables();
        let mut ids = Vec::with_capacity(text.len() / 4 + 1);
        WORKERS.with(|workers| {
            let mut slot = workers[self as usize].borrow_mut();
            let scratch = &mut slot.get_or_insert_with(Worker::new).scratch;
            match self {
                Self::O200kBase => tables.ids::<O200k>(text.as_bytes(), scratch, &mut ids),
                Self::Cl100kBase => tables.ids::<Cl100k>(text.as_bytes(), scratch, &mut ids),
            }
        });
        ids
    }

    /// Builds the tables now (about 0.1 s), so that no request waits for them.
    pub fn warm(self) {
        self.tables();
    }

    /// Every token of the encoding as `(bytes, rank)`, in rank order: what a reference tokenizer takes as its
    /// mergeable ranks.
    pub fn ranks(self) -> Vec<(&'static [u8], u32)> {
        Vocab::read(self.packed()).iter().map(|(rank, token)| (token, rank)).collect()
    }

    fn count_until(self, text: &str, limit: u64) -> Option<u64> {
        let tables = self.tables();
        WORKERS.with(|workers| {
            let mut slot = workers[self as usize].borrow_mut();
            let worker = slot.get_or_insert_with(Worker::new);
            match self {
                Self::O200kBase => tables.count::<O200k>(text, worker, limit),
                Self::Cl100kBase => tables.count::<Cl100k>(text, worker, limit),
            }
        })
    }

    fn tables(self) -> &'static Tables {
        let cell = match self {
            Self::O200kBase => &O200K_BASE,
            Self::Cl100kBase => &CL100K_BASE,
        };
        cell.get_or_init(|| Tables::new(self.packed()))
    }

    fn packed(self) -> &'static [u8] {
        match self {
            Self::O200kBase => splintr_vocab_o200k::O200K_BASE_VOCAB_PACKED,
            Self::Cl100kBase => splintr_vocab_cl100k::CL100K_BASE_VOCAB_PACKED,
        }
    }
}

// === impl Tables ===

impl Tables {
    fn new(packed: &'static [u8]) -> Self {
        let vocab = Vocab::read(packed);
        Self {
            classes: Classes::new(),
            pieces: Pieces::new(&vocab),
            merges: Merges::new(&vocab),
            longest_token_bytes: vocab.iter().map(|(_, token)| token.len()).max().unwrap_or(1),
            packed,
            ranks: OnceLock::new(),
        }
    }

    fn ids<P: Pattern>(&self, text: &[u8], scratch: &mut Scratch, ids: &mut Vec<Rank>) {
        let ranks = self
            .ranks
            .get_or_init(|| Vocab::read(self.packed).iter().map(|(rank, token)| (token, rank)).collect());
        let mut at = 0;
        while at < text.len() {
            let end = P::piece_end(&self.classes, text, at);
            let piece = &text[at..end];
            match ranks.get(piece) {
                Some(rank) => ids.push(*rank),
                None => self.merges.ranks(piece, scratch, ids),
            }
            at = end;
        }
    }

    #[inline]
    fn count<P: Pattern>(&self, text: &str, worker: &mut Worker, limit: u64) -> Option<u64> {
        let text = text.as_bytes();
        let (mut at, mut total) = (0, 0_u64);
        while at < text.len() {
            let (length, tokens) = self.next_piece::<P>(text, at, worker, limit)?;
            at += length;
            total += tokens;
            if total > limit {
                return None;
            }
        }
        Some(total)
    }

    /// Length and tokens of the piece that starts at `at`; `None` for one that is above the limit for sure.
    #[inline(always)]
    fn next_piece<P: Pattern>(
        &self,
        text: &[u8],
        at: usize,
        worker: &mut Worker,
        limit: u64,
    ) -> Option<(usize, u64)> {
        if let Some(chunk) = text[at..].first_chunk() {
            let chunk = u64::from_le_bytes(*chunk);
            let length = P::short_piece(&self.classes, chunk);
            if length <= 7 {
                return Some((length as usize, self.count_short(pieces::short_key(chunk, length), worker)));
            }
            if let Some(second) = text[at + 8..].first_chunk() {
                let chunks = [chunk, u64::from_le_bytes(*second)];
                let length = P::medium_piece(&self.classes, chunks);
                if length <= 7 {
                    return Some((
                        length as usize,
                        self.count_short(pieces::short_key(chunk, length), worker),
                    ));
                }
                if length <= 15 {
                    return Some((
                        length as usize,
                        self.count_packed(pieces::packed_key(chunks, length), worker),
                    ));
                }
            }
        }
        let end = P::piece_end(&self.classes, text, at);
        let length = end - at;
        let tokens = if length <= SHORT_BYTES {
            self.count_short(pieces::short_key(pieces::key(text, at, end) as u64, length as u32), worker)
        } else if length <= PACKED_BYTES {
            self.count_packed(pieces::key(text, at, end), worker)
        } else if (length / self.longest_token_bytes) as u64 > limit {
            // Far too long, and said so before it is read again.
            return None;
        } else {
            self.count_long(&text[at..end], worker)
        };
        Some((length, tokens))
    }

    #[inline(always)]
    fn count_short(&self, key: ShortKey, worker: &mut Worker) -> u64 {
        let spread = pieces::spread_short(key);
        if worker.short_tokens[slot(spread, SHORT_TOKEN_SLOTS)] == key {
            return 1;
        }
        self.count_new_short(key, spread, worker)
    }

    #[inline(never)]
    fn count_new_short(&self, key: ShortKey, spread: u64, worker: &mut Worker) -> u64 {
        let cut = &mut worker.short_cuts[slot(spread, SHORT_CUT_SLOTS)];
        if *cut & !(7 << 60) == key {
            return *cut >> 60;
        }
        if self.pieces.has_short(key, spread) {
            worker.short_tokens[slot(spread, SHORT_TOKEN_SLOTS)] = key;
            return 1;
        }
        let length = (key >> 56) as usize;
        let count = self.merges.count(&key.to_le_bytes()[..length], &mut worker.scratch) as u64;
        *cut = key | count << 60;
        count
    }

    #[inline(always)]
    fn count_packed(&self, key: Key, worker: &mut Worker) -> u64 {
        let spread = pieces::spread(key);
        if worker.packed_tokens[slot(spread, PACKED_TOKEN_SLOTS)] == key {
            return 1;
        }
        self.count_new_packed(key, spread, worker)
    }

    #[inline(never)]
    fn count_new_packed(&self, key: Key, spread: u64, worker: &mut Worker) -> u64 {
        let cut = &mut worker.packed_cuts[slot(spread, PACKED_CUT_SLOTS)];
        if *cut & !(15 << 124) == key {
            return (*cut >> 124) as u64;
        }
        if self.pieces.has_packed(key, spread) {
            worker.packed_tokens[slot(spread, PACKED_TOKEN_SLOTS)] = key;
            return 1;
        }
        let length = (key >> 120) as usize;
        let count = self.merges.count(&key.to_le_bytes()[..length], &mut worker.scratch) as u64;
        *cut = key | u128::from(count) << 124;
        count
    }

    #[inline(never)]
    fn count_long(&self, piece: &[u8], worker: &mut Worker) -> u64 {
        if self.pieces.has_long(piece) { 1 } else { self.merges.count(piece, &mut worker.scratch) as u64 }
    }
}

impl Worker {
    fn new() -> Self {
        Self {
            short_tokens: vec![0; SHORT_TOKEN_SLOTS as usize].into_boxed_slice(),
            short_cuts: vec![0; SHORT_CUT_SLOTS as usize].into_boxed_slice(),
            packed_tokens: vec![0; PACKED_TOKEN_SLOTS as usize].into_boxed_slice(),
            packed_cuts: vec![0; PACKED_CUT_SLOTS as usize].into_boxed_slice(),
            scratch: Scratch::default(),
        }
    }
}
