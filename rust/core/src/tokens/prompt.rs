//! Owns: the tokens of a completions `prompt` and of an embeddings `input`.
//! Must not know: chat.
//! On failure: never fails; an item of another type counts as its JSON text, `exact` false.

use super::count::Count;
use super::memo::Memo;
use super::rules::{CountRules, Counter};
use crate::json::Json;

/// Counts a string, an array of strings, an array of token numbers, or an array of such arrays; there is no
/// overhead. Token numbers count one each.
pub fn count_prompt(rules: &CountRules, memo: Option<&Memo>, prompt: &Json<'_>) -> Count {
    let counter = Counter { rules, memo };
    match prompt {
        Json::Null => Count::default(),
        Json::Array(items) => items.iter().map(|item| count_item(counter, item)).sum(),
        single => count_item(counter, single),
    }
}

fn count_item(counter: Counter<'_>, item: &Json<'_>) -> Count {
    match item {
        Json::String(text) => counter.text(text),
        Json::Number(_) if item.as_u64().is_some() => Count::exact(1),
        Json::Array(tokens) if tokens.iter().all(|token| token.as_u64().is_some()) => {
            Count::exact(tokens.len() as u64)
        }
        other => counter.opaque(other),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::json::{Bounds, Document};
    use crate::tokens::{Encoding, ImageRule, Tokenizer};

    fn count(prompt: &str) -> Count {
        let rules =
            CountRules { tokenizer: Tokenizer::Exact(Encoding::Cl100kBase), image: ImageRule::default() };
        let body = format!(r#"{{"input":{prompt}}}"#);
        let document = Document::parse(body.as_bytes(), Bounds::default()).unwrap();
        count_prompt(&rules, None, &document.field("input").unwrap().value)
    }

    #[test]
    fn every_form_of_a_prompt() {
        for (prompt, expected) in [
            (r#""hello world""#, Count::exact(2)),
            (r#"["hello world","hello"]"#, Count::exact(3)),
            ("[15339,1917]", Count::exact(2)),
            ("[[15339,1917],[15339]]", Count::exact(3)),
            (r#"["hello",[15339,1917]]"#, Count::exact(3)),
            ("[]", Count::exact(0)),
            ("null", Count::exact(0)),
            (r#""""#, Count::exact(0)),
        ] {
            assert_eq!(count(prompt), expected, "{prompt}");
        }
    }

    #[test]
    fn other_shapes_count_as_their_text() {
        for prompt in ["1.5", "true", r#"{"a":1}"#, "[[1.5]]", r#"[["x"]]"#, "[-1]"] {
            let counted = count(prompt);
            assert!(!counted.exact && counted.tokens > 0, "{prompt} {counted:?}");
        }
    }
}
