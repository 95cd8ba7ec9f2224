//! Owns: what a model's counting depends on, and counting one text or one JSON value by it, through the memo.
//! Must not know: messages, tools, images.
//! On failure: never fails; a value without a rule is estimated upwards.

use std::fmt::Write as _;

use super::count::Count;
use super::image::ImageRule;
use super::memo::Memo;
use super::tokenizer::Tokenizer;
use crate::json::Json;

/// How the requests of one model are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CountRules {
    /// For all text
    pub tokenizer: Tokenizer,
    /// For all images
    pub image: ImageRule,
}

/// Shorter texts are not remembered: for a text that is new, its key and the look-up in vain add a third to
/// the 4 µs that a kilobyte takes to count.
const MEMO_MIN_BYTES: usize = 1024;

/// A JSON value without a rule is counted as text up to here. A larger one (sound, a file) is no prose, and
/// its bytes are the bound.
const OPAQUE_TEXT_BYTES: usize = 64 * 1024;

/// The rules of one count with the memo to use.
#[derive(Clone, Copy)]
pub(super) struct Counter<'r> {
    pub(super) rules: &'r CountRules,
    pub(super) memo: Option<&'r Memo>,
}

// === impl Counter ===

impl Counter<'_> {
    /// Tokens of one text. What is remembered is the count by the base encoding, which exact counts and
    /// estimates share.
    pub(super) fn text(&self, text: &str) -> Count {
        let base = self.rules.tokenizer.base();
        let counted = self.remembered(base.name(), text.as_bytes(), || Count::exact(base.count(text)));
        self.rules.tokenizer.count_from(text, counted.tokens)
    }

    /// The count that `bytes` alone decide within `domain`; counts and remembers when it is not known.
    pub(super) fn remembered(&self, domain: &str, bytes: &[u8], count: impl FnOnce() -> Count) -> Count {
        let Some(memo) = self.memo.filter(|_| bytes.len() >= MEMO_MIN_BYTES) else { return count() };
        let key = memo_key(domain, bytes);
        memo.get(key).unwrap_or_else(|| {
            let count = count();
            memo.put(key, count);
            count
        })
    }

    /// A JSON value that no published rule covers: as its compact text, which is more than a server renders of
    /// it, or, when it is large, by its bytes, of which a token has at least one.
    pub(super) fn opaque(&self, value: &Json<'_>) -> Count {
        let bytes = compact_bytes(value);
        if bytes > OPAQUE_TEXT_BYTES {
            let tokens = bytes as u64 / 4;
            return Count::estimate(tokens, bytes as u64 - tokens);
        }
        let mut text = String::with_capacity(bytes);
        write_compact(value, &mut text);
        Count { exact: false, ..self.rules.tokenizer.count(&text) }
    }
}

/// A key under which nothing but these bytes in this domain lies. The domain, of at most 32 bytes, is BLAKE3's
/// key, so that two domains never share an entry.
fn memo_key(domain: &str, bytes: &[u8]) -> u128 {
    let mut key = [0; 32];
    for (to, from) in key.iter_mut().zip(domain.bytes()) {
        *to = from;
    }
    let hash = blake3::keyed_hash(&key, bytes);
    hash.as_bytes().first_chunk().map_or(0, |half| u128::from_le_bytes(*half))
}

/// Length of the compact JSON text, without the backslashes of escapes.
fn compact_bytes(value: &Json<'_>) -> usize {
    match value {
        Json::Null => 4,
        Json::Bool(_) => 5,
        Json::Number(number) => number.len(),
        Json::String(text) => text.len() + 2,
        Json::Array(items) => 2 + items.iter().map(|item| compact_bytes(item) + 1).sum::<usize>(),
        Json::Object(pairs) => {
            2 + pairs.iter().map(|(name, value)| name.len() + 4 + compact_bytes(value)).sum::<usize>()
        }
    }
}

/// Writes the compact JSON text.
pub(super) fn write_compact(value: &Json<'_>, out: &mut String) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Json::Number(number) => out.push_str(number),
        Json::String(text) => write_string(text, out),
        Json::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_compact(item, out);
            }
            out.push(']');
        }
        Json::Object(pairs) => {
            out.push('{');
            for (index, (name, value)) in pairs.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(name, out);
                out.push(':');
                write_compact(value, out);
            }
            out.push('}');
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let mut plain = 0;
    for (index, byte) in text.bytes().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain..index]);
        plain = index + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            // Writing to a `String` cannot fail.
            _ => drop(write!(out, "\\u{byte:04x}")),
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::json::{Bounds, Document};

    #[test]
    fn the_compact_text_parses_back_to_the_value() {
        let body = r#"{"a":[1,-2.50,true,null,"q\"\\\n\r\t\u0001é\/"],"":{"b":[]},"c":{}}"#;
        let document = Document::parse(body.as_bytes(), Bounds::default()).unwrap();
        for field in &document.fields {
            let mut text = String::new();
            write_compact(&field.value, &mut text);
            let wrapped = format!(r#"{{"x":{text}}}"#);
            let again = Document::parse(wrapped.as_bytes(), Bounds::default()).unwrap();
            assert_eq!(again.get("x"), Some(&field.value), "{text}");
            assert!(compact_bytes(&field.value) + 8 >= text.len());
        }
    }

    #[test]
    fn keys_differ_by_domain_and_by_bytes() {
        let keys = [memo_key("a", b"x"), memo_key("b", b"x"), memo_key("a", b"y"), memo_key("a", b"")];
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(keys.iter().position(|other| other == key), Some(index));
        }
    }
}
