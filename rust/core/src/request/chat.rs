//! Owns: what a chat completions body asks.
//! Must not know: who asks, which models there are.
//! On failure: closed; a field of the wrong type or out of range is refused with its path.

use super::fields::{self, field, wrong_type};
use super::path::Path;
use super::seen::{DEARER, Seen};
use super::{Asked, OutputCap};
use crate::json::Json;
use crate::refusal::Refusal;

// === impl Asked ===

impl Asked<'_> {
    pub(super) fn read_chat(&mut self) -> Result<(), Refusal> {
        let messages = fields::some_items(&self.document, "messages")?;
        let mut seen = Seen::default();
        for (i, message) in messages.iter().enumerate() {
            read_message(message, &Path::new("messages").item(i), &mut seen)?;
        }
        if self.document.get("web_search_options").is_some() {
            seen.has_uncounted("a search that the server runs adds text that only it has");
        }
        if fields::is_dearer(&self.document)? {
            seen.has_uncounted(DEARER);
        }
        (self.vision, self.uncounted) = (seen.image, seen.uncounted);
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
        let new = fields::tokens(&self.document, "max_completion_tokens")?;
        let old = fields::tokens(&self.document, "max_tokens")?;
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
}

fn read_message(message: &Json<'_>, at: &Path<'_>, seen: &mut Seen) -> Result<(), Refusal> {
    if message.as_object().is_none() {
        return Err(wrong_type(at, "an object", message));
    }
    fields::inner_text(message, at, "role")?;
    let Some(content) = message.get("content").filter(|content| !content.is_null()) else { return Ok(()) };
    fields::each_part(content, &at.field("content"), |_, kind, part| {
        seen.image |= kind == "image_url" || kind == "input_image";
        if kind == "file" && part.get("file").is_none_or(|file| file.get("file_data").is_none()) {
            seen.has_uncounted("a file is named by its id, so its size is not known");
        }
        Ok(())
    })
}
