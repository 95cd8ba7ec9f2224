//! Owns: the tokens of a chat completions request before the answer: messages, tools, response format.
//! Must not know: limits, the answer's length, which models exist.
//! On failure: never fails; whatever has no published rule counts as its JSON text, `exact` false.
//!
//! Source: the `OpenAI` Cookbook, "How to count tokens with tiktoken", section 6: three tokens a message, one a name,
//! three that prime the reply. Those hold for every model since gpt-3.5-turbo-0613; servers of other models have
//! templates of much the same length.

use super::count::Count;
use super::memo::Memo;
use super::rules::{CountRules, Counter};
use super::{image, tools};
use crate::json::{Document, Json};

pub(super) const PER_MESSAGE_TOKENS: u64 = 3;
const PER_NAME_TOKENS: u64 = 1;
pub(super) const REPLY_TOKENS: u64 = 3;

/// Around one call of a tool in an assistant message, and around the result of one: recipient, channel and
/// format marks. Unpublished; a margin.
pub(super) const TOOL_CALL_MARGIN_TOKENS: u64 = 8;

/// What the choice of one tool adds; "none" adds one token. Unpublished; a margin.
const TOOL_CHOICE_MARGIN_TOKENS: u64 = 8;

/// Counts the prompt of a chat completions request.
///
/// Cost: linear in the request; a text of a kilobyte or more that the memo knows costs its hash.
pub fn count_chat(rules: &CountRules, memo: Option<&Memo>, request: &Document<'_>) -> Count {
    let counter = Counter { rules, memo };
    let mut total = Count::exact(REPLY_TOKENS);
    if let Some(messages) = request.get("messages") {
        total += match messages.as_array() {
            Some(messages) => messages.iter().map(|message| count_message(counter, message)).sum(),
            None => counter.opaque(messages),
        };
    }
    for field in ["tools", "functions"] {
        if let Some(list) = request.get(field) {
            total += tools::count(counter, list);
        }
    }
    for field in ["tool_choice", "function_call"] {
        total += request.get(field).map_or(Count::default(), |choice| count_choice(counter, choice));
    }
    // The schema is shown to the model in a form that is not published.
    if let Some(schema) = request.get("response_format").and_then(|format| format.get("json_schema")) {
        total += counter.opaque(schema);
    }
    total
}

fn count_message(counter: Counter<'_>, message: &Json<'_>) -> Count {
    let mut total = Count::exact(PER_MESSAGE_TOKENS);
    let Some(fields) = message.as_object() else { return total + counter.opaque(message) };
    for (name, value) in fields {
        total += match (&**name, value) {
            (_, Json::Null) => Count::default(),
            ("role" | "refusal", Json::String(text)) => counter.text(text),
            ("name", Json::String(text)) => counter.text(text) + Count::exact(PER_NAME_TOKENS),
            ("content", content) => count_content(counter, content),
            ("tool_calls", Json::Array(calls)) => calls.iter().map(|call| count_call(counter, call)).sum(),
            ("function_call", call) => count_function(counter, call),
            // Names the call that the message answers; the model sees the tool's name in its place.
            ("tool_call_id", Json::String(_)) => Count::estimate(0, TOOL_CALL_MARGIN_TOKENS),
            _ => counter.opaque(value),
        };
    }
    total
}

fn count_content(counter: Counter<'_>, content: &Json<'_>) -> Count {
    match content {
        Json::String(text) => counter.text(text),
        Json::Array(parts) => parts.iter().map(|part| count_part(counter, part)).sum(),
        other => counter.opaque(other),
    }
}

fn count_part(counter: Counter<'_>, part: &Json<'_>) -> Count {
    let field = |name| part.get(name).and_then(Json::as_str);
    match field("type") {
        Some("text") => field("text").map_or_else(|| counter.opaque(part), |text| counter.text(text)),
        Some("refusal") => field("refusal").map_or_else(|| counter.opaque(part), |text| counter.text(text)),
        Some("image_url") => match part.get("image_url") {
            Some(image) => image::count(counter.rules.image, image),
            None => counter.opaque(part),
        },
        _ => match part {
            Json::String(text) => counter.text(text),
            _ => counter.opaque(part),
        },
    }
}

fn count_call(counter: Counter<'_>, call: &Json<'_>) -> Count {
    match call.get("function") {
        Some(function) => count_function(counter, function),
        None => counter.opaque(call),
    }
}

