//! Owns: the tokens that an upstream says it used, read from the text of its `usage` object.
//! Must not know: prices, limits, reservations, how the text came here.
//! On failure: closed; a usage that cannot be true is a fault with a slug, and the caller settles by its estimate.
//!
//! Three shapes, by operation: `OpenAI`'s chat completions, completions and embeddings (`prompt_tokens`, cached
//! ones inside), its Responses (`input_tokens`, cached ones inside), and Anthropic's Messages (`input_tokens`,
//! cached and written ones beside it). What they have in common is [`TokenUse`].

use std::fmt;

use crate::json::{Bounds, Document, Json};
use crate::policy::pb::route::Operation;

/// More tokens than any request has, and few enough that sums and prices stay far from the ends of `u64`.
pub const MAX_USE_TOKENS: u64 = 1 << 32;
/// The longest text that is looked at: what the extraction may keep.
const MAX_TEXT_BYTES: usize = 2_048;

/// Tokens that one request used. Never more than [`MAX_USE_TOKENS`] in one field; `cached + cache_write` is at most
/// `prompt`, and `reasoning` at most `output`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenUse {
    /// All that the model read
    pub prompt: u64,
    /// Those of the prompt that came from the provider's cache
    pub cached: u64,
    /// Those of the prompt that the provider wrote into its cache
    pub cache_write: u64,
    /// All that the model wrote
    pub output: u64,
    /// Those of the output that were reasoning
    pub reasoning: u64,
}

/// Why a usage object is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UsageFault {
    /// Not one JSON object within bounds, or a key twice
    NotJson,
    /// A count is no number, or a group of counts no object
    WrongType,
    /// A count is below 0
    Negative,
    /// A count, or the text, is above its bound
    TooLarge,
    /// A part is larger than its whole
    Inconsistent,
    /// A count is not whole
    Fractional,
    /// Some counts are there, but not those that make a use
    Incomplete,
}

/// What the upstream says the request used.
///
/// `last` is the most recent usage object; `start` is that of Anthropic's `message_start`, whose counts hold where
/// `last` has none.
///
/// *Returns* `None` when nothing was said: no object, `null`, or one without any count. So it is also for a
/// Messages stream that ended after its `message_start`: what it wrote is not known ([`read_start`] gives the prompt).
///
/// *Cost*: one pass over at most 2 KiB.
///
/// ```
/// use forebay_core::policy::pb::route::Operation;
/// use forebay_core::usage::{TokenUse, read_usage};
///
/// let start = br#"{"input_tokens":25,"cache_read_input_tokens":100,"output_tokens":1}"#;
/// let last = br#"{"output_tokens":15}"#;
/// let used = TokenUse { prompt: 125, cached: 100, output: 15, ..TokenUse::default() };
/// assert_eq!(read_usage(Operation::Messages, Some(start), Some(last)), Ok(Some(used)));
/// ```
///
/// *Source*: `OpenAI` API reference, "The chat completion object" and "The response object"; Anthropic, "Streaming
/// messages": the counts of `message_delta` are cumulative.
pub fn read_usage(
    operation: Operation,
    start: Option<&[u8]>,
    last: Option<&[u8]>,
) -> Result<Option<TokenUse>, UsageFault> {
    let last = parse(last)?;
    match operation {
        Operation::Messages => {
            let start = parse(start)?;
            let Some(last) = last else { return Ok(None) };
            messages(start.as_ref(), Some(&last))
        }
        Operation::Responses => last.map_or(Ok(None), |last| responses(&last)),
        Operation::Embedding => last.map_or(Ok(None), |last| embedding(&last)),
        _ => last.map_or(Ok(None), |last| completions(&last)),
    }
}

/// What a Messages stream said when it began. Its prompt is exact; its output is only what was written by then.
pub fn read_start(start: Option<&[u8]>) -> Result<Option<TokenUse>, UsageFault> {
    messages(parse(start)?.as_ref(), None)
}

// === impl TokenUse ===

impl TokenUse {
    /// Prompt and output together.
    pub fn total(&self) -> u64 {
        self.prompt.saturating_add(self.output)
    }

    fn checked(self) -> Result<Option<Self>, UsageFault> {
        if self.prompt > MAX_USE_TOKENS || self.output > MAX_USE_TOKENS {
            return Err(UsageFault::TooLarge);
        }
        // Clamping would make up a number: one of the two is wrong, and nothing says which.
        if self.cached + self.cache_write > self.prompt || self.reasoning > self.output {
            return Err(UsageFault::Inconsistent);
        }
        Ok(Some(self))
    }
}

