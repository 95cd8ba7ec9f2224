//! Owns rendering a stored plain answer as the stream that a client asked for.
//! Must not know the cache. The plain body needs no rendering: it is served as it is stored.
//! On failure: an answer with parts that have no place in a stream is not streamable; the caller then asks upstream.

use std::borrow::Cow;

use super::choice::{CHAT_LOGPROBS, END_MARKS, TEXT_LOGPROBS, ends_an_answer, says_nothing};
use super::kind::AnswerKind;
use super::write::{self, Object};
use crate::json::{Bounds, Document, Json};

/// Whether the request asked for a last event with the usage (`stream_options.include_usage`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamUsage {
    /// It did not.
    Omit,
    /// It did.
    Include,
}

/// Why a stored answer cannot be sent as a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStreamable {
    /// Embeddings have no stream.
    Kind,
    /// The body is not an answer of its kind.
    Malformed(&'static str),
    /// A field has no place in a stream.
    UnknownField(String),
    /// The usage was asked for, and the answer has none.
    NoUsage,
}

/// A text is cut into at most about this many deltas, so that a long answer costs few events.
const MAX_DELTAS: usize = 16;
/// And no delta is cut shorter than this.
const MIN_DELTA_BYTES: usize = 64;

const TEXTS: [&str; 4] = ["reasoning_content", "reasoning", "content", "refusal"];

type Pairs<'a> = [(Cow<'a, str>, Json<'a>)];

/// Renders the event stream of a plain answer, `data: [DONE]` included.
///
/// *Cost*: one parse of `body` and one pass over its text; about 1 µs per 100 bytes.
/// *Errors*: when a part of the answer would be lost or changed by streaming it.
pub fn render_stream(kind: AnswerKind, body: &[u8], usage: StreamUsage) -> Result<Vec<u8>, NotStreamable> {
    let document = Document::parse(body, Bounds::default())
        .map_err(|_| NotStreamable::Malformed("not a JSON object"))?;
    let mut stream = Stream::begin(kind, &document, usage)?;
    let choices = document
        .get("choices")
        .and_then(Json::as_array)
        .ok_or(NotStreamable::Malformed("`choices` is not an array"))?;
    for choice in choices {
        let pairs = choice.as_object().ok_or(NotStreamable::Malformed("a choice is not an object"))?;
        match kind {
            AnswerKind::Chat => stream.chat_choice(pairs)?,
            _ => stream.text_choice(pairs)?,
        }
    }
    stream.end(&document)
}

// === impl NotStreamable ===

impl NotStreamable {
    /// The stable slug.
    pub const fn slug(&self) -> &'static str {
        match self {
            Self::Kind => "stream_kind",
            Self::Malformed(_) => "stream_malformed",
            Self::UnknownField(_) => "stream_unknown_field",
            Self::NoUsage => "stream_no_usage",
        }
    }
}

impl std::fmt::Display for NotStreamable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kind => f.write_str("embeddings have no stream"),
            Self::Malformed(what) => write!(f, "the stored answer is malformed: {what}"),
            Self::UnknownField(path) => write!(f, "the field `{path}` has no place in a stream"),
            Self::NoUsage => f.write_str("the usage was asked for, and the stored answer has none"),
        }
    }
}

impl std::error::Error for NotStreamable {}

/// The stream while it is written.
struct Stream {
    out: String,
    /// What every event begins with, up to its choices.
    head: String,
    usage: StreamUsage,
}

/// One choice of the answer, checked to have nothing that a stream cannot carry.
struct Parts<'a, 'j> {
    index: u64,
    content: &'a Json<'j>,
    logprobs: Option<&'a Json<'j>>,
    finish_reason: &'a str,
    marks: Vec<(&'static str, &'a Json<'j>)>,
}

// === impl Stream ===

impl Stream {
    fn begin(kind: AnswerKind, document: &Document<'_>, usage: StreamUsage) -> Result<Self, NotStreamable> {
        let name = kind.chunk_object().ok_or(NotStreamable::Kind)?;
        for field in &document.fields {
            let known = matches!(
                field.key.as_ref(),
                "id" | "object"
                    | "created"
                    | "model"
                    | "service_tier"
                    | "system_fingerprint"
                    | "choices"
                    | "usage"
            );
            if !known && !says_nothing(&field.value) {
                return Err(NotStreamable::UnknownField(field.key.clone().into_owned()));
            }
        }
        let mut head = String::from("data: ");
        let mut object = Object::open(&mut head);
        for key in ["id", "object", "created", "model", "service_tier", "system_fingerprint"] {
            match document.field(key) {
                _ if key == "object" => object.text("object", name),
                Some(field) => object.json(key, &field.value),
                None => {}
            }
        }
        object.key("choices");
        let out = String::with_capacity(document.text.len() * 2 + 8 * head.len());
        Ok(Self { out, head, usage })
    }

