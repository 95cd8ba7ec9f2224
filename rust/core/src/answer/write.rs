//! Owns writing JSON text: strings escaped, parsed values as they were, objects field by field.
//! Must not know any protocol.
//! On failure: nothing here fails; memory is bounded by who reads.

use crate::json::Json;

/// An object that is being written at the end of a string.
pub(super) struct Object<'a> {
    out: &'a mut String,
    first: bool,
}

// === impl Object ===

impl<'a> Object<'a> {
    /// Opens an object.
    pub(super) fn open(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, first: true }
    }

    /// Begins a field; what is written next into the string is its value.
    pub(super) fn key(&mut self, key: &str) -> &mut String {
        if !std::mem::take(&mut self.first) {
            self.out.push(',');
        }
        text(self.out, key);
        self.out.push(':');
        self.out
    }

    /// A field whose value is JSON text already.
    pub(super) fn raw(&mut self, key: &str, value: &str) {
        self.key(key).push_str(value);
    }

    /// A field whose value is a string.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        text(self.key(key), value);
    }

    /// A field whose value is a parsed one.
    pub(super) fn json(&mut self, key: &str, value: &Json<'_>) {
        json(self.key(key), value);
    }

    /// Closes the object.
    pub(super) fn close(self) {
        self.out.push('}');
    }
}

/// Writes `items` between brackets.
pub(super) fn array<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut String, T),
) {
    out.push('[');
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

/// Writes a string with the escapes that RFC 8259, section 7, demands and no other.
pub(super) fn text(out: &mut String, value: &str) {
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in value.bytes().enumerate() {
        let short = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1F => "",
            _ => continue,
        };
        out.push_str(&value[plain_from..at]);
        plain_from = at + 1;
        if short.is_empty() {
            const HEX: [char; 16] =
                ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
            out.push_str("\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        } else {
            out.push_str(short);
        }
    }
    out.push_str(&value[plain_from..]);
    out.push('"');
}

/// Writes a parsed value; numbers keep the text that they had.
pub(super) fn json(out: &mut String, value: &Json<'_>) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(true) => out.push_str("true"),
        Json::Bool(false) => out.push_str("false"),
        Json::Number(number) => out.push_str(number),
        Json::String(value) => text(out, value),
        Json::Array(items) => array(out, items, json),
        Json::Object(pairs) => {
            let mut object = Object::open(out);
            for (key, value) in pairs {
                object.json(key, value);
            }
            object.close();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::json::{Bounds, Document};
    use proptest::prelude::*;

    #[test]
    fn values_keep_their_text() {
        let body =
            r#"{"a":[1.0,1e5,-0,9007199254740993],"b":{"c":null,"d":[true,false]},"e":"x\"\\\n\u0001/é"}"#;
        let document = Document::parse(body.as_bytes(), Bounds::default()).unwrap();
        let mut out = String::new();
        let mut object = Object::open(&mut out);
        for field in &document.fields {
            object.json(&field.key, &field.value);
        }
        object.close();
        assert_eq!(out, body);
    }

    proptest! {
        #[test]
        fn any_string_survives(value in any::<String>()) {
            let mut out = String::new();
            let mut object = Object::open(&mut out);
            object.text("v", &value);
            object.close();
            prop_assert!(!out.contains(['\n', '\r']));
            let document = Document::parse(out.as_bytes(), Bounds::default()).unwrap();
            prop_assert_eq!(document.get("v").unwrap().as_str(), Some(value.as_str()));
        }
    }
}
