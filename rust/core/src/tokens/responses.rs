//! Owns: the tokens of a Responses request before the answer: instructions, items, tools, format.
//! Must not know: limits, the answer's length, which models exist.
//! On failure: never fails; whatever has no rule counts as its JSON text.
//!
//! How a server renders items is not published; `OpenAI` shows them to the model as messages. So items count by the
//! rule of chat completions, each with a margin, and no count is `exact`.

use super::chat::{self, PER_MESSAGE_TOKENS, REPLY_TOKENS, TOOL_CALL_MARGIN_TOKENS};
use super::count::Count;
use super::memo::Memo;
use super::rules::{CountRules, Counter};
use super::{attachment, image, tools};
use crate::json::{Document, Json};

/// What a server may write around the whole, such as a date and channels.
///
/// *Source*: `OpenAI` API reference, "Create a model response": 36 tokens where the rule of chat gives 19.
const REQUEST_MARGIN_TOKENS: u64 = 32;

/// Around an item. A margin.
const ITEM_MARGIN_TOKENS: u64 = 2;

/// Counts the prompt of a Responses request.
///
/// Cost: linear in the request; a text of a kilobyte or more that the memo knows costs its hash.
pub fn count_responses(rules: &CountRules, memo: Option<&Memo>, request: &Document<'_>) -> Count {
    let counter = Counter { rules, memo };
    let mut total = Count::estimate(REPLY_TOKENS, REQUEST_MARGIN_TOKENS);
    if let Some(instructions) = request.get("instructions") {
        total += message() + counter.text("system") + text(counter, instructions);
    }
    total += match request.get("input") {
        None => Count::default(),
        Some(Json::Array(items)) => items.iter().map(|item| count_item(counter, item)).sum(),
        Some(single) => message() + counter.text("user") + text(counter, single),
    };
    for name in ["previous_response_id", "conversation", "prompt"] {
        total += request.get(name).map_or(Count::default(), |_| attachment::unseen_conversation());
    }
    if let Some(list) = request.get("tools") {
        total += tools::count(counter, list);
    }
    total +=
        request.get("tool_choice").map_or(Count::default(), |choice| chat::count_choice(counter, choice));
    // The schema is shown to the model in a form that is not published.
    if let Some(schema) = request.get("text").and_then(|text| text.get("format")?.get("schema")) {
        total += counter.opaque(schema);
    }
    total
}

fn count_item(counter: Counter<'_>, item: &Json<'_>) -> Count {
    let field = |name| item.get(name).and_then(Json::as_str);
    match (field("type"), field("role")) {
        (None | Some("message"), Some(role)) => {
            let content =
                item.get("content").map_or(Count::default(), |content| count_content(counter, content));
            message() + counter.text(role) + content
        }
        (None, None) if field("id").is_some() => attachment::unseen_item(),
        (Some("item_reference"), _) => attachment::unseen_item(),
        (Some("function_call"), _) => call(counter, item, "arguments"),
        (Some("custom_tool_call"), _) => call(counter, item, "input"),
        (Some("function_call_output" | "custom_tool_call_output" | "computer_call_output"), _) => {
            let output = item.get("output").map_or(Count::default(), |output| count_content(counter, output));
            message() + Count::estimate(0, TOOL_CALL_MARGIN_TOKENS) + output
        }
        (Some("reasoning"), _) => message() + count_reasoning(counter, item),
        _ => message() + counter.opaque(item),
    }
}

fn count_content(counter: Counter<'_>, content: &Json<'_>) -> Count {
    match content {
        Json::Null => Count::default(),
        Json::Array(parts) => parts.iter().map(|part| count_part(counter, part)).sum(),
        // What a tool shows of a screen is a part without an array around it.
        Json::Object(_) => count_part(counter, content),
        single => text(counter, single),
    }
}

fn count_part(counter: Counter<'_>, part: &Json<'_>) -> Count {
    let field = |name| part.get(name).and_then(Json::as_str);
    match field("type") {
        Some("input_text" | "output_text" | "text" | "reasoning_text" | "summary_text") => {
            part.get("text").map_or(Count::default(), |given| text(counter, given))
        }
        Some("refusal") => part.get("refusal").map_or(Count::default(), |given| text(counter, given)),
        Some("input_image" | "computer_screenshot") => {
            image::count_at(counter.rules.image, field("image_url"), field("detail"))
        }
        Some("input_file") => match field("file_data") {
            Some(data) => attachment::file(data),
            None => attachment::unseen_file(),
        },
        _ => counter.opaque(part),
    }
}

fn call(counter: Counter<'_>, item: &Json<'_>, given: &str) -> Count {
    let field = |name| item.get(name).and_then(Json::as_str);
    match (field("name"), field(given)) {
        (Some(name), Some(given)) => {
            let margin = Count::estimate(0, TOOL_CALL_MARGIN_TOKENS);
            message() + counter.text(name) + counter.text(given) + margin
        }
        _ => message() + counter.opaque(item),
    }
}

/// Reasoning that is handed back: what it says in the clear, or what stands behind its seal.
fn count_reasoning(counter: Counter<'_>, item: &Json<'_>) -> Count {
    match item.get("encrypted_content").and_then(Json::as_str) {
        Some(sealed) => attachment::sealed(sealed),
        None if item.get("content").is_some_and(|content| !content.is_null()) => {
            item.get("content").map_or(Count::default(), |content| count_content(counter, content))
        }
        // Only the server has what was thought.
        None => attachment::unseen_item(),
    }
}

