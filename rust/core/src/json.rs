//! Owns: one pass over a JSON text into a borrowed tree, with bounds on depth, values and duplicate keys.
//! Must not know: what the document means.
//! On failure: closed; a text that is not exactly one valid, bounded object yields an error and no tree.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use jiter::{Jiter, JiterError, Peek};

/// Objects with more keys than this are checked for duplicates with a set, smaller ones by comparison.
const COMPARED_KEYS: usize = 16;

/// A parsed JSON value that borrows from its text. Numbers keep their source text, so that nothing is merged.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// The number as it was written
    Number(&'a str),
    /// A string, unescaped; borrowed when it had no escape
    String(Cow<'a, str>),
    /// An array
    Array(Vec<Json<'a>>),
    /// An object in source order, without duplicate keys
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// What a document may cost before it is refused.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Deepest nesting of arrays and objects; the document's own object is 1
    pub depth: usize,
    /// Most values (of any type) in the whole document
    pub values: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { depth: 64, values: 1 << 20 }
    }
}

/// A top-level object: its fields, each with the byte range of its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Document<'a> {
    /// The text that was parsed
    pub text: &'a str,
    /// Fields in source order
    pub fields: Vec<Field<'a>>,
    /// Offset just after the opening brace, where a new field can be inserted
    pub open: usize,
}

/// One field of the top-level object.
#[derive(Debug, Clone, PartialEq)]
pub struct Field<'a> {
    /// The field's name
    pub key: Cow<'a, str>,
    /// Its value
    pub value: Json<'a>,
    /// Where the value's text stands
    pub span: Range<usize>,
}

/// Why a text was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonError {
    /// Not UTF-8; the offset of the first bad byte
    Utf8(usize),
    /// Not JSON; what the parser says, and where
    Syntax {
        /// The parser's own words
        message: String,
        /// Byte offset
        at: usize,
    },
    /// Valid JSON, but no object
    NotAnObject,
    /// Nested deeper than the bound
    TooDeep(usize),
    /// More values than the bound
    TooManyValues(usize),
    /// The same key twice in one object
    DuplicateKey(String),
}

// === impl JsonError ===

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Utf8(at) => write!(f, "the body is not UTF-8: byte {at} starts no character"),
            Self::Syntax { message, at } => write!(f, "the body is not JSON: {message} at byte {at}"),
            Self::NotAnObject => f.write_str("the body must be a JSON object"),
            Self::TooDeep(depth) => write!(f, "the body is nested deeper than {depth} levels"),
            Self::TooManyValues(values) => write!(f, "the body holds more than {values} JSON values"),
            Self::DuplicateKey(key) => write!(f, "the key `{key}` occurs twice in one object; send it once"),
        }
    }
}

impl std::error::Error for JsonError {}

impl From<JiterError> for JsonError {
    fn from(error: JiterError) -> Self {
        Self::Syntax { message: error.error_type.to_string(), at: error.index }
    }
}

// === impl Json ===

impl<'a> Json<'a> {
    /// The value under `key`, if this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Json<'a>> {
        self.as_object()?.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(s) = self { Some(s) } else { None }
    }

    /// The items, if this is an array.
    pub fn as_array(&self) -> Option<&[Json<'a>]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    /// The pairs, if this is an object.
    pub fn as_object(&self) -> Option<&[(Cow<'a, str>, Json<'a>)]> {
        if let Self::Object(pairs) = self { Some(pairs) } else { None }
    }

    /// The value, if this is `true` or `false`.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = self { Some(*b) } else { None }
    }

    /// The value, if this is a whole number that `u64` holds and that was written without fraction or exponent.
    pub fn as_u64(&self) -> Option<u64> {
        if let Self::Number(n) = self { n.parse().ok() } else { None }
    }

    /// The value as the nearest `f64`, if this is a number.
    pub fn as_f64(&self) -> Option<f64> {
        if let Self::Number(n) = self { n.parse().ok() } else { None }
    }

    /// Whether this is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The JSON name of this value's type, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }
}

// === impl Document ===

