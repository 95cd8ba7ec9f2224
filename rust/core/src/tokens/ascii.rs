//! Owns: the ends of short ASCII pieces, found eight or sixteen bytes at a time without a branch per character.
//! Must not know: Unicode beyond ASCII, vocabularies; whatever it is not sure of it leaves to `split`.
//! On failure: cannot fail; "not sure" is an answer, and `split` decides then.
//!
//! Nearly all pieces of real text are words, symbols, digits or spaces of at most fifteen ASCII bytes. Their
//! length is data, so a loop over characters mispredicts its own end once per piece, which costs more than the
//! rest of the work. Here the end comes from bit arithmetic on all bytes at once. The first eight bytes are
//! asked first; they decide five pieces of six.

#![expect(clippy::inline_always, reason = "a call per piece or byte costs a third of the speed")]

/// Eight bytes of a text, the first in the lowest byte.
pub(super) type Chunk = u64;

/// More than a piece within one chunk can have: the eight bytes do not decide.
pub(super) const UNSURE: u32 = 8;
/// The same for two chunks.
pub(super) const UNSURE_OF_TWO: u32 = 16;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x80 * ONES;

// === one chunk: a length of at most 7, 0 when nothing of the kind stands there, or `UNSURE` ===

/// `[symbol or space]? [A-Z]* [a-z]+` or `[symbol or space]? [A-Z]+`, and a contraction.
///
/// Where the next piece begins depends on this length, so nothing else may stand on the way to it: the run of
/// letters is taken whole, and that it has no capital past its first letter is a prediction, checked beside it.
#[inline(always)]
pub(super) fn cased_word(chunk: Chunk) -> u32 {
    let letters = letters(chunk);
    let length = run(letters | OPENS[(chunk & 0xFF) as usize]);
    if length < 2 && letters & 0x80 == 0 {
        return 0;
    }
    if length > 7 {
        return UNSURE;
    }
    let first_letter = 0x80 | (!letters & 0x80) << 8;
    let capitals = between::<b'A', b'Z'>(chunk) & ((1 << (8 * length)) - 1);
    let length = if capitals & !first_letter == 0 { length } else { mixed_word(chunk) };
    contracted(|at| byte(chunk, at), UNSURE, length)
}

/// The length of a cased word of any capitals that ends in the chunk.
#[inline(never)]
fn mixed_word(chunk: Chunk) -> u32 {
    let lead = u32::from(letters(chunk) & 0x80 == 0);
    let after = lead + run(between::<b'A', b'Z'>(chunk) >> (8 * lead));
    after + run(between::<b'a', b'z'>(chunk) >> (8 * after))
}

/// `[symbol or space]? [A-Za-z]+`
#[inline(always)]
pub(super) fn word(chunk: Chunk) -> u32 {
    let letters = letters(chunk);
    let length = run(letters | OPENS[(chunk & 0xFF) as usize]);
    if length < 2 && letters & 0x80 == 0 { 0 } else { ended(|at| byte(chunk, at), UNSURE, length) }
}

/// By byte: the high bit of the lowest byte if it may be the first of a word, `[^\r\n\p{N}]`, else 0.
const OPENS: [u64; 256] = {
    let mut opens = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        opens[byte] = match byte as u8 {
            b'\r' | b'\n' | b'0'..=b'9' => 0,
            _ => 0x80,
        };
        byte += 1;
    }
    opens
};

/// ` ?[symbols]+` and the run of `closers`, a mask of bytes, after it.
#[inline(always)]
pub(super) fn symbols(chunk: Chunk, closers: u64) -> u32 {
    let other = letters(chunk) | between::<b'0', b'9'>(chunk) | spaces(chunk) | chunk & HIGH;
    let lead = u32::from(chunk as u8 == b' ');
    let symbols = lead + run((!other & HIGH) >> (8 * lead));
    if symbols == lead {
        return 0;
    }
    if symbols > 7 {
        return UNSURE;
    }
    ended(|at| byte(chunk, at), UNSURE, symbols + run(closers >> (8 * symbols)))
}

