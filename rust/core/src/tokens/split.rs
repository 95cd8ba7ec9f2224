//! Owns: the published split patterns of `cl100k_base` and `o200k_base` as hand-written matchers.
//! Must not know: vocabularies and merges; it only says where the next piece ends.
//! On failure: cannot fail; every position of a text has a next piece of at least one character.
//!
//! Source: `tiktoken` 0.14, `tiktoken_ext/openai_public.py`. Each function cites the alternative that it
//! matches; the order of the alternatives is the order of the calls, as in a leftmost-first engine.

#![expect(clippy::inline_always, reason = "a call per piece or byte costs a third of the speed")]

use super::ascii::{self, Chunk};
use super::classes::{Classes, HEAD, LETTER, NEWLINE, NUMBER, SPACE, TAIL};

/// A pattern that cuts a text into the pieces within which merges happen.
pub(super) trait Pattern {
    /// Length of the piece that starts with these eight bytes; more than 7 when only [`Self::piece_end`] can
    /// tell.
    fn short_piece(classes: &Classes, chunk: Chunk) -> u32;

    /// The same for sixteen bytes of which the first eight did not decide; more than 15 when they do not either.
    fn medium_piece(classes: &Classes, chunks: [Chunk; 2]) -> u32;

    /// End of the piece that starts at `at`, which is less than the text's length.
    fn piece_end(classes: &Classes, text: &[u8], at: usize) -> usize;
}

/// `'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s`
pub(super) struct Cl100k;

/// `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?`, the
/// same with `[…]+[…]*`, `\p{N}{1,3}`, ` ?[^\s\p{L}\p{N}]+[\r\n/]*`, `\s*[\r\n]+`, `\s+(?!\S)`, `\s+`
pub(super) struct O200k;

// === impl Pattern ===

impl Pattern for Cl100k {
    #[inline(always)]
    fn short_piece(classes: &Classes, chunk: Chunk) -> u32 {
        // An apostrophe may begin a contraction, which comes before the word.
        if chunk as u8 == b'\'' {
            return ascii::UNSURE;
        }
        short_piece(classes, chunk, ascii::word, ascii::newlines)
    }

    #[inline(always)]
    fn medium_piece(classes: &Classes, chunks: [Chunk; 2]) -> u32 {
        if chunks[0] as u8 == b'\'' {
            ascii::UNSURE_OF_TWO
        } else {
            medium_piece(classes, chunks, ascii::long_word)
        }
    }

    #[inline]
    fn piece_end(classes: &Classes, text: &[u8], at: usize) -> usize {
        let (flags, bytes) = classes.at(text, at);
        let next = at + bytes;
        if flags & LETTER != 0 {
            return run_end(classes, text, next, LETTER);
        }
        if flags & NUMBER != 0 {
            return digits_end(classes, text, next);
        }
        if text[at] == b'\'' {
            let end = contraction_end(text, at);
            if end > at {
                return end;
            }
        }
        if flags & NEWLINE == 0 {
            let end = run_end(classes, text, next, LETTER);
            if end > next {
                return end;
            }
        }
        if let Some(end) = symbols_end(classes, text, at) {
            return newlines_end(text, end);
        }
        let run = Whitespace::scan(classes, text, at);
        if run.end == text.len() { run.end } else { run.piece_end() }
    }
}

impl Pattern for O200k {
    #[inline(always)]
    fn short_piece(classes: &Classes, chunk: Chunk) -> u32 {
        let closers = |chunk| ascii::newlines(chunk) | ascii::slashes(chunk);
        short_piece(classes, chunk, ascii::cased_word, closers)
    }

    #[inline(always)]
    fn medium_piece(classes: &Classes, chunks: [Chunk; 2]) -> u32 {
        medium_piece(classes, chunks, ascii::long_cased_word)
    }

    #[inline]
    fn piece_end(classes: &Classes, text: &[u8], at: usize) -> usize {
        let (flags, bytes) = classes.at(text, at);
        let next = at + bytes;
        if flags & LETTER != 0 {
            // A letter is in the head or in the tail class, so a word always starts here.
            let word = Word::scan(classes, text, at);
            return contraction_end(text, word.cased_end().unwrap_or(word.head));
        }
        if flags & NUMBER != 0 {
            return digits_end(classes, text, next);
        }
        if flags & NEWLINE == 0 && next < text.len() {
            let word = Word::scan(classes, text, next);
            if let Some(end) = word.cased_end() {
                return contraction_end(text, end);
            }
            if flags & TAIL != 0 {
                // A mark may be the optional first character or the word itself; the first
                // alternative wins with the mark alone before the second one is tried.
                return contraction_end(text, next);
            }
            if word.head > next {
                return contraction_end(text, word.head);
            }
        } else if flags & TAIL != 0 {
            return next;
        }
        if let Some(mut end) = symbols_end(classes, text, at) {
            while end < text.len() && matches!(text[end], b'\r' | b'\n' | b'/') {
                end += 1;
            }
            return end;
        }
        Whitespace::scan(classes, text, at).piece_end()
    }
}

// === parts of the patterns ===

/// The order of the alternatives, which both patterns share, on a chunk of ASCII.
#[inline(always)]
fn short_piece(
    classes: &Classes,
    chunk: Chunk,
    word: impl Fn(Chunk) -> u32,
    closers: impl Fn(Chunk) -> u64,
) -> u32 {
    let word = word(chunk);
    if word > 0 {
        return word;
    }
    let first = chunk as u8;
    if first >= 0x80 {
        return ascii::UNSURE;
    }
    let flags = classes.ascii(first);
    if flags & NUMBER != 0 {
        return ascii::digits(chunk);
    }
    if flags & NEWLINE == 0 {
        let symbols = ascii::symbols(chunk, closers(chunk));
        if symbols > 0 {
            return symbols;
        }
    }
    if flags & SPACE != 0 { ascii::white_space(chunk) } else { ascii::UNSURE }
}