impl<'a> Document<'a> {
    /// Parses `bytes` as exactly one object.
    pub fn parse(bytes: &'a [u8], bounds: Bounds) -> Result<Self, JsonError> {
        let text = std::str::from_utf8(bytes).map_err(|e| JsonError::Utf8(e.valid_up_to()))?;
        let mut reader = Reader { text, jiter: Jiter::new(bytes), bounds, values: 0 };
        if reader.jiter.peek()? != Peek::Object {
            // The rest is still parsed, so that broken JSON is called broken and not "no object".
            let peek = reader.jiter.peek()?;
            reader.value(peek, 1)?;
            reader.jiter.finish()?;
            return Err(JsonError::NotAnObject);
        }
        let mut fields: Vec<Field<'a>> = Vec::with_capacity(8);
        let mut key = reader.key(Step::First)?;
        while let Some(name) = key {
            if fields.iter().any(|f| f.key == name) {
                return Err(JsonError::DuplicateKey(name.into_owned()));
            }
            let peek = reader.jiter.peek()?;
            let start = reader.jiter.current_index();
            let value = reader.value(peek, 2)?;
            fields.push(Field { key: name, value, span: start..reader.jiter.current_index() });
            if fields.len() > COMPARED_KEYS * COMPARED_KEYS {
                return Err(JsonError::TooManyValues(COMPARED_KEYS * COMPARED_KEYS));
            }
            key = reader.key(Step::Next)?;
        }
        reader.jiter.finish()?;
        let open = text.find('{').map_or(0, |at| at + 1);
        Ok(Self { text, fields, open })
    }

    /// The field named `key`.
    pub fn field(&self, key: &str) -> Option<&Field<'a>> {
        self.fields.iter().find(|f| f.key == key)
    }

    /// The value named `key`, a missing field and an explicit `null` being the same.
    pub fn get(&self, key: &str) -> Option<&Json<'a>> {
        self.field(key).map(|f| &f.value).filter(|v| !v.is_null())
    }
}

/// Which key of an object is asked for.
#[derive(Clone, Copy)]
enum Step {
    First,
    Next,
}

struct Reader<'a> {
    text: &'a str,
    jiter: Jiter<'a>,
    bounds: Bounds,
    values: usize,
}

impl<'a> Reader<'a> {
    fn key(&mut self, step: Step) -> Result<Option<Cow<'a, str>>, JsonError> {
        let key = match step {
            Step::First => self.jiter.known_object()?,
            Step::Next => self.jiter.next_key()?,
        };
        Ok(key.map(|k| borrow(self.text, k)))
    }

    fn value(&mut self, peek: Peek, depth: usize) -> Result<Json<'a>, JsonError> {
        self.values += 1;
        if self.values > self.bounds.values {
            return Err(JsonError::TooManyValues(self.bounds.values));
        }
        Ok(match peek {
            Peek::Null => {
                self.jiter.known_null()?;
                Json::Null
            }
            Peek::True | Peek::False => Json::Bool(self.jiter.known_bool(peek)?),
            Peek::String => Json::String(borrow(self.text, self.jiter.known_str()?)),
            Peek::Array => {
                self.check_depth(depth)?;
                let mut items = Vec::new();
                let mut next = self.jiter.known_array()?;
                while let Some(peek) = next {
                    items.push(self.value(peek, depth + 1)?);
                    next = self.jiter.array_step()?;
                }
                Json::Array(items)
            }
            Peek::Object => {
                self.check_depth(depth)?;
                self.object(depth)?
            }
            _ => {
                let start = self.jiter.current_index();
                self.jiter.known_number_bytes(peek)?;
                // A number's text is ASCII and lies where the parser stood before and after it.
                Json::Number(self.text.get(start..self.jiter.current_index()).unwrap_or_default())
            }
        })
    }

    fn object(&mut self, depth: usize) -> Result<Json<'a>, JsonError> {
        let mut pairs: Vec<(Cow<'a, str>, Json<'a>)> = Vec::new();
        let mut seen: HashSet<Cow<'a, str>, ahash::RandomState> = HashSet::default();
        let mut key = self.key(Step::First)?;
        while let Some(name) = key {
            let duplicate = if pairs.len() < COMPARED_KEYS {
                pairs.iter().any(|(k, _)| *k == name)
            } else {
                if seen.is_empty() {
                    seen.extend(pairs.iter().map(|(k, _)| k.clone()));
                }
                !seen.insert(name.clone())
            };
            if duplicate {
                return Err(JsonError::DuplicateKey(name.into_owned()));
            }
            let peek = self.jiter.peek()?;
            let value = self.value(peek, depth + 1)?;
            pairs.push((name, value));
            key = self.key(Step::Next)?;
        }
        Ok(Json::Object(pairs))
    }

    fn check_depth(&self, depth: usize) -> Result<(), JsonError> {
        if depth > self.bounds.depth { Err(JsonError::TooDeep(self.bounds.depth)) } else { Ok(()) }
    }
}

