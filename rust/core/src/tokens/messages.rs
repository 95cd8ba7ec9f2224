//! Owns: the tokens of an Anthropic Messages request before the answer: system, blocks, tools.
//! Must not know: limits, the answer's length, which models exist.
//! On failure: never fails; whatever has no rule counts as its JSON text.
//!
//! Anthropic publishes neither a vocabulary nor a template, so no count is `exact`: text counts by the model's
//! tokenizer, a message as one of chat completions, and what is published stands beside its number.

use super::chat::{self, PER_MESSAGE_TOKENS, REPLY_TOKENS, TOOL_CALL_MARGIN_TOKENS};
use super::count::Count;
use super::estimate::Estimate;
use super::memo::Memo;
use super::rules::{CountRules, Counter, write_compact};
use super::tokenizer::Tokenizer;
use super::{attachment, image};
use crate::json::{Document, Json};

/// Around a message or a block. A margin.
const ITEM_MARGIN_TOKENS: u64 = 2;

/// The text that tells a model how to use tools, whose length depends on the model: 159 to 935.
///
/// *Source*: Anthropic, "Tool use", section "Pricing".
const TOOL_PROMPT: Count = Count::estimate(530, 405);

/// Around one tool's definition. A margin.
const TOOL_MARGIN_TOKENS: u64 = 16;

/// The definition of a tool of Anthropic's own, such as `bash` or `computer`: 245 to 735, and a prompt of its own.
///
/// *Source*: Anthropic, "Bash tool", "Text editor tool" and "Computer use tool", sections "Pricing".
const OWN_TOOL: Count = Count::estimate(735, 500);

/// Counts the prompt of a Messages request.
///
/// Cost: linear in the request; a text of a kilobyte or more that the memo knows costs its hash.
pub fn count_messages(rules: &CountRules, memo: Option<&Memo>, request: &Document<'_>) -> Count {
    let counter = Counter { rules, memo };
    let mut total = Count::estimate(REPLY_TOKENS, ITEM_MARGIN_TOKENS);
    if let Some(system) = request.get("system") {
        total += item() + count_content(counter, system);
    }
    if let Some(messages) = request.get("messages") {
        total += match messages.as_array() {
            Some(messages) => messages.iter().map(|message| count_message(counter, message)).sum(),
            None => counter.opaque(messages),
        };
    }
    if let Some(list) = request.get("tools") {
        total += count_tools(counter, list);
    }
    total +=
        request.get("tool_choice").map_or(Count::default(), |choice| chat::count_choice(counter, choice));
    let format =
        |holder: Option<&Json<'_>>| holder.and_then(|f| f.get("schema")).map(|schema| counter.opaque(schema));
    total += format(request.get("output_format")).unwrap_or_default();
    total += format(request.get("output_config").and_then(|config| config.get("format"))).unwrap_or_default();
    total
}

fn count_message(counter: Counter<'_>, message: &Json<'_>) -> Count {
    let Some(role) = message.get("role").and_then(Json::as_str) else {
        return item() + counter.opaque(message);
    };
    let content = message.get("content").map_or(Count::default(), |content| count_content(counter, content));
    item() + counter.text(role) + content
}

fn count_content(counter: Counter<'_>, content: &Json<'_>) -> Count {
    match content {
        Json::Null => Count::default(),
        Json::String(text) => counter.text(text),
        Json::Array(blocks) => blocks.iter().map(|block| count_block(counter, block)).sum(),
        other => counter.opaque(other),
    }
}

fn count_block(counter: Counter<'_>, block: &Json<'_>) -> Count {
    let text = |name: &str| match block.get(name) {
        None | Some(Json::Null) => Count::default(),
        Some(Json::String(text)) => counter.text(text),
        Some(other) => counter.opaque(other),
    };
    let inner =
        |name: &str| block.get(name).map_or(Count::default(), |content| count_content(counter, content));
    match block.get("type").and_then(Json::as_str) {
        Some("text") => text("text"),
        Some("image") => {
            block.get("source").map_or_else(|| counter.opaque(block), |source| count_image(counter, source))
        }
        Some("document") => {
            let source = block
                .get("source")
                .map_or_else(|| counter.opaque(block), |source| count_document(counter, source));
            item() + text("title") + text("context") + source
        }
        Some("tool_use") => {
            let input = block.get("input").map_or(Count::default(), |input| counter.opaque(input));
            item() + text("name") + input + Count::estimate(0, TOOL_CALL_MARGIN_TOKENS)
        }
        Some("tool_result") => item() + inner("content") + Count::estimate(0, TOOL_CALL_MARGIN_TOKENS),
        Some("search_result") => item() + text("title") + text("source") + inner("content"),
        Some("thinking") => {
            // The signature seals what was thought, of which the text may be a summary.
            let sealed =
                block.get("signature").and_then(Json::as_str).map_or(Count::default(), attachment::sealed);
            let said = text("thinking");
            item() + if sealed.tokens > said.tokens { sealed } else { said }
        }
        Some("redacted_thinking") => {
            item() + block.get("data").and_then(Json::as_str).map_or(Count::default(), attachment::sealed)
        }
        Some("container_upload") => attachment::unseen_file(),
        _ => counter.opaque(block),
    }
}

