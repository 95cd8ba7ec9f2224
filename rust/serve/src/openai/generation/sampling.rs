//! Owns: the parameters of a generation, read from a body: what is passed to the model, what is refused.
//! Must not know: tensors, prompts.
//! On failure: closed; a parameter that would be ignored is refused by its name.

use forebay_core::json::{Document, Json};
use forebay_core::policy::pb::route::Operation;

use crate::openai::fault::Fault;

/// `OpenAI`'s own default for `/v1/completions`.
const COMPLETION_TOKENS: u64 = 16;
/// Most stop sequences, as `OpenAI` documents it.
const MAX_STOPS: usize = 4;

/// What a generation is asked for beside its prompt.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sampling<'d> {
    /// By `OpenAI`'s names; `max_tokens` is not among them
    pub parameters: Vec<(&'static str, Value<'d>)>,
    pub max_tokens: Option<u64>,
    pub streamed: bool,
    pub include_usage: bool,
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'d> {
    /// A number as it was written
    Number(&'d str),
    Flag(bool),
    Texts(Vec<&'d str>),
    Numbers(Vec<&'d str>),
}

/// What the value of a parameter must be.
enum Kind {
    Number { least: f64, most: f64 },
    Whole,
    Flag,
    Stop,
    Wholes,
}

/// What is passed on: `OpenAI`'s parameters, then those that vLLM and TensorRT-LLM add to them.
const PASSED: [(&str, Kind); 13] = [
    ("temperature", Kind::Number { least: 0.0, most: 2.0 }),
    ("top_p", Kind::Number { least: 0.0, most: 1.0 }),
    ("presence_penalty", Kind::Number { least: -2.0, most: 2.0 }),
    ("frequency_penalty", Kind::Number { least: -2.0, most: 2.0 }),
    ("stop", Kind::Stop),
    ("seed", Kind::Whole),
    ("top_k", Kind::Whole),
    ("min_p", Kind::Number { least: 0.0, most: 1.0 }),
    ("repetition_penalty", Kind::Number { least: 0.0, most: f64::MAX }),
    ("min_tokens", Kind::Whole),
    ("ignore_eos", Kind::Flag),
    ("skip_special_tokens", Kind::Flag),
    ("stop_token_ids", Kind::Wholes),
];

/// Read elsewhere, or without a meaning for the model.
const KNOWN: [&str; 14] = [
    "model",
    "messages",
    "prompt",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "user",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "n",
];

// === impl Sampling ===

impl<'d> Sampling<'d> {
    pub(super) fn read(document: &'d Document<'_>, operation: Operation) -> Result<Self, Fault> {
        let mut parameters = Vec::new();
        for field in document.fields.iter().filter(|field| !field.value.is_null()) {
            let name = field.key.as_ref();
            if let Some((name, kind)) = PASSED.iter().find(|(passed, _)| *passed == name) {
                parameters.extend(kind.read(name, &field.value)?.map(|value| (*name, value)));
            } else if !KNOWN.contains(&name) && !is_default(name, &field.value) {
                return Err(Fault::not_offered(name));
            }
        }
        if document.get("n").is_some_and(|n| n.as_u64() != Some(1)) {
            return Err(Fault::field(
                "n",
                "`n` must be 1 for this model; ask once for each answer".to_owned(),
            ));
        }
        let streamed = flag(document.get("stream"), "stream")?;
        let options = document.get("stream_options");
        let include_usage =
            options.and_then(|options| options.get("include_usage")).filter(|value| !value.is_null());
        let include_usage = flag(include_usage, "stream_options.include_usage")? && streamed;
        let asked = match document.get("max_completion_tokens") {
            Some(tokens) => Some(("max_completion_tokens", tokens)),
            None => document.get("max_tokens").map(|tokens| ("max_tokens", tokens)),
        };
        let max_tokens = match asked {
            Some((name, tokens)) => match tokens.as_u64() {
                Some(tokens) if tokens > 0 && u32::try_from(tokens).is_ok() => Some(tokens),
                _ => {
                    let message = format!("`{name}` must be a whole number from 1 to {}", u32::MAX);
                    return Err(Fault::field(name, message));
                }
            },
            None if operation == Operation::TextCompletions => Some(COMPLETION_TOKENS),
            None => None,
        };
        Ok(Self { parameters, max_tokens, streamed, include_usage })
    }
}

// === impl Value ===

impl Value<'_> {
    /// Whether leaving the parameter out means the same, by `OpenAI`'s documentation.
    pub(super) fn is_default(&self, name: &str) -> bool {
        let number = |expected: f64| matches!(self, Value::Number(text) if text.parse::<f64>().is_ok_and(|value| (value - expected).abs() < f64::EPSILON));
        match name {
            "temperature" | "top_p" | "repetition_penalty" => number(1.0),
            "presence_penalty" | "frequency_penalty" | "min_p" | "min_tokens" => number(0.0),
            _ => false,
        }
    }
}

// === impl Kind ===

impl Kind {
    /// The value; `None`: it says nothing.
    fn read<'d>(&self, name: &str, value: &'d Json<'_>) -> Result<Option<Value<'d>>, Fault> {
        Ok(Some(match (self, value) {
            (Self::Number { least, most }, Json::Number(text)) => {
                if !text.parse::<f64>().is_ok_and(|value| (*least..=*most).contains(&value)) {
                    let message = format!("`{name}` is {text}; it must be from {least} to {most}");
                    return Err(Fault::field(name, message));
                }
                Value::Number(text)
            }
            (Self::Whole, Json::Number(text)) if text.parse::<i64>().is_ok() => Value::Number(text),
            (Self::Flag, Json::Bool(flag)) => Value::Flag(*flag),
            (Self::Stop, Json::String(stop)) => Value::Texts(vec![stop]),
            (Self::Stop, Json::Array(stops)) if stops.is_empty() => return Ok(None),
            (Self::Stop, Json::Array(stops)) if stops.len() <= MAX_STOPS => {
                Value::Texts(each(stops, name, "a string", |stop| stop.as_str())?)
            }
            (Self::Stop, Json::Array(stops)) => {
                let message = format!("`{name}` has {} sequences; send at most {MAX_STOPS}", stops.len());
                return Err(Fault::field(name, message));
            }
            (Self::Wholes, Json::Array(numbers)) if numbers.is_empty() => return Ok(None),
            (Self::Wholes, Json::Array(numbers)) => {
                let whole = |value: &'d Json<'_>| match value {
                    Json::Number(text) if text.parse::<u32>().is_ok() => Some(*text),
                    _ => None,
                };
                Value::Numbers(each(numbers, name, "a token number", whole)?)
            }
            (kind, other) => return Err(Fault::wrong_type(name, kind.words(), other)),
        }))
    }

    fn words(&self) -> &'static str {
        match self {
            Self::Number { .. } => "a number",
            Self::Whole => "a whole number",
            Self::Flag => "a boolean",
            Self::Stop => "a string or an array of strings",
            Self::Wholes => "an array of token numbers",
        }
    }
}

