//! Owns: what a body of `OpenAI`'s Responses asks.
//! Must not know: who asks, which models there are.
//! On failure: closed; a field of the wrong type or out of range is refused with its path.
//!
//! Source: `OpenAI` API reference, "Create a model response".

use super::fields::{self, empty, missing, wrong_type};
use super::path::Path;
use super::seen::{DEARER, Seen};
use super::{Asked, OutputCap};
use crate::json::Json;
use crate::refusal::Refusal;

/// Tools that the caller runs; what any other tool does happens at the server, and its tokens with it.
const CALLERS_TOOLS: [&str; 8] = [
    "function",
    "custom",
    "local_shell",
    "apply_patch",
    "computer",
    "computer_use_preview",
    "computer-preview",
    "namespace",
];

// === impl Asked ===

impl Asked<'_> {
    pub(super) fn read_responses(&mut self) -> Result<(), Refusal> {
        if fields::boolean(&self.document, "background")? == Some(true) {
            return Err(Refusal::Unsupported {
                param: "background",
                why: "a response that is made after its request has ended cannot be accounted; leave it out",
            });
        }
        let given = |name: &str| self.document.get(name).is_some();
        let continues = ["previous_response_id", "conversation", "prompt"].into_iter().any(given);
        // Where nothing says otherwise, the server keeps the response.
        let stored = fields::boolean(&self.document, "store")?.unwrap_or(true);
        self.stateful = stored || continues;
        let mut seen = Seen::default();
        for (name, why) in [
            ("previous_response_id", "`previous_response_id` adds turns that only the server has"),
            ("conversation", "`conversation` adds turns that only the server has"),
            ("prompt", "`prompt` names a text that only the server has"),
        ] {
            if given(name) {
                seen.has_uncounted(why);
            }
        }
        fields::text(&self.document, "instructions")?;
        for name in ["text", "reasoning", "metadata"] {
            fields::object(&self.document, name)?;
        }
        read_input(self.document.get("input"), continues, &mut seen)?;
        let tools = fields::items(&self.document, "tools")?;
        self.tools = !tools.is_empty();
        if tools.iter().any(|tool| !runs_at_the_caller(tool)) {
            seen.has_uncounted("a tool that the server runs reads and writes tokens of its own");
        }
        if fields::is_dearer(&self.document)? {
            seen.has_uncounted(DEARER);
        }
        (self.vision, self.uncounted) = (seen.image, seen.uncounted);
        let format = self.document.get("text").and_then(|text| text.get("format"));
        self.json = match format {
            None | Some(Json::Null) => false,
            Some(format @ Json::Object(_)) => {
                format.get("type").and_then(Json::as_str).is_some_and(|kind| kind.starts_with("json"))
            }
            Some(other) => return Err(wrong_type("text.format", "an object", other)),
        };
        self.output_cap = fields::tokens(&self.document, "max_output_tokens")?
            .map(|tokens| OutputCap { field: "max_output_tokens", tokens });
        Ok(())
    }
}

/// `continues`: the server has more, so that there need be no input.
fn read_input(input: Option<&Json<'_>>, continues: bool, seen: &mut Seen) -> Result<(), Refusal> {
    let items = match input {
        Some(Json::String(_)) => return Ok(()),
        Some(Json::Array(items)) if items.is_empty() && !continues => return Err(empty("input")),
        Some(Json::Array(items)) => items,
        Some(other) => return Err(wrong_type("input", "a string or an array", other)),
        None if continues => return Ok(()),
        None => return Err(missing("input", "a string or an array")),
    };
    for (i, item) in items.iter().enumerate() {
        read_item(item, &Path::new("input").item(i), seen)?;
    }
    Ok(())
}

