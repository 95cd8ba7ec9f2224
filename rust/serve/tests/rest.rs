//! Owns: the batch service as an HTTP client sees it: a real listener, a real HTTP client, a sender that echoes.
//! Must not know: the queue's insides; numbers' texts and compression have their own tests.
//! On failure: the test fails; every wait has a bound.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use forebay_core::batch::{
    Batching, Bounds, Capacity, Datatype, LaneSettings, ModelShape, OutputSpec, Presence, Priority, Tenant,
    TensorSpec,
};
use forebay_serve::kserve::pb::infer_parameter::ParameterChoice;
use forebay_serve::kserve::pb::model_infer_request::InferInputTensor;
use forebay_serve::kserve::pb::model_infer_response::InferOutputTensor;
use forebay_serve::kserve::pb::repository_index_response::ModelIndex;
use forebay_serve::kserve::pb::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelReadyResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, ServerLiveResponse, ServerMetadataResponse,
};
use forebay_serve::kserve::{
    Admission, Admitted, BatchEnd, BatchQueue, Denied, KserveService, Next, QueueSettings, ServerSettings,
    Work, WorkKind, serve,
};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::sync::oneshot;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::Channel;

#[path = "shared/by_hand.rs"]
mod by_hand;

use by_hand::next_blocking;

const ID: u128 = 0xabc;
const BOUND: Duration = Duration::from_secs(10);
const MAX_BYTES: usize = 1 << 20;
const INFER: &str = "/v2/models/echo/infer";

/// Admits one id, renames `alias` to `echo`, refuses `secret`, bounds `busy`, and keeps every end.
#[derive(Default)]
struct Desk {
    ends: Mutex<Vec<BatchEnd>>,
}

impl Admission for Desk {
    fn admitted(&self, id: u128) -> Option<Admitted> {
        (id == ID).then(|| Admitted {
            pool: "pool".into(),
            tenant: Tenant { name: "acme".into(), weight: 1 },
            key: "k".into(),
            priority: Priority::default(),
            placed: None,
            models: Arc::new(|model| model != "secret"),
        })
    }

    fn model(&self, _: u128, model: &str) -> Result<Arc<str>, Denied> {
        let denied = |code, retry_after_ns| Denied {
            code,
            slug: "denied",
            message: format!("the key may not use `{model}`"),
            retry_after_ns,
        };
        match model {
            "secret" => Err(denied(Code::PermissionDenied, None)),
            "busy" => Err(denied(Code::ResourceExhausted, Some(1_500_000_000))),
            "alias" => Ok("echo".into()),
            other => Ok(other.into()),
        }
    }

    fn finished(&self, _: u128, end: BatchEnd) {
        self.ends.lock().unwrap().push(end);
    }
}

/// A service on its own port whose sender echoes, and a client of it.
struct Bench {
    queue: Arc<BatchQueue>,
    desk: Arc<Desk>,
    address: SocketAddr,
    client: Channel,
    batches: Arc<Mutex<Vec<ModelInferRequest>>>,
    _stop: oneshot::Sender<()>,
}

impl Bench {
    async fn start() -> Self {
        let bounds = Bounds { max_rows: 64, max_tokens: 1 << 20, max_bytes: 8 << 20 };
        let queue = Arc::new(BatchQueue::new(QueueSettings {
            bounds,
            max_calls: 16,
            learn_timeout: BOUND,
            relearn_after: Duration::ZERO,
        }));
        let desk = Arc::new(Desk::default());
        let admission = Arc::clone(&desk) as Arc<dyn Admission>;
        let service = KserveService::new(Arc::clone(&queue), admission, MAX_BYTES, BOUND);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(serve(listener, service, ServerSettings::default(), async {
            let _ = stopped.await;
        }));
        let batches = Arc::default();
        sender(&queue, &batches);
        let client = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { queue, desk, address, client, batches, _stop: stop }
    }

