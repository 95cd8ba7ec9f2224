//! Owns: what a chat, completion or embedding body asks, read from its JSON once.
//! Must not know: who asks, which models there are.
//! On failure: closed; a field of the wrong type or out of range is refused with its path.

use crate::json::{Document, Json};
use crate::policy::pb::route::Operation;
use crate::refusal::Refusal;

/// The most choices that one request may ask for, over all its prompts.
const MAX_CHOICES: u64 = 2_048;
/// The longest model name that is looked at.
const MAX_MODEL_BYTES: usize = 256;

/// A body and what it asks.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The body itself
    pub document: Document<'a>,
    /// What is asked for
    pub operation: Operation,
    /// The model as it was named
    pub model: String,
    /// The answer shall be a stream of events
    pub stream: bool,
    /// The stream shall end with usage
    pub include_usage: bool,
    /// Outputs to be generated: `n` (or `best_of`) times the prompts
    pub choices: u64,
    /// Texts that the model reads, each with a window of its own
    pub prompts: u64,
    /// The output bound of one choice, when one was given
    pub output_cap: Option<OutputCap>,
    /// A temperature above 0, or none given (which servers take as 1)
    pub sampled: bool,
    /// The server would remember something
    pub stateful: bool,
    /// Tools are offered
    pub tools: bool,
    /// Images are sent
    pub vision: bool,
    /// JSON is demanded
    pub json: bool,
}

/// Where and how large the given output bound is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputCap {
    /// The field that holds it
    pub field: &'static str,
    /// Its value
    pub tokens: u64,
}

// === impl Asked ===

impl<'a> Asked<'a> {
    /// Reads a body for an operation that has one.
    pub fn read(document: Document<'a>, operation: Operation) -> Result<Self, Refusal> {
        let model = match document.get("model") {
            Some(Json::String(name)) if !name.is_empty() && name.len() <= MAX_MODEL_BYTES => name.to_string(),
            Some(Json::String(_)) => {
                return Err(field("model", format!("`model` must have 1 to {MAX_MODEL_BYTES} bytes")));
            }
            Some(other) => return Err(wrong_type("model", "a string", other)),
            None => return Err(missing("model", "a string")),
        };
        let stream = boolean(&document, "stream")?;
        let n = integer(&document, "n", 1, 128)?.unwrap_or(1);
        let mut asked = Self {
            model,
            stream,
            include_usage: match document.get("stream_options") {
                None => false,
                Some(options @ Json::Object(_)) => {
                    options.get("include_usage").and_then(Json::as_bool).unwrap_or_default()
                }
                Some(other) => return Err(wrong_type("stream_options", "an object", other)),
            },
            choices: n,
            prompts: 1,
            output_cap: None,
            sampled: match document.get("temperature") {
                None => true,
                Some(number @ Json::Number(_)) => number.as_f64().is_none_or(|t| t > 0.0),
                Some(other) => return Err(wrong_type("temperature", "a number", other)),
            },
            stateful: document.get("previous_response_id").is_some()
                || document.get("conversation").is_some()
                || boolean(&document, "store")?,
            tools: false,
            vision: false,
            json: false,
            operation,
            document,
        };
        match operation {
            Operation::ChatCompletions => asked.read_chat()?,
            Operation::TextCompletions => asked.read_completion(n)?,
            _ => asked.read_embedding()?,
        }
        Ok(asked)
    }

    fn read_chat(&mut self) -> Result<(), Refusal> {
        let messages = match self.document.get("messages") {
            Some(Json::Array(items)) if !items.is_empty() => items,
            Some(Json::Array(_)) => return Err(field("messages", "`messages` must not be empty".into())),
            Some(other) => return Err(wrong_type("messages", "an array", other)),
            None => return Err(missing("messages", "an array")),
        };
        for (i, message) in messages.iter().enumerate() {
            self.vision |= read_message(i, message)?;
        }
        self.tools = match (self.document.get("tools"), self.document.get("functions")) {
            (None, None) => false,
            (Some(Json::Array(items)), None) | (None, Some(Json::Array(items))) => !items.is_empty(),
            (Some(Json::Array(a)), Some(Json::Array(b))) => !(a.is_empty() && b.is_empty()),
            (Some(other), _) | (None, Some(other)) => return Err(wrong_type("tools", "an array", other)),
        };
        self.json = match self.document.get("response_format") {
            None => false,
            Some(format @ Json::Object(_)) => {
                format.get("type").and_then(Json::as_str).is_some_and(|t| t.starts_with("json"))
            }
            Some(other) => return Err(wrong_type("response_format", "an object", other)),
        };
        let new = integer(&self.document, "max_completion_tokens", 1, u64::from(u32::MAX))?;
        let old = integer(&self.document, "max_tokens", 1, u64::from(u32::MAX))?;
        self.output_cap = match (new, old) {
            (Some(tokens), None) => Some(OutputCap { field: "max_completion_tokens", tokens }),
            (None, Some(tokens)) => Some(OutputCap { field: "max_tokens", tokens }),
            (None, None) => None,
            // Servers differ in which of the two they follow: only one of them can be a bound.
            (Some(_), Some(_)) => {
                return Err(field(
                    "max_tokens",
                    "send `max_completion_tokens` or `max_tokens`, not both".into(),
                ));
            }
        };
        Ok(())
    }

