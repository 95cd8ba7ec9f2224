//! Owns: what a body of Anthropic's Messages asks.
//! Must not know: who asks, which models there are.
//! On failure: closed; a field of the wrong type or out of range is refused with its path.
//!
//! Source: Anthropic API reference, "Create a Message".

use super::fields::{self, missing, wrong_type};
use super::path::Path;
use super::seen::{DEARER, Seen};
use super::{Asked, OutputCap};
use crate::json::Json;
use crate::refusal::Refusal;

/// Tools with a type that the caller runs, by the beginning of it; what any other typed tool does happens at the
/// server, and its tokens with it.
const CALLERS_TOOLS: [&str; 5] = ["custom", "bash_", "text_editor_", "computer_", "memory_"];

const UNSEEN_FILE: &str = "a file is named by its id or its URL, so its size is not known";

// === impl Asked ===

impl Asked<'_> {
    pub(super) fn read_messages(&mut self) -> Result<(), Refusal> {
        let cap = fields::tokens(&self.document, "max_tokens")?
            .ok_or_else(|| missing("max_tokens", "a whole number above 0"))?;
        self.output_cap = Some(OutputCap { field: "max_tokens", tokens: cap });
        self.stateful = self.document.get("container").is_some();
        if let Some(system) = self.document.get("system") {
            fields::each_part(system, &Path::new("system"), |_, _, _| Ok(()))?;
        }
        let messages = fields::some_items(&self.document, "messages")?;
        let mut seen = Seen::default();
        for (i, message) in messages.iter().enumerate() {
            read_message(message, &Path::new("messages").item(i), &mut seen)?;
        }
        let tools = fields::items(&self.document, "tools")?;
        self.tools = !tools.is_empty();
        if tools.iter().any(|tool| !runs_at_the_caller(tool))
            || !fields::items(&self.document, "mcp_servers")?.is_empty()
        {
            seen.has_uncounted("a tool that the server runs reads and writes tokens of its own");
        }
        fields::text(&self.document, "speed")?;
        let fast = self.document.get("speed").and_then(Json::as_str) == Some("fast");
        if fast || fields::is_dearer(&self.document)? {
            seen.has_uncounted(DEARER);
        }
        (self.vision, self.uncounted) = (seen.image, seen.uncounted);
        fields::object(&self.document, "metadata")?;
        self.read_thinking()?;
        let formatted =
            |name| Ok::<_, Refusal>(fields::object(&self.document, name)?.is_some_and(is_json_format));
        let config = fields::object(&self.document, "output_config")?;
        self.json =
            formatted("output_format")? || config.and_then(|c| c.get("format")).is_some_and(is_json_format);
        Ok(())
    }

    fn read_thinking(&self) -> Result<(), Refusal> {
        let Some(thinking) = fields::object(&self.document, "thinking")? else { return Ok(()) };
        let kind = fields::inner_text(thinking, &Path::new("thinking"), "type")?;
        match thinking.get("budget_tokens") {
            None | Some(Json::Null) if kind == "enabled" => {
                Err(missing("thinking.budget_tokens", "a whole number above 0"))
            }
            None | Some(Json::Null) => Ok(()),
            Some(budget) => fields::whole("thinking.budget_tokens", budget, 1, u64::from(u32::MAX)).map(drop),
        }
    }
}

fn read_message(message: &Json<'_>, at: &Path<'_>, seen: &mut Seen) -> Result<(), Refusal> {
    if message.as_object().is_none() {
        return Err(wrong_type(at, "an object", message));
    }
    fields::inner_text(message, at, "role")?;
    let content = at.field("content");
    match message.get("content") {
        None | Some(Json::Null) => Err(missing(content, "a string or an array")),
        Some(given) => read_content(given, &content, seen),
    }
}

/// Contents lie in contents; the body's depth is bounded, and so is this.
fn read_content(content: &Json<'_>, at: &Path<'_>, seen: &mut Seen) -> Result<(), Refusal> {
    fields::each_part(content, at, |at, kind, block| match kind {
        "text" => fields::inner_text(block, at, "text").map(drop),
        "image" => {
            seen.image = true;
            Ok(())
        }
        "document" => read_document(block, at, seen),
        "container_upload" => {
            seen.has_uncounted(UNSEEN_FILE);
            Ok(())
        }
        "tool_use" => fields::inner_text(block, at, "name").map(drop),
        "tool_result" => {
            fields::inner_text(block, at, "tool_use_id")?;
            match block.get("content") {
                None | Some(Json::Null) => Ok(()),
                Some(inner) => read_content(inner, &at.field("content"), seen),
            }
        }
        _ => Ok(()),
    })
}

