//! Owns generated plain answers in the one order in which a fold writes them, so that equality is of bytes.
//! Must not know the renderer.
//! On failure: for tests only.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::kind::AnswerKind;
use super::write;

/// A JSON string.
fn string(value: &str) -> String {
    let mut out = String::new();
    write::text(&mut out, value);
    out
}

/// Texts that look like framing, long ones, and any.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => any::<String>(),
        1 => Just(String::new()),
        2 => "[a-zé ]{0,700}",
        1 => Just("data: [DONE]\n\n".to_owned()),
        1 => Just("{\"error\":{}}".to_owned()),
    ]
}

fn nullable_text() -> impl Strategy<Value = String> {
    option::of(text()).prop_map(|text| text.map_or("null".to_owned(), |text| string(&text)))
}

fn token() -> impl Strategy<Value = String> {
    (text(), 0_u64..=u64::MAX).prop_map(|(token, digits)| {
        format!(r#"{{"token":{},"logprob":-0.{digits}01,"bytes":null,"top_logprobs":[]}}"#, string(&token))
    })
}

fn chat_logprobs() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("null".to_owned()),
        vec(token(), 0..4)
            .prop_map(|tokens| format!(r#"{{"content":[{}],"refusal":null}}"#, tokens.join(","))),
    ]
}

fn tool_call() -> impl Strategy<Value = String> {
    (any::<bool>(), "[a-z_]{1,12}", text(), "[a-z0-9]{1,8}").prop_map(|(custom, name, payload, id)| {
        let payload = string(&payload);
        if custom {
            format!(r#"{{"id":"call_{id}","type":"custom","custom":{{"name":"{name}","input":{payload}}}}}"#)
        } else {
            format!(r#"{{"id":"call_{id}","type":"function","function":{{"name":"{name}","arguments":{payload}}}}}"#)
        }
    })
}

fn field(key: &'static str, value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    option::of(value)
        .prop_map(move |value| value.map_or(String::new(), |value| format!(",\"{key}\":{value}")))
}

fn message() -> impl Strategy<Value = String> {
    let calls = vec(tool_call(), 1..4).prop_map(|calls| format!("[{}]", calls.join(",")));
    let function = ("[a-z]{1,9}", text())
        .prop_map(|(name, arguments)| format!(r#"{{"name":"{name}","arguments":{}}}"#, string(&arguments)));
    (
        nullable_text(),
        field("reasoning_content", nullable_text()),
        field("reasoning", nullable_text()),
        field("refusal", nullable_text()),
        field("tool_calls", calls),
        field("function_call", function),
    )
        .prop_map(|(content, reasoning_content, reasoning, refusal, calls, function)| {
            format!(
                r#"{{"role":"assistant","content":{content}{reasoning_content}{reasoning}{refusal}{calls}{function}}}"#
            )
        })
}

fn finish_reason() -> impl Strategy<Value = String> {
    proptest::sample::select(vec!["stop", "length", "tool_calls", "content_filter", "function_call"])
        .prop_map(|reason| format!("\"{reason}\""))
}

fn marks() -> impl Strategy<Value = String> {
    field(
        "stop_reason",
        prop_oneof![text().prop_map(|text| string(&text)), (0_u32..1000).prop_map(|n| n.to_string())],
    )
}

fn chat_choice() -> impl Strategy<Value = String> {
    (message(), field("logprobs", chat_logprobs()), finish_reason(), marks()).prop_map(
        |(message, logprobs, reason, marks)| {
            format!(r#""message":{message}{logprobs},"finish_reason":{reason}{marks}"#)
        },
    )
}

fn text_choice() -> impl Strategy<Value = String> {
    let logprobs = prop_oneof![
        Just("null".to_owned()),
        vec(text(), 0..4).prop_map(|tokens| {
            let tokens: Vec<String> = tokens.iter().map(|token| string(token)).collect();
            format!(r#"{{"tokens":[{}],"token_logprobs":[null,-1.50],"text_offset":[0]}}"#, tokens.join(","))
        }),
    ];
    (text(), field("logprobs", logprobs), finish_reason(), marks()).prop_map(
        |(text, logprobs, reason, marks)| {
            format!(r#""text":{}{logprobs},"finish_reason":{reason}{marks}"#, string(&text))
        },
    )
}

/// A plain answer of `kind`, as the fold would write it.
pub(super) fn answer(kind: AnswerKind) -> impl Strategy<Value = String> {
    let choices = match kind {
        AnswerKind::Completion => vec(text_choice().boxed(), 1..4),
        _ => vec(chat_choice().boxed(), 1..4),
    };
    let usage = (0_u32..9000, 0_u32..9000).prop_map(|(prompt, completion)| {
        format!(r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion}}}"#)
    });
    let head = ("[a-z0-9-]{1,30}", 1_u64..2_000_000_000, "[a-z0-9./-]{1,20}");
    (head, choices, field("usage", usage), field("service_tier", nullable_text()), field("system_fingerprint", nullable_text()))
        .prop_map(move |((id, created, model), choices, usage, tier, fingerprint)| {
            let object = kind.plain_object();
            let choices: Vec<String> =
                choices.iter().enumerate().map(|(at, choice)| format!(r#"{{"index":{at},{choice}}}"#)).collect();
            let choices = choices.join(",");
            format!(
                r#"{{"id":"{id}","object":"{object}","created":{created},"model":"{model}","choices":[{choices}]{usage}{tier}{fingerprint}}}"#
            )
        })
}
