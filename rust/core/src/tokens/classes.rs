//! Owns: the Unicode classes that the published split patterns name, one byte of flags per code point.
//! Must not know: the patterns themselves, tokens, encodings.
//! On failure: cannot fail; a class that the Unicode tables lacked would be empty, and a test pins each.

#![expect(clippy::inline_always, reason = "a call per piece or byte costs a third of the speed")]

use regex_syntax::hir::{Class, HirKind};

/// In `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`: may stand in the head of a cased word.
pub(super) const HEAD: u8 = 1;
/// In `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`: may stand in the tail of a cased word.
pub(super) const TAIL: u8 = 2;
/// In `\p{L}`.
pub(super) const LETTER: u8 = 4;
/// In `\p{N}`.
pub(super) const NUMBER: u8 = 8;
/// In `\s`.
pub(super) const SPACE: u8 = 16;
/// `\r` or `\n`; these are in [`SPACE`] too.
pub(super) const NEWLINE: u8 = 32;

/// The code points of one page share an entry of the first level.
const PAGE: usize = 256;
const CODE_POINTS: usize = 0x11_0000;

/// Flags of every code point, in two levels: equal pages are stored once (about 60 KiB in all).
pub(super) struct Classes {
    ascii: [u8; 128],
    page_of: Vec<u16>,
    pages: Vec<[u8; PAGE]>,
}

// === impl Classes ===

impl Classes {
    /// Builds the table from the Unicode data that the `regex` family of crates carries: the published
    /// tokenizers run their patterns on the same data, so both agree about every code point.
    pub(super) fn new() -> Self {
        let mut flags = vec![0_u8; CODE_POINTS];
        for (pattern, bits) in [
            (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", HEAD),
            (r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", TAIL),
            (r"\p{L}", LETTER),
            (r"\p{N}", NUMBER),
            (r"\s", SPACE),
            (r"[\r\n]", NEWLINE),
        ] {
            for (first, last) in ranges(pattern) {
                for flag in &mut flags[first as usize..=last as usize] {
                    *flag |= bits;
                }
            }
        }
        let mut page_of = Vec::with_capacity(CODE_POINTS / PAGE);
        let mut pages: Vec<[u8; PAGE]> = Vec::new();
        for chunk in flags.as_chunks::<PAGE>().0 {
            let known = pages.iter().position(|page| page == chunk);
            page_of.push(known.unwrap_or(pages.len()) as u16);
            if known.is_none() {
                pages.push(*chunk);
            }
        }
        let mut ascii = [0; 128];
        ascii.copy_from_slice(&flags[..128]);
        Self { ascii, page_of, pages }
    }

    /// Flags of the character that starts at `text[at]`, and its length in bytes.
    ///
    /// `text` is valid UTF-8 and `at` a character's first byte; the caller has a `&str`.
    #[inline(always)]
    pub(super) fn at(&self, text: &[u8], at: usize) -> (u8, usize) {
        let first = text[at];
        if first < 0x80 { (self.ascii[first as usize], 1) } else { self.beyond_ascii(text, at, first) }
    }

    /// Flags of an ASCII byte; none for any other byte.
    #[inline(always)]
    pub(super) fn ascii(&self, byte: u8) -> u8 {
        if byte < 0x80 { self.ascii[byte as usize] } else { 0 }
    }

    #[inline]
    fn beyond_ascii(&self, text: &[u8], at: usize, first: u8) -> (u8, usize) {
        // U+5000 to U+8FFF: nothing but Han letters, and most of a Chinese text.
        if matches!(first, 0xE5..=0xE8) {
            return (HEAD | TAIL | LETTER, 3);
        }
        let tail = |offset: usize| u32::from(text[at + offset] & 0x3F);
        let first = u32::from(first);
        let (code_point, bytes) = if first < 0xE0 {
            ((first & 0x1F) << 6 | tail(1), 2)
        } else if first < 0xF0 {
            ((first & 0x0F) << 12 | tail(1) << 6 | tail(2), 3)
        } else {
            ((first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4)
        };
        let page = self.page_of[(code_point as usize / PAGE).min(CODE_POINTS / PAGE - 1)];
        (self.pages[page as usize][code_point as usize % PAGE], bytes)
    }
}

/// First and last code point of every range of a character class.
fn ranges(pattern: &str) -> Vec<(u32, u32)> {
    match regex_syntax::parse(pattern).map(regex_syntax::hir::Hir::into_kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => {
            class.ranges().iter().map(|range| (range.start() as u32, range.end() as u32)).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(character: char) -> u8 {
        let mut bytes = [0; 4];
        let text = character.encode_utf8(&mut bytes);
        let (flags, length) = Classes::new().at(text.as_bytes(), 0);
        assert_eq!(length, character.len_utf8());
        flags
    }

    #[test]
    fn one_character_of_each_class() {
        for (character, expected) in [
            ('A', HEAD | LETTER),
            ('z', TAIL | LETTER),
            ('ǅ', HEAD | LETTER),
            ('ʰ', HEAD | TAIL | LETTER),
            ('中', HEAD | TAIL | LETTER),
            ('\u{301}', HEAD | TAIL),
            ('7', NUMBER),
            ('Ⅷ', NUMBER),
            ('²', NUMBER),
            (' ', SPACE),
            ('\u{3000}', SPACE),
            ('\u{85}', SPACE),
            ('\n', SPACE | NEWLINE),
            ('\r', SPACE | NEWLINE),
            ('!', 0),
            ('🦀', 0),
            ('\u{10FFFF}', 0),
            ('\u{200B}', 0),
        ] {
            assert_eq!(flags(character), expected, "{character:?}");
        }
    }

    #[test]
    fn the_han_range_is_uniform() {
        let classes = Classes::new();
        for page in &classes.page_of[0x50..0x90] {
            assert_eq!(classes.pages[usize::from(*page)], [HEAD | TAIL | LETTER; PAGE]);
        }
        assert_eq!(flags('\u{5000}'), flags('\u{4E00}'));
    }

    #[test]
    fn agrees_with_the_standard_library_where_both_have_the_class() {
        let classes = Classes::new();
        let mut bytes = [0; 4];
        for character in ('\0'..=char::MAX).filter(|character| !character.is_control()) {
            let text = character.encode_utf8(&mut bytes).as_bytes();
            let (flags, _) = classes.at(text, 0);
            assert_eq!(flags & SPACE != 0, character.is_whitespace(), "{character:?}");
        }
    }
}
