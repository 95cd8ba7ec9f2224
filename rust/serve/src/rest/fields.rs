//! Owns: a request's JSON read field by field, with bounds on depth, keys and duplicates.
//! Must not know: which fields there are.
//! On failure: closed; a text that is not JSON, or a field of another type, is refused with its place.

use std::collections::HashSet;
use std::ops::Range;

use jiter::{Jiter, JiterError, Peek};

use super::fault::Fault;

/// More keys in one object are no request.
const MAX_KEYS: usize = 4096;

/// A position in a JSON text. Values that nobody reads are only checked, by a parser with its own bound on depth.
pub(super) struct Fields<'a> {
    jiter: Jiter<'a>,
}

/// A number as a parameter has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Signed(i64),
    Unsigned(u64),
    Float(f64),
}

// === impl Fields ===

impl<'a> Fields<'a> {
    pub(super) fn of(text: &'a [u8]) -> Self {
        // As Triton does: its clients write NaN and Infinity as Python does.
        Self { jiter: Jiter::new(text).with_allow_inf_nan() }
    }

    /// Calls `each` for every key, which reads or skips the value. `path` names the object in messages.
    pub(super) fn object(
        &mut self,
        path: &str,
        mut each: impl FnMut(&mut Self, &str) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.expect(path, Peek::Object, "an object")?;
        let mut seen: HashSet<String> = HashSet::new();
        let mut key = self.jiter.known_object().map_err(syntax)?.map(str::to_owned);
        while let Some(name) = key {
            each(self, &name)?;
            if seen.len() == MAX_KEYS {
                return Err(Fault::unreadable(format!("{path} has more than {MAX_KEYS} keys")));
            }
            if let Some(twice) = seen.replace(name) {
                return Err(Fault::unreadable(format!(
                    "the key `{twice}` occurs twice in {path}; send it once"
                )));
            }
            key = self.jiter.next_key().map_err(syntax)?.map(str::to_owned);
        }
        Ok(())
    }

    /// Calls `each` for every item, which reads it.
    pub(super) fn array(
        &mut self,
        path: &str,
        mut each: impl FnMut(&mut Self, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.expect(path, Peek::Array, "an array")?;
        let mut item = self.jiter.known_array().map_err(syntax)?;
        let mut at = 0;
        while item.is_some() {
            each(self, at)?;
            at += 1;
            item = self.jiter.array_step().map_err(syntax)?;
        }
        Ok(())
    }

    /// A string.
    pub(super) fn string(&mut self, path: &str) -> Result<String, Fault> {
        self.expect(path, Peek::String, "a string")?;
        self.jiter.known_str().map(str::to_owned).map_err(syntax)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, path: &str) -> Result<bool, Fault> {
        let peek = self.peek()?;
        if !matches!(peek, Peek::True | Peek::False) {
            return Err(wrong(path, "`true` or `false`", peek));
        }
        self.jiter.known_bool(peek).map_err(syntax)
    }

    /// A whole number that is not negative.
    pub(super) fn count(&mut self, path: &str) -> Result<u64, Fault> {
        let refused = |text: &str| {
            Fault::unreadable(format!("{path} must be a whole number that is not negative, not {text}"))
        };
        let peek = self.peek()?;
        if !is_number(peek) {
            return Err(refused(kind(peek)));
        }
        let text = self.number_text(peek)?;
        text.parse().map_err(|_| refused(&excerpt(text)))
    }

    /// A number of any form.
    pub(super) fn number(&mut self, path: &str) -> Result<Number, Fault> {
        let peek = self.peek()?;
        if !is_number(peek) {
            return Err(wrong(path, "a number", peek));
        }
        let text = self.number_text(peek)?;
        if let Ok(whole) = text.parse() {
            return Ok(Number::Signed(whole));
        }
        if let Ok(whole) = text.parse() {
            return Ok(Number::Unsigned(whole));
        }
        let refused = || Fault::unreadable(format!("{path} is {}, which is too large", excerpt(text)));
        text.parse().ok().filter(|number: &f64| number.is_finite()).map(Number::Float).ok_or_else(refused)
    }

    /// Checks one value and leaves it unread: where its text stands.
    pub(super) fn skip(&mut self) -> Result<Range<usize>, Fault> {
        let peek = self.peek()?;
        let start = self.jiter.current_index();
        self.jiter.known_skip(peek).map_err(syntax)?;
        Ok(start..self.jiter.current_index())
    }

    /// What comes next.
    pub(super) fn peek(&mut self) -> Result<Peek, Fault> {
        self.jiter.peek().map_err(syntax)
    }

    /// Proves that nothing follows.
    pub(super) fn finish(mut self) -> Result<(), Fault> {
        self.jiter.finish().map_err(syntax)
    }

    fn expect(&mut self, path: &str, wanted: Peek, words: &str) -> Result<(), Fault> {
        let peek = self.peek()?;
        if peek == wanted { Ok(()) } else { Err(wrong(path, words, peek)) }
    }

    fn number_text(&mut self, peek: Peek) -> Result<&str, Fault> {
        number_text(&mut self.jiter, peek)
    }
}

/// The text of the number that `jiter` stands before; ASCII by its form.
pub(super) fn number_text<'j>(jiter: &'j mut Jiter<'_>, peek: Peek) -> Result<&'j str, Fault> {
    let text = jiter.known_number_bytes(peek).map_err(syntax)?;
    std::str::from_utf8(text).map_err(|_| Fault::unreadable("a number is not ASCII"))
}

/// Whether a number begins here.
pub(super) fn is_number(peek: Peek) -> bool {
    peek.is_num() || matches!(peek, Peek::Minus | Peek::Infinity | Peek::NaN)
}

/// Not JSON.
#[allow(clippy::needless_pass_by_value)] // the shape of `map_err`
pub(super) fn syntax(error: JiterError) -> Fault {
    Fault::unreadable(format!("the request is not JSON: {} at byte {}", error.error_type, error.index))
}

/// The JSON name of what begins here.
pub(super) fn kind(peek: Peek) -> &'static str {
    match peek {
        Peek::Null => "null",
        Peek::True | Peek::False => "a boolean",
        Peek::String => "a string",
        Peek::Array => "an array",
        Peek::Object => "an object",
        peek if is_number(peek) => "a number",
        _ => "no JSON value",
    }
}

