//! Owns: a gateway in this process, and a client that speaks `ext_proc` as Envoy does.
//! Must not know: what a test is about.
//! On failure: it panics, as a test does; every wait has a bound.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Reply;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HttpBody, HttpHeaders, ImmediateResponse, ProcessingRequest, ProcessingResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::{Struct, Value, value};
use forebay_core::engine::{Engine, EngineConfig};
use forebay_core::policy::{compile, pb};
use forebay_serve::{Gateway, JournalSettings, Listen, SystemClock};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

pub const BOUND: Duration = Duration::from_secs(20);
pub const BODY: &str = r#"{"model":"small","temperature":0,"messages":[{"role":"user","content":"x"}]}"#;
/// SHA-256 of `fbk_acme`.
const ACME: &str = "687e2ea644b648b918872ca90d44053d477667663b68dde638fa58e8bd7ceb4c";

pub struct Rig {
    pub gateway: Gateway,
    pub tokio: tokio::runtime::Runtime,
}

/// One stream, from Envoy's end.
pub struct Stream {
    pub tx: mpsc::Sender<ProcessingRequest>,
    pub rx: Streaming<ProcessingResponse>,
}

/// One pool, one model, a route to read and one to pass on, and a cache.
pub fn policy() -> pb::Policy {
    use pb::model::Capability;
    use pb::pool::Protocol;
    use pb::route::{Match, Operation};
    let pool = |name: &str, protocol: Protocol| pb::Pool {
        name: name.into(),
        protocol: protocol as i32,
        endpoints: vec![pb::Endpoint { address: "127.0.0.1:9".into() }],
        ..pb::Pool::default()
    };
    let route = |name: &str, path: Match, operation: Operation, pool: &str| pb::Route {
        name: name.into(),
        r#match: Some(path),
        operation: operation as i32,
        pool: pool.into(),
        ..pb::Route::default()
    };
    pb::Policy {
        name: "test".into(),
        pools: vec![pool("fleet", Protocol::Openai), pool("raw", Protocol::Http)],
        models: vec![pb::Model {
            name: "small".into(),
            max_output_tokens: 100,
            capabilities: vec![Capability::Chat as i32],
            pools: vec!["fleet".into()],
            ..pb::Model::default()
        }],
        tenants: vec![pb::Tenant { name: "acme".into(), models: vec!["*".into()], ..pb::Tenant::default() }],
        keys: vec![pb::Key {
            id: "acme".into(),
            sha256: ACME.into(),
            tenant: "acme".into(),
            ..pb::Key::default()
        }],
        routes: vec![
            route("chat", Match::Path("/v1/chat/completions".into()), Operation::ChatCompletions, ""),
            route("files", Match::PathPrefix("/files/".into()), Operation::Forward, "raw"),
        ],
        cache: Some(pb::Cache::default()),
        ..pb::Policy::default()
    }
}

pub fn headers(pairs: &[(&str, &str)], end_of_stream: bool) -> HttpHeaders {
    let headers = pairs
        .iter()
        .map(|(key, value)| HeaderValue {
            key: (*key).to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        })
        .collect();
    HttpHeaders { headers: Some(HeaderMap { headers }), end_of_stream, ..HttpHeaders::default() }
}

/// The headers of a chat by acme.
pub fn chat() -> Part {
    asks("/v1/chat/completions", "Bearer fbk_acme", "application/json")
}

pub fn asks(path: &str, authorization: &str, content_type: &str) -> Part {
    Part::RequestHeaders(headers(
        &[
            (":method", "POST"),
            (":path", path),
            ("authorization", authorization),
            ("content-type", content_type),
        ],
        false,
    ))
}

pub fn body(text: &str) -> Part {
    Part::RequestBody(HttpBody { body: text.as_bytes().to_vec(), end_of_stream: true, ..HttpBody::default() })
}

/// The metadata by which capture and access log know a request.
pub fn metadata(id: &str) -> Metadata {
    let string = |text: &str| Value { kind: Some(value::Kind::StringValue(text.to_owned())) };
    let fields = HashMap::from([("id".to_owned(), string(id))]);
    let filter_metadata = HashMap::from([("forebay".to_owned(), Struct { fields })]);
    Metadata { filter_metadata, ..Metadata::default() }
}

