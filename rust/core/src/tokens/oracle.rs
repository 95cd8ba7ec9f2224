//! Owns: the definition of an encoding, for tests: the published pattern in a regex engine, then merges of the
//! lowest rank first, and the properties that the fast counter must share with it.
//! Must not know: how the fast counter works.
//! On failure: a test fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::sync::LazyLock;

use fancy_regex::Regex;
use proptest::prelude::*;

use super::encoding::Encoding;

struct Oracle {
    pattern: Regex,
    ranks: HashMap<&'static [u8], u32>,
}

const O200K_PATTERN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const CL100K_PATTERN: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|",
    r" ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
);

static O200K: LazyLock<Oracle> = LazyLock::new(|| Oracle::new(Encoding::O200kBase, O200K_PATTERN));
static CL100K: LazyLock<Oracle> = LazyLock::new(|| Oracle::new(Encoding::Cl100kBase, CL100K_PATTERN));

// === impl Oracle ===

impl Oracle {
    fn new(encoding: Encoding, pattern: &str) -> Self {
        Self { pattern: Regex::new(pattern).unwrap(), ranks: encoding.ranks().into_iter().collect() }
    }

    fn of(encoding: Encoding) -> &'static Self {
        match encoding {
            Encoding::O200kBase => &O200K,
            Encoding::Cl100kBase => &CL100K,
        }
    }

    fn count(&self, text: &str) -> u64 {
        self.pattern.find_iter(text).map(|piece| self.count_piece(piece.unwrap().as_str().as_bytes())).sum()
    }

    fn count_piece(&self, piece: &[u8]) -> u64 {
        self.ids_of_piece(piece).len() as u64
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        let pieces = self.pattern.find_iter(text);
        pieces.flat_map(|piece| self.ids_of_piece(piece.unwrap().as_str().as_bytes())).collect()
    }

    fn ids_of_piece(&self, piece: &[u8]) -> Vec<u32> {
        if let Some(rank) = self.ranks.get(piece) {
            return vec![*rank];
        }
        let mut borders: Vec<usize> = (0..=piece.len()).collect();
        loop {
            let rank = |index: usize| self.ranks.get(&piece[borders[index]..borders[index + 2]]);
            let lowest = (0..borders.len() - 2).filter_map(|index| Some((*rank(index)?, index))).min();
            let Some((_, index)) = lowest else {
                return borders.windows(2).map(|ends| self.ranks[&piece[ends[0]..ends[1]]]).collect();
            };
            borders.remove(index + 1);
        }
    }
}

fn check(text: &str) {
    for encoding in Encoding::ALL {
        let expected = Oracle::of(encoding).count(text);
        assert_eq!(encoding.count(text), expected, "{} of {text:?}", encoding.name());
        assert_eq!(encoding.ids(text), Oracle::of(encoding).ids(text), "{} of {text:?}", encoding.name());
        for limit in [0, 1, expected / 2, expected.saturating_sub(1), expected, expected + 1] {
            let within = (expected <= limit).then_some(expected);
            assert_eq!(encoding.count_up_to(text, limit), within, "{} of {text:?}", encoding.name());
        }
    }
}

/// Every alternative of both patterns, and what may follow it.
const BITS: &[&str] = &[
    "'s",
    "'S",
    "'ll",
    "'LL",
    "'Ve",
    "'rE",
    "'d",
    "'x",
    "'\u{17F}",
    "'",
    "\u{17F}",
    " ",
    "  ",
    "        ",
    "\n",
    "\r\n",
    "\t",
    "\u{b}",
    "\u{3000}",
    "\u{85}",
    "\u{a0}",
    "中",
    "中文字",
    "A",
    "Ab",
    "aB",
    "ABC",
    "word",
    "Words",
    "a",
    "é",
    "É",
    "e\u{301}",
    "\u{301}",
    "ʰ",
    "ǅ",
    "1",
    "12",
    "1234",
    "1234567890",
    "²",
    "Ⅷ",
    "٣",
    "!",
    "...",
    "/",
    "//",
    "\n/",
    "#include <",
    "🦀",
    "👨\u{200d}👩\u{200d}👧",
    "\u{200d}",
    "\u{200b}",
    "한국어",
    "العربية",
    "हिन्दी",
    "ไทย",
    "русский",
    "Ελληνικά",
    "<|endoftext|>",
    "\0",
    "\u{1c}",
    "İ",
    "ı",
    "ß",
    "K",
    "\u{10FFFF}",
    "internationalization",
    "antidisestablishmentarianism",
    "snake_case_name",
    "camelCaseName",
    "https://",
];

