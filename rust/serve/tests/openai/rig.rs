//! Owns: a batch service on its own port that admits one decided request, and a client that posts JSON.
//! Must not know: what is tested.
//! On failure: the test fails; every wait has a bound.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use forebay_core::batch::{
    Batching, Bounds, Capacity, Datatype, LaneKey, LaneSettings, ModelShape, OutputSpec, Presence, Priority,
    Ragged, Tenant, TensorSpec,
};
use forebay_core::json::{Bounds as JsonBounds, Document};
use forebay_core::policy::pb;
use forebay_core::policy::pb::route::Operation;
use forebay_serve::kserve::{
    Admission, Admitted, BatchEnd, BatchQueue, Denied, KserveService, Placed, QueueSettings, ServerAddress,
    ServerSettings, serve,
};
use http_body_util::{BodyExt, Full};
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::Channel;

pub const ID: u128 = 0xabc;
pub const BOUND: Duration = Duration::from_secs(10);
const MAX_BODY_BYTES: usize = 1 << 20;

/// Admits one id, decided as a test says, and tells every end.
pub struct Desk {
    placed: Mutex<Placed>,
    ends: mpsc::UnboundedSender<BatchEnd>,
}

impl Admission for Desk {
    fn admitted(&self, id: u128) -> Option<Admitted> {
        (id == ID).then(|| Admitted {
            pool: "pool".into(),
            tenant: Tenant { name: "acme".into(), weight: 1 },
            key: "k".into(),
            priority: Priority::default(),
            placed: Some(self.placed.lock().unwrap().clone()),
            models: Arc::new(|_| true),
        })
    }

    fn model(&self, _: u128, _: &str) -> Result<Arc<str>, Denied> {
        panic!("the decision named the model")
    }

    fn finished(&self, id: u128, end: BatchEnd) {
        assert_eq!(id, ID);
        self.ends.send(end).unwrap();
    }
}

/// A service on its own port, and the parts that a test looks at.
pub struct Bench {
    pub queue: Arc<BatchQueue>,
    desk: Arc<Desk>,
    address: SocketAddr,
    ends: mpsc::UnboundedReceiver<BatchEnd>,
    _stop: oneshot::Sender<()>,
}

impl Bench {
    pub async fn start(operation: Operation, tensors: pb::Tensors) -> Self {
        Self::start_within(operation, tensors, BOUND).await
    }

    /// As `start`, with less time for every answer.
    pub async fn start_within(operation: Operation, tensors: pb::Tensors, timeout: Duration) -> Self {
        let bounds = Bounds { max_rows: 4096, max_tokens: 1 << 20, max_bytes: 1 << 24 };
        let queue = Arc::new(BatchQueue::new(QueueSettings {
            bounds,
            max_calls: 16,
            learn_timeout: BOUND,
            relearn_after: Duration::ZERO,
        }));
        let placed = Placed {
            operation,
            model: "public".into(),
            upstream: "model".into(),
            tensors: Arc::new(tensors),
            tokenizer: "cl100k_base".into(),
            context_window_tokens: 100,
        };
        let (tell_end, ends) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk { placed: Mutex::new(placed), ends: tell_end });
        let admission = Arc::clone(&desk) as Arc<dyn Admission>;
        let service = KserveService::new(Arc::clone(&queue), admission, MAX_BODY_BYTES, timeout);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(serve(listener, service, ServerSettings::default(), async {
            let _ = stopped.await;
        }));
        Self { queue, desk, address, ends, _stop: stop }
    }

    /// Makes the model's shape known, and where its streams go.
    pub fn serves(&self, shape: ModelShape, address: Option<SocketAddr>) {
        let key = LaneKey { pool: "pool".into(), model: "model".into(), version: "".into() };
        let settings = LaneSettings::of(Capacity { instances: 1, slots: 2 });
        self.queue.set_model(&key, shape, &settings);
        let servers =
            address.map(|address| (ServerAddress { address: address.to_string(), tls: None }, true));
        self.queue.upstreams().set("pool", servers.into_iter().collect()).unwrap();
    }

    pub fn place(&self, change: impl FnOnce(&mut Placed)) {
        change(&mut self.desk.placed.lock().unwrap());
    }

    /// Posts a body; `window_bytes` may be on the way unread.
    pub async fn open(&self, body: &str, window_bytes: u32) -> Opened {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        let endpoint = endpoint.initial_stream_window_size(window_bytes);
        let mut channel = within(endpoint.connect()).await.unwrap();
        let request = http::Request::post(format!("http://{}/v1/any", self.address))
            .header("content-type", "application/json")
            .header("x-forebay-internal-id", format!("{ID:032x}"))
            .body(Body::new(Full::new(Bytes::from(body.to_owned()))))
            .unwrap();
        std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
        let response = within(channel.call(request)).await.unwrap();
        let (parts, body) = response.into_parts();
        Opened { parts, body, _channel: channel }
    }

    /// Posts a body and reads the whole answer.
    pub async fn post(&self, body: &str) -> (u16, String) {
        let opened = self.open(body, 1 << 20).await;
        let status = opened.parts.status.as_u16();
        let whole = within(opened.body.collect()).await.unwrap().to_bytes();
        (status, String::from_utf8(whole.to_vec()).unwrap())
    }

    pub async fn end(&mut self) -> BatchEnd {
        within(self.ends.recv()).await.unwrap()
    }
}

