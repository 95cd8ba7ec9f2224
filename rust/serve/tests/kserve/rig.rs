//! Owns: a service on its own port, a desk that admits, clients, and a sender that echoes.
//! Must not know: what is tested.
//! On failure: the test fails; every wait has a bound.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use forebay_core::batch::{
    Batching, Bounds, Capacity, Datatype, LaneKey, LaneSettings, ModelShape, OutputSpec, Presence, Priority,
    Tenant, TensorSpec,
};
use forebay_core::cache::CacheKey;
use forebay_serve::kserve::pb::model_infer_request::InferInputTensor;
use forebay_serve::kserve::pb::model_infer_response::InferOutputTensor;
use forebay_serve::kserve::pb::{ModelConfigRequest, ModelInferRequest, ModelInferResponse};
use forebay_serve::kserve::{
    Admission, Admitted, BatchEnd, BatchQueue, Denied, Failure, KserveService, Next, QueueSettings, Recall,
    ServerSettings, Take, TensorUse, Work, WorkKind, serve,
};
use prost::Message;
use tokio::sync::oneshot;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::by_hand::next_blocking;

pub const ID: u128 = 0xabc;
/// Another tenant's request.
pub const FOREIGN: u128 = 0xdef;
pub const MAX_ROWS: u64 = 8;
pub const BOUND: Duration = Duration::from_secs(10);
pub const BOUNDS: Bounds = Bounds { max_rows: 64, max_tokens: 1 << 20, max_bytes: 1 << 20 };

/// Admits two ids of two tenants, renames `alias` to `echo`, refuses `secret`, and keeps every end.
#[derive(Default)]
pub struct Desk {
    pub ends: Mutex<Vec<BatchEnd>>,
    pub on_end: Mutex<Option<mpsc::Sender<()>>>,
    /// What both ids may have at best
    pub priority: Mutex<Priority>,
    /// Whether equal requests may share an answer, and what was kept of them; `None`: they may not
    pub kept: Mutex<Option<HashMap<CacheKey, Bytes>>>,
    pub taken: Mutex<Vec<(String, u64, u64)>>,
}

impl Admission for Desk {
    fn admitted(&self, id: u128) -> Option<Admitted> {
        let name = match id {
            ID => "acme",
            FOREIGN => "foreign",
            _ => return None,
        };
        Some(Admitted {
            pool: "pool".into(),
            tenant: Tenant { name: name.into(), weight: 1 },
            key: "k".into(),
            priority: *self.priority.lock().unwrap(),
            placed: None,
            models: Arc::new(|model| model != "secret"),
        })
    }

    fn model(&self, _: u128, model: &str) -> Result<Arc<str>, Denied> {
        match model {
            "secret" => Err(Denied {
                code: Code::PermissionDenied,
                slug: "model_not_permitted",
                message: "the key may not use `secret`".to_owned(),
                retry_after_ns: None,
            }),
            "alias" => Ok("echo".into()),
            other => Ok(other.into()),
        }
    }

    fn take(&self, _: u128, used: &TensorUse<'_>) -> Result<Take, Denied> {
        if used.model == "limited" {
            return Err(Denied {
                code: Code::ResourceExhausted,
                slug: "limit",
                message: "the limit is reached".to_owned(),
                retry_after_ns: Some(2_500_000_000),
            });
        }
        let mut taken = self.taken.lock().unwrap();
        taken.push((used.model.to_owned(), used.rows, used.tokens));
        if used.model == "leased" && taken.len() == 1 {
            return Ok(Take::Wait(oneshot::channel().1));
        }
        Ok(Take::Taken)
    }

