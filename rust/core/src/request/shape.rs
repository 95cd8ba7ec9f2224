//! Owns: the body as the upstream shall see it: model name and output bound set, everything else byte for byte.
//! Must not know: why the values are what they are.
//! On failure: it cannot fail; ranges come from the document that was parsed from the same text.

use super::{Asked, OutputCap};
use crate::policy::pb::route::Operation;

/// What the upstream's body must say.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// The name that the pool knows the model by
    pub model: &'a str,
    /// The output bound of one choice; `None`: leave it as it is
    pub output_tokens: Option<u64>,
}

/// The changed body, or `None` when the text says all of it already.
pub fn shape(asked: &Asked<'_>, shape: Shape<'_>) -> Option<Vec<u8>> {
    let document = &asked.document;
    let mut edits: Vec<(std::ops::Range<usize>, String)> = Vec::with_capacity(2);
    if asked.model != shape.model
        && let Some(field) = document.field("model")
    {
        let mut name = String::with_capacity(shape.model.len() + 2);
        crate::refusal::push_json_string(&mut name, shape.model);
        edits.push((field.span.clone(), name));
    }
    match (shape.output_tokens, asked.output_cap) {
        (Some(tokens), Some(OutputCap { field, tokens: given })) if tokens != given => {
            if let Some(field) = document.field(field) {
                edits.push((field.span.clone(), tokens.to_string()));
            }
        }
        (Some(tokens), None) => {
            let name = match asked.operation {
                Operation::ChatCompletions => "max_completion_tokens",
                _ => "max_tokens",
            };
            match document.field(name) {
                // It was there as `null`, which means the same as absent.
                Some(field) => edits.push((field.span.clone(), tokens.to_string())),
                None => edits.push((document.open..document.open, format!("\"{name}\":{tokens},"))),
            }
        }
        _ => {}
    }
    if edits.is_empty() {
        return None;
    }
    edits.sort_by_key(|(range, _)| range.start);
    let text = document.text;
    let mut out = Vec::with_capacity(text.len() + 64);
    let mut from = 0;
    for (range, new) in edits {
        out.extend_from_slice(text.get(from..range.start).unwrap_or_default().as_bytes());
        out.extend_from_slice(new.as_bytes());
        from = range.end;
    }
    out.extend_from_slice(text.get(from..).unwrap_or_default().as_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::json::{Bounds, Document};

    fn shaped(body: &str, model: &str, output_tokens: Option<u64>) -> Option<String> {
        let document = Document::parse(body.as_bytes(), Bounds::default()).unwrap();
        let asked = Asked::read(document, Operation::ChatCompletions).unwrap();
        let out = shape(&asked, Shape { model, output_tokens })?;
        Document::parse(&out, Bounds::default()).unwrap();
        Some(String::from_utf8(out).unwrap())
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
}
