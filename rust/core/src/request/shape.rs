//! Owns: the body as the upstream shall see it: model name, output bound and the wish for usage set, everything else
//! byte for byte.
//! Must not know: why the values are what they are.
//! On failure: it cannot fail; ranges come from the document that was parsed from the same text. Options that cannot be
//! read again stay as they are, and the usage is then estimated.

use std::ops::Range;

use super::Asked;
use crate::json::{Bounds, Document, Field, Json};
use crate::policy::pb::route::Operation;

/// What the upstream's body must say.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// The name that the pool knows the model by
    pub model: &'a str,
    /// The output bound of one choice; `None`: leave it as it is
    pub output_tokens: Option<u64>,
    /// What happens to the option that asks for usage
    pub usage: UsageOption,
}

/// Whether a stream of completions is made to say what it used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageOption {
    /// As the client has it
    Leave,
    /// `stream_options.include_usage` is set, where the stream would not say it otherwise
    Ask,
}

/// A body for the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shaped {
    /// The changed body; `None`: the text says all of it already
    pub body: Option<Vec<u8>>,
    /// The event with the usage was asked for by us alone, so it must not reach the client
    pub drop_usage: bool,
}

/// A part of the text and what takes its place.
type Edit = (Range<usize>, String);

/// The body with the values of `shape`, every other byte as it was.
///
/// *Cost*: one copy of the body where anything changes.
pub fn shape(asked: &Asked<'_>, shape: Shape<'_>) -> Shaped {
    let usage = match shape.usage {
        UsageOption::Leave => None,
        UsageOption::Ask => usage_edit(asked),
    };
    let drop_usage = usage.is_some();
    let mut edits: Vec<Edit> = Vec::with_capacity(3);
    edits.extend(model_edit(asked, shape.model));
    edits.extend(shape.output_tokens.and_then(|tokens| output_edit(asked, tokens)));
    edits.extend(usage);
    let body = (!edits.is_empty()).then(|| edited(asked.document.text, edits));
    Shaped { body, drop_usage }
}

fn model_edit(asked: &Asked<'_>, model: &str) -> Option<Edit> {
    let field = asked.document.field("model").filter(|_| asked.model != model)?;
    let mut name = String::with_capacity(model.len() + 2);
    crate::refusal::push_json_string(&mut name, model);
    Some((field.span.clone(), name))
}

fn output_edit(asked: &Asked<'_>, tokens: u64) -> Option<Edit> {
    let name = match (asked.output_cap, asked.operation) {
        (Some(given), _) if given.tokens == tokens => return None,
        (Some(given), _) => given.field,
        (None, Operation::ChatCompletions) => "max_completion_tokens",
        (None, Operation::Responses) => "max_output_tokens",
        (None, _) => "max_tokens",
    };
    Some(set(&asked.document, name, &tokens.to_string()))
}

