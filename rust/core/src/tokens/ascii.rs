//! Owns: the ends of short ASCII pieces, found eight bytes at a time without a branch per character.
//! Must not know: Unicode beyond ASCII, vocabularies; whatever it is not sure of it leaves to `split`.
//! On failure: cannot fail; "not sure" is an answer, and `split` decides then.
//!
//! Seven of eight pieces of real text are a word or a few symbols of at most seven ASCII bytes. Their length
//! is data, so a loop over characters mispredicts its own end once per piece, which costs more than the rest
//! of the work. Here the end comes from bit arithmetic on all eight bytes at once.

#![expect(clippy::inline_always, reason = "a call per piece or byte costs a third of the speed")]

/// Eight bytes of a text, the first in the lowest byte.
pub(super) type Chunk = u64;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x80 * ONES;

/// More than a piece of a chunk can have: the eight bytes do not decide.
pub(super) const UNSURE: u32 = 8;

/// Length of `[symbol or space]? [A-Z]* [a-z]+` or `[symbol or space]? [A-Z]+`, 0 when no letter stands there,
/// and `UNSURE` when it has more than seven bytes or is followed by an apostrophe or by a byte beyond ASCII.
/// `lead` is 1 when the first byte may lead a word.
#[inline(always)]
pub(super) fn cased_word(chunk: Chunk, lead: u32) -> u32 {
    let (upper, lower) = (between::<b'A', b'Z'>(chunk), between::<b'a', b'z'>(chunk));
    let uppers = run(upper >> (8 * lead));
    let after = lead + uppers;
    if after > 7 {
        return UNSURE;
    }
    let lowers = run(lower >> (8 * after));
    let length = after + lowers;
    if length == lead { 0 } else { ended(chunk, length, b'\'') }
}

/// Length of `[symbol or space]? [A-Za-z]+` on the same terms, but any ASCII byte may follow.
#[inline(always)]
pub(super) fn word(chunk: Chunk, lead: u32) -> u32 {
    let letters = between::<b'a', b'z'>(chunk | (0x20 * ONES));
    let length = lead + run(letters >> (8 * lead));
    if length == lead { 0 } else { ended(chunk, length, 0xFF) }
}

/// Length of ` ?[symbols]+` and the run of `closers` after it, 0 when no symbol stands there, and `UNSURE` when
/// it has more than seven bytes or is followed by a byte beyond ASCII. `closers` is a mask of bytes.
#[inline(always)]
pub(super) fn symbols(chunk: Chunk, closers: u64) -> u32 {
    let letters = between::<b'a', b'z'>(chunk | (0x20 * ONES));
    let other = letters | between::<b'0', b'9'>(chunk) | spaces(chunk) | chunk & HIGH;
    let lead = u32::from(chunk as u8 == b' ');
    let symbols = lead + run((!other & HIGH) >> (8 * lead));
    if symbols == lead {
        return 0;
    }
    if symbols > 7 {
        return UNSURE;
    }
    ended(chunk, symbols + run(closers >> (8 * symbols)), 0xFF)
}

/// Length of `[0-9]{1,3}`, which starts here, or `UNSURE` when a byte beyond ASCII could prolong it.
#[inline(always)]
pub(super) fn digits(chunk: Chunk) -> u32 {
    match run(between::<b'0', b'9'>(chunk)) {
        length @ 0..=2 => ended(chunk, length, 0xFF),
        _ => 3,
    }
}

/// Length of the piece that a run of white space, which starts here, begins with: up to the last newline, else
/// all but the last character of the run, else the one character. `UNSURE` when the run may go on.
#[inline(always)]
pub(super) fn white_space(chunk: Chunk) -> u32 {
    let length = run(spaces(chunk));
    if ended(chunk, length, 0xFF) == UNSURE {
        return UNSURE;
    }
    let newlines = newlines(chunk) & ((1 << (8 * length)) - 1);
    if newlines != 0 { 8 - newlines.leading_zeros() / 8 } else { (length - 1).max(1) }
}