fn bits() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(BITS), 0..24).prop_map(|bits| bits.concat())
}

fn of(alphabet: &'static str, most: usize) -> impl Strategy<Value = String> {
    let characters: Vec<char> = alphabet.chars().collect();
    prop::collection::vec(prop::sample::select(characters), 0..most).prop_map(String::from_iter)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn agrees_on_pieces_of_every_alternative(text in bits()) {
        check(&text);
    }

    #[test]
    fn agrees_on_printable_ascii(text in "[ -~\\n]{0,60}") {
        check(&text);
    }

    #[test]
    fn agrees_on_any_text(text in "\\PC{0,30}") {
        check(&text);
    }

    #[test]
    fn agrees_on_any_characters(text in prop::collection::vec(any::<char>(), 0..30)) {
        check(&String::from_iter(text));
    }

    #[test]
    fn agrees_where_alternatives_compete(text in of("aA \n\r\t'1!/中\u{301}ʰ", 30)) {
        check(&text);
    }

    /// Few letters give deep merges and many positions that must be given up.
    #[test]
    fn agrees_on_words_that_merge_deeply(text in of("aabbcde", 80)) {
        check(&text);
    }

    #[test]
    fn agrees_on_random_words(text in of("abcdefghijklmnopqrstuvwxyz", 40)) {
        check(&text);
    }

    /// The eight-byte fast path ends at every offset of its chunk, and at the text's end.
    #[test]
    fn agrees_at_every_offset(text in bits(), spaces in 0_usize..10) {
        check(&format!("{text}{}", " ".repeat(spaces)));
        check(&format!("{}{text}", "x".repeat(spaces)));
    }
}

#[test]
fn agrees_on_runs_of_every_length() {
    for unit in ["a", " ", "A", "中", "1", "!", "\n", "é", "=", "-", "ab", " a", "\u{301}"] {
        for length in (0..40).chain([63, 64, 65, 127, 128, 129, 200]) {
            check(&unit.repeat(length));
            check(&format!("{}x", unit.repeat(length)));
        }
    }
}

/// A sample of all code points, in the places where their class decides; the comparison with `tiktoken` in
/// `bench/seam` takes all of them.
#[test]
fn agrees_on_characters_of_every_block() {
    for character in ('\0'..=char::MAX).step_by(97) {
        check(&format!("{character}a{character}B {character}'s{character}{character} 1{character}"));
    }
}

#[test]
fn every_token_that_merging_reaches_is_one_token() {
    for encoding in Encoding::ALL {
        for (token, _) in encoding.ranks().into_iter().step_by(7) {
            let Ok(text) = str::from_utf8(token) else { continue };
            assert_eq!(encoding.count(text), Oracle::of(encoding).count(text), "{text:?}");
        }
    }
}

#[test]
fn megabytes_of_one_character_are_counted() {
    for (text, tokens) in [
        ("a".repeat(1_000_000), [125_000, 125_000]),
        (" ".repeat(1_000_000), [7813, 7813]),
        ("中".repeat(333_333), [333_333, 333_333]),
    ] {
        for (encoding, tokens) in Encoding::ALL.into_iter().zip(tokens) {
            assert_eq!(encoding.count(&text), tokens);
            assert_eq!(encoding.count_up_to(&text, 1000), None);
        }
    }
}