/// Borrows `part` from `text` when it lies inside it (it had no escape), and copies it otherwise.
fn borrow<'a>(text: &'a str, part: &str) -> Cow<'a, str> {
    let start = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    match start.checked_add(part.len()).and_then(|end| text.get(start..end)) {
        Some(inside) if std::ptr::eq(inside, part) => Cow::Borrowed(inside),
        _ => Cow::Owned(part.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write as _;

    fn parse(text: &str) -> Result<Document<'_>, JsonError> {
        Document::parse(text.as_bytes(), Bounds::default())
    }

    #[test]
    fn spans_point_at_the_value() {
        let text = r#" { "model" : "a\u0062" , "n": 12, "x":[1, {"y":null}] } "#;
        let doc = parse(text).unwrap();
        let spans: Vec<&str> = doc.fields.iter().map(|f| &text[f.span.clone()]).collect();
        assert_eq!(spans, [r#""a\u0062""#, "12", r#"[1, {"y":null}]"#]);
        assert_eq!(doc.get("model").unwrap().as_str(), Some("ab"));
        assert_eq!(&text[..doc.open], " {");
    }

    #[test]
    fn strings_without_escapes_are_borrowed() {
        let doc = parse(r#"{"a":"plain","b":"esc\n"}"#).unwrap();
        assert!(matches!(doc.get("a"), Some(Json::String(Cow::Borrowed("plain")))));
        assert!(matches!(doc.get("b"), Some(Json::String(Cow::Owned(_)))));
    }

    #[test]
    fn numbers_keep_their_text() {
        let doc = parse(r#"{"a":9007199254740993,"b":1.0,"c":-1e5}"#).unwrap();
        assert_eq!(doc.get("a"), Some(&Json::Number("9007199254740993")));
        assert_eq!(doc.get("b"), Some(&Json::Number("1.0")));
        assert_eq!(doc.get("c"), Some(&Json::Number("-1e5")));
        assert_eq!(doc.get("b").unwrap().as_u64(), None);
    }

    #[test]
    fn refusals_name_the_reason() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(64), "]".repeat(64));
        assert_eq!(parse(&deep), Err(JsonError::TooDeep(64)));
        let fits = format!("{{\"a\":{}1{}}}", "[".repeat(63), "]".repeat(63));
        assert!(parse(&fits).is_ok());
        assert_eq!(parse(r#"{"a":1,"a":2}"#), Err(JsonError::DuplicateKey("a".into())));
        assert_eq!(parse(r#"{"x":{"a":1,"\u0061":2}}"#), Err(JsonError::DuplicateKey("a".into())));
        assert_eq!(parse("[1]"), Err(JsonError::NotAnObject));
        assert!(matches!(parse("[1"), Err(JsonError::Syntax { .. })));
        assert!(matches!(parse(r#"{"a":1} x"#), Err(JsonError::Syntax { .. })));
        assert!(matches!(parse(r#"{"a":"\ud800"}"#), Err(JsonError::Syntax { .. })));
        assert!(matches!(parse(""), Err(JsonError::Syntax { .. })));
        assert_eq!(Document::parse(b"{\"a\":\"\xff\"}", Bounds::default()), Err(JsonError::Utf8(6)));
    }

    #[test]
    fn a_large_object_still_finds_its_duplicate() {
        let mut body = String::from("{\"x\":{");
        for i in 0..100 {
            let _ = write!(body, "\"k{i}\":1,");
        }
        body.push_str("\"k5\":1}}");
        assert_eq!(parse(&body), Err(JsonError::DuplicateKey("k5".into())));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Document::parse(&bytes, Bounds::default());
        }

        #[test]
        fn any_json_like_text_is_parsed_or_refused(text in r#"[\{\}\[\],:"a0-9.eE\\u-]{0,80}"#) {
            let _ = parse(&text);
        }
    }
}
