//! Owns: embeddings as a client sees them: every form of input, order, limits, failures.
//! Must not know: the front's insides.
//! On failure: the test fails.

use std::sync::Arc;
use std::thread::JoinHandle;

use forebay_core::answer::Usage;
use forebay_core::batch::Datatype;
use forebay_core::policy::pb;
use forebay_core::policy::pb::embedding_tensors::Input;
use forebay_core::policy::pb::route::Operation;
use forebay_serve::kserve::pb::model_infer_response::InferOutputTensor;
use forebay_serve::kserve::pb::{ModelInferRequest, ModelInferResponse};
use forebay_serve::kserve::{BatchEnd, BatchQueue, Failure, Next, Work};
use prost::Message;
use tonic::Code;

use super::by_hand::next_blocking;
use super::rig::{BOUND, Bench, at, batched};

const WORDS: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
    "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
    "model":{"type":"WordLevel","unk_token":"[UNK]","vocab":{"[PAD]":0,"[UNK]":1,"one":2,"two":3,"three":4}}}"#;

fn tensors(input: Input) -> pb::Tensors {
    let embeddings = pb::EmbeddingTensors { output: "vector".to_owned(), input: Some(input) };
    pb::Tensors { embeddings: Some(embeddings), ..pb::Tensors::default() }
}

fn token_inputs(tokenizer_file: &str) -> Input {
    Input::Tokens(pb::TokenInputs {
        ids: "ids".to_owned(),
        mask: "mask".to_owned(),
        tokenizer_file: tokenizer_file.to_owned(),
        max_tokens: 3,
        ..pb::TokenInputs::default()
    })
}