/// Mask of `\r` and `\n`.
#[inline(always)]
pub(super) fn newlines(chunk: Chunk) -> u64 {
    between::<b'\n', b'\n'>(chunk) | between::<b'\r', b'\r'>(chunk)
}

/// Mask of `/`.
#[inline(always)]
pub(super) fn slashes(chunk: Chunk) -> u64 {
    between::<b'/', b'/'>(chunk)
}

/// Mask of the ASCII characters in `\s`.
#[inline(always)]
fn spaces(chunk: Chunk) -> u64 {
    between::<9, 13>(chunk) | between::<b' ', b' '>(chunk)
}

/// More than a piece of two chunks can have.
pub(super) const UNSURE_OF_TWO: u32 = 16;

/// [`cased_word`] over sixteen bytes: at most fifteen, or [`UNSURE_OF_TWO`].
#[inline(always)]
pub(super) fn long_cased_word(chunks: [Chunk; 2], lead: u32) -> u32 {
    let (upper, lower) = (bits(chunks, between::<b'A', b'Z'>), bits(chunks, between::<b'a', b'z'>));
    let after = lead + (upper >> lead).trailing_ones();
    let length = after + (lower >> after).trailing_ones();
    ended_of_two(chunks, length, b'\'')
}

/// [`word`] over sixteen bytes: at most fifteen, or [`UNSURE_OF_TWO`].
#[inline(always)]
pub(super) fn long_word(chunks: [Chunk; 2], lead: u32) -> u32 {
    let letters = bits(chunks, |chunk| between::<b'a', b'z'>(chunk | (0x20 * ONES)));
    ended_of_two(chunks, lead + (letters >> lead).trailing_ones(), 0xFF)
}

/// [`white_space`] over sixteen bytes: at most fifteen, or [`UNSURE_OF_TWO`].
#[inline(always)]
pub(super) fn long_white_space(chunks: [Chunk; 2]) -> u32 {
    let length = bits(chunks, spaces).trailing_ones();
    if ended_of_two(chunks, length, 0xFF) == UNSURE_OF_TWO {
        return UNSURE_OF_TWO;
    }
    let newlines = bits(chunks, newlines) & ((1 << length) - 1);
    if newlines != 0 { 32 - newlines.leading_zeros() } else { (length - 1).max(1) }
}

/// One bit per byte: the high bits of a mask of each chunk.
#[inline(always)]
fn bits(chunks: [Chunk; 2], mask: impl Fn(Chunk) -> u64) -> u32 {
    // The product moves the high bit of byte n to bit 56 + n.
    let [low, high] =
        chunks.map(|chunk| ((mask(chunk) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32);
    high << 8 | low
}

/// As [`ended`] for two chunks.
#[inline(always)]
fn ended_of_two(chunks: [Chunk; 2], length: u32, barred: u8) -> u32 {
    if length > 15 {
        return UNSURE_OF_TWO;
    }
    let next = (chunks[(length / 8) as usize] >> (8 * (length % 8))) as u8;
    if next >= 0x80 || next == barred { UNSURE_OF_TWO } else { length }
}

/// The high bit of each byte that is in `FIRST..=LAST`; both are ASCII.
#[inline(always)]
fn between<const FIRST: u8, const LAST: u8>(chunk: Chunk) -> u64 {
    let low = chunk & !HIGH;
    let from_first = low + (0x80 - u64::from(FIRST)) * ONES;
    let past_last = low + (0x7F - u64::from(LAST)) * ONES;
    from_first & !past_last & !chunk & HIGH
}

/// Number of bytes, from the lowest, whose high bit is set in `mask`.
#[inline(always)]
fn run(mask: u64) -> u32 {
    (!mask & HIGH).trailing_zeros() / 8
}

/// `length` unless the byte after it is outside the chunk, beyond ASCII or `barred`.
#[inline(always)]
fn ended(chunk: Chunk, length: u32, barred: u8) -> u32 {
    if length > 7 {
        return UNSURE;
    }
    let next = (chunk >> (8 * length)) as u8;
    if next >= 0x80 || next == barred { UNSURE } else { length }
}