fn count_image(counter: Counter<'_>, source: &Json<'_>) -> Count {
    let field = |name| source.get(name).and_then(Json::as_str);
    let rule = counter.rules.image;
    let count = match field("data") {
        Some(data) => image::count_base64(rule, data),
        None => image::count_at(rule, field("url"), None),
    };
    Count { exact: false, ..count }
}

fn count_document(counter: Counter<'_>, source: &Json<'_>) -> Count {
    let field = |name| source.get(name).and_then(Json::as_str);
    match (field("type"), field("data")) {
        (Some("text"), Some(text)) => counter.text(text),
        (_, Some(data)) => attachment::file(data),
        (Some("content"), None) => {
            source.get("content").map_or(Count::default(), |content| count_content(counter, content))
        }
        (_, None) => attachment::unseen_file(),
    }
}

/// A long list is remembered as a whole, since every request of an agent repeats it.
fn count_tools(counter: Counter<'_>, list: &Json<'_>) -> Count {
    let tools = match list {
        Json::Null => return Count::default(),
        Json::Array(tools) if tools.is_empty() => return Count::default(),
        Json::Array(tools) => tools,
        other => return counter.opaque(other),
    };
    let fresh = || tool_prompt(counter) + tools.iter().map(|tool| count_tool(counter, tool)).sum();
    if counter.memo.is_none() {
        return fresh();
    }
    let mut text = String::new();
    write_compact(list, &mut text);
    counter.remembered(&format!("m.tools {}", counter.rules.tokenizer.name()), text.as_bytes(), fresh)
}

/// Models of a known vocabulary are not Anthropic's, and their servers add no such text.
fn tool_prompt(counter: Counter<'_>) -> Count {
    match counter.rules.tokenizer {
        Tokenizer::Estimate(Estimate::GENERIC) => TOOL_PROMPT,
        _ => Count::default(),
    }
}

fn count_tool(counter: Counter<'_>, tool: &Json<'_>) -> Count {
    let own = tool.get("type").and_then(Json::as_str).is_some_and(|kind| kind != "custom");
    let text = counter.opaque(tool);
    if own { text + OWN_TOOL } else { text + Count::estimate(0, TOOL_MARGIN_TOKENS) }
}

