//! Owns: what a body asks, read from its JSON once: what all operations share, completions and embeddings.
//! Must not know: who asks, which models there are.
//! On failure: closed; a field of the wrong type or out of range is refused with its path.

use super::fields::{self, empty, field, missing, wrong_type};
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
    /// A stream of completions whose client asked for the event with the usage. Responses and Messages have it anyway
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
    /// Why the body does not bound what will be charged, if it does not: a hard budget cannot admit it
    pub uncounted: Option<&'static str>,
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
        let stream = fields::boolean(&document, "stream")?.unwrap_or_default();
        let mut asked = Self {
            model,
            stream,
            include_usage: false,
            choices: 1,
            prompts: 1,
            output_cap: None,
            sampled: fields::sampled(&document)?,
            stateful: false,
            tools: false,
            vision: false,
            json: false,
            uncounted: None,
            operation,
            document,
        };
        match operation {
            Operation::Responses => asked.read_responses()?,
            Operation::Messages => asked.read_messages()?,
            _ => asked.read_completions_family()?,
        }
        Ok(asked)
    }

    /// What chat completions, completions and embeddings share.
    fn read_completions_family(&mut self) -> Result<(), Refusal> {
        let document = &self.document;
        self.choices = fields::integer(document, "n", 1, 128)?.unwrap_or(1);
        self.include_usage = include_usage(document)? && self.stream;
        self.stateful = document.get("previous_response_id").is_some()
            || document.get("conversation").is_some()
            || fields::boolean(document, "store")?.unwrap_or_default();
        match self.operation {
            Operation::ChatCompletions => self.read_chat(),
            Operation::TextCompletions => self.read_completion(),
            _ => self.read_embedding(),
        }
    }

    fn read_completion(&mut self) -> Result<(), Refusal> {
        let prompts = match self.document.get("prompt") {
            Some(Json::String(_)) => 1,
            Some(Json::Array(items)) if items.is_empty() => {
                return Err(empty("prompt"));
            }
            Some(Json::Array(items)) => prompts(items, "prompt")?,
            Some(other) => return Err(wrong_type("prompt", "a string or an array", other)),
            None => return Err(missing("prompt", "a string or an array")),
        };
        let best_of = fields::integer(&self.document, "best_of", 1, 128)?.unwrap_or(1);
        self.prompts = prompts;
        self.choices = self.choices.max(best_of).saturating_mul(prompts);
        if self.choices > MAX_CHOICES {
            return Err(field(
                "n",
                format!("`n` times the prompts is {}; at most {MAX_CHOICES}", self.choices),
            ));
        }
        self.output_cap = fields::tokens(&self.document, "max_tokens")?
            .map(|tokens| OutputCap { field: "max_tokens", tokens });
        Ok(())
    }

    fn read_embedding(&mut self) -> Result<(), Refusal> {
        match self.document.get("input") {
            Some(Json::String(_)) => {}
            Some(Json::Array(items)) if items.is_empty() => {
                return Err(empty("input"));
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

/// Whether the client asks for the event with the usage.
fn include_usage(document: &Document<'_>) -> Result<bool, Refusal> {
    let options = fields::object(document, "stream_options")?;
    match options.and_then(|options| options.get("include_usage")) {
        None | Some(Json::Null) => Ok(false),
        Some(Json::Bool(wanted)) => Ok(*wanted),
        Some(other) => Err(wrong_type("stream_options.include_usage", "a boolean", other)),
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
        let options = r#"{"model":"m","messages":[{"role":"u"}],"stream_options":{"include_usage":1}}"#;
        assert_eq!(param(options), "stream_options.include_usage");
    }

    #[test]
    fn what_only_the_server_has_is_not_counted() {
        let uncounted = |rest: &str| chat(rest).unwrap().uncounted.is_some();
        assert!(!uncounted(r#"{"model":"m","messages":[{"role":"u","content":"x"}]}"#));
        assert!(uncounted(r#"{"model":"m","messages":[{"role":"u"}],"web_search_options":{}}"#));
        assert!(uncounted(r#"{"model":"m","messages":[{"role":"u"}],"service_tier":"priority"}"#));
        let file = |file: &str| {
            uncounted(Box::leak(
                format!(r#"{{"model":"m","messages":[{{"role":"u","content":[{{"type":"file","file":{file}}}]}}]}}"#)
                    .into_boxed_str(),
            ))
        };
        assert!(file(r#"{"file_id":"f"}"#) && !file(r#"{"file_data":"AA"}"#));
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
