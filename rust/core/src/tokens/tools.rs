//! Owns: the tokens of tool definitions.
//! Must not know: messages; what a tool does.
//! On failure: never fails; what the published rule does not cover counts as its JSON text, `exact` false.
//!
//! Source: the `OpenAI` Cookbook, "How to count tokens with tiktoken", section 7, "Counting tokens for chat completions
//! with tool calls". It covers functions whose parameters are flat: per property a name, a type, a description,
//! an enumeration. Nested schemas and further keywords are rendered too, in a form that is not published, which
//! is shorter than their JSON text.

use super::count::Count;
use super::encoding::Encoding;
use super::rules::{Counter, write_compact};
use super::tokenizer::Tokenizer;
use crate::json::Json;

/// Start of each function, by the family of models that use the encoding.
const O200K_FUNCTION_TOKENS: u64 = 7;
const CL100K_FUNCTION_TOKENS: u64 = 10;
/// Start of a list of properties.
const PROPERTIES_TOKENS: u64 = 3;
const PROPERTY_TOKENS: u64 = 3;
/// An enumeration gives three tokens back and takes three for each item.
const ENUM_DISCOUNT_TOKENS: u64 = 3;
const ENUM_ITEM_TOKENS: u64 = 3;
/// End of all functions together.
const END_TOKENS: u64 = 12;

/// Tokens of a `tools` or `functions` list. A long list is remembered as a whole, since every request of an
/// agent repeats it.
pub(super) fn count(counter: Counter<'_>, list: &Json<'_>) -> Count {
    let tools = match list {
        Json::Null => return Count::default(),
        Json::Array(tools) if tools.is_empty() => return Count::default(),
        Json::Array(tools) => tools,
        other => return counter.opaque(other),
    };
    let fresh =
        || tools.iter().map(|tool| count_tool(counter, tool)).sum::<Count>() + Count::exact(END_TOKENS);
    if counter.memo.is_none() {
        return fresh();
    }
    // The compact text is injective: it parses back to the list.
    let mut text = String::new();
    write_compact(list, &mut text);
    counter.remembered(&format!("tools {}", counter.rules.tokenizer.name()), text.as_bytes(), fresh)
}

fn count_tool(counter: Counter<'_>, tool: &Json<'_>) -> Count {
    // In `functions` the function stands without a wrapper.
    let function = match tool.get("type").and_then(Json::as_str) {
        // Responses have it flat.
        Some("function") => tool.get("function").or(Some(tool)),
        None => Some(tool),
        Some(_) => None,
    };
    let Some((function, name)) =
        function.and_then(|function| Some((function, function.get("name")?.as_str()?)))
    else {
        return counter.opaque(tool);
    };
    let mut total = Count::exact(match counter.rules.tokenizer {
        Tokenizer::Exact(Encoding::O200kBase) => O200K_FUNCTION_TOKENS,
        _ => CL100K_FUNCTION_TOKENS,
    });
    total += counter.text(&format!("{name}:{}", description(function)));
    for (field, value) in function.as_object().unwrap_or_default() {
        total += match &**field {
            "type" | "name" | "description" | "strict" => Count::default(),
            "parameters" => count_parameters(counter, value),
            _ => counter.opaque(value),
        };
    }
    total
}

fn count_parameters(counter: Counter<'_>, parameters: &Json<'_>) -> Count {
    let mut total = Count::default();
    if parameters.is_null() {
        return total;
    }
    let Some(fields) = parameters.as_object() else { return counter.opaque(parameters) };
    for (field, value) in fields {
        total += match (&**field, value) {
            // The rule's own example has these and adds nothing for them.
            ("type" | "required" | "additionalProperties" | "$schema", _) => Count::default(),
            ("properties", Json::Object(properties)) if properties.is_empty() => Count::default(),
            ("properties", Json::Object(properties)) => {
                let each = properties.iter().map(|(name, schema)| count_property(counter, name, schema));
                Count::exact(PROPERTIES_TOKENS) + each.sum()
            }
            _ => counter.opaque(value),
        };
    }
    total
}

fn count_property(counter: Counter<'_>, name: &str, schema: &Json<'_>) -> Count {
    let Some(fields) = schema.as_object() else {
        return Count::exact(PROPERTY_TOKENS) + counter.text(name) + counter.opaque(schema);
    };
    let mut total = Count::exact(PROPERTY_TOKENS);
    let mut of_type = "";
    for (field, value) in fields {
        match (&**field, value) {
            ("type", Json::String(name)) => of_type = name,
            ("description", Json::String(_)) => {}
            ("enum", Json::Array(items)) => total += count_enum(counter, items),
            _ => total += counter.text(field) + counter.opaque(value),
        }
    }
    total + counter.text(&format!("{name}:{of_type}:{}", description(schema)))
}