fn count_function(counter: Counter<'_>, function: &Json<'_>) -> Count {
    let field = |name| function.get(name).and_then(Json::as_str);
    match (field("name"), field("arguments")) {
        (Some(name), Some(arguments)) => {
            counter.text(name) + counter.text(arguments) + Count::estimate(0, TOOL_CALL_MARGIN_TOKENS)
        }
        _ => counter.opaque(function),
    }
}

/// What the choice of a tool adds.
pub(super) fn count_choice(counter: Counter<'_>, choice: &Json<'_>) -> Count {
    match choice {
        // `auto` is what a request without a choice has.
        Json::Null => Count::default(),
        Json::String(text) if text == "auto" => Count::default(),
        Json::String(_) => Count::estimate(0, TOOL_CHOICE_MARGIN_TOKENS),
        other => counter.opaque(other) + Count::estimate(0, TOOL_CHOICE_MARGIN_TOKENS),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;
    use crate::json::Bounds;
    use crate::tokens::{Encoding, ImageRule, Tokenizer, count_messages, count_responses};

    const O200K: CountRules = CountRules {
        tokenizer: Tokenizer::Exact(Encoding::O200kBase),
        image: ImageRule::Tiles { base_tokens: 85, tile_tokens: 170 },
    };

    fn count(body: &str) -> Count {
        count_chat(&O200K, None, &Document::parse(body.as_bytes(), Bounds::default()).unwrap())
    }

    fn words(text: &str) -> u64 {
        Encoding::O200kBase.count(text)
    }

    #[test]
    fn a_message_costs_its_text_and_three_and_the_reply_three() {
        let body = r#"{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Why is the sky blue?"}]}"#;
        let text = words("system") + words("Be brief.") + words("user") + words("Why is the sky blue?");
        assert_eq!(count(body), Count::exact(text + 2 * 3 + 3));
        let named = r#"{"messages":[{"role":"user","name":"Ada","content":"Hi"}]}"#;
        assert_eq!(count(named), Count::exact(1 + words("Ada") + 1 + words("Hi") + 3 + 3));
        assert_eq!(count("{}"), Count::exact(3));
        assert_eq!(count(r#"{"messages":[]}"#), Count::exact(3));
    }

    #[test]
    fn parts_cost_what_their_texts_cost() {
        let parts = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"Hello"},{"type":"text","text":" there"}]}]}"#;
        assert_eq!(count(parts), Count::exact(1 + words("Hello") + words(" there") + 6));
        let low = r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x.test/a.png","detail":"low"}}]}]}"#;
        assert_eq!(count(low), Count::exact(1 + 85 + 6));
        let unknown_size = low.replace("low", "high");
        assert_eq!(count(&unknown_size), Count::estimate(1 + 85 + 170 + 6, 7 * 170));
    }

    #[test]
    fn tool_calls_and_results_have_a_margin() {
        let body = r#"{"messages":[
            {"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"look_up","arguments":"{\"id\":7}"}}]},
            {"role":"tool","tool_call_id":"call_1","content":"found"}]}"#;
        let text =
            words("assistant") + words("look_up") + words(r#"{"id":7}"#) + words("tool") + words("found");
        assert_eq!(count(body), Count::estimate(text + 2 * 3 + 3, 2 * TOOL_CALL_MARGIN_TOKENS));
    }

    #[test]
    fn what_has_no_rule_counts_as_its_text_and_says_so() {
        for body in [
            r#"{"messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}]}]}"#,
            r#"{"messages":[{"role":"user","content":{"odd":1}}]}"#,
            r#"{"messages":["odd"]}"#,
            r#"{"messages":{"odd":[]}}"#,
            r#"{"messages":[{"role":"user","content":"x","reasoning":"because"}]}"#,
            r#"{"messages":[{"role":7,"content":"x"}]}"#,
            r#"{"messages":[],"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}}}"#,
            r#"{"messages":[],"tool_choice":{"type":"function","function":{"name":"f"}}}"#,
        ] {
            let counted = count(body);
            assert!(!counted.exact && counted.tokens > 3, "{body} {counted:?}");
        }
        assert!(count(r#"{"messages":[],"tool_choice":"auto","response_format":{"type":"text"}}"#).exact);
    }

    #[test]
    fn a_large_part_without_a_rule_is_bounded_by_its_bytes() {
        let body = format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"file","file":{{"file_data":"{}"}}}}]}}]}}"#,
            "A".repeat(200_000)
        );
        let counted = count(&body);
        assert!(counted.tokens >= 50_000 && counted.bound_tokens() >= 200_000, "{counted:?}");
    }

    #[test]
    fn a_conversation_pays_for_its_new_turn_only() {
        let memo = Memo::new(1024);
        let turn = |text: &str| format!(r#"{{"role":"user","content":"{}"}}"#, text.repeat(400));
        let mut turns = vec![turn("first "), turn("second ")];
        let counted = |turns: &[String]| {
            let body = format!(r#"{{"messages":[{}]}}"#, turns.join(","));
            count_chat(&O200K, Some(&memo), &Document::parse(body.as_bytes(), Bounds::default()).unwrap())
        };
        let two = counted(&turns);
        assert_eq!((memo.stats().hits, memo.stats().misses), (0, 2));
        turns.push(turn("third "));
        let three = counted(&turns);
        assert_eq!((memo.stats().hits, memo.stats().misses), (2, 3));
        assert_eq!(three.tokens - two.tokens, 3 + 1 + words(&"third ".repeat(400)));
    }

    /// JSON of any shape, with the names that counting looks for in any place.
    fn any_json() -> impl Strategy<Value = String> {
        const NAMES: &[&str] = &[
            "messages",
            "role",
            "content",
            "name",
            "type",
            "text",
            "image_url",
            "url",
            "detail",
            "tools",
            "tool_calls",
            "function",
            "functions",
            "arguments",
            "parameters",
            "properties",
            "enum",
            "description",
            "tool_choice",
            "response_format",
            "json_schema",
            "refusal",
            "tool_call_id",
            "function_call",
            "source",
            "data",
            "input",
            "output",
            "signature",
            "thinking",
            "encrypted_content",
            "file_data",
            "input_schema",
            "format",
            "schema",
        ];
        const LEAVES: &[&str] = &[
            "null",
            "true",
            "-1.5e300",
            "7",
            "\"\"",
            "\"text\"",
            "\"image_url\"",
            "\"function\"",
            "\"message\"",
            "\"input_image\"",
            "\"input_file\"",
            "\"function_call\"",
            "\"function_call_output\"",
            "\"reasoning\"",
            "\"item_reference\"",
            "\"image\"",
            "\"document\"",
            "\"tool_use\"",
            "\"tool_result\"",
            "\"thinking\"",
            "\"base64\"",
            "\"low\"",
            "\"a\\n\\u0000é\"",
            "\"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB\"",
            "\"data:image/jpeg;base64,/9j/\"",
            "\"data:,\"",
            "[]",
            "{}",
        ];
        prop::sample::select(LEAVES).prop_map(str::to_owned).prop_recursive(5, 60, 6, |inner| {
            let object = prop::collection::btree_map(prop::sample::select(NAMES), inner.clone(), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..6).prop_map(|items| format!("[{}]", items.join(","))),
                object.prop_map(|pairs| {
                    let pairs: Vec<_> =
                        pairs.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                    format!("{{{}}}", pairs.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_shape_is_counted_and_the_memo_changes_nothing(
            messages in any_json(), tools in any_json(), format in any_json(), long in 0_usize..3,
        ) {
            let body = format!(
                r#"{{"messages":{messages},"tools":{tools},"functions":{tools},"tool_choice":{messages},"response_format":{format},"input":{messages},"system":{messages},"instructions":{tools},"text":{format},"output_config":{format},"x":"{}"}}"#,
                "y".repeat(long * 2000),
            );
            let document = Document::parse(body.as_bytes(), Bounds::default()).unwrap();
            let memo = Memo::new(256);
            for tokenizer in [O200K.tokenizer, Tokenizer::default()] {
                for image in [O200K.image, ImageRule::Patches { cap: 0, multiplier_milli: u64::MAX }, ImageRule::Flat { tokens: u64::MAX }] {
                    let rules = CountRules { tokenizer, image };
                    for count in [count_chat, count_responses, count_messages] {
                        let plain = count(&rules, None, &document);
                        prop_assert!(plain.tokens >= 3);
                        prop_assert_eq!(count(&rules, Some(&memo), &document), plain);
                        prop_assert_eq!(count(&rules, Some(&memo), &document), plain);
                    }
                }
            }
        }
    }
}
