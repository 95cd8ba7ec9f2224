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