/// A string of the dynamic metadata that decide sent.
pub fn said(response: &ProcessingResponse, name: &str) -> Option<String> {
    let outer = response.dynamic_metadata.as_ref()?.fields.get("forebay")?;
    let Some(value::Kind::StructValue(inner)) = &outer.kind else { return None };
    match &inner.fields.get(name)?.kind {
        Some(value::Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    }
}

/// The immediate answer: status, body, whole.
pub fn immediate(response: ProcessingResponse) -> (i32, String, ImmediateResponse) {
    let Some(Reply::ImmediateResponse(answer)) = response.response else { panic!("{response:?}") };
    let status = answer.status.as_ref().map_or(0, |HttpStatus { code }| *code);
    (status, String::from_utf8(answer.body.clone()).unwrap(), answer)
}

/// What a body's answer changes.
pub fn common(response: &ProcessingResponse) -> &CommonResponse {
    match &response.response {
        Some(Reply::RequestHeaders(r)) => r.response.as_ref().unwrap(),
        Some(Reply::RequestBody(r)) => r.response.as_ref().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Waits for what another thread brings about.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < end, "{what}: waited too long");
        std::thread::yield_now();
    }
}

// === impl Rig ===

impl Rig {
    pub fn new(policy: &pb::Policy) -> Self {
        Self::with(policy, None)
    }

    pub fn with(policy: &pb::Policy, journal: Option<JournalSettings>) -> Self {
        let snapshot = compile(&policy.encode_to_vec()).unwrap();
        let engine = Arc::new(Engine::new(EngineConfig::default(), snapshot));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listen = Listen { ext_proc: any, batch: any, workers: 2, max_body_bytes: 1 << 20, journal };
        let gateway = Gateway::start(engine, SystemClock::default(), &listen).unwrap();
        let tokio =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { gateway, tokio }
    }

    /// Runs an exchange of a client, within a bound.
    pub fn run<T>(&self, exchange: impl Future<Output = T>) -> T {
        self.tokio
            .block_on(async { tokio::time::timeout(BOUND, exchange).await.expect("the exchange hangs") })
    }

    pub async fn channel(&self) -> Channel {
        let address = format!("http://{}", self.gateway.ext_proc_addr());
        Channel::from_shared(address).unwrap().tcp_nodelay(true).connect().await.unwrap()
    }

    pub async fn decide(&self) -> Stream {
        Stream::open(self.channel().await, Some("decide")).await.unwrap()
    }

    pub fn counter(&self, name: &str) -> u64 {
        let values = self.gateway.engine().metrics().counters.values();
        values.into_iter().find(|(n, _)| *n == name).unwrap().1
    }

    pub fn in_flight(&self, pool: &str) -> u32 {
        let views = self.gateway.engine().pool_views(self.gateway.now_ns());
        views.iter().find(|v| &*v.name == pool).unwrap().requests
    }
}

// === impl Stream ===

impl Stream {
    pub async fn open(channel: Channel, filter: Option<&'static str>) -> Result<Self, Status> {
        let (tx, rx) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(rx));
        if let Some(filter) = filter {
            request.metadata_mut().insert("x-forebay-filter", filter.parse().unwrap());
        }
        let rx = ExternalProcessorClient::new(channel).process(request).await?.into_inner();
        Ok(Self { tx, rx })
    }

    pub async fn send(&self, part: Part) {
        self.tx.send(ProcessingRequest { request: Some(part), ..Default::default() }).await.unwrap();
    }

    pub async fn answer(&mut self) -> ProcessingResponse {
        self.rx.message().await.unwrap().expect("the stream ended without an answer")
    }

    /// Sends a part and waits for its answer.
    pub async fn ask(&mut self, part: Part) -> ProcessingResponse {
        self.send(part).await;
        self.answer().await
    }

    /// Ends our side; what the other says then.
    pub async fn close(self) -> Result<Option<ProcessingResponse>, Status> {
        let Self { tx, mut rx } = self;
        drop(tx);
        rx.message().await
    }
}
