//! Owns: the model's text on its way: pieces of bytes in, whole characters out, each once.
//! Must not know: messages, chunks.
//! On failure: bytes that are no UTF-8 become U+FFFD; a text that is told anew from its start and differs is an error.

use forebay_core::policy::pb::generation_tensors::Text;

const REPLACEMENT: char = '\u{FFFD}';

/// What is known of a text so far, and what of it was handed on.
#[derive(Debug)]
pub(super) enum Pieces {
    /// Each piece is new; `held` is a character that has not all come
    Delta { held: Vec<u8> },
    /// Each piece is the whole text so far; `told` of it was handed on
    Cumulative { latest: String, told: String },
}

// === impl Pieces ===

impl Pieces {
    pub(super) fn of(text: Text) -> Self {
        match text {
            Text::Cumulative => Self::Cumulative { latest: String::new(), told: String::new() },
            Text::Delta | Text::Unspecified => Self::Delta { held: Vec::new() },
        }
    }

    /// Takes a piece; gives what is new and whole.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<String, String> {
        match self {
            Self::Delta { held } => {
                held.extend_from_slice(piece);
                let whole = whole_bytes(held);
                let text = String::from_utf8_lossy(&held[..whole]).into_owned();
                held.drain(..whole);
                Ok(text)
            }
            Self::Cumulative { latest, told } => {
                *latest = String::from_utf8_lossy(&piece[..whole_bytes(piece)]).into_owned();
                // Models show a character that is not complete as a replacement, and put it right later.
                let shown = latest.trim_end_matches(REPLACEMENT);
                if told.starts_with(shown) {
                    return Ok(String::new());
                }
                let Some(new) = shown.strip_prefix(told.as_str()) else {
                    return Err(
                        "its text is not what it was before; each answer must repeat all so far".to_owned()
                    );
                };
                let new = new.to_owned();
                told.push_str(&new);
                Ok(new)
            }
        }
    }

    /// What was held back, since nothing comes any more.
    pub(super) fn finish(&mut self) -> String {
        match self {
            Self::Delta { held } => String::from_utf8_lossy(&std::mem::take(held)).into_owned(),
            Self::Cumulative { latest, told } => {
                latest.strip_prefix(told.as_str()).unwrap_or_default().to_owned()
            }
        }
    }
}

/// Length without a last character whose bytes have not all come.
fn whole_bytes(bytes: &[u8]) -> usize {
    let mut from = 0;
    loop {
        match std::str::from_utf8(&bytes[from..]) {
            Ok(_) => return bytes.len(),
            Err(error) => {
                let valid = from + error.valid_up_to();
                match error.error_len() {
                    None => return valid,
                    Some(wrong) => from = valid + wrong,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn delta(pieces: &[&[u8]]) -> Vec<String> {
        let mut text = Pieces::of(Text::Delta);
        let mut told: Vec<String> = pieces.iter().map(|piece| text.push(piece).unwrap()).collect();
        told.push(text.finish());
        told
    }

    #[test]
    fn a_character_is_held_until_it_is_whole() {
        assert_eq!(delta(&[b"a\xe2", b"\x82", b"\xac b"]), ["a", "", "\u{20ac} b", ""]);
        assert_eq!(delta(&[b"a\xe2\x82"]), ["a", "\u{fffd}"]);
        assert_eq!(delta(&[b"\xff", b"x"]), ["\u{fffd}", "x", ""]);
    }

    #[test]
    fn a_text_that_repeats_itself_is_told_once() {
        let mut text = Pieces::of(Text::Cumulative);
        let told: Vec<String> = ["a", "a b", "a b\u{fffd}", "a b\u{20ac}", "a b\u{20ac}", ""]
            .map(|all| text.push(all.as_bytes()).unwrap())
            .into();
        assert_eq!(told, ["a", " b", "", "\u{20ac}", "", ""]);
        assert!(text.push(b"b").is_err());
        let mut text = Pieces::of(Text::Cumulative);
        assert_eq!(
            (text.push("x\u{fffd}".as_bytes()).unwrap(), text.finish()),
            ("x".to_owned(), "\u{fffd}".to_owned())
        );
    }

    proptest! {
        /// However the bytes are split, the client reads what it would read of all at once.
        #[test]
        fn splits_change_nothing(
            bytes in prop_oneof![
                any::<String>().prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..40),
            ],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            ends.push(bytes.len());
            ends.sort_unstable();
            let mut text = Pieces::of(Text::Delta);
            let (mut told, mut from) = (String::new(), 0);
            for end in ends {
                told.push_str(&text.push(&bytes[from..end]).unwrap());
                from = end;
            }
            told.push_str(&text.finish());
            prop_assert_eq!(told, String::from_utf8_lossy(&bytes).into_owned());
        }

        #[test]
        fn a_growing_text_is_told_once(whole in any::<String>(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            ends.push(whole.len());
            ends.sort_unstable();
            let mut text = Pieces::of(Text::Cumulative);
            let mut told = String::new();
            for end in ends {
                told.push_str(&text.push(&whole.as_bytes()[..end]).unwrap());
            }
            told.push_str(&text.finish());
            prop_assert_eq!(told, whole);
        }
    }
}