    fn read_completion(&mut self, n: u64) -> Result<(), Refusal> {
        let prompts = match self.document.get("prompt") {
            Some(Json::String(_)) => 1,
            Some(Json::Array(items)) if items.is_empty() => {
                return Err(field("prompt", "`prompt` must not be empty".into()));
            }
            Some(Json::Array(items)) => prompts(items, "prompt")?,
            Some(other) => return Err(wrong_type("prompt", "a string or an array", other)),
            None => return Err(missing("prompt", "a string or an array")),
        };
        let best_of = integer(&self.document, "best_of", 1, 128)?.unwrap_or(1);
        self.prompts = prompts;
        self.choices = n.max(best_of).saturating_mul(prompts);
        if self.choices > MAX_CHOICES {
            return Err(field(
                "n",
                format!("`n` times the prompts is {}; at most {MAX_CHOICES}", self.choices),
            ));
        }
        self.output_cap = integer(&self.document, "max_tokens", 1, u64::from(u32::MAX))?
            .map(|tokens| OutputCap { field: "max_tokens", tokens });
        Ok(())
    }

    fn read_embedding(&mut self) -> Result<(), Refusal> {
        match self.document.get("input") {
            Some(Json::String(_)) => {}
            Some(Json::Array(items)) if items.is_empty() => {
                return Err(field("input", "`input` must not be empty".into()));
            }
            Some(Json::Array(items)) => {
                self.prompts = prompts(items, "input")?;
            }
            Some(other) => return Err(wrong_type("input", "a string or an array", other)),
            None => return Err(missing("input", "a string or an array")),
        }
        // An embedding has no output tokens and no chance in it.
        self.choices = 0;
        self.sampled = false;
        self.stream = false;
        Ok(())
    }
}

/// Checks one message and tells whether it carries an image.
fn read_message(i: usize, message: &Json<'_>) -> Result<bool, Refusal> {
    let at = |name: &str| format!("messages[{i}].{name}");
    if message.as_object().is_none() {
        return Err(wrong_type(&format!("messages[{i}]"), "an object", message));
    }
    match message.get("role") {
        Some(Json::String(_)) => {}
        Some(other) => return Err(wrong_type(&at("role"), "a string", other)),
        None => return Err(missing(&at("role"), "a string")),
    }
    match message.get("content") {
        None | Some(Json::Null | Json::String(_)) => Ok(false),
        Some(Json::Array(parts)) => {
            let mut vision = false;
            for (p, part) in parts.iter().enumerate() {
                let Some(kind) = part.get("type").and_then(Json::as_str) else {
                    return Err(missing(&format!("messages[{i}].content[{p}].type"), "a string"));
                };
                vision |= kind == "image_url" || kind == "input_image";
            }
            Ok(vision)
        }
        Some(other) => Err(wrong_type(&at("content"), "a string or an array", other)),
    }
}