    async fn send(&self, request: Request<Bytes>) -> Answer {
        let request = request.map(|body| Body::new(Full::new(body).map_err(|never| match never {})));
        let mut client = self.client.clone();
        poll_fn(|context| client.poll_ready(context)).await.unwrap();
        let (parts, body) = client.call(request).await.unwrap().into_parts();
        Answer(Response::from_parts(parts, body.collect().await.unwrap().to_bytes()))
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, "")).await
    }

    async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(request(Method::POST, path, body)).await
    }

    /// JSON with `tail` behind it.
    async fn post_binary(&self, json: &str, tail: &[u8]) -> Answer {
        let mut request = request(Method::POST, INFER, [json.as_bytes(), tail].concat());
        request.headers_mut().insert("inference-header-content-length", json.len().into());
        self.send(request).await
    }

    fn last_end(&self) -> BatchEnd {
        self.desk.ends.lock().unwrap().last().cloned().unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// An answer whose body has come.
struct Answer(Response<Bytes>);

impl Answer {
    fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(self.0.body()).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.0.headers().get(name).map(|value| value.to_str().unwrap())
    }

    /// The message of a refusal, which is all of its body.
    fn refusal(&self) -> (u16, String) {
        let message = self.text().strip_prefix("{\"error\":\"").and_then(|text| text.strip_suffix("\"}"));
        assert_eq!(self.header("content-type"), Some("application/json"));
        (self.status(), message.unwrap_or_else(|| panic!("{}", self.text())).to_owned())
    }
}

fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    let builder =
        Request::builder().method(method).uri(path).header("x-forebay-internal-id", format!("{ID:032x}"));
    builder.body(body.into()).unwrap()
}

fn input(name: &str, datatype: Datatype) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, dims: vec![-1], presence: Presence::Optional, ragged: None }
}

fn shape() -> ModelShape {
    ModelShape {
        inputs: vec![
            input("x", Datatype::Int64),
            input("f", Datatype::Fp32),
            input("h", Datatype::Fp16),
            input("t", Datatype::Bytes),
        ],
        outputs: ["x", "f", "h", "t"].map(|name| OutputSpec { name: name.into(), ragged_dim: None }).into(),
        mask: None,
        batching: Batching::Rows { max_rows: 8 },
    }
}

/// Learns `shape` for any model, echoes every batch, answers the other calls, and keeps the batches, until it closes.
fn sender(queue: &Arc<BatchQueue>, batches: &Arc<Mutex<Vec<ModelInferRequest>>>) {
    let (queue, batches) = (Arc::clone(queue), Arc::clone(batches));
    std::thread::spawn(move || {
        loop {
            match next_blocking(&queue, BOUND) {
                Next::Work(work) if work.kind == WorkKind::Learn => {
                    let capacity = Capacity { instances: 1, slots: 1 };
                    queue.learned(work.id, shape(), &LaneSettings::of(capacity));
                }
                Next::Work(work) if work.kind == WorkKind::Infer => {
                    let batch = ModelInferRequest::decode(work.request.clone()).unwrap();
                    let answer = echo(&batch);
                    batches.lock().unwrap().push(batch);
                    queue.complete(work.id, answer);
                }
                Next::Work(work) => {
                    queue.complete(work.id, called(&work));
                }
                Next::Idle => {}
                Next::Closed => break,
            }
        }
    });
}

/// The answer of a model that returns its inputs.
fn echo(request: &ModelInferRequest) -> Bytes {
    let output = |input: &InferInputTensor| InferOutputTensor {
        name: input.name.clone(),
        datatype: input.datatype.clone(),
        shape: input.shape.clone(),
        ..InferOutputTensor::default()
    };
    let note = InferParameter { parameter_choice: Some(ParameterChoice::StringParam("a\"b".to_owned())) };
    ModelInferResponse {
        model_name: request.model_name.clone(),
        model_version: "7".to_owned(),
        parameters: [("note".to_owned(), note)].into(),
        outputs: request.inputs.iter().map(output).collect(),
        raw_output_contents: request.raw_input_contents.clone(),
        ..ModelInferResponse::default()
    }
    .encode_to_vec()
    .into()
}