/// `[0-9]{1,3}`, which starts here.
#[inline(always)]
pub(super) fn digits(chunk: Chunk) -> u32 {
    match run(between::<b'0', b'9'>(chunk)) {
        length @ 0..=2 => ended(|at| byte(chunk, at), UNSURE, length),
        _ => 3,
    }
}

/// The piece that a run of white space, which starts here, begins with: up to the last newline, else all but
/// the last character of the run, else the one character.
#[inline(always)]
pub(super) fn white_space(chunk: Chunk) -> u32 {
    let length = run(spaces(chunk));
    if ended(|at| byte(chunk, at), UNSURE, length) == UNSURE {
        return UNSURE;
    }
    let newlines = newlines(chunk) & ((1 << (8 * length)) - 1);
    if newlines != 0 { 8 - newlines.leading_zeros() / 8 } else { (length - 1).max(1) }
}

// === two chunks: a length of at most 15, or `UNSURE_OF_TWO` ===

/// [`cased_word`] of sixteen bytes.
#[inline(always)]
pub(super) fn long_cased_word(chunks: [Chunk; 2], lead: u32) -> u32 {
    let (upper, lower) = (bits(chunks, between::<b'A', b'Z'>), bits(chunks, between::<b'a', b'z'>));
    let after = lead + (upper >> lead).trailing_ones();
    let length = after + (lower >> after).trailing_ones();
    contracted(|at| byte_of_two(chunks, at), UNSURE_OF_TWO, length)
}

/// [`word`] of sixteen bytes.
#[inline(always)]
pub(super) fn long_word(chunks: [Chunk; 2], lead: u32) -> u32 {
    let length = lead + (bits(chunks, letters) >> lead).trailing_ones();
    ended(|at| byte_of_two(chunks, at), UNSURE_OF_TWO, length)
}

/// [`white_space`] of sixteen bytes.
#[inline(always)]
pub(super) fn long_white_space(chunks: [Chunk; 2]) -> u32 {
    let length = bits(chunks, spaces).trailing_ones();
    if ended(|at| byte_of_two(chunks, at), UNSURE_OF_TWO, length) == UNSURE_OF_TWO {
        return UNSURE_OF_TWO;
    }
    let newlines = bits(chunks, newlines) & ((1 << length) - 1);
    if newlines != 0 { 32 - newlines.leading_zeros() } else { (length - 1).max(1) }
}

// === masks: the high bit of each byte that is of a kind ===

/// `\r` and `\n`
#[inline(always)]
pub(super) fn newlines(chunk: Chunk) -> u64 {
    between::<b'\n', b'\n'>(chunk) | between::<b'\r', b'\r'>(chunk)
}

/// `/`
#[inline(always)]
pub(super) fn slashes(chunk: Chunk) -> u64 {
    between::<b'/', b'/'>(chunk)
}

/// The ASCII characters in `\s`
#[inline(always)]
fn spaces(chunk: Chunk) -> u64 {
    between::<9, 13>(chunk) | between::<b' ', b' '>(chunk)
}

#[inline(always)]
fn letters(chunk: Chunk) -> u64 {
    between::<b'a', b'z'>(chunk | (0x20 * ONES))
}

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