fn each<'d, 'a, T>(
    items: &'d [Json<'a>],
    name: &str,
    expected: &str,
    read: impl Fn(&'d Json<'a>) -> Option<T>,
) -> Result<Vec<T>, Fault> {
    let item =
        |(at, value)| read(value).ok_or_else(|| Fault::wrong_type(format!("{name}[{at}]"), expected, value));
    items.iter().enumerate().map(item).collect()
}

fn flag(value: Option<&Json<'_>>, name: &str) -> Result<bool, Fault> {
    match value {
        None => Ok(false),
        Some(Json::Bool(flag)) => Ok(*flag),
        Some(other) => Err(Fault::wrong_type(name, "a boolean", other)),
    }
}

/// Whether a field that is not offered asks for nothing but what happens anyway.
fn is_default(name: &str, value: &Json<'_>) -> bool {
    match (name, value) {
        ("logprobs" | "echo" | "store", Json::Bool(asked)) => !asked,
        ("best_of", Json::Number(text)) => *text == "1",
        ("suffix", Json::String(text)) => text.is_empty(),
        ("tool_choice" | "function_call", Json::String(choice)) => choice == "none" || choice == "auto",
        ("response_format", Json::Object(_)) => {
            value.get("type").and_then(Json::as_str).is_some_and(|kind| kind == "text")
        }
        ("modalities", Json::Array(kinds)) => kinds.iter().all(|kind| kind.as_str() == Some("text")),
        ("logit_bias", Json::Object(pairs)) => pairs.is_empty(),
        ("tools" | "functions", Json::Array(tools)) => tools.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use forebay_core::json::Bounds;

    fn with<T>(rest: &str, operation: Operation, look: impl FnOnce(Result<Sampling<'_>, Fault>) -> T) -> T {
        let body = format!(r#"{{"model":"m"{rest}}}"#);
        let document = Document::parse(body.as_bytes(), Bounds::default()).unwrap();
        look(Sampling::read(&document, operation))
    }

    #[test]
    fn parameters_keep_their_text() {
        let rest = r#","temperature":0.70,"stop":["a","b"],"seed":9007199254740993,"ignore_eos":true,"stop_token_ids":[1,2],"top_p":null,"user":"u","max_tokens":5,"stream":true,"stream_options":{"include_usage":true}"#;
        with(rest, Operation::ChatCompletions, |read| {
            let sampling = read.unwrap();
            assert_eq!(
                sampling.parameters,
                [
                    ("temperature", Value::Number("0.70")),
                    ("stop", Value::Texts(vec!["a", "b"])),
                    ("seed", Value::Number("9007199254740993")),
                    ("ignore_eos", Value::Flag(true)),
                    ("stop_token_ids", Value::Numbers(vec!["1", "2"])),
                ]
            );
            assert_eq!(sampling.max_tokens, Some(5));
            assert!(sampling.streamed && sampling.include_usage);
        });
    }

    #[test]
    fn the_bound_has_openais_names_and_default() {
        let bound = |rest: &str, operation| with(rest, operation, |read| read.unwrap().max_tokens);
        assert_eq!(bound("", Operation::ChatCompletions), None);
        assert_eq!(bound("", Operation::TextCompletions), Some(16));
        assert_eq!(bound(r#","max_completion_tokens":7"#, Operation::ChatCompletions), Some(7));
        assert_eq!(
            bound(r#","max_tokens":null,"max_completion_tokens":7"#, Operation::ChatCompletions),
            Some(7)
        );
    }

    #[test]
    fn what_asks_for_nothing_passes() {
        for rest in [
            r#","n":1,"best_of":1,"logprobs":false,"echo":false,"store":false,"suffix":"","logit_bias":{}"#,
            r#","tools":[],"tool_choice":"none","response_format":{"type":"text"},"modalities":["text"]"#,
            r#","stop":[],"stop_token_ids":[],"metadata":{"a":"b"}"#,
        ] {
            with(rest, Operation::ChatCompletions, |read| assert_eq!(read.unwrap().parameters, []));
        }
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for (rest, expected) in [
            (r#","n":2"#, "`n` must be 1"),
            (r#","best_of":2"#, "`best_of` is not offered"),
            (r#","logprobs":true"#, "`logprobs` is not offered"),
            (r#","logprobs":3"#, "`logprobs` is not offered"),
            (r#","tools":[{}]"#, "`tools` is not offered"),
            (r#","response_format":{"type":"json_object"}"#, "`response_format` is not offered"),
            (r#","logit_bias":{"1":2}"#, "`logit_bias` is not offered"),
            (r#","echo":true"#, "`echo` is not offered"),
            (r#","reasoning_effort":"low""#, "`reasoning_effort` is not offered"),
            (r#","temperature":2.5"#, "`temperature` is 2.5; it must be from 0 to 2"),
            (r#","temperature":"1""#, "`temperature` is of type string; it must be a number"),
            (r#","seed":1.5"#, "`seed` is of type number; it must be a whole number"),
            (r#","stop":["a",1]"#, "`stop[1]` is of type number; it must be a string"),
            (r#","stop":["a","b","c","d","e"]"#, "`stop` has 5 sequences; send at most 4"),
            (r#","stop_token_ids":[-1]"#, "`stop_token_ids[0]`"),
            (r#","max_tokens":0"#, "`max_tokens` must be a whole number"),
            (r#","stream":1"#, "`stream` is of type number; it must be a boolean"),
        ] {
            let body = with(rest, Operation::ChatCompletions, |read| {
                String::from_utf8(read.unwrap_err().body()).unwrap()
            });
            assert!(body.contains(expected), "{rest}: {body}");
        }
    }
}
