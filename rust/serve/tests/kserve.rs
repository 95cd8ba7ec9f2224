//! Owns: the batch service as a client sees it: a real listener, a real gRPC client, a sender that echoes.
//! Must not know: the queue's insides.
//! On failure: the test fails; every wait has a bound.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_wrap)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_core::batch::{Batching, Bounds, Capacity, Datatype, ModelShape, Presence, TensorSpec};
use forebay_serve::kserve::pb::model_infer_request::InferInputTensor;
use forebay_serve::kserve::pb::model_infer_response::InferOutputTensor;
use forebay_serve::kserve::pb::{
    InferParameter, InferTensorContents, ModelConfigRequest, ModelConfigResponse, ModelInferRequest,
    ModelInferResponse, ModelReadyRequest, ModelReadyResponse, RepositoryIndexRequest,
    RepositoryIndexResponse, ServerLiveRequest, ServerLiveResponse, infer_parameter,
    repository_index_response,
};
use forebay_serve::kserve::{
    Admission, Admitted, BatchEnd, BatchQueue, Denied, Failure, KserveService, Next, QueueSettings,
    ServerSettings, Work, WorkKind, serve,
};
use prost::Message;
use tokio::sync::oneshot;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

const ID: u128 = 0xabc;
const MAX_ROWS: u64 = 8;
const BOUND: Duration = Duration::from_secs(10);

/// Admits one id, renames `alias` to `echo`, refuses `secret`, and keeps every end.
#[derive(Default)]
struct Desk {
    ends: Mutex<Vec<BatchEnd>>,
    on_end: Mutex<Option<mpsc::Sender<()>>>,
}

impl Admission for Desk {
    fn admitted(&self, id: u128) -> Option<Admitted> {
        (id == ID).then(|| Admitted {
            pool: "pool".into(),
            tenant: "acme".into(),
            key: "k".into(),
            models: Arc::new(|model| model != "secret"),
        })
    }

    fn model(&self, _: u128, model: &str, _: u64) -> Result<Arc<str>, Denied> {
        match model {
            "secret" => Err(Denied {
                code: Code::PermissionDenied,
                slug: "model_not_permitted",
                message: "the key may not use `secret`".to_owned(),
            }),
            "alias" => Ok("echo".into()),
            other => Ok(other.into()),
        }
    }

    fn finished(&self, _: u128, end: BatchEnd) {
        self.ends.lock().unwrap().push(end);
        if let Some(on_end) = &*self.on_end.lock().unwrap() {
            on_end.send(()).unwrap();
        }
    }
}

/// A service on its own port, and the parts that a test looks at.
struct Bench {
    queue: Arc<BatchQueue>,
    desk: Arc<Desk>,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
}

impl Bench {
    async fn start() -> Self {
        let bounds = Bounds { max_rows: 64, max_bytes: 1 << 20, max_delay_ns: 2_000_000 };
        let queue = Arc::new(BatchQueue::new(QueueSettings {
            bounds,
            max_calls: 16,
            learn_timeout: BOUND,
            relearn_after: Duration::ZERO,
        }));
        let desk = Arc::new(Desk::default());
        let service =
            KserveService::new(Arc::clone(&queue), Arc::clone(&desk) as Arc<dyn Admission>, 4 << 20, BOUND);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(serve(listener, service, ServerSettings::default(), async {
            let _ = stopped.await;
        }));
        Self { queue, desk, address, stop }
    }

    async fn client(&self) -> Client {
        let channel =
            Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap();
        Client(Grpc::new(channel))
    }

    fn ends(&self) -> Vec<BatchEnd> {
        self.desk.ends.lock().unwrap().clone()
    }

    fn expect_end(&self) -> mpsc::Receiver<()> {
        let (on_end, ended) = mpsc::channel();
        *self.desk.on_end.lock().unwrap() = Some(on_end);
        ended
    }
}

#[derive(Clone)]
struct Client(Grpc<Channel>);

impl Client {
    async fn call<Q, A>(&mut self, method: &'static str, request: Request<Q>) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await.unwrap();
        let path = format!("/inference.GRPCInferenceService/{method}").parse().unwrap();
        self.0.unary(request, path, ProstCodec::default()).await.map(tonic::Response::into_inner)
    }

    async fn infer(&mut self, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
        self.call("ModelInfer", marked(request)).await
    }
}

fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let id = MetadataValue::try_from(format!("{ID:032x}")).unwrap();
    request.metadata_mut().insert("x-forebay-internal-id", id);
    request
}

