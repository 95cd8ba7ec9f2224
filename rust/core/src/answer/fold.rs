//! Owns folding the events of a stream into the plain answer, and judging whether the stream was complete.
//! Must not know bytes on the wire; `sse` frames them.
//! On failure: the first reason found is kept by the caller, and the fold is dropped.

use std::collections::BTreeMap;

use super::choice::{Choice, says_nothing};
use super::collect::{Answer, Expect};
use super::reject::NotStorable;
use super::sse::SseEvent;
use super::usage::Usage;
use super::write::{self, Object};
use crate::json::{Bounds, Document, Json};

/// More choices than any request asks for; a bound on what a hostile stream can make us keep.
const MAX_CHOICES: u64 = 1024;

/// A streamed answer in the making.
#[derive(Debug)]
pub(super) struct Fold {
    expect: Expect,
    id: Option<String>,
    created: Option<String>,
    model: Option<String>,
    /// JSON text; `null` where the field was seen but never said anything.
    service_tier: Option<String>,
    system_fingerprint: Option<String>,
    choices: BTreeMap<u64, Choice>,
    usage: Option<(String, Option<Usage>)>,
    done: bool,
    held_bytes: usize,
}

// === impl Fold ===

impl Fold {
    /// A fold at the start of a stream.
    pub(super) fn new(expect: Expect) -> Self {
        Self {
            expect,
            id: None,
            created: None,
            model: None,
            service_tier: None,
            system_fingerprint: None,
            choices: BTreeMap::new(),
            usage: None,
            done: false,
            held_bytes: 0,
        }
    }

    /// Bytes of the answer kept so far.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// True once the protocol said that the stream is over.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Takes one event.
    pub(super) fn push(&mut self, event: SseEvent<'_>) -> Result<(), NotStorable> {
        if self.done {
            return Err(NotStorable::Malformed("an event follows `[DONE]`"));
        }
        match event.event {
            b"" | b"message" => {}
            b"error" => return Err(NotStorable::ErrorObject),
            name => {
                return Err(NotStorable::UnknownField(format!("event {}", String::from_utf8_lossy(name))));
            }
        }
        if event.data == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        let document = Document::parse(event.data, Bounds::default())
            .map_err(|_| NotStorable::Malformed("an event is not a JSON object"))?;
        if document.get("error").is_some() {
            return Err(NotStorable::ErrorObject);
        }
        for field in &document.fields {
            self.push_field(&field.key, &field.value, &document.text[field.span.clone()])?;
        }
        Ok(())
    }

    /// The plain answer, if the stream was complete.
    pub(super) fn finish(self) -> Result<Answer, NotStorable> {
        if !self.done {
            return Err(NotStorable::Incomplete("the stream has no `[DONE]`"));
        }
        if self.choices.is_empty() {
            return Err(NotStorable::Incomplete("the stream has no choice"));
        }
        self.expect.check(self.choices.len())?;
        if self.choices.keys().zip(0..).any(|(index, at)| *index != at) {
            return Err(NotStorable::Incomplete("a choice is missing"));
        }
        let (Some(id), Some(created), Some(model)) = (&self.id, &self.created, &self.model) else {
            return Err(NotStorable::Malformed("`id`, `created` or `model` is missing"));
        };
        let mut body = String::with_capacity(self.held_bytes + self.held_bytes / 8 + 256);
        let mut object = Object::open(&mut body);
        object.text("id", id);
        object.text("object", self.expect.kind.plain_object());
        object.raw("created", created);
        object.text("model", model);
        let mut written = Ok(());
        write::array(object.key("choices"), &self.choices, |out, (index, choice)| {
            if let Err(reason) = choice.write(*index, out) {
                written = Err(reason);
            }
        });
        written?;
        if let Some((usage, _)) = &self.usage {
            object.raw("usage", usage);
        }
        if let Some(tier) = &self.service_tier {
            object.raw("service_tier", tier);
        }
        if let Some(fingerprint) = &self.system_fingerprint {
            object.raw("system_fingerprint", fingerprint);
        }
        object.close();
        body.shrink_to_fit();
        Ok(Answer {
            kind: self.expect.kind,
            body: body.into_bytes().into(),
            usage: self.usage.and_then(|(_, usage)| usage),
        })
    }

    fn push_field(&mut self, key: &str, value: &Json<'_>, source: &str) -> Result<(), NotStorable> {
        match (key, value) {
            ("object", Json::String(object)) => {
                // Azure opens a stream with an event whose names are all empty.
                if object.is_empty() || Some(object.as_ref()) == self.expect.kind.chunk_object() {
                    return Ok(());
                }
                Err(NotStorable::Malformed("`object` is not that of a stream of this kind"))
            }
            ("id", Json::String(id)) => match &self.id {
                _ if id.is_empty() => Ok(()),
                Some(known) if known.as_str() == id.as_ref() => Ok(()),
                Some(_) => Err(NotStorable::Malformed("two ids in one stream")),
                None => {
                    self.held_bytes += id.len();
                    self.id = Some(id.clone().into_owned());
                    Ok(())
                }
            },
            ("model", Json::String(model)) => {
                if self.model.is_none() && !model.is_empty() {
                    self.held_bytes += model.len();
                    self.model = Some(model.clone().into_owned());
                }
                Ok(())
            }
            ("created", Json::Number(created)) => {
                if self.created.is_none() {
                    self.held_bytes += created.len();
                    self.created = Some((*created).to_owned());
                }
                Ok(())
            }
            ("service_tier", Json::String(_) | Json::Null) => {
                keep_last(&mut self.service_tier, source, &mut self.held_bytes);
                Ok(())
            }
            ("system_fingerprint", Json::String(_) | Json::Null) => {
                keep_last(&mut self.system_fingerprint, source, &mut self.held_bytes);
                Ok(())
            }
            // Padding against length analysis; it differs in every answer and means nothing.
            ("obfuscation", Json::String(_)) => Ok(()),
            ("usage", Json::Object(_)) => {
                let before = self.usage.as_ref().map_or(0, |(text, _)| text.len());
                let mut text = String::new();
                write::json(&mut text, value);
                self.held_bytes = self.held_bytes - before + text.len();
                self.usage = Some((text, Usage::of(value)));
                Ok(())
            }
            ("choices", Json::Array(choices)) => {
                choices.iter().try_for_each(|choice| self.push_choice(choice))
            }
            (_, value) if says_nothing(value) => Ok(()),
            (key, _) => Err(NotStorable::UnknownField(key.to_owned())),
        }
    }

    fn push_choice(&mut self, choice: &Json<'_>) -> Result<(), NotStorable> {
        let index = choice.get("index").and_then(Json::as_u64).filter(|index| *index < MAX_CHOICES);
        let (Some(index), Some(pairs)) = (index, choice.as_object()) else {
            return Err(NotStorable::Malformed("a choice has no index"));
        };
        let held = &mut self.held_bytes;
        let kind = self.expect.kind;
        let entry = self.choices.entry(index).or_insert_with(|| {
            *held += Choice::OVERHEAD_BYTES;
            Choice::new(kind)
        });
        entry.push(pairs, held)
    }
}

fn keep_last(slot: &mut Option<String>, source: &str, held: &mut usize) {
    if source == "null" && slot.is_some() {
        return;
    }
    *held -= slot.as_ref().map_or(0, String::len);
    *held += source.len();
    *slot = Some(source.to_owned());
}
