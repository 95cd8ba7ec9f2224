//! Owns the control: the least that an `ext_proc` service can do in tonic for the two messages of a governed request.
//! Must not know keys, limits, bodies or policies; it reads one header and sets one or two.
//! On failure: a stream that it cannot answer ends with a gRPC error, as the gateway's must.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use envoy_types::pb::envoy::{
    config::core::v3::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
    extensions::filters::http::ext_proc::v3::{
        ProcessingMode,
        processing_mode::{BodySendMode, HeaderSendMode},
    },
    service::accesslog::v3::access_log_service_server::AccessLogServiceServer,
    service::ext_proc::v3::{
        BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpHeaders, ImmediateResponse,
        ProcessingRequest, ProcessingResponse,
        external_processor_server::{ExternalProcessor, ExternalProcessorServer},
        processing_request::Request as Phase,
        processing_response::Response as Answer,
    },
    r#type::v3::{HttpStatus, StatusCode},
};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::MetadataValue,
    transport::{Server, server::TcpIncoming},
};

use crate::{args::Args, child, error::BenchError, log_sink::LogSink, upstream::COMPLETION};

/// Set by decide; the route needs it to choose its cluster.
const POOL_HEADER: &str = "x-forebay-internal-pool";
/// Set by decide on requests whose answer is to be copied.
const CAPTURE_HEADER: &str = "x-forebay-internal-capture";
/// A client of the bench asks for capture with it.
const WISH_HEADER: &str = "x-bench-capture";
/// A client of the bench asks for an immediate answer with it.
const IMMEDIATE_HEADER: &str = "x-bench-immediate";
/// gRPC metadata by which the chain tells its two filters apart.
const FILTER_METADATA: &str = "x-forebay-filter";

/// Messages taken, by kind.
#[derive(Debug, Default)]
struct Counts {
    streams: AtomicU64,
    request_messages: AtomicU64,
    response_headers: AtomicU64,
    response_bodies: AtomicU64,
}

/// Serves until standard input closes.
pub fn run(mut args: Args) -> Result<(), BenchError> {
    let port = args.get("--port", 0_u16)?;
    let threads = args.get("--threads", 2_usize)?;
    let pool = args.get("--pool", "bench".to_owned())?;
    args.finish()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        let echo = Echo { pool: pool.into(), counts: Arc::default() };
        let counts = Arc::clone(&echo.counts);
        let log = LogSink::default();
        let entries = log.entries();
        child::announce(listener.local_addr()?.port(), move || {
            counts.to_json(entries.load(Ordering::Relaxed))
        });
        let service = ExternalProcessorServer::new(echo).max_decoding_message_size(64 << 20);
        Server::builder()
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .max_concurrent_streams(100_000)
            .add_service(service)
            .add_service(AccessLogServiceServer::new(log).max_decoding_message_size(64 << 20))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
            .await?;
        Ok(())
    })
}

// === impl Counts ===

impl Counts {
    fn to_json(&self, log_entries: u64) -> String {
        format!(
            "{{\"streams\":{},\"request_messages\":{},\"response_headers\":{},\"response_bodies\":{},\"log_entries\":{log_entries}}}",
            self.streams.load(Ordering::Relaxed),
            self.request_messages.load(Ordering::Relaxed),
            self.response_headers.load(Ordering::Relaxed),
            self.response_bodies.load(Ordering::Relaxed)
        )
    }
}

#[derive(Debug)]
struct Echo {
    pool: Arc<str>,
    counts: Arc<Counts>,
}

// === impl Echo ===

#[tonic::async_trait]
impl ExternalProcessor for Echo {
    type ProcessStream = Answers;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Answers>, Status> {
        self.counts.streams.fetch_add(1, Ordering::Relaxed);
        let role = match request.metadata().get(FILTER_METADATA).map(MetadataValue::as_bytes) {
            Some(b"capture") => Role::Capture,
            _ => Role::Decide,
        };
        Ok(Response::new(Answers {
            inbound: request.into_inner(),
            role,
            marks_capture: false,
            ends: Ending::Continue,
            pool: Arc::clone(&self.pool),
            counts: Arc::clone(&self.counts),
        }))
    }
}