    fn recall(&self, id: u128, model: &str, parts: &[&[u8]]) -> Recall {
        let kept = self.kept.lock().unwrap();
        let Some(kept) = &*kept else { return Recall::Off };
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut mix = |bytes: &[u8]| {
            for byte in bytes.iter().chain(&bytes.len().to_le_bytes()) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        mix(&id.to_le_bytes());
        mix(model.as_bytes());
        for part in parts {
            mix(part);
        }
        let mut key = [0; 32];
        key[..8].copy_from_slice(&hash.to_le_bytes());
        let key = CacheKey(key);
        match kept.get(&key) {
            Some(answer) => Recall::Hit(answer.clone()),
            None => Recall::Miss { key, keeps: true },
        }
    }

    fn keep(&self, _: u128, key: CacheKey, answer: Bytes) {
        self.kept.lock().unwrap().get_or_insert_default().insert(key, answer);
    }

    fn finished(&self, _: u128, end: BatchEnd) {
        self.ends.lock().unwrap().push(end);
        if let Some(on_end) = &*self.on_end.lock().unwrap() {
            on_end.send(()).unwrap();
        }
    }
}

/// A service on its own port, and the parts that a test looks at.
pub struct Bench {
    pub queue: Arc<BatchQueue>,
    pub desk: Arc<Desk>,
    pub address: SocketAddr,
    pub stop: oneshot::Sender<()>,
}

impl Bench {
    pub async fn start() -> Self {
        let queue = Arc::new(BatchQueue::new(QueueSettings {
            bounds: BOUNDS,
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

    /// As `start`; equal requests share their answers.
    pub async fn deterministic() -> Self {
        let bench = Self::start().await;
        *bench.desk.kept.lock().unwrap() = Some(HashMap::new());
        bench
    }

    pub async fn client(&self) -> Client {
        let channel =
            Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap();
        Client(Grpc::new(channel))
    }

    pub fn ends(&self) -> Vec<BatchEnd> {
        self.desk.ends.lock().unwrap().clone()
    }

    pub fn expect_end(&self) -> mpsc::Receiver<()> {
        let (on_end, ended) = mpsc::channel();
        *self.desk.on_end.lock().unwrap() = Some(on_end);
        ended
    }

    /// Sends without waiting; the answer comes by the task.
    pub async fn begin(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Task<Result<ModelInferResponse, Status>> {
        let mut client = self.client().await;
        tokio::spawn(async move { client.call("ModelInfer", request).await })
    }

    /// Returns once so many requests wait.
    pub async fn until_waiting(&self, requests: u64) {
        self.until(|queue| queue.load("pool").requests == requests).await;
    }

    pub async fn until(&self, holds: impl Fn(&BatchQueue) -> bool) {
        let waiting = async {
            while !holds(&self.queue) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(BOUND, waiting).await.expect("it never came to that");
    }

    pub async fn next_work(&self) -> Work {
        let Next::Work(work) = next_within(&self.queue, BOUND).await else { panic!("no work came") };
        work
    }

    /// Whether a line of the metrics ends so.
    pub fn metric_line(&self, end: &str) -> bool {
        self.queue.metrics_text().lines().any(|line| line.ends_with(end))
    }

    /// The metric's value, 0 where there is none.
    pub fn metric(&self, name: &str, with: &str) -> f64 {
        let text = self.queue.metrics_text();
        let line = text.lines().find(|line| {
            line.strip_prefix("forebay_batch_").is_some_and(|line| line.starts_with(name))
                && line.contains(with)
        });
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

#[derive(Clone)]
pub struct Client(pub Grpc<Channel>);

impl Client {
    pub async fn call<Q, A>(&mut self, method: &'static str, request: Request<Q>) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await.unwrap();
        let path = format!("/inference.GRPCInferenceService/{method}").parse().unwrap();
        self.0.unary(request, path, ProstCodec::default()).await.map(tonic::Response::into_inner)
    }

    pub async fn infer(&mut self, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
        self.call("ModelInfer", marked(request)).await
    }
}

pub fn marked<T>(message: T) -> Request<T> {
    marked_as(ID, message)
}

pub fn marked_as<T>(id: u128, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let id = MetadataValue::try_from(format!("{id:032x}")).unwrap();
    request.metadata_mut().insert("x-forebay-internal-id", id);
    request
}

/// `rows` rows of two INT32 each, all with the value `value`.
pub fn ints(model: &str, rows: usize, value: i32) -> ModelInferRequest {
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

pub fn raw(rows: usize, value: i32) -> Bytes {
    value.to_le_bytes().repeat(rows * 2).into()
}

pub fn shape() -> ModelShape {
    ModelShape {
        inputs: vec![TensorSpec {
            name: "x".into(),
            datatype: Datatype::Int32,
            dims: vec![-1],
            presence: Presence::Required,
            ragged: None,
        }],
        outputs: vec![OutputSpec { name: "x".into(), ragged_dim: None }],
        mask: None,
        batching: Batching::Rows { max_rows: MAX_ROWS },
    }
}

pub type Task<T> = tokio::task::JoinHandle<T>;

/// One instance and no slot beside it.
pub fn one() -> LaneSettings {
    LaneSettings::of(Capacity { instances: 1, slots: 1 })
}

/// The answer of a model that returns its input.
pub fn echo(work: &Work) -> Bytes {
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

/// The values that a batch carries, one for each row.
pub fn values(work: &Work) -> Vec<i32> {
    let request = ModelInferRequest::decode(work.request.clone()).unwrap();
    let rows = request.raw_input_contents[0].chunks(8);
    rows.map(|row| i32::from_le_bytes(row[..4].try_into().unwrap())).collect()
}

/// Does all work by `answer` until the queue closes.
pub fn sender(
    queue: &Arc<BatchQueue>,
    mut answer: impl FnMut(&BatchQueue, Work) + Send + 'static,
) -> JoinHandle<()> {
    let queue = Arc::clone(queue);
    std::thread::spawn(move || {
        loop {
            match next_blocking(&queue, BOUND) {
                Next::Work(work) => answer(&queue, work),
                Next::Idle => {}
                Next::Closed => break,
            }
        }
    })
}

/// Learns `shape` for any model but `nowhere`, and echoes.
#[allow(clippy::needless_pass_by_value)] // the shape of a sender
pub fn echoing(queue: &BatchQueue, work: Work) {
    match work.kind {
        WorkKind::Learn => {
            let asked = ModelConfigRequest::decode(work.request.clone()).unwrap();
            if asked.name == "nowhere" {
                queue.fail(work.id, &Failure::upstream(Code::NotFound, "no model `nowhere`".to_owned()));
            } else {
                queue.learned(work.id, shape(), &one());
            }
        }
        WorkKind::Infer => assert!(queue.complete(work.id, echo(&work))),
        WorkKind::Call => panic!("no call was made"),
    }
}

pub fn lane(model: &str) -> LaneKey {
    LaneKey { pool: "pool".into(), model: model.into(), version: "".into() }
}

pub async fn next_within(queue: &Arc<BatchQueue>, timeout: Duration) -> Next {
    let queue = Arc::clone(queue);
    tokio::task::spawn_blocking(move || next_blocking(&queue, timeout)).await.unwrap()
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("nothing came in time")
}

/// The first task to end, and the others.
pub async fn first_of<T>(mut tasks: Vec<Task<T>>) -> (T, Vec<Task<T>>) {
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
