//! Owns: what a body of `/v1/embeddings` asks: its texts or token numbers, and the form of the answer.
//! Must not know: tokenizers, tensors, models.
//! On failure: closed; a field of the wrong type, or one that would be ignored, is refused with its path.

use std::borrow::Cow;

use forebay_core::json::{Document, Json};

use crate::openai::fault::Fault;

/// Most texts of one request, as `OpenAI` documents it.
const MAX_INPUTS: usize = 2048;

/// What the answer shall look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EmbeddingAsk {
    pub encoding: VectorEncoding,
    /// The size that the vectors must have
    pub dimensions: Option<u64>,
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VectorEncoding {
    /// An array of numbers
    Float,
    /// The bytes of single floats, little-endian, in base64
    Base64,
}

/// One text, or one that its client has cut into tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input<'d> {
    Text(&'d str),
    Tokens(Vec<u32>),
}

/// An input and its place in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed<'d> {
    pub input: Input<'d>,
    pub path: Cow<'static, str>,
}

/// Reads a body.
pub(super) fn read<'d>(document: &'d Document<'_>) -> Result<(EmbeddingAsk, Vec<Placed<'d>>), Fault> {
    for field in document.fields.iter().filter(|field| !field.value.is_null()) {
        if !matches!(field.key.as_ref(), "model" | "input" | "encoding_format" | "dimensions" | "user") {
            return Err(Fault::not_offered(&field.key));
        }
    }
    let encoding = match document.get("encoding_format") {
        None => VectorEncoding::Float,
        Some(Json::String(name)) if name == "float" => VectorEncoding::Float,
        Some(Json::String(name)) if name == "base64" => VectorEncoding::Base64,
        Some(Json::String(name)) => {
            let message = format!("`encoding_format` is `{name}`; it must be `float` or `base64`");
            return Err(Fault::field("encoding_format", message));
        }
        Some(other) => return Err(Fault::wrong_type("encoding_format", "a string", other)),
    };
    let dimensions = match document.get("dimensions") {
        None => None,
        Some(value) => match value.as_u64() {
            Some(dimensions) if dimensions > 0 => Some(dimensions),
            _ => {
                return Err(Fault::field(
                    "dimensions",
                    "`dimensions` must be a whole number above 0".to_owned(),
                ));
            }
        },
    };
    let inputs = match document.get("input") {
        None => return Err(Fault::missing("input", "a string or an array")),
        Some(value) => read_inputs(value)?,
    };
    Ok((EmbeddingAsk { encoding, dimensions }, inputs))
}

fn read_inputs<'d>(value: &'d Json<'_>) -> Result<Vec<Placed<'d>>, Fault> {
    let items = match value {
        Json::String(_) => return Ok(vec![item(value, Cow::Borrowed("input"))?]),
        Json::Array(items) if items.is_empty() => {
            return Err(Fault::field("input", "`input` must not be empty".to_owned()));
        }
        Json::Array(items) => items,
        other => return Err(Fault::wrong_type("input", "a string or an array", other)),
    };
    if matches!(items.first(), Some(Json::Number(_))) {
        return Ok(vec![item(value, Cow::Borrowed("input"))?]);
    }
    if items.len() > MAX_INPUTS {
        let message = format!("`input` has {} texts; send at most {MAX_INPUTS} at a time", items.len());
        return Err(Fault::field("input", message));
    }
    items.iter().enumerate().map(|(at, value)| item(value, Cow::Owned(format!("input[{at}]")))).collect()
}

