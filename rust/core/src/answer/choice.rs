//! Owns one choice of a streamed answer while its pieces arrive.
//! Must not know the other choices, nor the events that carried the pieces.
//! On failure: a field that cannot be folded faithfully makes the answer not storable.

use std::borrow::Cow;

use super::kind::AnswerKind;
use super::pieces::{Lists, Text};
use super::reject::NotStorable;
use super::tools::{Once, Target, ToolCalls};
use super::write::{self, Object};
use crate::json::Json;

type Pairs<'a> = [(Cow<'a, str>, Json<'a>)];

/// Scalars that servers add beside `finish_reason` (vLLM, `SGLang`).
pub(super) const END_MARKS: [&str; 2] = ["stop_reason", "matched_stop"];
/// The lists of `logprobs` in chat.
pub(super) const CHAT_LOGPROBS: [&str; 2] = ["content", "refusal"];
/// The lists of `logprobs` in completions.
pub(super) const TEXT_LOGPROBS: [&str; 4] = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];

/// A choice in the making.
#[derive(Debug)]
pub(super) struct Choice {
    body: Body,
    logprobs: Lists,
    finish_reason: Once,
    marks: [Option<String>; END_MARKS.len()],
}

#[derive(Debug)]
enum Body {
    Message(Box<Message>),
    Text(Text),
}

#[derive(Debug, Default)]
struct Message {
    role: Once,
    content: Text,
    reasoning_content: Text,
    reasoning: Text,
    refusal: Text,
    tool_calls: ToolCalls,
    function_call: Option<Target>,
}

/// True for the reasons that end an answer. Others (`abort`, `error`, unknown ones) end something else.
pub(super) fn ends_an_answer(reason: &str) -> bool {
    matches!(
        reason,
        "stop" | "length" | "tool_calls" | "function_call" | "content_filter" | "eos_token" | "stop_sequence"
    )
}

/// True for a value that says nothing, so that dropping it changes nothing.
pub(super) fn says_nothing(value: &Json<'_>) -> bool {
    match value {
        Json::Null => true,
        Json::Array(items) => items.is_empty(),
        Json::Object(pairs) => pairs.is_empty(),
        _ => false,
    }
}

// === impl Choice ===

impl Choice {
    /// An empty choice of an answer of `kind`.
    pub(super) fn new(kind: AnswerKind) -> Self {
        let (body, lists) = match kind {
            AnswerKind::Completion => (Body::Text(Text::default()), &TEXT_LOGPROBS[..]),
            _ => (Body::Message(Box::default()), &CHAT_LOGPROBS[..]),
        };
        Self { body, logprobs: Lists::new(lists), finish_reason: Once::default(), marks: Default::default() }
    }

    /// What a choice is counted with, beside its text.
    pub(super) const OVERHEAD_BYTES: usize = size_of::<Self>() + size_of::<Message>() + 64;

    /// Takes what one event says about this choice.
    pub(super) fn push(&mut self, pairs: &Pairs<'_>, held: &mut usize) -> Result<(), NotStorable> {
        let was_finished = self.is_finished();
        let before = *held;
        for (key, value) in pairs {
            match (key.as_ref(), &mut self.body) {
                ("index", _) => {}
                ("delta", Body::Message(message)) => message.push(value, held)?,
                ("text", Body::Text(text)) => text.push(value, held)?,
                ("logprobs", _) => self.logprobs.push(value, held)?,
                ("finish_reason", _) => {
                    self.finish_reason.take(value, "a choice has two finish reasons", held)?;
                }
                (key, _) => self.push_mark(key, value)?,
            }
        }
        if was_finished && *held != before {
            return Err(NotStorable::Malformed("a choice goes on after its finish_reason"));
        }
        Ok(())
    }

    /// True once a `finish_reason` was seen.
    pub(super) fn is_finished(&self) -> bool {
        self.finish_reason.get().is_some()
    }

    /// Writes the choice of the plain answer.
    pub(super) fn write(&self, index: u64, out: &mut String) -> Result<(), NotStorable> {
        let Some(reason) = self.finish_reason.get() else {
            return Err(NotStorable::Incomplete("a choice has no finish_reason"));
        };
        if !ends_an_answer(reason) {
            return Err(NotStorable::FinishReason);
        }
        let mut object = Object::open(out);
        object.raw("index", &index.to_string());
        match &self.body {
            Body::Message(message) => message.write(object.key("message"))?,
            Body::Text(text) => text.write_always("text", &mut object),
        }
        self.logprobs.write("logprobs", &mut object);
        object.text("finish_reason", reason);
        for (name, mark) in END_MARKS.iter().zip(&self.marks) {
            if let Some(mark) = mark {
                object.raw(name, mark);
            }
        }
        object.close();
        Ok(())
    }

    fn push_mark(&mut self, key: &str, value: &Json<'_>) -> Result<(), NotStorable> {
        let at = END_MARKS.iter().position(|mark| *mark == key);
        match (at, value) {
            (_, value) if says_nothing(value) => Ok(()),
            (Some(at), Json::String(_) | Json::Number(_)) => {
                let mut text = String::new();
                write::json(&mut text, value);
                match self.marks[at].replace(text) {
                    Some(old) if Some(&old) != self.marks[at].as_ref() => {
                        Err(NotStorable::Malformed("a choice stops for two reasons"))
                    }
                    _ => Ok(()),
                }
            }
            _ => Err(NotStorable::UnknownField(format!("choices.{key}"))),
        }
    }
}

// === impl Message ===

impl Message {
    fn push(&mut self, delta: &Json<'_>, held: &mut usize) -> Result<(), NotStorable> {
        let pairs = match delta {
            Json::Null => return Ok(()),
            Json::Object(pairs) => pairs,
            _ => return Err(NotStorable::Malformed("`delta` is not an object")),
        };
        for (key, value) in pairs {
            match key.as_ref() {
                "role" => self.role.take(value, "a choice changes its role", held)?,
                "content" => self.content.push(value, held)?,
                "reasoning_content" => self.reasoning_content.push(value, held)?,
                "reasoning" => self.reasoning.push(value, held)?,
                "refusal" => self.refusal.push(value, held)?,
                "tool_calls" => self.tool_calls.push(value, held)?,
                "function_call" if !value.is_null() => {
                    self.function_call.get_or_insert_default().push(value, "arguments", held)?;
                }
                _ if says_nothing(value) => {}
                other => return Err(NotStorable::UnknownField(format!("choices.delta.{other}"))),
            }
        }
        Ok(())
    }

    fn write(&self, out: &mut String) -> Result<(), NotStorable> {
        let mut object = Object::open(out);
        object.text("role", self.role.get().unwrap_or("assistant"));
        self.content.write_always("content", &mut object);
        self.reasoning_content.write("reasoning_content", &mut object);
        self.reasoning.write("reasoning", &mut object);
        self.refusal.write("refusal", &mut object);
        self.tool_calls.write("tool_calls", &mut object)?;
        if let Some(call) = &self.function_call {
            call.write("arguments", object.key("function_call"))?;
        }
        object.close();
        Ok(())
    }
}