fn usage_edit(asked: &Asked<'_>) -> Option<Edit> {
    let has_option = matches!(asked.operation, Operation::ChatCompletions | Operation::TextCompletions);
    if !has_option || !asked.stream || asked.include_usage {
        return None;
    }
    let document = &asked.document;
    let Some(Field { value: Json::Object(members), span, .. }) = document.field("stream_options") else {
        return Some(set(document, "stream_options", r#"{"include_usage":true}"#));
    };
    let text = document.text.get(span.clone())?;
    // Its members' places are not kept for every object of a body; this one is small and read again.
    let options = Document::parse(text.as_bytes(), Bounds::default()).ok()?;
    let (place, new) = match options.field("include_usage") {
        Some(field) => (field.span.clone(), "true".to_owned()),
        None if members.is_empty() => (options.open..options.open, r#""include_usage":true"#.to_owned()),
        None => (options.open..options.open, r#""include_usage":true,"#.to_owned()),
    };
    Some((span.start + place.start..span.start + place.end, new))
}

/// Replaces a field's value (a `null`, which means the same as absent, or another one), or adds the field.
fn set(document: &Document<'_>, name: &str, value: &str) -> Edit {
    match document.field(name) {
        Some(field) => (field.span.clone(), value.to_owned()),
        // Every body has a model, so another field follows.
        None => (document.open..document.open, format!("\"{name}\":{value},")),
    }
}

fn edited(text: &str, mut edits: Vec<Edit>) -> Vec<u8> {
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = Vec::with_capacity(text.len() + 96);
    let mut from = 0;
    for (range, new) in edits {
        out.extend_from_slice(text.get(from..range.start).unwrap_or_default().as_bytes());
        out.extend_from_slice(new.as_bytes());
        from = range.end;
    }
    out.extend_from_slice(text.get(from..).unwrap_or_default().as_bytes());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn shaped(body: &str, model: &str, output_tokens: Option<u64>) -> Option<String> {
        let shape = Shape { model, output_tokens, usage: UsageOption::Leave };
        let (body, drop_usage) = shaped_as(Operation::ChatCompletions, body, shape);
        assert!(!drop_usage);
        body
    }

    fn shaped_as(operation: Operation, body: &str, values: Shape<'_>) -> (Option<String>, bool) {
        let document = Document::parse(body.as_bytes(), Bounds::default()).unwrap();
        let shaped = shape(&Asked::read(document, operation).unwrap(), values);
        (shaped.body.map(|body| String::from_utf8(body).unwrap()), shaped.drop_usage)
    }

    /// What becomes of a chat's fields when its usage is wanted, and whether the event must not reach the client.
    fn asking(fields: &str) -> (Option<String>, bool) {
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user"}}],"stream":true{fields}}}"#);
        let wanted = Shape { model: "m", output_tokens: None, usage: UsageOption::Ask };
        shaped_as(Operation::ChatCompletions, &body, wanted)
    }

    #[test]
    fn nothing_to_change_is_no_new_body() {
        let body = r#"{"model":"m","messages":[{"role":"user"}],"max_tokens":5}"#;
        assert_eq!(shaped(body, "m", Some(5)), None);
        assert_eq!(shaped(body, "m", None), None);
    }

    #[test]
    fn only_the_named_bytes_change() {
        let body = r#" {"messages":[{"role":"user"}], "max_tokens" : 50 ,"model":"auto"}"#;
        let want = r#" {"messages":[{"role":"user"}], "max_tokens" : 7 ,"model":"a\"b"}"#;
        assert_eq!(shaped(body, "a\"b", Some(7)).as_deref(), Some(want));
    }

    #[test]
    fn a_missing_bound_is_added_and_a_null_one_replaced() {
        let body = r#"{"model":"m","messages":[{"role":"user"}]}"#;
        let want = r#"{"max_completion_tokens":9,"model":"m","messages":[{"role":"user"}]}"#;
        assert_eq!(shaped(body, "m", Some(9)).as_deref(), Some(want));
        let body = r#"{"model":"m","messages":[{"role":"user"}],"max_completion_tokens":null}"#;
        let want = r#"{"model":"m","messages":[{"role":"user"}],"max_completion_tokens":9}"#;
        assert_eq!(shaped(body, "m", Some(9)).as_deref(), Some(want));
    }

    #[test]
    fn each_operation_has_its_own_bound() {
        for (operation, body, want) in [
            (
                Operation::TextCompletions,
                r#"{"model":"m","prompt":"x"}"#,
                r#"{"max_tokens":9,"model":"m","prompt":"x"}"#,
            ),
            (
                Operation::Responses,
                r#"{"model":"m","input":"x"}"#,
                r#"{"max_output_tokens":9,"model":"m","input":"x"}"#,
            ),
            (
                Operation::Responses,
                r#"{"model":"m","input":"x","max_output_tokens":10}"#,
                r#"{"model":"m","input":"x","max_output_tokens":9}"#,
            ),
            (
                Operation::Messages,
                r#"{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"x"}]}"#,
                r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"}]}"#,
            ),
        ] {
            let values = Shape { model: "m", output_tokens: Some(9), usage: UsageOption::Ask };
            assert_eq!(shaped_as(operation, body, values), (Some(want.to_owned()), false), "{body}");
        }
    }

    #[test]
    fn a_stream_is_made_to_say_what_it_used() {
        let plain = r#""model":"m","messages":[{"role":"user"}],"stream":true"#;
        let option = r#""stream_options":{"include_usage":true}"#;
        assert_eq!(asking(""), (Some(format!("{{{option},{plain}}}")), true));
        for given in ["null", "{}", r#"{"include_usage":false}"#, r#"{"include_usage":null}"#] {
            let asked = asking(&format!(r#","stream_options":{given}"#));
            assert_eq!(asked, (Some(format!("{{{plain},{option}}}")), true), "{given}");
        }
        let other = asking(r#","stream_options": { "include_obfuscation" : false }"#);
        let want = r#""stream_options": {"include_usage":true, "include_obfuscation" : false }"#;
        assert_eq!(other, (Some(format!("{{{plain},{want}}}")), true));
        let between = asking(r#","stream_options":{"a":1,"include_usage" : false ,"b":[]}"#);
        let want = r#""stream_options":{"a":1,"include_usage" : true ,"b":[]}"#;
        assert_eq!(between, (Some(format!("{{{plain},{want}}}")), true));
        // The client asked for it itself.
        assert_eq!(asking(&format!(",{option}")), (None, false));
    }

    #[test]
    fn only_a_stream_of_completions_is_asked() {
        let ask = Shape { model: "m", output_tokens: None, usage: UsageOption::Ask };
        for (operation, body) in [
            (Operation::ChatCompletions, r#"{"model":"m","messages":[{"role":"user"}]}"#),
            (Operation::TextCompletions, r#"{"model":"m","prompt":"x","stream":false}"#),
            (Operation::Embedding, r#"{"model":"m","input":"x"}"#),
            (Operation::Responses, r#"{"model":"m","input":"x","stream":true}"#),
            (
                Operation::Messages,
                r#"{"model":"m","max_tokens":1,"stream":true,"messages":[{"role":"user","content":"x"}]}"#,
            ),
        ] {
            assert_eq!(shaped_as(operation, body, ask), (None, false), "{body}");
        }
        let text =
            shaped_as(Operation::TextCompletions, r#"{"model":"m","prompt":"x","stream":true,"n":3}"#, ask);
        assert!(text.1);
    }

    /// A body of any fields in any order, some of them those that are set.
    fn any_body() -> impl Strategy<Value = String> {
        let space = prop::sample::select(vec!["", " ", "\n\t"]);
        let options = prop::collection::btree_map(
            prop::sample::select(vec![
                r#""include_usage""#,
                r#""include\u005fusage""#,
                r#""a""#,
                r#""\u0062""#,
            ]),
            prop::sample::select(vec!["true", "false", "null"]),
            0..4,
        )
        .prop_filter("a key once", |o| {
            !(o.contains_key(r#""include_usage""#) && o.contains_key(r#""include\u005fusage""#))
        })
        .prop_map(|o| {
            let members: Vec<_> = o.iter().map(|(k, v)| format!("{k} :{v}")).collect();
            format!("{{ {} }}", members.join(" , "))
        });
        let optional = (
            prop::option::of(prop_oneof![Just("null".to_owned()), options]),
            prop::option::of(prop::sample::select(vec!["true", "false", "null"])),
            prop::option::of(prop::sample::select(vec!["null", "1", "77"])),
            prop::sample::select(vec!["max_tokens", "max_completion_tokens", "max\\u005ftokens"]),
            prop::option::of("[a-z\"\\\\ é]{0,9}"),
        );
        (optional, space, any::<u64>()).prop_map(|((options, stream, cap, cap_name, user), space, seed)| {
            let mut fields = vec![
                r#""model": "a\u006dodel" "#.to_owned(),
                r#""messages":[{"role":"user","content":"\u00e9 x"}]"#.to_owned(),
            ];
            fields.extend(options.map(|o| format!(r#""stream_options":{o}"#)));
            fields.extend(stream.map(|s| format!(r#""stream" : {s}"#)));
            fields.extend(cap.map(|c| format!(r#""{cap_name}":{c}"#)));
            fields.extend(user.map(|u| {
                let mut text = String::new();
                crate::refusal::push_json_string(&mut text, &u);
                format!(r#""user":{text}"#)
            }));
            let turn = (seed % fields.len() as u64) as usize;
            fields.rotate_left(turn);
            format!("{space}{{{space}{}}}{space}", fields.join(&format!("{space},{space}")))
        })
    }

    /// The fields of a body by name, without those that may change.
    fn kept<'d>(document: &'d Document<'_>) -> std::collections::BTreeMap<&'d str, &'d Json<'d>> {
        let set = ["model", "max_tokens", "max_completion_tokens", "stream_options"];
        let all = document.fields.iter().map(|field| (&*field.key, &field.value));
        all.filter(|(name, _)| !set.contains(name)).collect()
    }

    /// The stream options without the wish for usage.
    fn kept_options<'d>(document: &'d Document<'_>) -> Vec<(&'d str, &'d Json<'d>)> {
        let options = document.get("stream_options").and_then(Json::as_object).unwrap_or_default();
        options
            .iter()
            .filter(|(name, _)| name != "include_usage")
            .map(|(name, value)| (&**name, value))
            .collect()
    }

    proptest! {
        #[test]
        fn the_body_says_what_it_must_and_nothing_else_changes(
            body in any_body(),
            model in prop::sample::select(vec!["amodel", "gpt \"4\"", "é"]),
            output_tokens in prop::option::of(prop::sample::select(vec![1_u64, 77, 500])),
            usage in prop::sample::select(vec![UsageOption::Leave, UsageOption::Ask]),
        ) {
            let before = Asked::read(Document::parse(body.as_bytes(), Bounds::default()).unwrap(), Operation::ChatCompletions).unwrap();
            let shaped = shape(&before, Shape { model, output_tokens, usage });
            let text = shaped.body.unwrap_or_else(|| body.clone().into_bytes());
            let after = Asked::read(Document::parse(&text, Bounds::default()).unwrap(), Operation::ChatCompletions).unwrap();
            prop_assert_eq!(&after.model, model);
            let cap = after.output_cap.map(|cap| cap.tokens);
            prop_assert_eq!(cap, output_tokens.or(before.output_cap.map(|cap| cap.tokens)));
            prop_assert_eq!(shaped.drop_usage, usage == UsageOption::Ask && before.stream && !before.include_usage);
            prop_assert_eq!(after.include_usage, before.include_usage || shaped.drop_usage);
            prop_assert_eq!(kept(&before.document), kept(&after.document));
            prop_assert_eq!(kept_options(&before.document), kept_options(&after.document));
            // Once more changes nothing.
            let again = shape(&after, Shape { model, output_tokens, usage });
            prop_assert_eq!(again, Shaped { body: None, drop_usage: false });
        }
    }
}