fn item<'d>(value: &'d Json<'_>, path: Cow<'static, str>) -> Result<Placed<'d>, Fault> {
    let input = match value {
        Json::String(text) if text.is_empty() => None,
        Json::String(text) => Some(Input::Text(text)),
        Json::Array(numbers) if numbers.is_empty() => None,
        Json::Array(numbers) => {
            let number = |value: &Json<'_>| value.as_u64().and_then(|number| u32::try_from(number).ok());
            let tokens: Option<Vec<u32>> = numbers.iter().map(number).collect();
            let Some(tokens) = tokens else {
                let message = format!("`{path}` must hold token numbers alone, each from 0 to {}", u32::MAX);
                return Err(Fault::field(path, message));
            };
            Some(Input::Tokens(tokens))
        }
        other => return Err(Fault::wrong_type(path, "a string or an array of token numbers", other)),
    };
    let Some(input) = input else {
        let message = format!("`{path}` must not be empty");
        return Err(Fault::field(path, message));
    };
    Ok(Placed { input, path })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use forebay_core::json::Bounds;

    fn with<T>(body: &str, look: impl FnOnce(Result<(EmbeddingAsk, Vec<Placed<'_>>), Fault>) -> T) -> T {
        let document = Document::parse(body.as_bytes(), Bounds::default()).unwrap();
        look(read(&document))
    }

    fn refused(body: &str) -> String {
        with(body, |read| String::from_utf8(read.unwrap_err().body()).unwrap())
    }

    #[test]
    fn every_form_of_input_is_read() {
        let inputs = |value: &str| {
            with(&format!(r#"{{"model":"m","input":{value}}}"#), |read| {
                let described = |placed: &Placed<'_>| match &placed.input {
                    Input::Text(text) => format!("{} {text}", placed.path),
                    Input::Tokens(tokens) => format!("{} {tokens:?}", placed.path),
                };
                read.unwrap().1.iter().map(described).collect::<Vec<_>>()
            })
        };
        assert_eq!(inputs(r#""a\nb""#), ["input a\nb"]);
        assert_eq!(inputs(r#"["a","b"]"#), ["input[0] a", "input[1] b"]);
        assert_eq!(inputs("[1,2]"), ["input [1, 2]"]);
        assert_eq!(inputs("[[1,2],[3]]"), ["input[0] [1, 2]", "input[1] [3]"]);
        assert_eq!(inputs(r#"["a",[3]]"#), ["input[0] a", "input[1] [3]"]);
    }

    #[test]
    fn the_form_of_the_answer_is_read() {
        let asked = with(
            r#"{"model":"m","input":"a","encoding_format":"base64","dimensions":3,"user":"u"}"#,
            |read| read.unwrap().0,
        );
        assert_eq!(asked, EmbeddingAsk { encoding: VectorEncoding::Base64, dimensions: Some(3) });
        let asked = with(r#"{"model":"m","input":"a","dimensions":null}"#, |read| read.unwrap().0);
        assert_eq!(asked, EmbeddingAsk { encoding: VectorEncoding::Float, dimensions: None });
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (rest, expected) in [
            ("", "`input` is missing"),
            (r#","input":[]"#, "`input` must not be empty"),
            (r#","input":"""#, "`input` must not be empty"),
            (r#","input":["a",""]"#, "`input[1]` must not be empty"),
            (r#","input":["a",[]]"#, "`input[1]` must not be empty"),
            (r#","input":[1,-1]"#, "`input` must hold token numbers alone"),
            (r#","input":[[1.5]]"#, "`input[0]` must hold token numbers alone"),
            (r#","input":[4294967296]"#, "each from 0 to 4294967295"),
            (r#","input":{"a":1}"#, "`input` is of type object"),
            (r#","input":["a",true]"#, "`input[1]` is of type boolean"),
            (r#","input":"a","encoding_format":"int8""#, "it must be `float` or `base64`"),
            (r#","input":"a","dimensions":0"#, "whole number above 0"),
            (r#","input":"a","truncate":true"#, "`truncate` is not offered"),
        ] {
            let body = refused(&format!(r#"{{"model":"m"{rest}}}"#));
            assert!(body.contains(expected), "{rest}: {body}");
        }
        let many = format!(r#"{{"input":[{}"a"]}}"#, r#""a","#.repeat(MAX_INPUTS));
        assert!(refused(&many).contains("2049 texts; send at most 2048"));
    }
}