fn count_enum(counter: Counter<'_>, items: &[Json<'_>]) -> Count {
    let each = items.iter().map(|item| {
        let text = match item {
            Json::String(text) => counter.text(text),
            other => counter.opaque(other),
        };
        Count::exact(ENUM_ITEM_TOKENS) + text
    });
    let sum: Count = each.sum();
    Count { tokens: sum.tokens.saturating_sub(ENUM_DISCOUNT_TOKENS), ..sum }
}

/// The description without its last full stop, as the rule has it.
fn description<'j>(of: &'j Json<'_>) -> &'j str {
    let text = of.get("description").and_then(Json::as_str).unwrap_or_default();
    text.strip_suffix('.').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::json::{Bounds, Document};
    use crate::tokens::{CountRules, ImageRule, Memo, count_chat};

    fn count_with(tokenizer: Tokenizer, memo: Option<&Memo>, tools: &str) -> Count {
        let body = format!(r#"{{"tools":{tools}}}"#);
        let document = Document::parse(body.as_bytes(), Bounds::default()).unwrap();
        let reply = 3;
        let count = count_chat(&CountRules { tokenizer, image: ImageRule::default() }, memo, &document);
        Count { tokens: count.tokens - reply, ..count }
    }

    fn count(tools: &str) -> Count {
        count_with(Tokenizer::Exact(Encoding::O200kBase), None, tools)
    }

    fn words(text: &str) -> u64 {
        Encoding::O200kBase.count(text)
    }

    const TICKETS: &str = r#"[{"type":"function","function":{"name":"find_tickets","description":"Finds tickets.",
        "parameters":{"type":"object","properties":{
            "state":{"type":"string","description":"State of the ticket.","enum":["open","closed"]},
            "limit":{"type":"integer"}},"required":["state"]}}}]"#;

    #[test]
    fn a_flat_function_costs_what_the_rule_says() {
        for (encoding, start) in [(Encoding::O200kBase, 7), (Encoding::Cl100kBase, 10)] {
            let words = |text: &str| encoding.count(text);
            let state =
                3 + words("state:string:State of the ticket") + 2 * 3 - 3 + words("open") + words("closed");
            let properties = 3 + state + 3 + words("limit:integer:");
            let expected = start + words("find_tickets:Finds tickets") + properties + 12;
            assert_eq!(count_with(Tokenizer::Exact(encoding), None, TICKETS), Count::exact(expected));
        }
        assert_eq!(count("[]"), Count::exact(0));
        assert_eq!(count("null"), Count::exact(0));
        let bare = r#"[{"type":"function","function":{"name":"now"}}]"#;
        assert_eq!(count(bare), Count::exact(7 + words("now:") + 12));
    }

    #[test]
    fn what_the_rule_does_not_cover_is_counted_as_its_text() {
        for (tools, more) in [
            (
                TICKETS.replace(r#""type":"integer""#, r#""type":"array","items":{"type":"integer"}"#),
                "nested",
            ),
            (TICKETS.replace(r#""type":"integer""#, r#""type":["integer","null"]"#), "union"),
            (TICKETS.replace(r#""required":["state"]"#, r#""$defs":{"a":{"type":"string"}}"#), "definitions"),
        ] {
            let counted = count(&tools);
            assert!(!counted.exact && counted.tokens > count(TICKETS).tokens - 3, "{more} {counted:?}");
        }
        for tools in [r#"[{"type":"web_search"}]"#, r#"{"odd":1}"#, "[7]", r#"[{"type":"function"}]"#] {
            assert!(!count(tools).exact, "{tools}");
        }
    }

    #[test]
    fn a_long_list_is_remembered_per_tokenizer() {
        let memo = Memo::new(256);
        let tools = format!("[{}]", [TICKETS.trim_matches(['[', ']']); 8].join(","));
        let [exact, estimate] = [Tokenizer::Exact(Encoding::O200kBase), Tokenizer::default()];
        let fresh = [exact, estimate].map(|tokenizer| count_with(tokenizer, None, &tools));
        for _ in 0..2 {
            assert_eq!([exact, estimate].map(|tokenizer| count_with(tokenizer, Some(&memo), &tools)), fresh);
        }
        assert_eq!((memo.stats().hits, memo.stats().misses), (2, 2));
        assert!(fresh[1].tokens >= fresh[0].tokens && fresh[1].margin_tokens > 0);
    }
}