fn item() -> Count {
    Count::estimate(PER_MESSAGE_TOKENS, ITEM_MARGIN_TOKENS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::json::Bounds;
    use crate::tokens::{Encoding, ImageRule};

    /// Claude's images: the area by 750, at most 1,600 tokens, as patches of 32 pixels.
    const AREA: ImageRule = ImageRule::Patches { cap: 1_172, multiplier_milli: 1_366 };
    const GENERIC: CountRules = CountRules { tokenizer: Tokenizer::Estimate(Estimate::GENERIC), image: AREA };
    const O200K: CountRules = CountRules { tokenizer: Tokenizer::Exact(Encoding::O200kBase), image: AREA };

    fn count_by(rules: &CountRules, body: &str) -> Count {
        count_messages(rules, None, &Document::parse(body.as_bytes(), Bounds::default()).unwrap())
    }

    fn words(text: &str) -> u64 {
        Encoding::O200kBase.count(text)
    }

    /// The examples of Anthropic's "Token counting", which say 14 and 403.
    #[test]
    fn published_examples_are_near_and_within_the_bound() {
        let plain =
            r#"{"system":"You are a scientist","messages":[{"role":"user","content":"Hello, Claude"}]}"#;
        let tool = r#"{"tools":[{"name":"get_weather","description":"Get the current weather in a given location",
            "input_schema":{"type":"object","properties":{"location":{"type":"string",
            "description":"The city and state, e.g. San Francisco, CA"}},"required":["location"]}}],
            "messages":[{"role":"user","content":"What's the weather like in San Francisco?"}]}"#;
        for (body, published) in [(plain, 14), (tool, 403)] {
            let counted = count_by(&GENERIC, body);
            assert!(counted.bound_tokens() >= published && !counted.exact, "{counted:?}");
            assert!(counted.tokens <= published * 2, "{counted:?}");
        }
    }

    #[test]
    fn blocks_cost_what_they_hold() {
        let base = count_by(&O200K, r#"{"messages":[{"role":"user","content":[]}]}"#);
        assert_eq!((base.tokens, base.margin_tokens), (3 + 3 + words("user"), 4));
        let block = |block: &str| {
            let counted =
                count_by(&O200K, &format!(r#"{{"messages":[{{"role":"user","content":[{block}]}}]}}"#));
            (counted.tokens - base.tokens, counted.margin_tokens - base.margin_tokens)
        };
        assert_eq!(
            block(r#"{"type":"text","text":"hello world","cache_control":{"type":"ephemeral"}}"#),
            (2, 0)
        );
        assert_eq!(
            block(r#"{"type":"tool_use","id":"t","name":"look_up","input":{"id":7}}"#),
            (3 + words("look_up") + words(r#"{"id":7}"#), 2 + 8)
        );
        assert_eq!(
            block(r#"{"type":"tool_result","tool_use_id":"t","content":"found"}"#),
            (3 + words("found"), 2 + 8)
        );
        let png = "iVBORw0KGgoAAAANSUhEUgAAAIAAAABA"; // 128 × 64
        let image = |source: &str| block(&format!(r#"{{"type":"image","source":{source}}}"#));
        assert_eq!(
            image(&format!(r#"{{"type":"base64","media_type":"image/png","data":"{png}"}}"#)),
            (11, 0)
        );
        assert_eq!(image(r#"{"type":"url","url":"https://x.test/a.png"}"#), (2, 1_601 - 2));
        assert_eq!(image(r#"{"type":"file","file_id":"f"}"#), (2, 1_601 - 2));
        let document =
            |source: &str| block(&format!(r#"{{"type":"document","title":"hello","source":{source}}}"#));
        assert_eq!(
            document(r#"{"type":"text","media_type":"text/plain","data":"hello world"}"#),
            (3 + 1 + 2, 2)
        );
        assert_eq!(
            document(r#"{"type":"content","content":[{"type":"text","text":"hello"}]}"#),
            (3 + 1 + 1, 2)
        );
        assert_eq!(document(r#"{"type":"url","url":"u"}"#), (3 + 1 + 3_000, 2 + 27_000));
        assert_eq!(
            document(&format!(r#"{{"type":"base64","data":"{}"}}"#, "A".repeat(400))),
            (3 + 1 + 75, 2 + 225)
        );
        let thinking = |signature: usize| {
            block(&format!(
                r#"{{"type":"thinking","thinking":"hello world","signature":"{}"}}"#,
                "A".repeat(signature)
            ))
        };
        assert_eq!((thinking(4), thinking(400)), ((3 + 2, 2), (3 + 75, 2 + 225)));
        assert_eq!(block(r#"{"type":"redacted_thinking","data":"AAAA"}"#), (3 + 1, 2 + 2));
        assert!(block(r#"{"type":"server_tool_use","name":"web_search","input":{}}"#).0 > 5);
    }

    #[test]
    fn system_texts_and_formats_count() {
        let bare = count_by(&O200K, "{}").tokens;
        let system = r#"{"system":[{"type":"text","text":"hello"},{"type":"text","text":" world"}]}"#;
        assert_eq!(count_by(&O200K, system).tokens - bare, 3 + 2);
        assert_eq!(count_by(&O200K, r#"{"system":"hello world"}"#).tokens - bare, 3 + 2);
        for holder in [r#""output_format":"#, r#""output_config":{"format":"#] {
            let close = if holder.ends_with("format\":") && holder.contains('{') { "}" } else { "" };
            let body = format!(r#"{{{holder}{{"type":"json_schema","schema":{{"type":"object"}}}}{close}}}"#);
            assert_eq!(count_by(&O200K, &body).tokens - bare, words(r#"{"type":"object"}"#), "{body}");
        }
    }

    #[test]
    fn tools_bring_a_prompt_where_the_model_may_be_anthropic_s() {
        let body = r#"{"tools":[{"name":"f","input_schema":{"type":"object"}}]}"#;
        let plain = |rules: &CountRules| count_by(rules, "{}");
        let known = count_by(&O200K, body);
        assert_eq!(
            known.tokens - plain(&O200K).tokens,
            words(r#"{"name":"f","input_schema":{"type":"object"}}"#)
        );
        let unknown = count_by(&GENERIC, body);
        assert!(unknown.tokens >= plain(&GENERIC).tokens + 530 && unknown.margin_tokens > 405);
        assert_eq!(count_by(&GENERIC, r#"{"tools":[]}"#), plain(&GENERIC));
        let own = count_by(&O200K, r#"{"tools":[{"type":"bash_20250124","name":"bash"}]}"#);
        assert!(own.tokens > 735);
    }

    #[test]
    fn a_long_list_of_tools_is_remembered_apart_from_that_of_chats() {
        let memo = Memo::new(256);
        let tool = format!(r#"{{"name":"f","description":"{}"}}"#, "word ".repeat(400));
        let body = format!(r#"{{"tools":[{tool}]}}"#);
        let document = Document::parse(body.as_bytes(), Bounds::default()).unwrap();
        let fresh = count_messages(&GENERIC, None, &document);
        assert!(super::super::count_chat(&GENERIC, Some(&memo), &document).tokens > 0);
        for _ in 0..2 {
            assert_eq!(count_messages(&GENERIC, Some(&memo), &document), fresh);
        }
        assert!(memo.stats().hits >= 1);
    }
}