fn message() -> Count {
    Count::estimate(PER_MESSAGE_TOKENS, ITEM_MARGIN_TOKENS)
}

fn text(counter: Counter<'_>, value: &Json<'_>) -> Count {
    value.as_str().map_or_else(|| counter.opaque(value), |text| counter.text(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::json::Bounds;
    use crate::tokens::{Encoding, ImageRule, Tokenizer, count_chat};

    const O200K: CountRules = CountRules {
        tokenizer: Tokenizer::Exact(Encoding::O200kBase),
        image: ImageRule::Tiles { base_tokens: 85, tile_tokens: 170 },
    };

    fn count(body: &str) -> Count {
        count_responses(&O200K, None, &Document::parse(body.as_bytes(), Bounds::default()).unwrap())
    }

    fn words(text: &str) -> u64 {
        Encoding::O200kBase.count(text)
    }

    /// The example of the API reference, which says 36.
    #[test]
    fn a_published_example_is_within_the_margin() {
        let text = "Tell me a three sentence bedtime story about a unicorn.";
        let counted = count(&format!(r#"{{"input":"{text}"}}"#));
        assert_eq!(counted.tokens, 3 + 3 + words("user") + words(text));
        assert!((counted.tokens..=counted.bound_tokens()).contains(&36) && !counted.exact, "{counted:?}");
    }

    #[test]
    fn a_string_an_item_and_a_chat_cost_the_same() {
        let string = count(r#"{"input":"Why is the sky blue?","instructions":"Be brief."}"#);
        let items = count(
            r#"{"instructions":"Be brief.","input":[{"role":"user","content":[{"type":"input_text","text":"Why is the sky blue?"}]}]}"#,
        );
        let chat = r#"{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Why is the sky blue?"}]}"#;
        let chat = count_chat(&O200K, None, &Document::parse(chat.as_bytes(), Bounds::default()).unwrap());
        assert_eq!((string.tokens, items.tokens), (chat.tokens, chat.tokens));
        assert_eq!(string, items);
    }

    #[test]
    fn items_cost_what_they_hold() {
        let base = count(r#"{"input":[]}"#);
        let item = |item: &str| {
            let counted = count(&format!(r#"{{"input":[{item}]}}"#));
            (counted.tokens - base.tokens, counted.margin_tokens - base.margin_tokens)
        };
        let called =
            item(r#"{"type":"function_call","call_id":"c","name":"look_up","arguments":"{\"id\":7}"}"#);
        assert_eq!(called, (3 + words("look_up") + words(r#"{"id":7}"#), 2 + 8));
        assert_eq!(
            item(r#"{"type":"function_call_output","call_id":"c","output":"found"}"#),
            (3 + words("found"), 2 + 8)
        );
        let image = |detail: &str| {
            item(&format!(
                r#"{{"role":"user","content":[{{"type":"input_image","image_url":"https://x.test/a.png","detail":"{detail}"}}]}}"#
            ))
        };
        assert_eq!(image("low"), (3 + words("user") + 85, 2));
        assert_eq!(image("high"), (3 + words("user") + 85 + 170, 2 + 7 * 170));
        assert_eq!(item(r#"{"type":"item_reference","id":"i"}"#), (256, 1_792));
        assert_eq!(item(r#"{"id":"i"}"#), (256, 1_792));
        assert_eq!(item(r#"{"type":"reasoning","id":"r","summary":[]}"#), (3 + 256, 2 + 1_792));
        let sealed =
            format!(r#"{{"type":"reasoning","encrypted_content":"{}","summary":[]}}"#, "A".repeat(400));
        assert_eq!(item(&sealed), (3 + 75, 2 + 225));
        let file =
            |part: &str| item(&format!(r#"{{"role":"user","content":[{{"type":"input_file",{part}}}]}}"#));
        assert_eq!(file(r#""file_id":"f""#), (3 + words("user") + 3_000, 2 + 27_000));
        assert_eq!(
            file(&format!(r#""file_data":"{}""#, "A".repeat(40_000))),
            (3 + words("user") + 7_500, 2 + 22_500)
        );
        assert!(item(r#"{"type":"web_search_call","action":{"query":"x"}}"#).0 > 3);
        assert_eq!(
            count(r#"{"input":"x","previous_response_id":"r"}"#).tokens - count(r#"{"input":"x"}"#).tokens,
            2_000
        );
    }

    #[test]
    fn flat_tools_cost_what_nested_ones_cost() {
        let function = r#""name":"now","description":"The time.","parameters":{"type":"object","properties":{"zone":{"type":"string"}}}"#;
        let flat = format!(r#"{{"tools":[{{"type":"function",{function},"strict":true}}]}}"#);
        let nested = format!(r#"{{"tools":[{{"type":"function","function":{{{function}}}}}]}}"#);
        let parse = |body: &str| {
            count_chat(&O200K, None, &Document::parse(body.as_bytes(), Bounds::default()).unwrap())
        };
        assert_eq!(parse(&flat), parse(&nested));
        assert_eq!(count(&flat).tokens, parse(&nested).tokens);
        let schema =
            r#"{"input":"x","text":{"format":{"type":"json_schema","name":"n","schema":{"type":"object"}}}}"#;
        assert_eq!(count(schema).tokens - count(r#"{"input":"x"}"#).tokens, words(r#"{"type":"object"}"#));
    }
}
