//! Owns: generations as one JSON answer, completions, and what is refused before the model is asked.
//! Must not know: the front's insides.
//! On failure: the test fails.

use forebay_core::answer::Usage;
use forebay_core::policy::pb;
use forebay_core::policy::pb::route::Operation;
use forebay_serve::kserve::BatchEnd;
use tonic::Code;

use super::rig::{Bench, at, writer};
use super::server::{Line, ModelServer};

async fn bench(operation: Operation, lines: Vec<Line>) -> (Bench, ModelServer) {
    let server = ModelServer::start(lines).await;
    let generation = pb::GenerationTensors {
        output_tokens_output: "num_output_tokens".to_owned(),
        ..pb::GenerationTensors::default()
    };
    let tensors = pb::Tensors { generation: Some(generation), ..pb::Tensors::default() };
    let bench = Bench::start(operation, tensors).await;
    bench.serves(writer(), Some(server.address));
    (bench, server)
}

fn two_words() -> Vec<Line> {
    vec![Line::Report("two", 1, ""), Line::Report(" words", 1, ""), Line::Last]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_is_answered_whole() {
    let (mut bench, server) = bench(Operation::ChatCompletions, two_words()).await;
    let (status, body) =
        bench.post(r#"{"model":"public","messages":[{"role":"user","content":"hi"}]}"#).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(at(&body, &["object"]), "chat.completion");
    assert_eq!(at(&body, &["choices", "0", "message", "content"]), "two words");
    assert_eq!(at(&body, &["choices", "0", "finish_reason"]), "stop");
    let usage = Usage::of_body(body.as_bytes()).unwrap();
    assert_eq!(usage.completion_tokens, 2);
    assert_eq!(bench.end().await, BatchEnd::Forwarded);
    // Without a bound it goes on to the end of the window.
    let parameters = server.asked("sampling_parameters").unwrap();
    assert_eq!(parameters, format!(r#"{{"max_tokens":{}}}"#, 100 - usage.prompt_tokens));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_reads_its_prompt_as_it_is() {
    let (bench, server) = bench(Operation::TextCompletions, two_words()).await;
    let (status, body) = bench.post(r#"{"model":"public","prompt":"once\n","max_tokens":2}"#).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(at(&body, &["object"]), "text_completion");
    assert_eq!(at(&body, &["choices", "0", "text"]), "two words");
    assert_eq!(at(&body, &["choices", "0", "finish_reason"]), "length");
    assert_eq!(server.asked("text_input").unwrap(), "once\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_reaches_no_model() {
    let (mut bench, server) = bench(Operation::ChatCompletions, two_words()).await;
    for (body, status, expected) in [
        ("{", 400, "the body is not JSON"),
        (r#"{"model":"public"}"#, 400, "`messages` is missing"),
        (r#"{"model":"public","messages":[],"n":2}"#, 400, "`n` must be 1"),
        (r#"{"model":"public","messages":[],"tools":[{}]}"#, 400, "`tools` is not offered"),
    ] {
        let (given, answer) = bench.post(body).await;
        assert_eq!(given, status, "{answer}");
        assert!(at(&answer, &["error", "message"]).contains(expected), "{answer}");
        assert_eq!(at(&answer, &["error", "type"]), "invalid_request_error");
        assert!(matches!(bench.end().await, BatchEnd::Failed { code: Code::InvalidArgument, .. }));
    }
    let (status, answer) = bench.post(&" ".repeat((1 << 20) + 1)).await;
    assert_eq!((status, at(&answer, &["error", "code"]).as_str()), (413, "openai_too_large"));
    assert!(server.seen.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_without_the_mapping_says_so() {
    let bench = Bench::start(Operation::Embedding, pb::Tensors::default()).await;
    let (status, body) = bench.post(r#"{"model":"public","input":"a"}"#).await;
    assert_eq!((status, at(&body, &["error", "code"]).as_str()), (500, "openai_mapping"));
    bench.place(|placed| placed.operation = Operation::Responses);
    assert_eq!(bench.post("{}").await.0, 501);
}