/// One bit per byte of two chunks.
#[inline(always)]
fn bits(chunks: [Chunk; 2], mask: impl Fn(Chunk) -> u64) -> u32 {
    // The product moves the high bit of byte n to bit 56 + n.
    let gather = |chunk| ((mask(chunk) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32;
    gather(chunks[1]) << 8 | gather(chunks[0])
}

// === ends ===

#[inline(always)]
fn byte(chunk: Chunk, at: u32) -> u8 {
    (chunk >> (8 * at)) as u8
}

#[inline(always)]
fn byte_of_two(chunks: [Chunk; 2], at: u32) -> u8 {
    byte(chunks[(at / 8) as usize], at % 8)
}

/// `length`, or `unsure` when the byte after it, which could prolong the piece, is not seen or beyond ASCII.
#[inline(always)]
fn ended(byte: impl Fn(u32) -> u8, unsure: u32, length: u32) -> u32 {
    if length >= unsure || byte(length) >= 0x80 { unsure } else { length }
}

/// As [`ended`], with `(?i:'s|'t|'re|'ve|'m|'ll|'d)?` added.
#[inline(always)]
fn contracted(byte: impl Fn(u32) -> u8, unsure: u32, length: u32) -> u32 {
    if length >= unsure {
        return unsure;
    }
    match byte(length) {
        0x80.. => unsure,
        b'\'' if length + 3 > unsure => unsure,
        b'\'' => match (byte(length + 1) | 0x20, byte(length + 2) | 0x20) {
            (b's' | b't' | b'm' | b'd', _) => length + 2,
            // At most `unsure`, and then the chunk does not hold all of it.
            (b'l', b'l') | (b'r' | b'v', b'e') => length + 3,
            // The long s folds to an s.
            (0x80.., _) => unsure,
            _ => length,
        },
        _ => length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(text: &str) -> [Chunk; 2] {
        let mut bytes = [b' '; 16];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        [0, 8].map(|at| bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk)))
    }

    #[test]
    fn words_end_where_they_end() {
        for (text, cased, plain) in [
            ("hello", 5, 5),
            (" hello", 6, 6),
            ("(a)", 2, 2),
            ("HTMLPage", UNSURE, UNSURE),
            ("aB", 1, 2),
            ("ABC", 3, 3),
            ("it's", 4, 2),
            ("IT'LL", 5, 2),
            ("we'r", 2, 2),
            ("a'b'", 1, 1),
            ("hello's", 7, 5),
            ("hello'll", UNSURE, 5),
            ("sixsix's", UNSURE, 6),
            ("sevenss", 7, 7),
            ("eighteig", UNSURE, UNSURE),
            ("é", 0, 0),
            ("abé", UNSURE, UNSURE),
            ("a'ſ", UNSURE, 1),
            ("1", 0, 0),
        ] {
            let chunk = chunks(text)[0];
            assert_eq!((cased_word(chunk), word(chunk)), (cased, plain), "{text:?}");
        }
        for (text, lead, cased, plain) in [
            ("internationally", 0, 15, 15),
            (" information", 1, 12, 12),
            ("InformationX", 0, 11, 12),
            ("information's", 0, 13, 11),
            ("information'll", 0, 14, 11),
            ("thirteenthth'd", 0, 14, 12),
            ("thirteenththi'd", 0, 15, 13),
            ("fourteenfourte'd", 0, UNSURE_OF_TWO, 14),
            ("sixteensixteensi", 0, UNSURE_OF_TWO, UNSURE_OF_TWO),
            ("informationé", 0, UNSURE_OF_TWO, UNSURE_OF_TWO),
        ] {
            let chunks = chunks(text);
            assert_eq!((long_cased_word(chunks, lead), long_word(chunks, lead)), (cased, plain), "{text:?}");
        }
    }

    #[test]
    fn other_pieces_end_where_they_end() {
        let piece = |text: &str, of: fn(Chunk) -> u32| of(chunks(text)[0]);
        for (text, expected) in [("12a", 2), ("1234", 3), ("1é", UNSURE), ("7", 1)] {
            assert_eq!(piece(text, digits), expected, "{text:?}");
        }
        for (text, expected) in [
            (" x", 1),
            ("  x", 1),
            ("   x", 2),
            ("\n  x", 1),
            (" \n \n x", 4),
            ("       x", 6),
            ("        ", UNSURE),
            (" é", UNSURE),
            ("\t\u{b}x", 1),
        ] {
            assert_eq!(piece(text, white_space), expected, "{text:?}");
        }
        for (text, expected) in [
            ("()x", 2),
            (" ()x", 3),
            ("x", 0),
            (")\n\nx", 3),
            ("!é", UNSURE),
            ("........", UNSURE),
            ("//\n/x", 4),
        ] {
            assert_eq!(
                piece(text, |chunk| symbols(chunk, newlines(chunk) | slashes(chunk))),
                expected,
                "{text:?}"
            );
        }
        for (text, expected) in [("         x", 8), ("\n         x", 1), ("         \nx", 10)] {
            assert_eq!(long_white_space(chunks(text)), expected, "{text:?}");
        }
    }
}
