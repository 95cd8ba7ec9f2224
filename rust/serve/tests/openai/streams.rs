//! Owns: generations as event streams: their events, their errors, clients that leave or are slow.
//! Must not know: the front's insides.
//! On failure: the test fails.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_core::policy::pb;
use forebay_core::policy::pb::route::Operation;
use forebay_core::tokens::Encoding;
use forebay_serve::kserve::BatchEnd;
use tonic::Code;

use super::rig::{Bench, Opened, at, within, writer};
use super::server::{Line, ModelServer};

const CHAT: &str = r#"{"model":"public","messages":[{"role":"user","content":"hi"}],"stream":true,
    "stream_options":{"include_usage":true},"max_tokens":7,"temperature":0.5}"#;

async fn chat(lines: Vec<Line>, generation: pb::GenerationTensors) -> (Bench, ModelServer) {
    let server = ModelServer::start(lines).await;
    let tensors = pb::Tensors { generation: Some(generation), ..pb::Tensors::default() };
    let bench = Bench::start(Operation::ChatCompletions, tensors).await;
    bench.serves(writer(), Some(server.address));
    (bench, server)
}

fn say(text: &str) -> Line {
    Line::Say(text.as_bytes().to_vec())
}

/// The data of all events to the end of the body.
async fn events(opened: &mut Opened) -> Vec<String> {
    let mut whole = Vec::new();
    while let Some(piece) = opened.next().await {
        whole.extend_from_slice(&piece);
    }
    let whole = String::from_utf8(whole).unwrap();
    assert!(whole.is_empty() || whole.ends_with("\n\n"), "{whole}");
    whole.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap().to_owned()).collect()
}