/// An answer whose body is not read yet. Dropping it is a client that leaves.
pub struct Opened {
    pub parts: http::response::Parts,
    body: Body,
    _channel: Channel,
}

impl Opened {
    /// The next piece of the body; `None`: it is over.
    pub async fn next(&mut self) -> Option<Bytes> {
        let frame = within(self.body.frame()).await?;
        Some(frame.unwrap().into_data().unwrap())
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("nothing came in time")
}

/// A value of a JSON answer, by its path; empty where there is none.
pub fn at(body: &str, path: &[&str]) -> String {
    let document = Document::parse(body.as_bytes(), JsonBounds::default()).unwrap();
    let (first, rest) = path.split_first().unwrap();
    let mut value = document.get(first);
    for name in rest {
        value = value.and_then(|value| match name.parse::<usize>() {
            Ok(index) => value.as_array().and_then(|items| items.get(index)),
            Err(_) => value.get(name),
        });
    }
    match value {
        Some(value) => value.as_str().map_or_else(|| format!("{value:?}"), str::to_owned),
        None => String::new(),
    }
}

/// A model whose requests share batches of up to 4 rows, its free inputs padded with 0.
pub fn batched(inputs: &[(&str, Datatype, i64)], outputs: &[&str]) -> ModelShape {
    let spec = |&(name, datatype, dim): &(&str, Datatype, i64)| TensorSpec {
        name: name.into(),
        datatype,
        dims: vec![dim],
        presence: Presence::Required,
        ragged: (dim < 0).then(|| Ragged { dim: 0, pad: datatype.element_of(0.0).unwrap() }),
    };
    let output = |&name: &&str| OutputSpec { name: name.into(), ragged_dim: None };
    ModelShape {
        inputs: inputs.iter().map(spec).collect(),
        outputs: outputs.iter().map(output).collect(),
        mask: None,
        batching: Batching::Rows { max_rows: 4 },
    }
}

/// A decoupled model in the shape of Triton's vLLM backend.
pub fn writer() -> ModelShape {
    let spec = |(name, datatype, presence): (&str, Datatype, Presence)| TensorSpec {
        name: name.into(),
        datatype,
        dims: vec![1],
        presence,
        ragged: None,
    };
    let inputs = [
        ("text_input", Datatype::Bytes, Presence::Required),
        ("stream", Datatype::Bool, Presence::Optional),
        ("sampling_parameters", Datatype::Bytes, Presence::Optional),
    ];
    ModelShape {
        inputs: inputs.into_iter().map(spec).collect(),
        outputs: vec![OutputSpec { name: "text_output".into(), ragged_dim: None }],
        mask: None,
        batching: Batching::Whole,
    }
}
