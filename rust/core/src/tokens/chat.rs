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

const PER_MESSAGE_TOKENS: u64 = 3;
const PER_NAME_TOKENS: u64 = 1;
const REPLY_TOKENS: u64 = 3;

/// Around one call of a tool in an assistant message, and around the result of one: recipient, channel and
/// format marks. Unpublished; a margin.
const TOOL_CALL_MARGIN_TOKENS: u64 = 8;

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

fn count_choice(counter: Counter<'_>, choice: &Json<'_>) -> Count {
    match choice {
        // `auto` is what a request without a choice has.
        Json::Null => Count::default(),
        Json::String(text) if text == "auto" => Count::default(),
        Json::String(_) => Count::estimate(0, TOOL_CHOICE_MARGIN_TOKENS),
        other => counter.opaque(other) + Count::estimate(0, TOOL_CHOICE_MARGIN_TOKENS),
    }
}