fn read_item(item: &Json<'_>, at: &Path<'_>, seen: &mut Seen) -> Result<(), Refusal> {
    if item.as_object().is_none() {
        return Err(wrong_type(at, "an object", item));
    }
    let kind = match item.get("type") {
        None | Some(Json::Null) if item.get("role").is_none() && item.get("id").is_some() => "item_reference",
        None | Some(Json::Null) => "message",
        Some(_) => fields::inner_text(item, at, "type")?,
    };
    match kind {
        "message" => {
            fields::inner_text(item, at, "role")?;
            let content = at.field("content");
            let given = item.get("content").ok_or_else(|| missing(content, "a string or an array"))?;
            read_content(given, &content, seen)
        }
        "function_call_output" | "custom_tool_call_output" => match item.get("output") {
            None | Some(Json::Null) => Ok(()),
            Some(output) => read_content(output, &at.field("output"), seen),
        },
        "item_reference" => {
            seen.has_uncounted("an item is named by its id, and only the server has it");
            Ok(())
        }
        // A picture of the screen.
        "computer_call_output" => {
            seen.image = true;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn read_content(content: &Json<'_>, at: &Path<'_>, seen: &mut Seen) -> Result<(), Refusal> {
    fields::each_part(content, at, |_, kind, part| {
        seen.image |= kind == "input_image";
        if kind == "input_file" && part.get("file_data").is_none() {
            seen.has_uncounted("a file is named by its id or its URL, so its size is not known");
        }
        Ok(())
    })
}

fn runs_at_the_caller(tool: &Json<'_>) -> bool {
    tool.get("type").and_then(Json::as_str).is_some_and(|kind| CALLERS_TOOLS.contains(&kind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::json::{Bounds, Document};
    use crate::policy::pb::route::Operation;

    fn read(body: &str) -> Result<Asked<'_>, Refusal> {
        Asked::read(Document::parse(body.as_bytes(), Bounds::default()).unwrap(), Operation::Responses)
    }

    /// A body with a good input and these fields beside it.
    fn asked(fields: &str) -> Asked<'static> {
        let body = format!(r#"{{"model":"m","input":"hi"{fields}}}"#);
        read(Box::leak(body.into_boxed_str())).unwrap()
    }

    fn param(body: &str) -> String {
        match read(body).unwrap_err() {
            Refusal::Field { param, .. } => param,
            Refusal::Unsupported { param, .. } => param.to_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_response_tells_what_it_needs() {
        let plain = asked("");
        assert_eq!((plain.choices, plain.prompts, plain.output_cap), (1, 1, None));
        assert!(plain.sampled && !plain.tools && !plain.vision && !plain.json && !plain.stream);
        let full = asked(
            r#","max_output_tokens":64,"stream":true,"temperature":0,"tools":[{"type":"function","name":"f"}],
            "text":{"format":{"type":"json_schema","schema":{}}},"reasoning":{"effort":"low"},"instructions":"Be brief.",
            "stream_options":{"include_obfuscation":false},"n":7"#,
        );
        assert_eq!(full.output_cap, Some(OutputCap { field: "max_output_tokens", tokens: 64 }));
        assert!(full.stream && full.tools && full.json && !full.sampled && !full.include_usage);
        assert_eq!((full.choices, full.uncounted), (1, None));
    }

    #[test]
    fn the_server_remembers_unless_told_otherwise() {
        assert!(
            asked("").stateful && asked(r#","store":true"#).stateful && asked(r#","store":null"#).stateful
        );
        let forgotten = asked(r#","store":false"#);
        assert!(!forgotten.stateful && forgotten.uncounted.is_none());
        for field in ["previous_response_id", "conversation", "prompt"] {
            let kept = asked(&format!(r#","store":false,"{field}":{{"id":"x"}}"#));
            assert!(kept.stateful && kept.uncounted.unwrap().contains(field), "{field}");
            assert!(read(&format!(r#"{{"model":"m","{field}":"x"}}"#)).is_ok(), "{field} brings an input");
        }
    }

    #[test]
    fn items_are_looked_through() {
        let items = |items: &str| {
            read(Box::leak(format!(r#"{{"model":"m","input":[{items}]}}"#).into_boxed_str())).unwrap()
        };
        let image = r#"{"role":"user","content":[{"type":"input_text","text":"x"},{"type":"input_image","image_url":"u"}]}"#;
        assert!(items(image).vision);
        assert!(items(r#"{"type":"function_call_output","call_id":"c","output":[{"type":"input_image","image_url":"u"}]}"#).vision);
        assert!(items(r#"{"type":"computer_call_output","output":{"type":"computer_screenshot"}}"#).vision);
        let plain = items(
            r#"{"type":"message","role":"user","content":"x"},{"type":"function_call","name":"f","arguments":"{}","call_id":"c"},
            {"type":"function_call_output","call_id":"c","output":"found"},{"type":"reasoning","summary":[]}"#,
        );
        assert!(!plain.vision && plain.uncounted.is_none());
        for unseen in [
            r#"{"id":"msg_1"}"#,
            r#"{"type":"item_reference","id":"msg_1"}"#,
            r#"{"role":"user","content":[{"type":"input_file","file_id":"f"}]}"#,
            r#"{"role":"user","content":[{"type":"input_file","file_url":"u"}]}"#,
        ] {
            assert!(items(unseen).uncounted.is_some(), "{unseen}");
        }
        assert!(
            items(r#"{"role":"user","content":[{"type":"input_file","file_data":"AA"}]}"#)
                .uncounted
                .is_none()
        );
    }

    #[test]
    fn tools_of_the_server_have_no_bound() {
        for (tool, counted) in [
            (r#"{"type":"function","name":"f"}"#, true),
            (r#"{"type":"custom","name":"f"}"#, true),
            (r#"{"type":"web_search"}"#, false),
            (r#"{"type":"mcp","server_url":"u"}"#, false),
            (r#"{"name":"f"}"#, false),
        ] {
            let asked = asked(&format!(r#","tools":[{tool}]"#));
            assert_eq!((asked.tools, asked.uncounted.is_none()), (true, counted), "{tool}");
        }
    }

    #[test]
    fn a_class_of_service_may_have_its_own_prices() {
        for (tier, counted) in [("auto", true), ("default", true), ("flex", true), ("priority", false)] {
            let asked = asked(&format!(r#","service_tier":"{tier}""#));
            assert_eq!(asked.uncounted.is_none(), counted, "{tier}");
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        for (fields, expected) in [
            (r#""input":"x","background":true"#, "background"),
            (r#""input":"x","background":1"#, "background"),
            (r#""input":"x","store":"no""#, "store"),
            (r#""input":"x","stream":1"#, "stream"),
            (r#""input":"x","instructions":["x"]"#, "instructions"),
            (r#""input":"x","max_output_tokens":0"#, "max_output_tokens"),
            (r#""input":"x","max_output_tokens":1e2"#, "max_output_tokens"),
            (r#""input":"x","temperature":"0""#, "temperature"),
            (r#""input":"x","text":"json""#, "text"),
            (r#""input":"x","text":{"format":"json"}"#, "text.format"),
            (r#""input":"x","reasoning":"low""#, "reasoning"),
            (r#""input":"x","tools":{}"#, "tools"),
            (r#""input":"x","service_tier":1"#, "service_tier"),
            (r#""store":false"#, "input"),
            (r#""input":{}"#, "input"),
            (r#""input":[]"#, "input"),
            (r#""input":["x"]"#, "input[0]"),
            (r#""input":[{"content":"x"}]"#, "input[0].role"),
            (r#""input":[{"role":7,"content":"x"}]"#, "input[0].role"),
            (r#""input":[{"role":"user"}]"#, "input[0].content"),
            (r#""input":[{"type":7}]"#, "input[0].type"),
            (r#""input":[{"role":"user","content":7}]"#, "input[0].content"),
            (r#""input":[{"role":"user","content":[{"text":"x"}]}]"#, "input[0].content[0].type"),
        ] {
            assert_eq!(param(&format!(r#"{{"model":"m",{fields}}}"#)), expected, "{fields}");
        }
        assert!(read(r#"{"model":"m","input":"x","background":false}"#).is_ok());
    }
}