    fn event(&mut self, choice: impl FnOnce(&mut String)) {
        self.out.push_str(&self.head);
        self.out.push('[');
        choice(&mut self.out);
        self.out.push(']');
        if self.usage == StreamUsage::Include {
            self.out.push_str(",\"usage\":null");
        }
        self.out.push_str("}\n\n");
    }

    fn chat_choice(&mut self, pairs: &Pairs<'_>) -> Result<(), NotStreamable> {
        let parts = Parts::of(pairs, "message", &CHAT_LOGPROBS)?;
        let message =
            parts.content.as_object().ok_or(NotStreamable::Malformed("a message is not an object"))?;
        check_message(message)?;
        let get = |key: &str| message.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        self.chat_event(&parts, parts.logprobs, |delta| {
            delta.text("role", "assistant");
            for key in TEXTS {
                match get(key) {
                    Some(Json::String(_)) => delta.text(key, ""),
                    Some(_) => delta.raw(key, "null"),
                    None => {}
                }
            }
        });
        for key in TEXTS {
            for piece in pieces(get(key).and_then(Json::as_str).unwrap_or_default()) {
                self.chat_event(&parts, None, |delta| delta.text(key, piece));
            }
        }
        for (at, call) in get("tool_calls").and_then(Json::as_array).unwrap_or_default().iter().enumerate() {
            self.tool_call(&parts, at, call)?;
        }
        if let Some(call) = get("function_call").filter(|call| !call.is_null()) {
            let (name, arguments) = target(call, "arguments")?;
            self.chat_event(&parts, None, |delta| {
                let mut object = Object::open(delta.key("function_call"));
                object.text("name", name);
                object.text("arguments", arguments);
                object.close();
            });
        }
        self.event(|out| parts.finish(out, |object| object.raw("delta", "{}")));
        Ok(())
    }

    fn tool_call(&mut self, parts: &Parts<'_, '_>, at: usize, call: &Json<'_>) -> Result<(), NotStreamable> {
        let (shape, payload) = match call.get("type").and_then(Json::as_str) {
            Some("function") | None => ("function", "arguments"),
            Some("custom") => ("custom", "input"),
            Some(other) => return Err(NotStreamable::UnknownField(format!("tool_calls.type {other}"))),
        };
        for (key, value) in call.as_object().unwrap_or_default() {
            let known = ["id", "type", "index", shape].contains(&key.as_ref());
            if !known && !says_nothing(value) {
                return Err(NotStreamable::UnknownField(format!("tool_calls.{key}")));
            }
        }
        let id =
            call.get("id").and_then(Json::as_str).ok_or(NotStreamable::Malformed("a tool call has no id"))?;
        let called = call.get(shape).ok_or(NotStreamable::Malformed("a tool call calls nothing"))?;
        let (name, text) = target(called, payload)?;
        self.tool_event(parts, at, |piece| {
            piece.text("id", id);
            piece.text("type", shape);
            let mut object = Object::open(piece.key(shape));
            object.text("name", name);
            object.text(payload, "");
            object.close();
        });
        for part in pieces(text) {
            self.tool_event(parts, at, |piece| {
                let mut object = Object::open(piece.key(shape));
                object.text(payload, part);
                object.close();
            });
        }
        Ok(())
    }