/// A model that reads token numbers, its tokenizer in a file that goes with the test.
async fn reads_tokens(name: &str) -> (Bench, Model, Folder) {
    let folder = Folder(std::env::temp_dir().join(format!("forebay-{name}-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0).unwrap();
    let file = folder.0.join("tokenizer.json");
    std::fs::write(&file, WORDS).unwrap();
    let bench = Bench::start(Operation::Embedding, tensors(token_inputs(file.to_str().unwrap()))).await;
    bench.serves(batched(&[("ids", Datatype::Int64, -1), ("mask", Datatype::Int64, -1)], &["vector"]), None);
    let model = Model::start(&bench.queue, |request| {
        let longs = |at: usize| -> Vec<i64> {
            let raw = request.raw_input_contents[at].chunks(8);
            raw.map(|eight| i64::from_le_bytes(eight.try_into().unwrap())).collect()
        };
        let width = request.inputs[0].shape[1] as usize;
        let (ids, mask) = (longs(0), longs(1));
        let rows = ids.chunks(width).zip(mask.chunks(width));
        rows.map(|(ids, mask)| {
            let real: Vec<i64> =
                ids.iter().zip(mask).filter(|(_, mask)| **mask == 1).map(|(id, _)| *id).collect();
            assert!(!real.contains(&1), "an unknown word reached the model");
            Ok([real.iter().sum::<i64>() as f32, real.len() as f32])
        })
        .collect()
    });
    (bench, model, folder)
}

struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Does all work until it is dropped.
struct Model {
    queue: Arc<BatchQueue>,
    thread: Option<JoinHandle<()>>,
}

impl Model {
    fn start(
        queue: &Arc<BatchQueue>,
        vectors: impl Fn(&ModelInferRequest) -> Result<Vec<[f32; 2]>, Failure> + Send + 'static,
    ) -> Self {
        let kept = Arc::clone(queue);
        let queue = Arc::clone(queue);
        let answer = move |queue: &BatchQueue, work: &Work| {
            let request = ModelInferRequest::decode(work.request.clone()).unwrap();
            assert_eq!(request.model_name, "model");
            assert_eq!(request.outputs[0].name, "vector");
            match vectors(&request) {
                Ok(vectors) => queue.complete(work.id, told(&vectors)),
                Err(failure) => queue.fail(work.id, &failure),
            };
        };
        let thread = std::thread::spawn(move || {
            loop {
                match next_blocking(&queue, BOUND) {
                    Next::Work(work) => answer(&queue, &work),
                    Next::Idle => {}
                    Next::Closed => break,
                }
            }
        });
        Self { queue: kept, thread: Some(thread) }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.queue.close();
        let ended = self.thread.take().unwrap().join();
        assert!(std::thread::panicking() || ended.is_ok());
    }
}

fn told(vectors: &[[f32; 2]]) -> bytes::Bytes {
    let output = InferOutputTensor {
        name: "vector".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![vectors.len() as i64, 2],
        ..InferOutputTensor::default()
    };
    let raw: Vec<u8> = vectors.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
    ModelInferResponse {
        outputs: vec![output],
        raw_output_contents: vec![raw.into()],
        ..ModelInferResponse::default()
    }
    .encode_to_vec()
    .into()
}

/// The vectors of an answer in their order.
fn vectors(body: &str) -> Vec<String> {
    let vector = |index: usize| at(body, &["data", &index.to_string(), "embedding"]);
    (0..64).map(vector).take_while(|vector| !vector.is_empty()).collect()
}

fn numbers(first: &str, second: &str) -> String {
    format!("Array([Number(\"{first}\"), Number(\"{second}\")])")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_of_any_length_come_back_in_their_order() {
    let (mut bench, _model, _folder) = reads_tokens("order").await;
    let texts = ["one", "two three one", "three two", "two", "one one", "three"];
    let body = format!(r#"{{"model":"public","input":{texts:?}}}"#);
    let (status, answer) = bench.post(&body).await;
    assert_eq!(status, 200, "{answer}");
    let expected =
        [("2.0", "1.0"), ("9.0", "3.0"), ("7.0", "2.0"), ("3.0", "1.0"), ("4.0", "2.0"), ("4.0", "1.0")];
    assert_eq!(vectors(&answer), expected.map(|(first, second)| numbers(first, second)));
    assert_eq!(at(&answer, &["model"]), "public");
    assert_eq!(at(&answer, &["data", "3", "index"]), "Number(\"3\")");
    assert_eq!(Usage::of_body(answer.as_bytes()).unwrap().prompt_tokens, 10);
    let BatchEnd::Answered { rows: 6, tokens: 10, padded_tokens, .. } = bench.end().await else {
        panic!("not all rows were counted")
    };
    assert!(padded_tokens >= 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_numbers_pass_as_they_are() {
    let (bench, _model, _folder) = reads_tokens("numbers").await;
    let (_, answer) = bench.post(r#"{"model":"public","input":[[4,4],[2]]}"#).await;
    assert_eq!(vectors(&answer), [numbers("8.0", "2.0"), numbers("2.0", "1.0")]);
    let (_, answer) =
        bench.post(r#"{"model":"public","input":[4,4],"encoding_format":"base64","dimensions":2}"#).await;
    assert_eq!(vectors(&answer), ["AAAAQQAAAEA="]);
    let (status, answer) = bench.post(r#"{"model":"public","input":[[4],[5]]}"#).await;
    assert_eq!(status, 400);
    let message = at(&answer, &["error", "message"]);
    assert!(message.contains("`input[1]` has the token number 5, but the model knows 5 tokens"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_is_too_long_is_refused_with_the_numbers() {
    let (mut bench, _model, _folder) = reads_tokens("long").await;
    let (status, answer) = bench.post(r#"{"model":"public","input":["one","one two one two"]}"#).await;
    assert_eq!(status, 400);
    let message = at(&answer, &["error", "message"]);
    assert!(message.contains("`input[1]` has 4 tokens; the model reads at most 3"), "{message}");
    assert_eq!(at(&answer, &["error", "param"]), "input[1]");
    assert!(matches!(bench.end().await, BatchEnd::Failed { code: Code::InvalidArgument, .. }));
    let (status, _) = bench.post(r#"{"model":"public","input":"one","dimensions":3}"#).await;
    assert_eq!(status, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tokenizer_that_is_missing_is_no_clients_fault() {
    let path = "/nowhere/tokenizer.json";
    let mut bench = Bench::start(Operation::Embedding, tensors(token_inputs(path))).await;
    let (status, answer) = bench.post(r#"{"model":"public","input":"one"}"#).await;
    assert_eq!(status, 503);
    assert!(!answer.contains("nowhere"), "{answer}");
    assert!(matches!(bench.end().await, BatchEnd::Failed { slug: "openai_tokenizer", .. }));
    let none = "";
    bench.place(|placed| {
        placed.tensors = Arc::new(tensors(token_inputs(none)));
        placed.tokenizer = "estimate:generic".into();
    });
    let (status, answer) = bench.post(r#"{"model":"public","input":"one"}"#).await;
    assert_eq!((status, at(&answer, &["error", "code"]).as_str()), (500, "openai_mapping"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_encodings_need_no_file() {
    let input = Input::Tokens(pb::TokenInputs { ids: "ids".to_owned(), ..pb::TokenInputs::default() });
    let bench = Bench::start(Operation::Embedding, tensors(input)).await;
    bench.serves(batched(&[("ids", Datatype::Int32, -1)], &["vector"]), None);
    let _model = Model::start(&bench.queue, |request| {
        let ids: Vec<i32> = request.raw_input_contents[0]
            .chunks(4)
            .map(|four| i32::from_le_bytes(four.try_into().unwrap()))
            .collect();
        Ok(vec![[ids[0] as f32, ids[1] as f32]])
    });
    let (status, answer) = bench.post(r#"{"model":"public","input":"hello world"}"#).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(vectors(&answer), [numbers("15339.0", "1917.0")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_may_go_as_they_are_and_one_failure_fails_all() {
    let mut bench = Bench::start(Operation::Embedding, tensors(Input::TextInput("text".to_owned()))).await;
    bench.serves(batched(&[("text", Datatype::Bytes, 1)], &["vector"]), None);
    let _model = Model::start(&bench.queue, |request| {
        let mut raw = &request.raw_input_contents[0][..];
        let mut vectors = Vec::new();
        while let Some((length, rest)) = raw.split_first_chunk() {
            let (text, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
            if text == b"bad" {
                return Err(Failure::upstream(Code::InvalidArgument, "a bad text".to_owned()));
            }
            vectors.push([text.len() as f32, f32::from(text[0])]);
            raw = rest;
        }
        Ok(vectors)
    });
    let (status, answer) = bench.post(r#"{"model":"public","input":["hello world","a"]}"#).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(vectors(&answer), [numbers("11.0", "104.0"), numbers("1.0", "97.0")]);
    assert_eq!(Usage::of_body(answer.as_bytes()).unwrap().prompt_tokens, 3);
    assert!(matches!(bench.end().await, BatchEnd::Answered { rows: 2, .. }));
    let (status, answer) = bench.post(r#"{"model":"public","input":["good","bad"]}"#).await;
    assert_eq!((status, at(&answer, &["error", "message"]).as_str()), (400, "a bad text"));
    let (status, answer) = bench.post(r#"{"model":"public","input":[1,2]}"#).await;
    assert_eq!(status, 400);
    assert!(at(&answer, &["error", "message"]).contains("the model reads text"), "{answer}");
}
