//! Owns values that arrive in pieces: strings that are joined, lists that are appended to.
//! Must not know which field they are.
//! On failure: a piece of another type is malformed, and the answer is not stored.

use super::reject::NotStorable;
use super::write;
use crate::json::Json;

/// A string in pieces. Absent, null and empty stay apart, since a client can tell them apart.
#[derive(Debug, Default)]
pub(super) struct Text {
    seen: bool,
    value: Option<String>,
}

/// An object of lists in pieces: log probabilities. Kept as JSON text, which is small and keeps every digit.
#[derive(Debug)]
pub(super) struct Lists {
    allowed: &'static [&'static str],
    seen: bool,
    named: Vec<(&'static str, Option<String>)>,
}

// === impl Text ===

impl Text {
    /// Appends a piece; `held` grows by what is now kept.
    pub(super) fn push(&mut self, piece: &Json<'_>, held: &mut usize) -> Result<(), NotStorable> {
        self.seen = true;
        match piece {
            Json::Null => Ok(()),
            Json::String(piece) => {
                self.value.get_or_insert_default().push_str(piece);
                *held += piece.len();
                Ok(())
            }
            _ => Err(NotStorable::Malformed("a text is neither a string nor null")),
        }
    }

    /// Writes the field if it was ever seen.
    pub(super) fn write(&self, key: &str, object: &mut write::Object<'_>) {
        if self.seen {
            self.write_always(key, object);
        }
    }

    /// Writes the field; null if it was never seen.
    pub(super) fn write_always(&self, key: &str, object: &mut write::Object<'_>) {
        match &self.value {
            Some(value) => object.text(key, value),
            None => object.raw(key, "null"),
        }
    }
}

// === impl Lists ===

impl Lists {
    /// Lists under the names `allowed`.
    pub(super) const fn new(allowed: &'static [&'static str]) -> Self {
        Self { allowed, seen: false, named: Vec::new() }
    }

    /// Appends the lists of one piece.
    pub(super) fn push(&mut self, piece: &Json<'_>, held: &mut usize) -> Result<(), NotStorable> {
        self.seen = true;
        let pairs = match piece {
            Json::Null => return Ok(()),
            Json::Object(pairs) => pairs,
            _ => return Err(NotStorable::Malformed("`logprobs` is neither an object nor null")),
        };
        for (key, value) in pairs {
            let Some(name) = self.allowed.iter().find(|name| *name == key) else {
                if value.is_null() {
                    continue;
                }
                return Err(NotStorable::UnknownField(format!("logprobs.{key}")));
            };
            let at = self.named.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                self.named.push((name, None));
                self.named.len() - 1
            });
            let list = &mut self.named[at].1;
            match value {
                Json::Null => {}
                Json::Array(items) => {
                    let list = list.get_or_insert_default();
                    let before = list.len();
                    for item in items {
                        if !list.is_empty() {
                            list.push(',');
                        }
                        write::json(list, item);
                    }
                    *held += list.len() - before;
                }
                _ => return Err(NotStorable::Malformed("a list of `logprobs` is neither an array nor null")),
            }
        }
        Ok(())
    }

    /// Writes the field if it was ever seen.
    pub(super) fn write(&self, key: &str, object: &mut write::Object<'_>) {
        if !self.seen {
            return;
        }
        if self.named.is_empty() {
            object.raw(key, "null");
            return;
        }
        let mut lists = write::Object::open(object.key(key));
        for (name, list) in &self.named {
            match list {
                None => lists.raw(name, "null"),
                Some(items) => {
                    let out = lists.key(name);
                    out.push('[');
                    out.push_str(items);
                    out.push(']');
                }
            }
        }
        lists.close();
    }
}