    fn tool_event(&mut self, parts: &Parts<'_, '_>, at: usize, write: impl FnOnce(&mut Object<'_>)) {
        self.chat_event(parts, None, |delta| {
            write::array(delta.key("tool_calls"), [write], |out, write| {
                let mut piece = Object::open(out);
                piece.raw("index", &at.to_string());
                write(&mut piece);
                piece.close();
            });
        });
    }

    fn chat_event(
        &mut self,
        parts: &Parts<'_, '_>,
        logprobs: Option<&Json<'_>>,
        delta: impl FnOnce(&mut Object<'_>),
    ) {
        self.event(|out| {
            parts.unfinished(out, logprobs, |object| {
                let mut inner = Object::open(object.key("delta"));
                delta(&mut inner);
                inner.close();
            });
        });
    }

    fn text_choice(&mut self, pairs: &Pairs<'_>) -> Result<(), NotStreamable> {
        let parts = Parts::of(pairs, "text", &TEXT_LOGPROBS)?;
        let text = parts.content.as_str().ok_or(NotStreamable::Malformed("a text is not a string"))?;
        let mut logprobs = parts.logprobs;
        for piece in pieces(text) {
            let logprobs = logprobs.take();
            self.event(|out| parts.unfinished(out, logprobs, |object| object.text("text", piece)));
        }
        self.event(|out| {
            parts.finish(out, |object| {
                object.text("text", "");
                if let Some(logprobs) = logprobs {
                    object.json("logprobs", logprobs);
                }
            });
        });
        Ok(())
    }

    fn end(mut self, document: &Document<'_>) -> Result<Vec<u8>, NotStreamable> {
        if self.usage == StreamUsage::Include {
            let usage = document.get("usage").ok_or(NotStreamable::NoUsage)?;
            self.out.push_str(&self.head);
            self.out.push_str("[],\"usage\":");
            write::json(&mut self.out, usage);
            self.out.push_str("}\n\n");
        }
        self.out.push_str("data: [DONE]\n\n");
        self.out.shrink_to_fit();
        Ok(self.out.into_bytes())
    }
}

// === impl Parts ===

impl<'a, 'j> Parts<'a, 'j> {
    fn of(pairs: &'a Pairs<'j>, content: &str, lists: &[&str]) -> Result<Self, NotStreamable> {
        let get = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        for (key, value) in pairs {
            let known = ["index", content, "logprobs", "finish_reason"].contains(&key.as_ref())
                || END_MARKS.contains(&key.as_ref());
            if !known && !says_nothing(value) {
                return Err(NotStreamable::UnknownField(format!("choices.{key}")));
            }
        }
        let logprobs = get("logprobs");
        if let Some(Json::Object(pairs)) = logprobs
            && let Some((key, _)) = pairs.iter().find(|(key, _)| !lists.contains(&key.as_ref()))
        {
            return Err(NotStreamable::UnknownField(format!("choices.logprobs.{key}")));
        }
        let finish_reason =
            get("finish_reason").and_then(Json::as_str).filter(|reason| ends_an_answer(reason));
        Ok(Self {
            index: get("index")
                .and_then(Json::as_u64)
                .ok_or(NotStreamable::Malformed("a choice has no index"))?,
            content: get(content).ok_or(NotStreamable::Malformed("a choice has no content"))?,
            logprobs,
            finish_reason: finish_reason.ok_or(NotStreamable::Malformed("a choice has no finish_reason"))?,
            marks: END_MARKS
                .into_iter()
                .filter_map(|mark| Some((mark, get(mark).filter(|value| !value.is_null())?)))
                .collect(),
        })
    }

    fn unfinished(&self, out: &mut String, logprobs: Option<&Json<'_>>, write: impl FnOnce(&mut Object<'_>)) {
        let mut object = Object::open(out);
        object.raw("index", &self.index.to_string());
        write(&mut object);
        if let Some(logprobs) = logprobs {
            object.json("logprobs", logprobs);
        }
        object.raw("finish_reason", "null");
        object.close();
    }

    fn finish(&self, out: &mut String, write: impl FnOnce(&mut Object<'_>)) {
        let mut object = Object::open(out);
        object.raw("index", &self.index.to_string());
        write(&mut object);
        object.text("finish_reason", self.finish_reason);
        for (mark, value) in &self.marks {
            object.json(mark, value);
        }
        object.close();
    }
}

fn check_message(message: &Pairs<'_>) -> Result<(), NotStreamable> {
    for (key, value) in message {
        let fits = match key.as_ref() {
            "role" => value.as_str() == Some("assistant"),
            "tool_calls" => says_nothing(value) || value.as_array().is_some(),
            "function_call" => says_nothing(value) || value.as_object().is_some(),
            text if TEXTS.contains(&text) => matches!(value, Json::Null | Json::String(_)),
            _ => says_nothing(value),
        };
        if !fits {
            return Err(NotStreamable::UnknownField(format!("message.{key}")));
        }
    }
    Ok(())
}

/// The name and payload of what a call calls.
fn target<'a>(called: &'a Json<'_>, payload: &str) -> Result<(&'a str, &'a str), NotStreamable> {
    let extra = called.as_object().unwrap_or_default().iter();
    for (key, value) in extra {
        if key != "name" && key != payload && !says_nothing(value) {
            return Err(NotStreamable::UnknownField(format!("tool_calls.function.{key}")));
        }
    }
    match (called.get("name").and_then(Json::as_str), called.get(payload).and_then(Json::as_str)) {
        (Some(name), Some(text)) => Ok((name, text)),
        _ => Err(NotStreamable::Malformed("a call has no name or no payload")),
    }
}

/// Cuts a text into deltas, after a space where one is near, never inside a character.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let size = MIN_DELTA_BYTES.max(text.len().div_ceil(MAX_DELTAS));
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = size.min(rest.len());
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let after_space = rest[..end].rfind(' ').map(|space| space + 1).filter(|cut| *cut > size / 2);
        let cut = if end == rest.len() { end } else { after_space.unwrap_or(end) };
        let (piece, left) = rest.split_at(cut);
        rest = left;
        Some(piece)
    })
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
