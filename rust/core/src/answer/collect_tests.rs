#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use proptest::prelude::*;

const LIMITS: CollectLimits =
    CollectLimits { max_answer_bytes: 4096, max_event_bytes: 4096, max_stream_bytes: 65_536 };
const JSON: &str = "application/json";
const SSE: &str = "text/event-stream";

fn collect_with(
    kind: AnswerKind,
    content_type: &str,
    body: &[u8],
    limits: CollectLimits,
    end: BodyEnd,
) -> Result<Answer, NotStorable> {
    let head = ResponseHead { status: 200, content_type: Some(content_type), content_encoding: None };
    let budget = CaptureBudget::new(1 << 20);
    let mut collector = Collector::new(Expect { kind, items: None }, &head, limits, &budget);
    for chunk in body.chunks(7) {
        collector.push(chunk);
        assert!(budget.held_bytes() <= limits.max_answer_bytes + limits.max_event_bytes);
    }
    let result = collector.finish(end);
    assert_eq!(budget.held_bytes(), 0);
    result
}

fn plain(kind: AnswerKind, body: &str) -> Result<Answer, NotStorable> {
    collect_with(kind, JSON, body.as_bytes(), LIMITS, BodyEnd::Complete)
}

fn chat(events: &[&str]) -> Result<Answer, NotStorable> {
    let body: Vec<u8> =
        events.iter().flat_map(|event| ["data: ", event, "\n\n"].concat().into_bytes()).collect();
    collect_with(AnswerKind::Chat, SSE, &body, LIMITS, BodyEnd::Complete)
}