fn contents(events: &[String]) -> String {
    let chunks = events.iter().filter(|event| event.starts_with('{'));
    chunks.map(|event| at(event, &["choices", "0", "delta", "content"])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_is_streamed_as_openai_would() {
    let euro = "\u{20ac}".as_bytes();
    let lines = vec![
        say("Hello"),
        Line::Say([b" ", &euro[..2]].concat()),
        Line::Say(euro[2..].to_vec()),
        say(""),
        say("!"),
        Line::Last,
    ];
    let (mut bench, server) = chat(lines, pb::GenerationTensors::default()).await;
    let mut opened = bench.open(CHAT, 1 << 20).await;
    assert_eq!(opened.parts.status, 200);
    assert_eq!(opened.parts.headers["content-type"], "text/event-stream");
    let events = events(&mut opened).await;
    assert_eq!(at(&events[0], &["choices", "0", "delta", "role"]), "assistant");
    assert_eq!(contents(&events), "Hello \u{20ac}!");
    let [.., end, usage, done] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(at(end, &["choices", "0", "finish_reason"]), "stop");
    assert_eq!(done, "[DONE]");
    assert_eq!(at(usage, &["choices"]), "Array([])");
    let prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
    for (name, text) in [("prompt_tokens", prompt), ("completion_tokens", "Hello \u{20ac}!")] {
        let tokens = Encoding::Cl100kBase.count(text);
        assert_eq!(at(usage, &["usage", name]), format!("Number(\"{tokens}\")"));
    }
    for event in &events[..events.len() - 1] {
        assert_eq!(at(event, &["object"]), "chat.completion.chunk");
        assert_eq!(at(event, &["model"]), "public");
        assert_eq!(at(event, &["id"]), "chatcmpl-00000000000000000000000000000abc");
    }
    assert_eq!(bench.end().await, BatchEnd::Forwarded);
    assert_eq!(server.asked("text_input").unwrap(), prompt);
    assert_eq!(server.asked("sampling_parameters").unwrap(), r#"{"temperature":0.5,"max_tokens":7}"#);
    assert_eq!(server.asked("stream").unwrap(), "\u{1}");
    assert_eq!(server.seen.lock().unwrap()[0].model_name, "model");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_says_its_tokens_and_its_reason() {
    let generation = pb::GenerationTensors {
        finish_reason_output: "finish_reason".to_owned(),
        output_tokens_output: "num_output_tokens".to_owned(),
        ..pb::GenerationTensors::default()
    };
    let lines = vec![Line::Report("a", 2, "None"), Line::Report("b", 3, "length"), Line::Last];
    let (bench, _server) = chat(lines, generation).await;
    let events = events(&mut bench.open(CHAT, 1 << 20).await).await;
    let [.., end, usage, _] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(at(end, &["choices", "0", "finish_reason"]), "length");
    assert_eq!(at(usage, &["usage", "completion_tokens"]), "Number(\"5\")");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_repeats_itself_is_streamed_once() {
    let generation = pb::GenerationTensors {
        text: pb::generation_tensors::Text::Cumulative.into(),
        ..pb::GenerationTensors::default()
    };
    let lines = vec![say("one"), say("one two"), say("one two"), Line::Last];
    let (bench, _server) = chat(lines, generation).await;
    let events = events(&mut bench.open(CHAT, 1 << 20).await).await;
    assert_eq!(contents(&events), "one two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_before_the_first_text_has_its_own_status() {
    for (lines, status, code, expected) in [
        (vec![Line::Complain("the prompt is odd")], 500, Code::Unknown, "the prompt is odd"),
        (vec![Line::Break("the model broke")], 500, Code::Internal, "the model broke"),
        (vec![], 500, Code::Internal, "ended before its last answer"),
    ] {
        let (mut bench, _server) = chat(lines, pb::GenerationTensors::default()).await;
        let (given, body) = bench.post(CHAT).await;
        assert_eq!(given, status, "{body}");
        assert!(at(&body, &["error", "message"]).contains(expected), "{body}");
        assert!(matches!(bench.end().await, BatchEnd::Failed { code: given, .. } if given == code));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_server_is_unavailable() {
    let tensors =
        pb::Tensors { generation: Some(pb::GenerationTensors::default()), ..pb::Tensors::default() };
    let mut bench = Bench::start(Operation::ChatCompletions, tensors).await;
    bench.serves(writer(), None);
    let opened = bench.open(CHAT, 1 << 20).await;
    assert_eq!(
        (opened.parts.status.as_u16(), &opened.parts.headers["retry-after"]),
        (503, &"1".parse().unwrap())
    );
    assert!(matches!(bench.end().await, BatchEnd::Failed { code: Code::Unavailable, .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_behind_the_first_text_is_an_event_and_no_end() {
    for line in [Line::Complain("out of memory"), Line::Break("out of memory")] {
        let (mut bench, _server) = chat(vec![say("Hello"), line], pb::GenerationTensors::default()).await;
        let mut opened = bench.open(CHAT, 1 << 20).await;
        assert_eq!(opened.parts.status, 200);
        let events = events(&mut opened).await;
        assert_eq!(contents(&events[..2]), "Hello");
        let [_, _, error] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(at(error, &["error", "message"]), "out of memory");
        assert_eq!(at(error, &["error", "type"]), "server_error");
        assert!(matches!(bench.end().await, BatchEnd::Failed { slug: "batch_upstream", .. }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_a_request_ends_it() {
    let tensors =
        pb::Tensors { generation: Some(pb::GenerationTensors::default()), ..pb::Tensors::default() };
    let mut server = ModelServer::start(vec![say("Hello"), Line::Wait]).await;
    let bench = Bench::start_within(Operation::ChatCompletions, tensors, Duration::from_millis(300)).await;
    bench.serves(writer(), Some(server.address));
    let events = events(&mut bench.open(CHAT, 1 << 20).await).await;
    let error = events.last().unwrap();
    assert_eq!(at(error, &["error", "code"]), "batch_deadline");
    within(server.given_up.recv()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_cancels_the_generation() {
    let (mut bench, mut server) =
        chat(vec![say("Hello"), Line::Wait], pb::GenerationTensors::default()).await;
    let mut opened = bench.open(CHAT, 1 << 20).await;
    assert!(opened.next().await.is_some());
    drop(opened);
    within(server.given_up.recv()).await.unwrap();
    assert_eq!(bench.end().await, BatchEnd::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_slows_the_model() {
    const PIECE_BYTES: usize = 32 << 10;
    const PIECES: usize = 640;
    // Windows and buffers between the model and the client; the model could be 20 MiB ahead.
    const AHEAD_BYTES: usize = 8 << 20;
    let mut lines = vec![Line::Say(vec![b'x'; PIECE_BYTES]); PIECES];
    lines.push(Line::Last);
    let (mut bench, server) = chat(lines, pb::GenerationTensors::default()).await;
    bench.place(|placed| placed.tokenizer = "estimate:generic".into());
    let mut opened = bench.open(CHAT, 64 << 10).await;
    let mut read_bytes = 0;
    while let Some(piece) = opened.next().await {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        read_bytes += piece.len();
        let ahead = server.said_bytes.load(Ordering::SeqCst).saturating_sub(read_bytes);
        assert!(ahead <= AHEAD_BYTES, "the model is {ahead} bytes ahead of its reader");
    }
    assert!(read_bytes > PIECE_BYTES * PIECES);
    assert_eq!(bench.end().await, BatchEnd::Forwarded);
}