// === impl UsageFault ===

impl UsageFault {
    /// All faults, for the metric's labels.
    pub const ALL: [Self; 7] = [
        Self::NotJson,
        Self::WrongType,
        Self::Negative,
        Self::TooLarge,
        Self::Inconsistent,
        Self::Fractional,
        Self::Incomplete,
    ];

    /// The stable slug.
    pub fn slug(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::WrongType => "wrong_type",
            Self::Negative => "negative",
            Self::TooLarge => "too_large",
            Self::Inconsistent => "inconsistent",
            Self::Fractional => "fractional",
            Self::Incomplete => "incomplete",
        }
    }
}

impl fmt::Display for UsageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotJson => "the usage is not one JSON object",
            Self::WrongType => "a count of the usage is of the wrong type",
            Self::Negative => "a count of the usage is negative",
            Self::TooLarge => "a count of the usage is larger than any request can have",
            Self::Inconsistent => "a part of the usage is larger than its whole",
            Self::Fractional => "a count of the usage is not whole",
            Self::Incomplete => "the usage lacks the count of the prompt or of the output",
        })
    }
}

impl std::error::Error for UsageFault {}

// === the shapes ===

/// Chat completions and text completions.
fn completions(usage: &Document<'_>) -> Result<Option<TokenUse>, UsageFault> {
    let total = count(usage.get("total_tokens"))?;
    let (prompt, completion) =
        match (count(usage.get("prompt_tokens"))?, count(usage.get("completion_tokens"))?) {
            (Some(prompt), Some(completion)) => (prompt, completion),
            (Some(prompt), None) => (prompt, total.ok_or(UsageFault::Incomplete)?.saturating_sub(prompt)),
            (None, None) if total.is_none() => return Ok(None),
            (None, _) => return Err(UsageFault::Incomplete),
        };
    // Some servers leave reasoning out of `completion_tokens` and have it in `total_tokens` alone.
    let output = completion.max(total.unwrap_or(0).saturating_sub(prompt));
    let cached = match count(detail(usage, "prompt_tokens_details", "cached_tokens")?)? {
        Some(cached) => cached,
        // DeepSeek's name for the same.
        None => count(usage.get("prompt_cache_hit_tokens"))?.unwrap_or(0),
    };
    let cache_write = count(detail(usage, "prompt_tokens_details", "cache_write_tokens")?)?.unwrap_or(0);
    let reasoning = count(detail(usage, "completion_tokens_details", "reasoning_tokens")?)?.unwrap_or(0);
    TokenUse { prompt, cached, cache_write, output, reasoning }.checked()
}

/// Embeddings: some servers give the total alone, and all of it is prompt.
fn embedding(usage: &Document<'_>) -> Result<Option<TokenUse>, UsageFault> {
    let (prompt, total) = (count(usage.get("prompt_tokens"))?, count(usage.get("total_tokens"))?);
    let Some(prompt) = prompt.or(total) else { return Ok(None) };
    let output = count(usage.get("completion_tokens"))?.unwrap_or(0);
    TokenUse { prompt, output, ..TokenUse::default() }.checked()
}

fn responses(usage: &Document<'_>) -> Result<Option<TokenUse>, UsageFault> {
    let (prompt, output) = match (count(usage.get("input_tokens"))?, count(usage.get("output_tokens"))?) {
        (Some(prompt), Some(output)) => (prompt, output),
        (None, None) => return Ok(None),
        _ => return Err(UsageFault::Incomplete),
    };
    let cached = count(detail(usage, "input_tokens_details", "cached_tokens")?)?.unwrap_or(0);
    let cache_write = count(detail(usage, "input_tokens_details", "cache_write_tokens")?)?.unwrap_or(0);
    let reasoning = count(detail(usage, "output_tokens_details", "reasoning_tokens")?)?.unwrap_or(0);
    TokenUse { prompt, cached, cache_write, output, reasoning }.checked()
}

/// Each count from `last` where it has it, else from `start`.
fn messages(
    start: Option<&Document<'_>>,
    last: Option<&Document<'_>>,
) -> Result<Option<TokenUse>, UsageFault> {
    let of = |name: &str| -> Result<Option<u64>, UsageFault> {
        let from = |usage: Option<&Document<'_>>| count(usage.and_then(|usage| usage.get(name)));
        // Both are read, so that a fault in either is one.
        let (last, start) = (from(last)?, from(start)?);
        Ok(last.or(start))
    };
    let (input, output) = match (of("input_tokens")?, of("output_tokens")?) {
        (Some(input), Some(output)) => (input, output),
        (None, None) => return Ok(None),
        _ => return Err(UsageFault::Incomplete),
    };
    let cached = of("cache_read_input_tokens")?.unwrap_or(0);
    let cache_write = of("cache_creation_input_tokens")?.unwrap_or(0);
    TokenUse { prompt: input + cached + cache_write, cached, cache_write, output, reasoning: 0 }.checked()
}

