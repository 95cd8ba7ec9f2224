//! Owns tool calls in pieces: merged by index, their arguments joined.
//! Must not know whether the arguments are JSON; a model may have been cut off inside them.
//! On failure: a call that changes its identity is malformed: two calls under one index cannot be told apart.

use std::collections::BTreeMap;

use super::pieces::Text;
use super::reject::NotStorable;
use super::write::{self, Object};
use crate::json::Json;

/// What one call is counted with, beside its text.
const CALL_OVERHEAD_BYTES: usize = 192;
/// More calls than any model makes in one answer.
const MAX_CALLS: u64 = 1024;

/// The calls of one message.
#[derive(Debug, Default)]
pub(super) struct ToolCalls {
    calls: BTreeMap<u64, Call>,
}

#[derive(Debug, Default)]
struct Call {
    id: Once,
    kind: Once,
    function: Option<Target>,
    custom: Option<Target>,
}

/// What is called, and with what; also the whole of the older `function_call`.
#[derive(Debug, Default)]
pub(super) struct Target {
    name: Once,
    payload: Text,
}

/// A string that is said once; saying it again is the same, saying another is malformed.
#[derive(Debug, Default)]
pub(super) struct Once(Option<String>);

// === impl Once ===

impl Once {
    /// Takes a value; null and empty say nothing.
    pub(super) fn take(
        &mut self,
        value: &Json<'_>,
        conflict: &'static str,
        held: &mut usize,
    ) -> Result<(), NotStorable> {
        let value = match value {
            Json::Null => return Ok(()),
            Json::String(value) if value.is_empty() => return Ok(()),
            Json::String(value) => value,
            _ => return Err(NotStorable::Malformed(conflict)),
        };
        match &self.0 {
            Some(said) if said.as_str() == value.as_ref() => Ok(()),
            Some(_) => Err(NotStorable::Malformed(conflict)),
            None => {
                *held += value.len();
                self.0 = Some(value.clone().into_owned());
                Ok(())
            }
        }
    }

    /// What was said.
    pub(super) fn get(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

// === impl Target ===

impl Target {
    /// Takes a piece of `{"name", PAYLOAD}`.
    pub(super) fn push(
        &mut self,
        piece: &Json<'_>,
        payload: &'static str,
        held: &mut usize,
    ) -> Result<(), NotStorable> {
        let Some(pairs) = piece.as_object() else {
            return Err(NotStorable::Malformed("what a call calls is not an object"));
        };
        for (key, value) in pairs {
            if key == "name" {
                self.name.take(value, "a call changes its name", held)?;
            } else if key == payload {
                self.payload.push(value, held)?;
            } else if !value.is_null() {
                return Err(NotStorable::UnknownField(format!("tool_calls.function.{key}")));
            }
        }
        Ok(())
    }

    /// Writes `{"name", PAYLOAD}`; a call without a name is not whole.
    pub(super) fn write(&self, payload: &str, out: &mut String) -> Result<(), NotStorable> {
        let Some(name) = self.name.get() else {
            return Err(NotStorable::Incomplete("a call has no name"));
        };
        let mut object = Object::open(out);
        object.text("name", name);
        self.payload.write_always(payload, &mut object);
        object.close();
        Ok(())
    }
}

// === impl ToolCalls ===

impl ToolCalls {
    /// Takes the `tool_calls` of one delta.
    pub(super) fn push(&mut self, piece: &Json<'_>, held: &mut usize) -> Result<(), NotStorable> {
        let items = match piece {
            Json::Null => return Ok(()),
            Json::Array(items) => items,
            _ => return Err(NotStorable::Malformed("`tool_calls` is neither an array nor null")),
        };
        for item in items {
            let index = item.get("index").and_then(Json::as_u64).filter(|index| *index < MAX_CALLS);
            let (Some(index), Some(pairs)) = (index, item.as_object()) else {
                return Err(NotStorable::Malformed("a piece of a tool call has no index"));
            };
            let call = self.calls.entry(index).or_insert_with(|| {
                *held += CALL_OVERHEAD_BYTES;
                Call::default()
            });
            call.push(pairs, held)?;
        }
        Ok(())
    }

    /// Writes the field if there are calls.
    pub(super) fn write(&self, key: &str, object: &mut Object<'_>) -> Result<(), NotStorable> {
        if self.calls.is_empty() {
            return Ok(());
        }
        if self.calls.keys().zip(0..).any(|(index, at)| *index != at) {
            return Err(NotStorable::Incomplete("a tool call is missing"));
        }
        let mut result = Ok(());
        write::array(object.key(key), self.calls.values(), |out, call| {
            if let Err(reason) = call.write(out) {
                result = Err(reason);
            }
        });
        result
    }
}

// === impl Call ===

impl Call {
    fn push(
        &mut self,
        pairs: &[(std::borrow::Cow<'_, str>, Json<'_>)],
        held: &mut usize,
    ) -> Result<(), NotStorable> {
        for (key, value) in pairs {
            match key.as_ref() {
                "index" => {}
                "id" => self.id.take(value, "two tool calls share an index", held)?,
                "type" => self.kind.take(value, "a tool call changes its type", held)?,
                "function" if !value.is_null() => {
                    self.function.get_or_insert_default().push(value, "arguments", held)?;
                }
                "custom" if !value.is_null() => {
                    self.custom.get_or_insert_default().push(value, "input", held)?;
                }
                _ if value.is_null() => {}
                other => return Err(NotStorable::UnknownField(format!("tool_calls.{other}"))),
            }
        }
        Ok(())
    }

    fn write(&self, out: &mut String) -> Result<(), NotStorable> {
        let Some(id) = self.id.get() else {
            return Err(NotStorable::Incomplete("a tool call has no id"));
        };
        let mut object = Object::open(out);
        object.text("id", id);
        match (self.kind.get().unwrap_or("function"), &self.function, &self.custom) {
            ("function", Some(function), None) => {
                object.text("type", "function");
                function.write("arguments", object.key("function"))?;
            }
            ("custom", None, Some(custom)) => {
                object.text("type", "custom");
                custom.write("input", object.key("custom"))?;
            }
            _ => return Err(NotStorable::Malformed("a tool call is not of its type")),
        }
        object.close();
        Ok(())
    }
}
