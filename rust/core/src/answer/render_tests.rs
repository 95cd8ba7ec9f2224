#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::super::collect::{Answer, BodyEnd, CollectLimits, Collector, Expect, ResponseHead};
use super::super::generate;
use super::super::{CaptureBudget, NotStorable};
use super::*;
use proptest::prelude::*;

const LIMITS: CollectLimits =
    CollectLimits { max_answer_bytes: 1 << 20, max_event_bytes: 1 << 20, max_stream_bytes: 1 << 24 };

fn fold<'a>(kind: AnswerKind, chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Answer, NotStorable> {
    let head = ResponseHead {
        status: 200,
        content_type: Some("text/event-stream; charset=utf-8"),
        content_encoding: None,
    };
    let mut collector =
        Collector::new(Expect { kind, items: None }, &head, LIMITS, &CaptureBudget::new(1 << 24));
    for chunk in chunks {
        collector.push(chunk);
    }
    collector.finish(BodyEnd::Complete)
}

fn stream(body: &str, usage: StreamUsage) -> String {
    String::from_utf8(render_stream(AnswerKind::Chat, body.as_bytes(), usage).unwrap()).unwrap()
}

const PLAIN: &str = r#"{"id":"c1","object":"chat.completion","created":7,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;

#[test]
fn a_stream_reads_as_the_protocol_writes_it() {
    let head = r#"data: {"id":"c1","object":"chat.completion.chunk","created":7,"model":"m","choices":["#;
    assert_eq!(
        stream(PLAIN, StreamUsage::Omit),
        [
            head,
            r#"{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            "\n\n",
            head,
            r#"{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}"#,
            "\n\n",
            head,
            r#"{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
            "\n\ndata: [DONE]\n\n",
        ]
        .concat()
    );
}

#[test]
fn the_usage_comes_last_and_only_where_it_was_asked_for() {
    let with = stream(PLAIN, StreamUsage::Include);
    let events: Vec<&str> = with.split("\n\n").collect();
    assert!(events[..3].iter().all(|event| event.ends_with(r#","usage":null}"#)));
    assert!(events[3].ends_with(r#""choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#));
    assert_eq!(events[4..], ["data: [DONE]", ""]);
    let without = PLAIN
        .replace("usage", "service_tier")
        .replace(r#"{"prompt_tokens":3,"completion_tokens":1}"#, "null");
    let result = render_stream(AnswerKind::Chat, without.as_bytes(), StreamUsage::Include);
    assert_eq!(result, Err(NotStreamable::NoUsage));
}

#[test]
fn what_a_stream_cannot_carry_is_not_streamed() {
    let cases = [
        (r#""content":"Hello""#, r#""content":"Hello","audio":{"id":"a"}"#, "message.audio"),
        (r#""content":"Hello""#, r#""content":[{"type":"text"}]"#, "message.content"),
        (r#""finish_reason""#, r#""seed":1,"finish_reason""#, "choices.seed"),
        (r#""created""#, r#""citations":["x"],"created""#, "citations"),
    ];
    for (from, to, path) in cases {
        let body = PLAIN.replace(from, to);
        let result = render_stream(AnswerKind::Chat, body.as_bytes(), StreamUsage::Omit);
        assert_eq!(result, Err(NotStreamable::UnknownField(path.to_owned())));
    }
    let result = render_stream(AnswerKind::Embedding, PLAIN.as_bytes(), StreamUsage::Omit);
    assert_eq!(result, Err(NotStreamable::Kind));
    // What servers add without saying anything is left out.
    let body = PLAIN.replace(
        r#""content":"Hello""#,
        r#""content":"Hello","annotations":[],"tool_calls":[],"audio":null"#,
    );
    assert_eq!(stream(&body, StreamUsage::Omit), stream(PLAIN, StreamUsage::Omit));
}

#[test]
fn a_long_text_is_few_deltas_and_nothing_is_lost() {
    for text in ["word ".repeat(10_000), "é".repeat(10_000), "x".repeat(63), String::new()] {
        let parts: Vec<&str> = pieces(&text).collect();
        assert!(parts.len() <= 2 * MAX_DELTAS + 1, "{}", parts.len());
        assert_eq!(parts.concat(), text);
        assert!(parts.iter().all(|part| !part.is_empty()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn folding_a_rendered_chat_gives_the_answer(body in generate::answer(AnswerKind::Chat)) {
        round_trip(AnswerKind::Chat, &body)?;
    }

    #[test]
    fn folding_a_rendered_completion_gives_the_answer(body in generate::answer(AnswerKind::Completion)) {
        round_trip(AnswerKind::Completion, &body)?;
    }

    #[test]
    fn any_object_is_rendered_or_refused(text in r#"[\{\}\[\],:"a-z0-9.]{0,120}"#) {
        let _ = render_stream(AnswerKind::Chat, text.as_bytes(), StreamUsage::Omit);
    }
}

fn round_trip(kind: AnswerKind, body: &str) -> Result<(), TestCaseError> {
    let has_usage = body.contains(r#""usage":{"#);
    let usage = if has_usage { StreamUsage::Include } else { StreamUsage::Omit };
    let stream = render_stream(kind, body.as_bytes(), usage).unwrap();
    let whole = fold(kind, [&stream[..]]).unwrap();
    prop_assert_eq!(std::str::from_utf8(&whole.body).unwrap(), body);
    prop_assert_eq!(whole.usage.is_some(), has_usage);
    let by_byte = fold(kind, stream.chunks(1)).unwrap();
    prop_assert_eq!(whole, by_byte);
    // Every proper prefix is incomplete: nothing short of the protocol's own end is stored. The event ends with the
    // first of its two line feeds only together with the second.
    for cut in (0..stream.len()).step_by(1 + stream.len() / 40).chain([stream.len() - 1]) {
        prop_assert!(fold(kind, [&stream[..cut]]).is_err(), "cut at {}", cut);
    }
    Ok(())
}