#[derive(Clone, Copy, Debug)]
enum Role {
    Decide,
    Capture,
}

/// What the answer to the body does.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Continue,
    Immediate,
}

/// One answer for each message of a decide stream; nothing for a capture stream, which is drained.
#[derive(Debug)]
struct Answers {
    inbound: Streaming<ProcessingRequest>,
    role: Role,
    marks_capture: bool,
    ends: Ending,
    pool: Arc<str>,
    counts: Arc<Counts>,
}

// === impl Answers ===

impl Stream for Answers {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let message = match ready!(Pin::new(&mut self.inbound).poll_next(context)) {
                None => return Poll::Ready(None),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                Some(Ok(message)) => message,
            };
            match self.role {
                Role::Decide => return Poll::Ready(Some(self.answer(message))),
                Role::Capture => self.count(&message),
            }
        }
    }
}

impl Answers {
    fn count(&self, message: &ProcessingRequest) {
        let counter = match message.request {
            Some(Phase::ResponseBody(_)) => &self.counts.response_bodies,
            Some(Phase::ResponseHeaders(_)) => &self.counts.response_headers,
            _ => &self.counts.request_messages,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn answer(&mut self, message: ProcessingRequest) -> Result<ProcessingResponse, Status> {
        self.count(&message);
        match message.request {
            Some(Phase::RequestHeaders(headers)) if headers.end_of_stream => Ok(ProcessingResponse {
                response: Some(Answer::RequestHeaders(HeadersResponse { response: Some(self.placed()) })),
                ..ProcessingResponse::default()
            }),
            Some(Phase::RequestHeaders(headers)) => {
                self.marks_capture = has_header(&headers, WISH_HEADER);
                if has_header(&headers, IMMEDIATE_HEADER) {
                    self.ends = Ending::Immediate;
                }
                Ok(ask_for_body())
            }
            Some(Phase::RequestBody(_)) if matches!(self.ends, Ending::Immediate) => Ok(immediate()),
            Some(Phase::RequestBody(_)) => Ok(ProcessingResponse {
                response: Some(Answer::RequestBody(BodyResponse { response: Some(self.placed()) })),
                ..ProcessingResponse::default()
            }),
            _ => Err(Status::invalid_argument("decide takes request headers and bodies only")),
        }
    }

    /// The pool's mark, and a new choice of route because of it.
    fn placed(&self) -> CommonResponse {
        let mut set_headers = vec![set_header(POOL_HEADER, &self.pool)];
        if self.marks_capture {
            set_headers.push(set_header(CAPTURE_HEADER, "1"));
        }
        CommonResponse {
            header_mutation: Some(HeaderMutation { set_headers, ..HeaderMutation::default() }),
            clear_route_cache: true,
            ..CommonResponse::default()
        }
    }
}

fn ask_for_body() -> ProcessingResponse {
    ProcessingResponse {
        response: Some(Answer::RequestHeaders(HeadersResponse::default())),
        mode_override: Some(ProcessingMode {
            request_header_mode: HeaderSendMode::Send.into(),
            response_header_mode: HeaderSendMode::Skip.into(),
            request_body_mode: BodySendMode::Buffered.into(),
            response_body_mode: BodySendMode::None.into(),
            request_trailer_mode: HeaderSendMode::Skip.into(),
            response_trailer_mode: HeaderSendMode::Skip.into(),
        }),
        ..ProcessingResponse::default()
    }
}

/// What an exact hit is at least: an answer of the same size as the upstream's.
fn immediate() -> ProcessingResponse {
    ProcessingResponse {
        response: Some(Answer::ImmediateResponse(ImmediateResponse {
            status: Some(HttpStatus { code: StatusCode::Ok.into() }),
            headers: Some(HeaderMutation {
                set_headers: vec![set_header("content-type", "application/json")],
                ..HeaderMutation::default()
            }),
            body: COMPLETION.as_bytes().to_vec(),
            ..ImmediateResponse::default()
        })),
        ..ProcessingResponse::default()
    }
}

fn has_header(headers: &HttpHeaders, name: &str) -> bool {
    headers.headers.as_ref().is_some_and(|map| map.headers.iter().any(|header| header.key == name))
}

fn set_header(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}