/// How many prompts an array holds: strings, arrays of tokens, or one array of tokens.
fn prompts(items: &[Json<'_>], name: &str) -> Result<u64, Refusal> {
    let same = |kind: fn(&Json<'_>) -> bool| items.iter().all(kind);
    if same(|i| matches!(i, Json::Number(_))) {
        return Ok(1);
    }
    if same(|i| matches!(i, Json::String(_))) || same(|i| i.as_array().is_some()) {
        return Ok(items.len() as u64);
    }
    Err(field(
        name,
        format!("`{name}` must hold only strings, only token numbers, or only arrays of token numbers"),
    ))
}

fn boolean(document: &Document<'_>, name: &'static str) -> Result<bool, Refusal> {
    match document.get(name) {
        None => Ok(false),
        Some(Json::Bool(b)) => Ok(*b),
        Some(other) => Err(wrong_type(name, "a boolean", other)),
    }
}

fn integer(
    document: &Document<'_>,
    name: &'static str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, Refusal> {
    match document.get(name) {
        None => Ok(None),
        Some(Json::Number(text)) => match text.parse::<u64>() {
            Ok(value) if (least..=most).contains(&value) => Ok(Some(value)),
            _ => Err(field(
                name,
                format!("`{name}` is {text}; it must be a whole number from {least} to {most}"),
            )),
        },
        Some(other) => Err(wrong_type(name, "a whole number", other)),
    }
}

fn field(param: &str, message: String) -> Refusal {
    Refusal::Field { param: param.to_owned(), message }
}

fn missing(param: &str, expected: &str) -> Refusal {
    field(param, format!("`{param}` is missing; it must be {expected}"))
}

fn wrong_type(param: &str, expected: &str, got: &Json<'_>) -> Refusal {
    field(param, format!("`{param}` is of type {}; it must be {expected}", got.type_name()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::json::Bounds;

    fn chat(body: &str) -> Result<Asked<'_>, Refusal> {
        Asked::read(Document::parse(body.as_bytes(), Bounds::default()).unwrap(), Operation::ChatCompletions)
    }

    fn param(body: &str) -> String {
        match chat(body).unwrap_err() {
            Refusal::Field { param, .. } => param,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_chat_tells_what_it_needs() {
        let asked = chat(
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x"},
            {"type":"image_url","image_url":{"url":"u"}}]}],"n":3,"max_tokens":7,"temperature":0,
            "tools":[{}],"response_format":{"type":"json_schema"},"stream":true,
            "stream_options":{"include_usage":true},"store":true}"#,
        )
        .unwrap();
        assert!(
            asked.vision
                && asked.tools
                && asked.json
                && asked.stream
                && asked.include_usage
                && asked.stateful
        );
        assert!(!asked.sampled);
        assert_eq!(asked.choices, 3);
        assert_eq!(asked.output_cap, Some(OutputCap { field: "max_tokens", tokens: 7 }));
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(param(r#"{"messages":[]}"#), "model");
        assert_eq!(param(r#"{"model":1}"#), "model");
        assert_eq!(param(r#"{"model":"m"}"#), "messages");
        assert_eq!(param(r#"{"model":"m","messages":[]}"#), "messages");
        assert_eq!(param(r#"{"model":"m","messages":[1]}"#), "messages[0]");
        assert_eq!(param(r#"{"model":"m","messages":[{"role":1}]}"#), "messages[0].role");
        assert_eq!(param(r#"{"model":"m","messages":[{"role":"u","content":5}]}"#), "messages[0].content");
        assert_eq!(param(r#"{"model":"m","messages":[{"role":"u"}],"n":0}"#), "n");
        assert_eq!(param(r#"{"model":"m","messages":[{"role":"u"}],"max_tokens":1.5}"#), "max_tokens");
        assert_eq!(param(r#"{"model":"m","messages":[{"role":"u"}],"stream":"yes"}"#), "stream");
        let both = r#"{"model":"m","messages":[{"role":"u"}],"max_tokens":1,"max_completion_tokens":1}"#;
        assert_eq!(param(both), "max_tokens");
    }

    #[test]
    fn completions_multiply_prompts() {
        let body = br#"{"model":"m","prompt":["a","b",  "c"],"n":2,"best_of":4}"#;
        let asked =
            Asked::read(Document::parse(body, Bounds::default()).unwrap(), Operation::TextCompletions)
                .unwrap();
        assert_eq!((asked.choices, asked.prompts), (12, 3));
        let body = br#"{"model":"m","prompt":["a",1]}"#;
        assert!(
            Asked::read(Document::parse(body, Bounds::default()).unwrap(), Operation::TextCompletions)
                .is_err()
        );
    }

    #[test]
    fn embeddings_have_no_output() {
        let body = br#"{"model":"m","input":[1,2,3]}"#;
        let asked =
            Asked::read(Document::parse(body, Bounds::default()).unwrap(), Operation::Embedding).unwrap();
        assert_eq!((asked.choices, asked.prompts, asked.sampled), (0, 1, false));
    }
}