/// Words and white space, which most pieces of eight to fifteen bytes are.
#[inline(always)]
fn medium_piece(classes: &Classes, chunks: [Chunk; 2], word: impl Fn([Chunk; 2], u32) -> u32) -> u32 {
    let [first, second, ..] = chunks[0].to_le_bytes();
    let (flags, next) = (classes.ascii(first), classes.ascii(second));
    if flags & LETTER != 0 {
        word(chunks, 0)
    } else if first < 0x80 && flags & (NUMBER | NEWLINE) == 0 && next & LETTER != 0 {
        word(chunks, 1)
    } else if flags & SPACE != 0 && (next & SPACE != 0 || flags & NEWLINE != 0) {
        ascii::long_white_space(chunks)
    } else {
        ascii::UNSURE_OF_TWO
    }
}

/// End of the longest run, from `at`, of characters that have any of `flags`.
#[inline(always)]
fn run_end(classes: &Classes, text: &[u8], mut at: usize, flags: u8) -> usize {
    while at < text.len() {
        let (here, bytes) = classes.at(text, at);
        if here & flags == 0 {
            break;
        }
        at += bytes;
    }
    at
}

/// `\p{N}{1,3}`, the first of which ends at `at`.
#[inline]
fn digits_end(classes: &Classes, text: &[u8], mut at: usize) -> usize {
    for _ in 0..2 {
        if at == text.len() {
            break;
        }
        let (flags, bytes) = classes.at(text, at);
        if flags & NUMBER == 0 {
            break;
        }
        at += bytes;
    }
    at
}

/// ` ?[^\s\p{L}\p{N}]+`
#[inline]
fn symbols_end(classes: &Classes, text: &[u8], at: usize) -> Option<usize> {
    let start = at + usize::from(text[at] == b' ');
    let mut end = start;
    while end < text.len() {
        let (flags, bytes) = classes.at(text, end);
        if flags & (SPACE | LETTER | NUMBER) != 0 {
            break;
        }
        end += bytes;
    }
    (end > start).then_some(end)
}

/// `[\r\n]*`
#[inline]
fn newlines_end(text: &[u8], mut at: usize) -> usize {
    while at < text.len() && matches!(text[at], b'\r' | b'\n') {
        at += 1;
    }
    at
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)?` at `at`; returns `at` when there is none.
///
/// Case folding is Unicode's: the long s, U+017F, folds to `s`. No other character outside ASCII folds to one
/// of these letters.
#[inline]
fn contraction_end(text: &[u8], at: usize) -> usize {
    if at + 1 >= text.len() || text[at] != b'\'' {
        return at;
    }
    let second = text.get(at + 2).map_or(0, u8::to_ascii_lowercase);
    match (text[at + 1].to_ascii_lowercase(), second) {
        (b's' | b't' | b'm' | b'd', _) => at + 2,
        (b'l', b'l') | (b'r' | b'v', b'e') | (0xC5, 0xBF) => at + 3,
        _ => at,
    }
}

/// A run of head characters and what follows: the two cased-word alternatives share this scan.
struct Word {
    /// End of the head run.
    head: usize,
    /// End of the last character of the head run that is in the tail class too; 0 for none.
    both: usize,
    /// End of the tail run after the head run.
    tail: usize,
}

impl Word {
    #[inline(always)]
    fn scan(classes: &Classes, text: &[u8], at: usize) -> Self {
        let (mut head, mut both) = (at, 0);
        while head < text.len() {
            let (flags, bytes) = classes.at(text, head);
            if flags & HEAD == 0 {
                break;
            }
            head += bytes;
            if flags & TAIL != 0 {
                both = head;
            }
        }
        Self { head, both, tail: run_end(classes, text, head, TAIL) }
    }

    /// End of `head* tail+`. When no tail follows the whole head run, the engine gives head characters
    /// back until one of them can be the tail.
    #[inline(always)]
    fn cased_end(&self) -> Option<usize> {
        if self.tail > self.head { Some(self.tail) } else { (self.both > 0).then_some(self.both) }
    }
}

/// A run of white space.
struct Whitespace {
    end: usize,
    at_text_end: bool,
    /// End of the last newline of the run; 0 for none.
    newline_end: usize,
    last_start: usize,
    start: usize,
}

impl Whitespace {
    #[inline]
    fn scan(classes: &Classes, text: &[u8], start: usize) -> Self {
        let (mut end, mut last_start, mut newline_end) = (start, start, 0);
        while end < text.len() {
            // Indentation: eight spaces at a time.
            while text[end..].first_chunk() == Some(b"        ") {
                end += 8;
                last_start = end - 1;
            }
            if end == text.len() {
                break;
            }
            let (flags, bytes) = classes.at(text, end);
            if flags & SPACE == 0 {
                break;
            }
            last_start = end;
            end += bytes;
            if flags & NEWLINE != 0 {
                newline_end = end;
            }
        }
        Self { end, at_text_end: end == text.len(), newline_end, last_start, start }
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+`: up to the last newline, else all at the text's end, else all but the last.
    #[inline]
    fn piece_end(&self) -> usize {
        if self.newline_end > 0 {
            self.newline_end
        } else if self.at_text_end || self.last_start == self.start {
            self.end
        } else {
            self.last_start
        }
    }
}