/// The beginning of a text for a message.
pub(super) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 40;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

fn wrong(path: &str, wanted: &str, peek: Peek) -> Fault {
    Fault::unreadable(format!("{path} must be {wanted}, not {}", kind(peek)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fmt::Write as _;

    use super::*;

    fn message(text: &str, read: impl Fn(&mut Fields<'_>) -> Result<(), Fault>) -> String {
        let mut fields = Fields::of(text.as_bytes());
        read(&mut fields).and_then(|()| fields.finish()).unwrap_err().failure.message
    }

    fn skipped(fields: &mut Fields<'_>) -> Result<(), Fault> {
        fields.object("the request", |fields, _| fields.skip().map(|_| ()))
    }

    #[test]
    fn numbers_keep_their_form() {
        let number =
            |text: &str| Fields::of(text.as_bytes()).number("`p`").map_err(|fault| fault.failure.message);
        assert_eq!(number("-3"), Ok(Number::Signed(-3)));
        assert_eq!(number("18446744073709551615"), Ok(Number::Unsigned(u64::MAX)));
        assert_eq!(number("1.5"), Ok(Number::Float(1.5)));
        assert_eq!(number("1e999"), Err("`p` is 1e999, which is too large".to_owned()));
        assert!(number("NaN").is_err());
    }

    #[test]
    fn refusals_name_the_field_and_what_came() {
        assert_eq!(message("[]", skipped), "the request must be an object, not an array");
        assert_eq!(
            message("5", |fields| fields.string("`id`").map(|_| ())),
            "`id` must be a string, not a number"
        );
        assert_eq!(
            message("-1", |fields| fields.count("`n`").map(|_| ())),
            "`n` must be a whole number that is not negative, not -1"
        );
        assert_eq!(
            message(r#"{"a":1,"\u0061":2}"#, skipped),
            "the key `a` occurs twice in the request; send it once"
        );
        assert!(message("{\"a\":1", skipped).starts_with("the request is not JSON: "));
        assert!(message("{\"a\":1} 2", skipped).starts_with("the request is not JSON: "));
    }

    #[test]
    fn depth_and_keys_are_bounded() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(message(&deep, skipped).starts_with("the request is not JSON: "));
        let mut wide = "{\"k\":0".to_owned();
        for key in 0..MAX_KEYS {
            let _ = write!(wide, ",\"k{key}\":0");
        }
        wide.push('}');
        assert_eq!(message(&wide, skipped), "the request has more than 4096 keys");
    }
}