// === reading ===

fn parse(text: Option<&[u8]>) -> Result<Option<Document<'_>>, UsageFault> {
    let Some(text) = text.filter(|text| text.trim_ascii() != b"null") else { return Ok(None) };
    if text.len() > MAX_TEXT_BYTES {
        return Err(UsageFault::TooLarge);
    }
    Document::parse(text, Bounds { depth: 8, values: 256 }).map(Some).map_err(|_| UsageFault::NotJson)
}

/// A count in a group that may be absent or `null`.
fn detail<'d>(usage: &'d Document<'_>, group: &str, name: &str) -> Result<Option<&'d Json<'d>>, UsageFault> {
    match usage.get(group) {
        None => Ok(None),
        Some(group @ Json::Object(_)) => Ok(group.get(name)),
        Some(_) => Err(UsageFault::WrongType),
    }
}

/// A count that may be absent or `null`; a whole number may be written `12.0` or `1e3`.
fn count(value: Option<&Json<'_>>) -> Result<Option<u64>, UsageFault> {
    let text = match value {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::Number(text)) => *text,
        Some(_) => return Err(UsageFault::WrongType),
    };
    let tokens = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Nothing but digits fails to parse only by its size.
        text.parse().unwrap_or(u64::MAX)
    } else {
        let number: f64 = text.parse().map_err(|_| UsageFault::WrongType)?;
        if number < 0.0 {
            return Err(UsageFault::Negative);
        }
        if number.is_finite() && number.fract() != 0.0 {
            return Err(UsageFault::Fractional);
        }
        number as u64
    };
    if tokens > MAX_USE_TOKENS { Err(UsageFault::TooLarge) } else { Ok(Some(tokens)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use Operation::{ChatCompletions as Chat, Embedding, Messages, Responses, TextCompletions as Text};
    use proptest::prelude::*;

    fn last(operation: Operation, usage: &str) -> Result<Option<TokenUse>, UsageFault> {
        read_usage(operation, None, Some(usage.as_bytes()))
    }

    fn used(prompt: u64, cached: u64, cache_write: u64, output: u64, reasoning: u64) -> TokenUse {
        TokenUse { prompt, cached, cache_write, output, reasoning }
    }

    #[test]
    fn each_shape_gives_the_same_noun() {
        for (operation, usage, expected) in [
            (Chat, r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}"#, used(10, 0, 0, 5, 0)),
            (Text, r#"{"prompt_tokens":10,"completion_tokens":5}"#, used(10, 0, 0, 5, 0)),
            (
                Chat,
                r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0},
                    "completion_tokens_details":{"reasoning_tokens":2}}"#,
                used(10, 4, 0, 5, 2),
            ),
            // vLLM
            (
                Chat,
                r#"{"prompt_tokens":10,"total_tokens":15,"completion_tokens":5,"prompt_tokens_details":null}"#,
                used(10, 0, 0, 5, 0),
            ),
            // DeepSeek
            (
                Chat,
                r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_cache_hit_tokens":8,"prompt_cache_miss_tokens":2}"#,
                used(10, 8, 0, 5, 0),
            ),
            // Reasoning beside the completion, and in the total alone
            (
                Chat,
                r#"{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,"completion_tokens_details":{"reasoning_tokens":94}}"#,
                used(32, 0, 0, 103, 94),
            ),
            (Chat, r#"{"prompt_tokens":32,"total_tokens":135}"#, used(32, 0, 0, 103, 0)),
            (Chat, r#"{"prompt_tokens":12.0,"completion_tokens":1e1}"#, used(12, 0, 0, 10, 0)),
            (Embedding, r#"{"prompt_tokens":8,"total_tokens":8}"#, used(8, 0, 0, 0, 0)),
            (Embedding, r#"{"total_tokens":8}"#, used(8, 0, 0, 0, 0)),
            (Embedding, r#"{"prompt_tokens":8,"total_tokens":8,"completion_tokens":0}"#, used(8, 0, 0, 0, 0)),
            (
                Responses,
                r#"{"input_tokens":36,"input_tokens_details":{"cached_tokens":6,"cache_write_tokens":3},"output_tokens":87,
                    "output_tokens_details":{"reasoning_tokens":7},"total_tokens":123}"#,
                used(36, 6, 3, 87, 7),
            ),
            (
                Messages,
                r#"{"input_tokens":10,"cache_creation_input_tokens":20,"cache_read_input_tokens":30,"output_tokens":5,
                    "service_tier":"standard","server_tool_use":null}"#,
                used(60, 30, 20, 5, 0),
            ),
        ] {
            assert_eq!(last(operation, usage), Ok(Some(expected)), "{usage}");
            assert_eq!(expected.total(), expected.prompt + expected.output);
        }
    }

    #[test]
    fn the_end_of_a_stream_completes_its_start() {
        let start = br#"{"input_tokens":25,"cache_creation_input_tokens":0,"cache_read_input_tokens":100,"output_tokens":1}"#;
        let both = |end: &str| read_usage(Messages, Some(start), Some(end.as_bytes()));
        assert_eq!(both(r#"{"output_tokens":15}"#), Ok(Some(used(125, 100, 0, 15, 0))));
        let all = r#"{"input_tokens":30,"cache_creation_input_tokens":null,"cache_read_input_tokens":0,"output_tokens":15}"#;
        assert_eq!(both(all), Ok(Some(used(30, 0, 0, 15, 0))));
        // Broken off: what was written is not known, what was read is.
        assert_eq!(read_usage(Messages, Some(start), None), Ok(None));
        assert_eq!(read_start(Some(start)), Ok(Some(used(125, 100, 0, 1, 0))));
        assert_eq!(read_start(None), Ok(None));
        assert_eq!(last(Messages, r#"{"output_tokens":15}"#), Err(UsageFault::Incomplete));
        assert_eq!(
            read_usage(
                Messages,
                Some(br#"{"input_tokens":-1}"#),
                Some(br#"{"input_tokens":1,"output_tokens":1}"#)
            ),
            Err(UsageFault::Negative)
        );
    }

    #[test]
    fn nothing_said_is_no_fault() {
        for operation in [Chat, Text, Embedding, Responses, Messages] {
            assert_eq!(read_usage(operation, None, None), Ok(None));
            for usage in ["{}", "null", " null ", r#"{"cost":0.5}"#] {
                assert_eq!(last(operation, usage), Ok(None), "{usage}");
            }
        }
    }

    #[test]
    fn what_cannot_be_true_is_a_fault() {
        use UsageFault::{Fractional, Incomplete, Inconsistent, Negative, NotJson, TooLarge, WrongType};
        let long =
            format!(r#"{{"prompt_tokens":1,"completion_tokens":1,"x":"{}"}}"#, "x".repeat(MAX_TEXT_BYTES));
        for (usage, fault) in [
            ("", NotJson),
            ("[1]", NotJson),
            (r#"{"prompt_tokens":1"#, NotJson),
            (r#"{"prompt_tokens":1,"prompt_tokens":2,"completion_tokens":1}"#, NotJson),
            (r#"{"prompt_tokens":"1","completion_tokens":1}"#, WrongType),
            (r#"{"prompt_tokens":true,"completion_tokens":1}"#, WrongType),
            (r#"{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":7}"#, WrongType),
            (r#"{"prompt_tokens":-1,"completion_tokens":1}"#, Negative),
            (r#"{"prompt_tokens":1,"completion_tokens":-0.5}"#, Negative),
            (r#"{"prompt_tokens":1.5,"completion_tokens":1}"#, Fractional),
            (r#"{"prompt_tokens":1,"completion_tokens":4294967297}"#, TooLarge),
            (r#"{"prompt_tokens":99999999999999999999999,"completion_tokens":1}"#, TooLarge),
            (r#"{"prompt_tokens":1e999,"completion_tokens":1}"#, TooLarge),
            (r#"{"prompt_tokens":1,"completion_tokens":1,"total_tokens":1e30}"#, TooLarge),
            (long.as_str(), TooLarge),
            (
                r#"{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}"#,
                Inconsistent,
            ),
            (
                r#"{"prompt_tokens":1,"completion_tokens":1,"completion_tokens_details":{"reasoning_tokens":2}}"#,
                Inconsistent,
            ),
            (r#"{"completion_tokens":1}"#, Incomplete),
            (r#"{"prompt_tokens":1}"#, Incomplete),
            (r#"{"total_tokens":2}"#, Incomplete),
        ] {
            assert_eq!(last(Chat, usage), Err(fault), "{usage}");
        }
        assert_eq!(last(Responses, r#"{"input_tokens":1}"#), Err(Incomplete));
        let sum = r#"{"input_tokens":4294967296,"cache_read_input_tokens":1,"output_tokens":1}"#;
        assert_eq!(last(Messages, sum), Err(TooLarge));
    }

    #[test]
    fn slugs_are_stable_and_each_its_own() {
        let slugs: std::collections::BTreeSet<_> = UsageFault::ALL.iter().map(|fault| fault.slug()).collect();
        assert_eq!(
            slugs.into_iter().collect::<Vec<_>>(),
            ["fractional", "incomplete", "inconsistent", "negative", "not_json", "too_large", "wrong_type"]
        );
        assert!(UsageFault::ALL.iter().all(|fault| !fault.to_string().ends_with('.')));
    }

    fn any_operation() -> impl Strategy<Value = Operation> {
        prop::sample::select(vec![Chat, Text, Embedding, Responses, Messages, Operation::Forward])
    }

    /// Usage objects with the names that are read and values of any kind.
    fn any_usage() -> impl Strategy<Value = String> {
        const NAMES: &[&str] = &[
            "prompt_tokens",
            "completion_tokens",
            "total_tokens",
            "prompt_tokens_details",
            "completion_tokens_details",
            "cached_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
            "prompt_cache_hit_tokens",
            "input_tokens",
            "output_tokens",
            "input_tokens_details",
            "output_tokens_details",
            "cache_creation_input_tokens",
            "cache_read_input_tokens",
        ];
        let leaf = prop_oneof![
            (0_u64..50).prop_map(|n| n.to_string()),
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>()
                .prop_filter("JSON has no such number", |n| n.is_finite())
                .prop_map(|n| n.to_string()),
            prop::sample::select(vec![
                "null",
                "true",
                "\"7\"",
                "[]",
                "4294967296",
                "4294967297",
                "1e400",
                "-0",
                "-0.0"
            ])
            .prop_map(str::to_owned),
        ];
        leaf.prop_recursive(2, 24, 8, |inner| {
            prop::collection::btree_map(prop::sample::select(NAMES), inner, 0..8).prop_map(|members| {
                let members: Vec<_> =
                    members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", members.join(","))
            })
        })
    }

    fn sane(used: &TokenUse) -> bool {
        used.prompt <= MAX_USE_TOKENS
            && used.output <= MAX_USE_TOKENS
            && used.cached + used.cache_write <= used.prompt
            && used.reasoning <= used.output
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            operation in any_operation(),
            start in prop::option::of(prop::collection::vec(any::<u8>(), 0..60)),
            last in prop::option::of(prop::collection::vec(any::<u8>(), 0..60)),
        ) {
            let _ = read_usage(operation, start.as_deref(), last.as_deref());
        }

        #[test]
        fn what_is_read_is_always_sane(
            operation in any_operation(),
            start in prop::option::of(any_usage()),
            last in prop::option::of(any_usage()),
        ) {
            let bytes = |text: &Option<String>| text.clone().map(String::into_bytes);
            let (start, last) = (bytes(&start), bytes(&last));
            for used in [read_usage(operation, start.as_deref(), last.as_deref()), read_start(start.as_deref())] {
                if let Ok(Some(used)) = used {
                    prop_assert!(sane(&used), "{used:?}");
                }
            }
        }

        #[test]
        fn sane_counts_come_through_to_the_token(
            prompt in 0..=MAX_USE_TOKENS, output in 0..=MAX_USE_TOKENS, cached in 0.0..=1.0, reasoning in 0.0..=1.0,
        ) {
            let part = |of: u64, share: f64| ((of as f64 * share) as u64).min(of);
            let (cached, reasoning) = (part(prompt, cached), part(output, reasoning));
            let total = (prompt + output).min(MAX_USE_TOKENS);
            let chat = format!(
                r#"{{"prompt_tokens":{prompt},"completion_tokens":{output},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cached}}},"completion_tokens_details":{{"reasoning_tokens":{reasoning}}}}}"#
            );
            prop_assert_eq!(last(Chat, &chat), Ok(Some(used(prompt, cached, 0, output, reasoning))));
            let messages = format!(
                r#"{{"input_tokens":{},"cache_read_input_tokens":{cached},"output_tokens":{output}}}"#, prompt - cached
            );
            prop_assert_eq!(last(Messages, &messages), Ok(Some(used(prompt, cached, 0, output, 0))));
        }
    }
}