fn chunk(choices: &str) -> String {
    format!(r#"{{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{choices}]}}"#)
}

const PLAIN: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
const HI: &str = r#"{"index":0,"delta":{"role":"assistant","content":"hi"}}"#;
const STOP: &str = r#"{"index":0,"delta":{},"finish_reason":"stop"}"#;

#[test]
fn a_plain_answer_is_kept_as_it_came() {
    let spaced = PLAIN.replace(",\"", ", \"");
    let answer = plain(AnswerKind::Chat, &spaced).unwrap();
    assert_eq!(answer.body, spaced);
    assert_eq!(answer.usage.unwrap().prompt_tokens, 3);
    let completion = r#"{"object":"text_completion","choices":[{"text":"a","finish_reason":"length"}]}"#;
    assert_eq!(plain(AnswerKind::Completion, completion).unwrap().usage, None);
    let embedding =
        r#"{"object":"list","data":[{"embedding":[0.1,0.2],"index":0}],"usage":{"prompt_tokens":3}}"#;
    assert_eq!(plain(AnswerKind::Embedding, embedding).unwrap().body, embedding);
}

#[test]
fn a_plain_answer_that_is_not_whole_is_refused() {
    let cases = [
        (r#"{"error":{"message":"x"}}"#.to_owned(), NotStorable::ErrorObject),
        (PLAIN.replace("\"stop\"", "null"), NotStorable::Incomplete("a choice has no finish_reason")),
        (PLAIN.replace("\"stop\"", "\"abort\""), NotStorable::FinishReason),
        (
            PLAIN.replace("chat.completion", "other"),
            NotStorable::Malformed("`object` is not that of an answer of this kind"),
        ),
        (PLAIN[..PLAIN.len() - 1].to_owned(), NotStorable::Malformed("the body is not one JSON object")),
        (format!("{PLAIN}{PLAIN}"), NotStorable::Malformed("the body is not one JSON object")),
        (r#"{"choices":[]}"#.to_owned(), NotStorable::Incomplete("the answer is empty")),
        (
            r#"{"choices":[{"finish_reason":"stop"}]}"#.to_owned(),
            NotStorable::Malformed("a choice has no message"),
        ),
    ];
    for (body, reason) in cases {
        assert_eq!(plain(AnswerKind::Chat, &body), Err(reason), "{body}");
    }
    let cut = collect_with(AnswerKind::Chat, JSON, PLAIN.as_bytes(), LIMITS, BodyEnd::Cut);
    assert_eq!(cut, Err(NotStorable::Cut));
}

#[test]
fn the_head_alone_can_refuse() {
    let head =
        |status, content_type, content_encoding| ResponseHead { status, content_type, content_encoding };
    let cases = [
        (head(500, Some(JSON), None), Some(NotStorable::Status(500))),
        (head(201, Some(JSON), None), Some(NotStorable::Status(201))),
        (head(200, None, None), Some(NotStorable::ContentType)),
        (head(200, Some("text/html"), None), Some(NotStorable::ContentType)),
        (head(200, Some(JSON), Some("gzip")), Some(NotStorable::ContentEncoding)),
        (head(200, Some("Application/JSON; charset=utf-8"), Some("identity")), None),
        (head(200, Some(SSE), Some("")), None),
    ];
    let budget = CaptureBudget::new(100);
    for (head, reason) in cases {
        let collector =
            Collector::new(Expect { kind: AnswerKind::Chat, items: None }, &head, LIMITS, &budget);
        assert_eq!(collector.refusal(), reason.as_ref(), "{head:?}");
    }
    let stream = head(200, Some(SSE), None);
    let collector =
        Collector::new(Expect { kind: AnswerKind::Embedding, items: None }, &stream, LIMITS, &budget);
    assert_eq!(collector.refusal(), Some(&NotStorable::ContentType));
}

#[test]
fn a_stream_folds_into_the_plain_answer() {
    let usage = r#"{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
    let first =
        r#"{"index":0,"delta":{"role":"assistant","content":"h"},"logprobs":null,"finish_reason":null}"#;
    let first = first.replace(r#""logprobs":null,"#, "");
    let next = r#"{"index":0,"delta":{"content":"i"}}"#;
    let answer = chat(&[&chunk(&first), &chunk(next), &chunk(STOP), usage, "[DONE]"]).unwrap();
    assert_eq!(answer.body, PLAIN);
    assert_eq!(answer.usage.unwrap().completion_tokens, 1);
}

#[test]
fn streams_as_servers_write_them() {
    // OpenAI: nulls everywhere, padding, usage null until the last event.
    let openai = |choices: &str, usage: &str| {
        format!(
            r#"{{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","service_tier":"default","system_fingerprint":"fp","choices":[{choices}],"usage":{usage},"obfuscation":"x9"}}"#
        )
    };
    let usage = r#"{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}"#;
    let answer = chat(&[
        &openai(
            r#"{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}"#,
            "null",
        ),
        &openai(r#"{"index":0,"delta":{"content":"hi"},"logprobs":null,"finish_reason":null}"#, "null"),
        &openai(r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}"#, "null"),
        &openai("", usage),
        "[DONE]",
    ]);
    let folded = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4},"service_tier":"default","system_fingerprint":"fp"}"#;
    assert_eq!(std::str::from_utf8(&answer.unwrap().body).unwrap(), folded);
    // vLLM: a stop reason, reasoning beside the content, usage counted on in every event.
    let vllm = |choices: &str, completion: u32| {
        format!(
            r#"{{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{choices}],"usage":{{"prompt_tokens":3,"completion_tokens":{completion}}},"prompt_token_ids":null}}"#
        )
    };
    let answer = chat(&[
        &vllm(
            r#"{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null,"token_ids":null}"#,
            0,
        ),
        &vllm(r#"{"index":0,"delta":{"reasoning_content":"hm"},"finish_reason":null}"#, 1),
        &vllm(r#"{"index":0,"delta":{"content":"hi"},"finish_reason":"stop","stop_reason":151645}"#, 2),
        &vllm("", 2),
        "[DONE]",
    ]);
    let folded = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi","reasoning_content":"hm"},"logprobs":null,"finish_reason":"stop","stop_reason":151645}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
    assert_eq!(std::str::from_utf8(&answer.unwrap().body).unwrap(), folded);
}

#[test]
fn tool_calls_are_merged_by_index() {
    let call = |rest: &str| chunk(&format!(r#"{{"index":0,"delta":{{"tool_calls":[{rest}]}}}}"#));
    let done = chunk(r#"{"index":0,"delta":{},"finish_reason":"tool_calls"}"#);
    let a = call(r#"{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}"#);
    let b = call(r#"{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}"#);
    let a1 = call(r#"{"index":0,"function":{"arguments":"{\"x\""}}"#);
    let a2 = call(r#"{"index":0,"id":"a","function":{"name":"","arguments":":1}"}}"#);
    let answer = chat(&[&a, &b, &a1, &a2, &done, "[DONE]"]).unwrap();
    let body = std::str::from_utf8(&answer.body).unwrap();
    let calls = r#""message":{"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]}"#;
    assert!(body.contains(calls), "{body}");
    let other = call(r#"{"index":0,"id":"z","type":"function","function":{"name":"f","arguments":""}}"#);
    assert_eq!(
        chat(&[&a, &other, &done, "[DONE]"]),
        Err(NotStorable::Malformed("two tool calls share an index"))
    );
    assert_eq!(chat(&[&b, &done, "[DONE]"]), Err(NotStorable::Incomplete("a tool call is missing")));
}

#[test]
fn a_stream_is_complete_only_when_the_protocol_says_so() {
    let hi = chunk(HI);
    let stop = chunk(STOP);
    let says_done = chunk(r#"{"index":0,"delta":{"content":"\n\ndata: [DONE]\n\n"},"finish_reason":"stop"}"#);
    let second = chunk(r#"{"index":1,"delta":{"content":"x"}}"#);
    let only_second = chunk(r#"{"index":1,"delta":{"content":"x"},"finish_reason":"stop"}"#);
    let abort = chunk(r#"{"index":0,"delta":{},"finish_reason":"abort"}"#);
    let late = chunk(r#"{"index":0,"delta":{"content":"x"}}"#);
    let unknown = chunk(r#"{"index":0,"delta":{"audio":{"data":"x"}}}"#);
    let no_done = NotStorable::Incomplete("the stream has no `[DONE]`");
    let no_reason = NotStorable::Incomplete("a choice has no finish_reason");
    let cases: [(&[&str], NotStorable); 12] = [
        (&[&hi, &stop], no_done.clone()),
        (&[&hi, &says_done], no_done.clone()),
        (&[&hi, "[DONE]"], no_reason.clone()),
        (&[&hi, &second, &stop, "[DONE]"], no_reason),
        (&[&only_second, "[DONE]"], NotStorable::Incomplete("a choice is missing")),
        (&["[DONE]"], NotStorable::Incomplete("the stream has no choice")),
        (&[], no_done),
        (&[&hi, &abort, "[DONE]"], NotStorable::FinishReason),
        (&[&hi, r#"{"error":{"message":"x"}}"#, "[DONE]"], NotStorable::ErrorObject),
        (&[&hi, &stop, &late, "[DONE]"], NotStorable::Malformed("a choice goes on after its finish_reason")),
        (&[&hi, &stop, "[DONE]", &hi], NotStorable::Malformed("an event follows `[DONE]`")),
        (&[&unknown, &stop, "[DONE]"], NotStorable::UnknownField("choices.delta.audio".to_owned())),
    ];
    for (events, reason) in cases {
        assert_eq!(chat(events), Err(reason), "{events:?}");
    }
    let error = format!("data: {hi}\n\nevent: error\ndata: {{}}\n\n");
    let result = collect_with(AnswerKind::Chat, SSE, error.as_bytes(), LIMITS, BodyEnd::Complete);
    assert_eq!(result, Err(NotStorable::ErrorObject));
}

#[test]
fn a_break_after_the_last_event_takes_nothing_away() {
    let body = format!("data: {}\n\ndata: {}\n\ndata: [DONE]\n\n", chunk(HI), chunk(STOP));
    assert!(collect_with(AnswerKind::Chat, SSE, body.as_bytes(), LIMITS, BodyEnd::Cut).is_ok());
    let short = &body.as_bytes()[..body.len() - 1];
    assert_eq!(collect_with(AnswerKind::Chat, SSE, short, LIMITS, BodyEnd::Cut), Err(NotStorable::Cut));
}

#[test]
fn as_many_items_as_were_asked_for() {
    let head = ResponseHead { status: 200, content_type: Some(JSON), content_encoding: None };
    for (items, fits) in [(1, true), (2, false)] {
        let expect = Expect { kind: AnswerKind::Chat, items: Some(items) };
        let mut collector = Collector::new(expect, &head, LIMITS, &CaptureBudget::new(1 << 20));
        collector.push(PLAIN.as_bytes());
        assert_eq!(collector.finish(BodyEnd::Complete).is_ok(), fits);
    }
}

#[test]
fn over_a_cap_nothing_is_held() {
    let head =
        |content_type| ResponseHead { status: 200, content_type: Some(content_type), content_encoding: None };
    let expect = Expect { kind: AnswerKind::Chat, items: None };
    let budget = CaptureBudget::new(1000);
    let mut large = Collector::new(expect, &head(JSON), LIMITS, &CaptureBudget::new(1 << 20));
    let mut many = Collector::new(expect, &head(JSON), LIMITS, &budget);
    let mut endless = Collector::new(expect, &head(SSE), LIMITS, &CaptureBudget::new(1 << 20));
    for _ in 0..10 {
        large.push(&[b' '; 1000]);
        many.push(&[b' '; 1000]);
        endless.push(&[b':'; 1000]);
    }
    assert_eq!(large.refusal(), Some(&NotStorable::TooLarge));
    assert_eq!(many.refusal(), Some(&NotStorable::BudgetFull));
    assert_eq!(endless.refusal(), Some(&NotStorable::Sse(crate::answer::SseError::EventTooLarge)));
    assert_eq!(
        (large.held_bytes(), many.held_bytes(), endless.held_bytes(), budget.held_bytes()),
        (0, 0, 0, 0)
    );
    let text = "x".repeat(900);
    let events: Vec<String> =
        (0..6).map(|_| chunk(&format!(r#"{{"index":0,"delta":{{"content":"{text}"}}}}"#))).collect();
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    assert_eq!(chat(&events), Err(NotStorable::TooLarge));
}

#[test]
fn every_reason_has_its_own_slug() {
    let reasons = [
        NotStorable::Status(500),
        NotStorable::ContentType,
        NotStorable::ContentEncoding,
        NotStorable::Cut,
        NotStorable::Incomplete(""),
        NotStorable::FinishReason,
        NotStorable::ErrorObject,
        NotStorable::Malformed(""),
        NotStorable::UnknownField(String::new()),
        NotStorable::TooLarge,
        NotStorable::BudgetFull,
        NotStorable::Sse(crate::answer::SseError::EventTooLarge),
        NotStorable::Sse(crate::answer::SseError::StreamTooLarge),
    ];
    let slugs: std::collections::BTreeSet<&str> = reasons.iter().map(NotStorable::slug).collect();
    assert_eq!(slugs.len(), reasons.len());
}

proptest! {
    #[test]
    fn any_bytes_are_judged(body in proptest::collection::vec(any::<u8>(), 0..300), sse in any::<bool>()) {
        let content_type = if sse { SSE } else { JSON };
        let _ = collect_with(AnswerKind::Chat, content_type, &body, LIMITS, BodyEnd::Complete);
    }

    #[test]
    fn any_events_are_judged(events in proptest::collection::vec(event(), 0..8)) {
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        if let Ok(answer) = chat(&events) {
            // What a fold writes is itself a complete plain answer.
            prop_assert!(plain(AnswerKind::Chat, std::str::from_utf8(&answer.body).unwrap()).is_ok());
        }
    }
}

fn event() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("\"x\"".to_owned()),
        Just("1".to_owned()),
        Just("{}".to_owned()),
        Just("[]".to_owned()),
        Just("[{}]".to_owned()),
        Just("\"stop\"".to_owned()),
        Just(r#"[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]"#.to_owned()),
    ];
    let key =
        proptest::sample::select(vec!["role", "content", "tool_calls", "refusal", "function_call", "z"]);
    let fields = proptest::collection::btree_map(key, value.clone(), 0..3);
    let choice = (0_u32..2, fields, value.clone(), value).prop_map(|(index, fields, reason, logprobs)| {
        let fields: Vec<String> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        let delta = fields.join(",");
        chunk(&format!(
            r#"{{"index":{index},"delta":{{{delta}}},"finish_reason":{reason},"logprobs":{logprobs}}}"#
        ))
    });
    prop_oneof![4 => choice, 2 => Just(chunk(HI)), 2 => Just(chunk(STOP)), 2 => Just("[DONE]".to_owned())]
}