fn read_document(block: &Json<'_>, at: &Path<'_>, seen: &mut Seen) -> Result<(), Refusal> {
    let at = at.field("source");
    let source = block.get("source").ok_or_else(|| missing(at, "an object"))?;
    if matches!(source.get("type").and_then(Json::as_str), Some("url" | "file")) {
        seen.has_uncounted(UNSEEN_FILE);
    }
    match source.get("content") {
        None | Some(Json::Null) => Ok(()),
        Some(inner) => read_content(inner, &at.field("content"), seen),
    }
}

fn runs_at_the_caller(tool: &Json<'_>) -> bool {
    match tool.get("type").and_then(Json::as_str) {
        None => true,
        Some(kind) => CALLERS_TOOLS.iter().any(|own| kind.starts_with(own)),
    }
}

fn is_json_format(format: &Json<'_>) -> bool {
    format.get("type").and_then(Json::as_str).is_some_and(|kind| kind.starts_with("json"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::json::{Bounds, Document};
    use crate::policy::pb::route::Operation;

    const HI: &str = r#"{"role":"user","content":"hi"}"#;

    fn read(body: &str) -> Result<Asked<'_>, Refusal> {
        Asked::read(Document::parse(body.as_bytes(), Bounds::default()).unwrap(), Operation::Messages)
    }

    fn asked(messages: &str, fields: &str) -> Asked<'static> {
        let body = format!(r#"{{"model":"m","max_tokens":64,"messages":[{messages}]{fields}}}"#);
        read(Box::leak(body.into_boxed_str())).unwrap()
    }

    /// What a user's content of these blocks has: an image, a bound.
    fn blocks(blocks: &str) -> (bool, bool) {
        let asked = asked(&format!(r#"{{"role":"user","content":[{blocks}]}}"#), "");
        (asked.vision, asked.uncounted.is_none())
    }

    #[test]
    fn a_message_tells_what_it_needs() {
        let plain = asked(HI, "");
        assert_eq!(plain.output_cap, Some(OutputCap { field: "max_tokens", tokens: 64 }));
        assert_eq!((plain.choices, plain.prompts, plain.uncounted), (1, 1, None));
        assert!(plain.sampled && !plain.stateful && !plain.tools && !plain.stream && !plain.json);
        let full = asked(
            HI,
            r#","stream":true,"temperature":0.0,"system":[{"type":"text","text":"Be brief."}],"metadata":{"user_id":"u"},
            "tools":[{"name":"f","input_schema":{}},{"type":"bash_20250124","name":"bash"}],
            "thinking":{"type":"enabled","budget_tokens":1024},"output_config":{"format":{"type":"json_schema","schema":{}}},
            "n":3,"stop_sequences":["x"]"#,
        );
        assert!(full.stream && full.tools && full.json && !full.sampled && !full.include_usage);
        assert_eq!((full.choices, full.uncounted), (1, None));
        assert!(asked(HI, r#","output_format":{"type":"json_schema","schema":{}}"#).json);
        assert!(asked(HI, r#","container":"c""#).stateful);
        assert!(read(r#"{"model":"m","max_tokens":1,"system":"x","thinking":{"type":"disabled"},"messages":[{"role":"user","content":"x"}]}"#).is_ok());
    }

    #[test]
    fn blocks_are_looked_through() {
        let text = r#"{"type":"text","text":"x"}"#;
        let image = r#"{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA"}}"#;
        assert_eq!(blocks(text), (false, true));
        assert_eq!(blocks(image), (true, true));
        let result = |inner: &str| format!(r#"{{"type":"tool_result","tool_use_id":"t","content":{inner}}}"#);
        assert_eq!(blocks(&result(&format!("[{text},{image}]"))), (true, true));
        assert_eq!(blocks(&result("\"x\"")), (false, true));
        assert_eq!(blocks(&result("null")), (false, true));
        let document = |source: &str| format!(r#"{{"type":"document","source":{source}}}"#);
        assert_eq!(blocks(&document(r#"{"type":"base64","data":"AA"}"#)), (false, true));
        assert_eq!(blocks(&document(&format!(r#"{{"type":"content","content":[{image}]}}"#))), (true, true));
        assert_eq!(blocks(&document(r#"{"type":"url","url":"u"}"#)), (false, false));
        assert_eq!(blocks(&document(r#"{"type":"file","file_id":"f"}"#)), (false, false));
        assert_eq!(blocks(&result(&format!("[{}]", document(r#"{"type":"file"}"#)))), (false, false));
        assert_eq!(blocks(r#"{"type":"container_upload","file_id":"f"}"#), (false, false));
    }

    #[test]
    fn tools_of_the_server_and_fast_answers_have_no_bound() {
        for (fields, counted) in [
            (r#""tools":[{"type":"custom","name":"f"}]"#, true),
            (r#""tools":[{"type":"computer_20250124","name":"c"}]"#, true),
            (r#""tools":[{"type":"web_search_20250305","name":"w"}]"#, false),
            (r#""tools":[{"type":"code_execution_20250825","name":"c"}]"#, false),
            (r#""mcp_servers":[{"url":"u"}]"#, false),
            (r#""mcp_servers":[]"#, true),
            (r#""speed":"fast""#, false),
            (r#""speed":"standard","service_tier":"standard_only""#, true),
        ] {
            assert_eq!(asked(HI, &format!(",{fields}")).uncounted.is_none(), counted, "{fields}");
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        let param = |fields: &str| match read(&format!(r#"{{"model":"m",{fields}}}"#)).unwrap_err() {
            Refusal::Field { param, .. } => param,
            other => panic!("{other:?}"),
        };
        for (fields, expected) in [
            (r#""messages":[{"role":"user","content":"x"}]"#, "max_tokens"),
            (r#""max_tokens":null,"messages":[{"role":"user","content":"x"}]"#, "max_tokens"),
            (r#""max_tokens":0,"messages":[{"role":"user","content":"x"}]"#, "max_tokens"),
            (r#""max_tokens":1.0,"messages":[{"role":"user","content":"x"}]"#, "max_tokens"),
            (r#""max_tokens":1"#, "messages"),
            (r#""max_tokens":1,"messages":[]"#, "messages"),
            (r#""max_tokens":1,"messages":"x""#, "messages"),
            (r#""max_tokens":1,"messages":["x"]"#, "messages[0]"),
            (r#""max_tokens":1,"messages":[{"content":"x"}]"#, "messages[0].role"),
            (r#""max_tokens":1,"messages":[{"role":"user"}]"#, "messages[0].content"),
            (r#""max_tokens":1,"messages":[{"role":"user","content":7}]"#, "messages[0].content"),
            (r#""max_tokens":1,"messages":[{"role":"user","content":["x"]}]"#, "messages[0].content[0].type"),
            (
                r#""max_tokens":1,"messages":[{"role":"user","content":[{"type":"text"}]}]"#,
                "messages[0].content[0].text",
            ),
            (
                r#""max_tokens":1,"messages":[{"role":"user","content":[{"type":"document"}]}]"#,
                "messages[0].content[0].source",
            ),
            (
                r#""max_tokens":1,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{}]}]}]"#,
                "messages[0].content[0].content[0].type",
            ),
        ] {
            assert_eq!(param(fields), expected, "{fields}");
        }
        for (fields, expected) in [
            (r#""system":7"#, "system"),
            (r#""system":[{"text":"x"}]"#, "system[0].type"),
            (r#""tools":{}"#, "tools"),
            (r#""metadata":"x""#, "metadata"),
            (r#""thinking":true"#, "thinking"),
            (r#""thinking":{}"#, "thinking.type"),
            (r#""thinking":{"type":"enabled"}"#, "thinking.budget_tokens"),
            (r#""thinking":{"type":"enabled","budget_tokens":-1}"#, "thinking.budget_tokens"),
            (r#""stream":"x""#, "stream"),
            (r#""temperature":true"#, "temperature"),
        ] {
            assert_eq!(param(&format!(r#""max_tokens":1,"messages":[{HI}],{fields}"#)), expected, "{fields}");
        }
    }
}
