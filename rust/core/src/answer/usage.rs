//! Owns the token counts that a complete answer reports.
//! Must not know prices or limits.
//! On failure: a count that is not a sane whole number makes the usage unknown, never 0.

use crate::json::{Bounds, Document, Json};

/// More tokens than any one request has; what is above is a fault of the server.
const MAX_SANE_TOKENS: u64 = 100_000_000;

/// What an answer says it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u64,
    /// Tokens of the answer, reasoning included; 0 for embeddings.
    pub completion_tokens: u64,
    /// Those of the prompt that the upstream read from its own cache.
    pub cached_tokens: u64,
    /// Those of the answer that were reasoning.
    pub reasoning_tokens: u64,
}

// === impl Usage ===

impl Usage {
    /// The usage in a complete plain answer.
    pub fn of_body(body: &[u8]) -> Option<Self> {
        let document = Document::parse(body, Bounds::default()).ok()?;
        Self::of(document.get("usage")?)
    }

    /// Reads a `usage` object.
    pub fn of(usage: &Json<'_>) -> Option<Self> {
        let prompt_tokens = count(usage.get("prompt_tokens")?)?;
        let completion_tokens = optional(usage.get("completion_tokens"))?;
        let cached_tokens = detail(usage, "prompt_tokens_details", "cached_tokens")?;
        let reasoning_tokens = detail(usage, "completion_tokens_details", "reasoning_tokens")?;
        (cached_tokens <= prompt_tokens && reasoning_tokens <= completion_tokens).then_some(Self {
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            reasoning_tokens,
        })
    }
}

fn count(value: &Json<'_>) -> Option<u64> {
    value.as_u64().filter(|count| *count <= MAX_SANE_TOKENS)
}

fn optional(value: Option<&Json<'_>>) -> Option<u64> {
    match value {
        None | Some(Json::Null) => Some(0),
        Some(value) => count(value),
    }
}

fn detail(usage: &Json<'_>, group: &str, name: &str) -> Option<u64> {
    optional(usage.get(group).and_then(|details| details.get(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(usage: &str) -> Option<Usage> {
        Usage::of_body(format!(r#"{{"usage":{usage}}}"#).as_bytes())
    }

    #[test]
    fn sane_counts_are_read() {
        let usage = of(r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,
            "prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}"#);
        let expected =
            Usage { prompt_tokens: 10, completion_tokens: 5, cached_tokens: 4, reasoning_tokens: 2 };
        assert_eq!(usage, Some(expected));
        let embedding = of(r#"{"prompt_tokens":8,"total_tokens":8}"#);
        assert_eq!(embedding.map(|usage| usage.completion_tokens), Some(0));
        let nulls = of(r#"{"prompt_tokens":8,"completion_tokens":1,"prompt_tokens_details":null}"#);
        assert_eq!(nulls.map(|usage| usage.cached_tokens), Some(0));
    }

    #[test]
    fn insane_counts_are_unknown() {
        for usage in [
            "null",
            "{}",
            r#"{"prompt_tokens":-1}"#,
            r#"{"prompt_tokens":1.5}"#,
            r#"{"prompt_tokens":"1"}"#,
            r#"{"prompt_tokens":100000001}"#,
            r#"{"prompt_tokens":99999999999999999999}"#,
            r#"{"prompt_tokens":1,"completion_tokens":-1}"#,
            r#"{"prompt_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}"#,
            r#"{"prompt_tokens":1,"completion_tokens":1,"completion_tokens_details":{"reasoning_tokens":2}}"#,
        ] {
            assert_eq!(of(usage), None, "{usage}");
        }
    }
}