/// `rows` rows of two INT32 each, all with the value `value`.
fn ints(model: &str, rows: usize, value: i32) -> ModelInferRequest {
    ModelInferRequest {
        model_name: model.to_owned(),
        id: format!("request {value}"),
        inputs: vec![InferInputTensor {
            name: "x".to_owned(),
            datatype: "INT32".to_owned(),
            shape: vec![rows as i64, 2],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![raw(rows, value)],
        ..ModelInferRequest::default()
    }
}

fn raw(rows: usize, value: i32) -> Bytes {
    value.to_le_bytes().repeat(rows * 2).into()
}

fn shape() -> ModelShape {
    ModelShape {
        inputs: vec![TensorSpec {
            name: "x".into(),
            datatype: Datatype::Int32,
            dims: vec![-1],
            presence: Presence::Required,
        }],
        outputs: vec!["x".into()],
        batching: Batching::Rows { max_rows: MAX_ROWS },
    }
}

type Task<T> = tokio::task::JoinHandle<T>;

const ONE: Capacity = Capacity { instances: 1, slots: 1 };

/// The answer of a model that returns its input.
fn echo(work: &Work) -> Bytes {
    let request = ModelInferRequest::decode(work.request.clone()).unwrap();
    let output = |input: &InferInputTensor| InferOutputTensor {
        name: input.name.clone(),
        datatype: input.datatype.clone(),
        shape: input.shape.clone(),
        ..InferOutputTensor::default()
    };
    ModelInferResponse {
        model_name: request.model_name.clone(),
        model_version: "7".to_owned(),
        outputs: request.inputs.iter().map(output).collect(),
        raw_output_contents: request.raw_input_contents,
        ..ModelInferResponse::default()
    }
    .encode_to_vec()
    .into()
}

/// Does all work by `answer` until the queue closes.
fn sender(
    queue: &Arc<BatchQueue>,
    mut answer: impl FnMut(&BatchQueue, Work) + Send + 'static,
) -> JoinHandle<()> {
    let queue = Arc::clone(queue);
    std::thread::spawn(move || {
        loop {
            match queue.next_blocking(BOUND) {
                Next::Work(work) => answer(&queue, work),
                Next::Idle => {}
                Next::Closed => break,
            }
        }
    })
}

/// Learns `shape` for any model but `nowhere`, and echoes.
#[allow(clippy::needless_pass_by_value)] // the shape of a sender
fn echoing(queue: &BatchQueue, work: Work) {
    match work.kind {
        WorkKind::Learn => {
            let asked = ModelConfigRequest::decode(work.request.clone()).unwrap();
            if asked.name == "nowhere" {
                queue.fail(work.id, &Failure::upstream(Code::NotFound, "no model `nowhere`".to_owned()));
            } else {
                queue.learned(work.id, shape(), ONE);
            }
        }
        WorkKind::Infer => assert!(queue.complete(work.id, echo(&work))),
        WorkKind::Call => panic!("no call was made"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_gets_its_own_rows() {
    let bench = Bench::start().await;
    let largest = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&largest);
    let thread = sender(&bench.queue, move |queue, work| {
        let until = Instant::now() + BOUND;
        // A batch of one is held until others wait behind it, so that some must share the next.
        while work.kind == WorkKind::Infer
            && work.requests == 1
            && seen.load(Ordering::Relaxed) <= 1
            && queue.waiting("pool").0 < 2
            && Instant::now() < until
        {
            std::thread::yield_now();
        }
        seen.fetch_max(work.requests as u64, Ordering::Relaxed);
        echoing(queue, work);
    });
    let client = bench.client().await;
    // All of their rows together have room in the queue, however late the sender comes.
    let tasks: Vec<_> = (0..30)
        .map(|value| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let rows = 1 + value as usize % 3;
                let answer = client.infer(ints("alias", rows, value)).await.unwrap();
                assert_eq!(answer.raw_output_contents, [raw(rows, value)]);
                assert_eq!(answer.outputs[0].shape, [rows as i64, 2]);
                assert_eq!((answer.id, answer.model_name), (format!("request {value}"), "alias".to_owned()));
                assert_eq!(answer.model_version, "7");
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(largest.load(Ordering::Relaxed) > 1, "no two requests shared a batch");
    assert_eq!(bench.ends().len(), 30);
    assert!(bench.ends().iter().all(|end| matches!(end, BatchEnd::Answered { .. })));
    let stats = bench.queue.stats();
    assert_eq!((stats.requests, stats.in_flight), (30, 0));
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_with_the_models_expectation() {
    let bench = Bench::start().await;
    let thread = sender(&bench.queue, echoing);
    let mut client = bench.client().await;
    let good = ints("echo", 2, 1);
    let with = |change: fn(&mut ModelInferRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let parameter = |text: &str| InferParameter {
        parameter_choice: Some(infer_parameter::ParameterChoice::StringParam(text.to_owned())),
    };
    let mut shared = good.clone();
    shared.inputs[0].parameters.insert("shared_memory_region".to_owned(), parameter("r"));
    let takes = "`x` INT32 [1 to 8 rows, any]";
    let cases = [
        (with(|r| r.inputs[0].datatype = "INT33".into()), "datatype `INT33`".to_owned()),
        (with(|r| r.inputs[0].datatype = "FP32".into()), "is FP32, but the model takes INT32".to_owned()),
        (with(|r| r.inputs[0].shape = vec![3, 2]), "needs 24 bytes, but 16 came".to_owned()),
        (with(|r| r.inputs[0].shape = vec![4]), format!("has the shape [4], but the model takes {takes}")),
        (with(|r| r.inputs[0].shape = vec![-1, 2]), "none below 0".to_owned()),
        (with(|r| r.inputs[0].name = "y".into()), format!("no input `y`; it takes {takes}")),
        (with(|r| r.inputs.clear()), "0 tensors and 1 raw buffers".to_owned()),
        (
            with(|r| {
                r.inputs.clear();
                r.raw_input_contents.clear();
            }),
            format!("`x` is missing; the model takes {takes}"),
        ),
        (ints("echo", 0, 1), "has no rows".to_owned()),
        (ints("echo", 9, 1), "has 9 rows, but one batch of the model has at most 8".to_owned()),
        (shared, "lies in shared memory".to_owned()),
    ];
    for (request, expected) in cases {
        let status = client.infer(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(&expected), "{}", status.message());
    }
    let status = client.infer(ints("nowhere", 1, 1)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no model `nowhere`"));
    let status = client.infer(ints("secret", 1, 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_contents_are_taken_as_raw_ones() {
    let bench = Bench::start().await;
    let thread = sender(&bench.queue, echoing);
    let mut request = ints("echo", 1, 5);
    request.raw_input_contents.clear();
    request.inputs[0].contents =
        Some(InferTensorContents { int_contents: vec![5, 5], ..InferTensorContents::default() });
    let answer = bench.client().await.infer(request).await.unwrap();
    assert_eq!(answer.raw_output_contents, [raw(1, 5)]);
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_passes_without_a_known_mark() {
    let bench = Bench::start().await;
    let mut client = bench.client().await;
    let mut marks = vec![Request::new(ints("echo", 1, 1))];
    for id in ["abc", "00000000000000000000000000000def", "+0000000000000000000000000000abc"] {
        let mut request = Request::new(ints("echo", 1, 1));
        request.metadata_mut().insert("x-forebay-internal-id", id.parse().unwrap());
        marks.push(request);
    }
    let mut twice = marked(ints("echo", 1, 1));
    twice.metadata_mut().append("x-forebay-internal-id", format!("{ID:032x}").parse().unwrap());
    marks.push(twice);
    for request in marks {
        let refused = client.call::<_, ModelInferResponse>("ModelInfer", request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    assert!(bench.ends().is_empty(), "an end was told for a request that nobody admitted");
    let control =
        client.call::<_, ServerLiveResponse>("RepositoryModelUnload", marked(ServerLiveRequest {})).await;
    assert_eq!(control.unwrap_err().code(), Code::PermissionDenied);
    let unknown = client.call::<_, ServerLiveResponse>("Nothing", marked(ServerLiveRequest {})).await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_calls_are_forwarded_by_permission() {
    let bench = Bench::start().await;
    let thread = sender(&bench.queue, |queue, work| {
        let answer = match work.method {
            "ServerLive" => ServerLiveResponse { live: true }.encode_to_vec(),
            "ModelReady" => {
                let asked = ModelReadyRequest::decode(work.request).unwrap();
                ModelReadyResponse { ready: asked.name == "echo" && asked.version == "3" }.encode_to_vec()
            }
            "RepositoryIndex" => {
                let model = |name: &str| repository_index_response::ModelIndex {
                    name: name.to_owned(),
                    state: "READY".to_owned(),
                    ..Default::default()
                };
                RepositoryIndexResponse { models: vec![model("echo"), model("secret")] }.encode_to_vec()
            }
            _ => {
                queue.fail(work.id, &Failure::upstream(Code::NotFound, "gone".to_owned()));
                return;
            }
        };
        queue.complete(work.id, answer.into());
    });
    let mut client = bench.client().await;
    let live: ServerLiveResponse = client.call("ServerLive", marked(ServerLiveRequest {})).await.unwrap();
    assert!(live.live);
    let named = |name: &str| marked(ModelReadyRequest { name: name.to_owned(), version: "3".to_owned() });
    let ready: ModelReadyResponse = client.call("ModelReady", named("alias")).await.unwrap();
    assert!(ready.ready);
    let refused = client.call::<_, ModelReadyResponse>("ModelReady", named("secret")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let index = client.call("RepositoryIndex", marked(RepositoryIndexRequest::default())).await;
    let index: RepositoryIndexResponse = index.unwrap();
    assert_eq!(index.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["echo"]);
    let gone = client.call::<_, ModelConfigResponse>("ModelConfig", named("echo")).await.unwrap_err();
    assert_eq!((gone.code(), gone.message()), (Code::NotFound, "gone"));
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_its_rows_out() {
    let bench = Bench::start().await;
    let key = lane("echo");
    // No slot is free before the first batch ends, so the second request waits.
    bench.queue.set_model(&key, shape(), ONE);
    let mut first = bench.client().await;
    let first = tokio::spawn(async move { first.infer(ints("echo", 1, 1)).await });
    let Next::Work(work) = next(&bench.queue).await else { panic!("no work came") };
    let ended = bench.expect_end();
    let mut client = bench.client().await;
    let mut request = marked(ints("echo", 3, 2));
    request.set_timeout(Duration::from_millis(60));
    let late = client.call::<_, ModelInferResponse>("ModelInfer", request).await.unwrap_err();
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late}");
    ended.recv_timeout(BOUND).unwrap();
    assert_eq!(bench.queue.waiting("pool"), (0, 0));
    assert_eq!(bench.queue.stats().cancelled, 1);
    bench.queue.complete(work.id, echo(&work));
    first.await.unwrap().unwrap();
    assert!(matches!(next_within(&bench.queue, Duration::from_millis(1)).await, Next::Idle));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_at_once_and_a_closing_one_answers_all() {
    let bench = Bench::start().await;
    bench.queue.set_model(&lane("echo"), shape(), ONE);
    let mut tasks = Vec::new();
    let client = bench.client().await;
    for value in 0..9 {
        let mut client = client.clone();
        tasks.push(tokio::spawn(async move { client.infer(ints("echo", 8, value)).await }));
    }
    // 64 rows may wait and nobody sends: of nine requests of 8 rows, exactly one is refused.
    let (refused, waiting) = first_of(tasks).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("64 of 64 rows"), "{}", status.message());
    bench.queue.close();
    for task in waiting {
        assert_eq!(task.await.unwrap().unwrap_err().code(), Code::Unavailable);
    }
    assert!(matches!(next(&bench.queue).await, Next::Closed));
    let mut late = bench.client().await;
    assert_eq!(late.infer(ints("echo", 1, 1)).await.unwrap_err().code(), Code::Unavailable);
    bench.stop.send(()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_answer_is_an_internal_error_for_all_and_for_them_alone() {
    let bench = Bench::start().await;
    bench.queue.set_model(&lane("echo"), shape(), ONE);
    let mut turn = 0;
    let thread = sender(&bench.queue, move |queue, work| {
        turn += 1;
        let answer = match turn {
            1 => Bytes::from_static(b"\xff\xff"),
            2 => {
                let mut answer = ModelInferResponse::decode(echo(&work)).unwrap();
                answer.outputs[0].shape = vec![1, 4];
                answer.encode_to_vec().into()
            }
            _ => echo(&work),
        };
        queue.complete(work.id, answer);
    });
    let mut client = bench.client().await;
    for expected in ["cannot be used", "first dimension must be the rows"] {
        let status = client.infer(ints("echo", 2, 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().contains(expected), "{}", status.message());
    }
    client.infer(ints("echo", 2, 1)).await.unwrap();
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_changed_is_learned_anew() {
    let bench = Bench::start().await;
    let thread = sender(&bench.queue, echoing);
    let mut old = shape();
    old.inputs[0].datatype = Datatype::Fp64;
    bench.queue.set_model(&lane("echo"), old, ONE);
    bench.client().await.infer(ints("echo", 1, 1)).await.unwrap();
    bench.queue.close();
    thread.join().unwrap();
}

fn lane(model: &str) -> forebay_core::batch::LaneKey {
    forebay_core::batch::LaneKey { pool: "pool".into(), model: model.into(), version: "".into() }
}

async fn next(queue: &Arc<BatchQueue>) -> Next {
    next_within(queue, BOUND).await
}

async fn next_within(queue: &Arc<BatchQueue>, timeout: Duration) -> Next {
    let queue = Arc::clone(queue);
    tokio::task::spawn_blocking(move || queue.next_blocking(timeout)).await.unwrap()
}

/// The first task to end, and the others.
async fn first_of<T>(mut tasks: Vec<Task<T>>) -> (T, Vec<Task<T>>) {
    std::future::poll_fn(|context| {
        for at in 0..tasks.len() {
            if let std::task::Poll::Ready(done) = std::pin::Pin::new(&mut tasks[at]).poll(context) {
                drop(tasks.swap_remove(at));
                return std::task::Poll::Ready((done.unwrap(), std::mem::take(&mut tasks)));
            }
        }
        std::task::Poll::Pending
    })
    .await
}