/// The answer of a server to a call beside inference.
fn called(work: &Work) -> Bytes {
    let named = ModelMetadataRequest::decode(work.request.clone()).unwrap_or_default();
    match work.method {
        "ServerLive" => ServerLiveResponse { live: true }.encode_to_vec(),
        "ModelReady" => {
            ModelReadyResponse { ready: named.name == "echo" && named.version != "9" }.encode_to_vec()
        }
        "ServerMetadata" => ServerMetadataResponse {
            name: "triton".to_owned(),
            version: "2".to_owned(),
            extensions: vec!["binary_tensor_data".to_owned()],
        }
        .encode_to_vec(),
        "RepositoryIndex" => {
            let only_ready = RepositoryIndexRequest::decode(work.request.clone()).unwrap().ready;
            let listed: &[&str] = if only_ready { &["echo"] } else { &["echo", "secret", "other"] };
            let models =
                listed.iter().map(|&name| ModelIndex { name: name.to_owned(), ..ModelIndex::default() });
            RepositoryIndexResponse { models: models.collect() }.encode_to_vec()
        }
        _ => Vec::new(),
    }
    .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_goes_in_and_comes_back() {
    let bench = Bench::start().await;
    let answer = bench
        .post(
            "/v2/models/alias/versions/1/infer",
            r#"{"id":"r1","inputs":[
                {"name":"x","datatype":"INT64","shape":[2,1],"data":[[9007199254740993],[-1]]},
                {"name":"f","datatype":"FP32","shape":[2,1],"data":[0.1,NaN]},
                {"name":"t","datatype":"BYTES","shape":[2,1],"data":["é\n",""]}]}"#,
        )
        .await;
    assert_eq!(
        answer.text(),
        r#"{"id":"r1","model_name":"alias","model_version":"7","parameters":{"note":"a\"b"},"outputs":[{"name":"x","datatype":"INT64","shape":[2,1],"data":[9007199254740993,-1]},{"name":"f","datatype":"FP32","shape":[2,1],"data":[0.1,NaN]},{"name":"t","datatype":"BYTES","shape":[2,1],"data":["é\n",""]}]}"#
    );
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("content-length"), Some(answer.0.body().len().to_string().as_str()));
    assert_eq!(answer.header("inference-header-content-length"), None);
    let batch = bench.batches.lock().unwrap()[0].clone();
    assert_eq!((batch.model_name.as_str(), batch.model_version.as_str()), ("echo", "1"));
    assert!(matches!(bench.last_end(), BatchEnd::Answered { rows: 2, .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_and_json_mix_both_ways() {
    let bench = Bench::start().await;
    let json = r#"{"inputs":[
        {"name":"h","datatype":"FP16","shape":[1,2],"parameters":{"binary_data_size":4}},
        {"name":"f","datatype":"FP32","shape":[1,1],"data":[2]},
        {"name":"t","datatype":"BYTES","shape":[1,1],"parameters":{"binary_data_size":6}}],
        "outputs":[{"name":"h","parameters":{"binary_data":true}},{"name":"t","parameters":{"binary_data":true}},{"name":"f"}]}"#;
    let answer = bench.post_binary(json, b"\x00\x3c\x00\x40\x02\0\0\0\xff\xfe").await;
    assert_eq!(answer.status(), 200, "{:?}", answer.0.body());
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    let split: usize = answer.header("inference-header-content-length").unwrap().parse().unwrap();
    let (json, tail) = answer.0.body().split_at(split);
    assert_eq!(tail, b"\x00\x3c\x00\x40\x02\0\0\0\xff\xfe");
    let json = std::str::from_utf8(json).unwrap();
    assert!(
        json.contains(r#""datatype":"FP16","shape":[1,2],"parameters":{"binary_data_size":4}}"#),
        "{json}"
    );
    assert!(json.contains(r#""datatype":"FP32","shape":[1,1],"data":[2.0]}"#), "{json}");
    // The forms are this front's alone; the server is asked for outputs by name.
    let batch = bench.batches.lock().unwrap()[0].clone();
    assert!(batch.outputs.iter().all(|output| output.parameters.is_empty()));
    assert!(batch.inputs.iter().all(|input| input.parameters.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_and_classification_reach_the_server() {
    let bench = Bench::start().await;
    let json = r#"{"parameters":{"temperature":0.5},
        "inputs":[{"name":"f","datatype":"FP32","shape":[1,1],"data":[2]}],
        "outputs":[{"name":"f","parameters":{"classification":1,"binary_data":true}}]}"#;
    let answer = bench.post(INFER, json).await;
    assert!(answer.header("inference-header-content-length").is_some());
    let batch = bench.batches.lock().unwrap()[0].clone();
    assert_eq!(batch.parameters.keys().collect::<Vec<_>>(), ["temperature"]);
    let classes = batch.outputs[0].parameters["classification"].parameter_choice.clone();
    assert_eq!(classes, Some(ParameterChoice::Int64Param(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_request_is_opened_and_the_answer_is_closed_as_asked() {
    let bench = Bench::start().await;
    let data = vec!["7"; 4096].join(",");
    let json =
        format!(r#"{{"inputs":[{{"name":"x","datatype":"INT64","shape":[1,4096],"data":[{data}]}}]}}"#);
    let plain = bench.post(INFER, json.clone()).await;
    for coding in ["gzip", "deflate"] {
        let closed: Vec<u8> = if coding == "gzip" {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(json.as_bytes()).unwrap();
            encoder.finish().unwrap()
        } else {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(json.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let mut request = request(Method::POST, INFER, closed);
        request.headers_mut().insert("content-encoding", coding.parse().unwrap());
        request.headers_mut().insert("accept-encoding", coding.parse().unwrap());
        let answer = bench.send(request).await;
        assert_eq!(answer.header("content-encoding"), Some(coding));
        let body = answer.0.body().as_ref();
        let mut opened = String::new();
        if coding == "gzip" {
            flate2::read::GzDecoder::new(body).read_to_string(&mut opened).unwrap();
        } else {
            flate2::read::ZlibDecoder::new(body).read_to_string(&mut opened).unwrap();
        }
        assert_eq!(opened, plain.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_told_why_and_ended_once() {
    let bench = Bench::start().await;
    let input = |rest: &str| format!(r#"{{"inputs":[{{"name":"x","shape":[1,1]{rest}}}]}}"#);
    let cases = [
        ("{".to_owned(), 400, "the request is not JSON"),
        (String::new(), 400, "the request is not JSON"),
        ("{}".to_owned(), 400, "`inputs` is missing"),
        (
            input(r#","datatype":"INT64","data":[1.5]"#),
            400,
            "tensor `x` carries 1.5, which INT64 cannot hold",
        ),
        (input(r#","datatype":"FP32","data":[1]"#), 400, "`x` is FP32, but the model takes INT64"),
        (input(r#","datatype":"INT64","data":[1],"data":[2]"#), 400, "the key `data` occurs twice"),
        (
            input(
                r#","datatype":"INT64","parameters":{"shared_memory_region":"r","shared_memory_byte_size":8}"#,
            ),
            400,
            "shared memory",
        ),
        (r#"{"inputs":[]}"#.to_owned(), 400, "has no input"),
    ];
    for (body, status, words) in &cases {
        let (got, message) = bench.post(INFER, body.clone()).await.refusal();
        assert!(got == *status && message.contains(words), "{body}: {got} {message}");
        assert!(matches!(bench.last_end(), BatchEnd::Failed { code: Code::InvalidArgument, .. }));
    }
    let unknown =
        r#"{"inputs":[{"name":"x","datatype":"INT64","shape":[1,1],"data":[1]}],"outputs":[{"name":"no"}]}"#;
    assert_eq!(bench.post(INFER, unknown).await.status(), 400);
    assert_eq!(bench.desk.ends.lock().unwrap().len(), cases.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_json_cannot_carry_names_the_way_out() {
    let bench = Bench::start().await;
    let json =
        r#"{"inputs":[{"name":"t","datatype":"BYTES","shape":[1,1],"parameters":{"binary_data_size":5}}]}"#;
    let (status, message) = bench.post_binary(json, b"\x01\0\0\0\xff").await.refusal();
    assert!(status == 400 && message.contains("ask for it with `binary_data` true"), "{message}");
    // The server did the work, and it is counted.
    assert!(matches!(bench.last_end(), BatchEnd::Answered { rows: 1, .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bounds_and_headers_are_held() {
    let bench = Bench::start().await;
    assert_eq!(bench.post(INFER, vec![b' '; MAX_BYTES + 1]).await.status(), 413);
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b' '; MAX_BYTES + 1]).unwrap();
    let mut closed = request(Method::POST, INFER, bomb.finish().unwrap());
    closed.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    assert_eq!(bench.send(closed).await.status(), 413);
    let mut foreign = request(Method::POST, INFER, "x");
    foreign.headers_mut().insert("content-encoding", "br".parse().unwrap());
    assert_eq!(bench.send(foreign).await.refusal().0, 415);
    for split in ["3", "0", "-1", "x", "99999999999999999999"] {
        let mut request = request(Method::POST, INFER, "{}");
        request.headers_mut().insert("inference-header-content-length", split.parse().unwrap());
        assert_eq!(bench.send(request).await.refusal().0, 400, "{split}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_the_status_of_their_reason() {
    let bench = Bench::start().await;
    let json = r#"{"inputs":[{"name":"x","datatype":"INT64","shape":[1,1],"data":[1]}]}"#;
    let secret = bench.post("/v2/models/secret/infer", json).await;
    assert_eq!(secret.refusal(), (403, "the key may not use `secret`".to_owned()));
    let busy = bench.post("/v2/models/busy/infer", json).await;
    assert_eq!((busy.status(), busy.header("retry-after")), (429, Some("2")));
    assert_eq!(bench.get("/v2/models/secret/config").await.refusal().0, 403);
    assert_eq!(bench.post("/v2/repository/models/echo/load", "{}").await.refusal().0, 403);
    assert_eq!(bench.get("/v2/systemsharedmemory/status").await.refusal().0, 501);
    assert_eq!(bench.get("/v2/nothing").await.refusal().0, 404);
    assert_eq!(bench.get(INFER).await.refusal().0, 405);
    let mut unmarked = request(Method::GET, "/v2", "");
    unmarked.headers_mut().remove("x-forebay-internal-id");
    assert_eq!(bench.send(unmarked).await.refusal().0, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_calls_are_forwarded_and_written_as_json() {
    let bench = Bench::start().await;
    let live = bench.get("/v2/health/live").await;
    assert_eq!((live.status(), live.text()), (200, ""));
    assert_eq!(bench.get("/v2/health/ready").await.refusal(), (400, "the server is not ready".to_owned()));
    assert_eq!(bench.get("/v2/models/alias/ready").await.status(), 200);
    assert_eq!(bench.get("/v2/models/echo/versions/9/ready").await.status(), 400);
    let server = bench.get("/v2").await;
    assert_eq!(server.text(), r#"{"name":"triton","version":"2","extensions":["binary_tensor_data"]}"#);
    assert_eq!(bench.post("/v2/repository/index", "").await.text(), r#"[{"name":"echo"},{"name":"other"}]"#);
    let ready = bench.post("/v2/repository/index", r#"{"ready":true}"#).await;
    assert_eq!(ready.text(), r#"[{"name":"echo"}]"#);
    assert_eq!(bench.post("/v2/repository/index", "x").await.refusal().0, 400);
    assert_eq!(bench.get("/v2/models/stats").await.text(), r#"{"model_stats":[]}"#);
    assert!(matches!(bench.last_end(), BatchEnd::Forwarded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_works_too() {
    let bench = Bench::start().await;
    let address = bench.address;
    let answer = tokio::task::spawn_blocking(move || {
        let body = r#"{"inputs":[{"name":"x","datatype":"INT64","shape":[1,1],"data":[5]}]}"#;
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        let head = format!(
            "POST {INFER} HTTP/1.1\r\nhost: x\r\nx-forebay-internal-id: {ID:032x}\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
    .await
    .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with(r#""data":[5]}]}"#), "{answer}");
}
