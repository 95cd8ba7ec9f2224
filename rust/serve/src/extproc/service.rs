//! Owns: the gRPC service that Envoy's `ext_proc` filters call, and what all its streams share.
//! Must not know: what is decided.
//! On failure: closed; a stream for an unknown filter is refused with an error.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_core::engine::{Clock, Engine, Session};
use forebay_core::names;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::capture::Copied;
use super::decide::DecideStream;
use super::messages::hex_id;
use super::wire::ProcessingResponse;
use crate::clock::SystemClock;
use crate::codec::BytesIn;
use crate::journal::Journal;
use crate::report::Report;
use crate::stage::Stages;

/// What every stream needs.
pub struct Runtime {
    /// The decision
    pub engine: Arc<Engine>,
    /// Time
    pub clock: SystemClock,
    /// Persons' stages
    pub stages: Arc<Stages>,
    /// Lines for the log
    pub report: Arc<Report>,
    /// Writes records down, where the policy has a ledger
    pub journal: Option<Journal>,
}

/// The service.
#[derive(Clone)]
pub struct ExtProc {
    runtime: Arc<Runtime>,
    max_message_bytes: usize,
}

// === impl Runtime ===

impl Runtime {
    /// A fresh id: 48 bits of the time in milliseconds, then 80 random ones. Ids that grow with time keep the ledger's
    /// index of them small and quick.
    pub fn fresh_id(&self) -> u128 {
        let unix_ms = u128::from(self.clock.unix_ns() / 1_000_000);
        unix_ms << 80 | rand::random::<u128>() >> 48
    }

    /// Says that records may have been made.
    pub fn wake_journal(&self) {
        if let Some(journal) = &self.journal {
            journal.wake();
        }
    }

    /// How long Envoy waits for one answer without an announcement.
    pub fn message_timeout(&self, session: &Session) -> Duration {
        Duration::from_nanos(session.message_timeout_ns())
    }

    /// The longest wait that may be announced instead.
    pub fn max_message_timeout(&self, session: &Session) -> Duration {
        Duration::from_nanos(session.max_message_timeout_ns())
    }
}

// === impl ExtProc ===

impl ExtProc {
    /// The service over a runtime, which takes messages up to a size.
    pub fn new(runtime: Arc<Runtime>, max_message_bytes: usize) -> Self {
        Self { runtime, max_message_bytes }
    }

    /// One stream of either filter.
    pub async fn process(self, request: http::Request<Body>) -> http::Response<Body> {
        let mut grpc = Grpc::new(BytesIn::<ProcessingResponse>::default())
            .max_decoding_message_size(self.max_message_bytes)
            .max_encoding_message_size(usize::MAX);
        grpc.streaming(Process { runtime: self.runtime }, request).await
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

/// One stream of either filter.
struct Process {
    runtime: Arc<Runtime>,
}

// === impl Process ===

impl StreamingService<Bytes> for Process {
    type Response = ProcessingResponse;
    type ResponseStream = Answers;
    type Future = Ready<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        ready(self.stream(request))
    }
}

impl Process {
    fn stream(&self, request: Request<Streaming<Bytes>>) -> Result<Response<Answers>, Status> {
        let runtime = self.runtime.clone();
        let (metadata, _, inbound) = request.into_parts();
        match metadata.get(names::FILTER).map(tonic::metadata::MetadataValue::as_bytes) {
            Some(b"decide") => {
                let stream = DecideStream::new(runtime, inbound);
                Ok(Response::new(Box::pin(answers(stream))))
            }
            Some(b"capture") => {
                // Here and not at the first message, so that the access log does not end the request before.
                let id = metadata.get(names::ID).and_then(|value| hex_id(value.as_bytes()));
                let copy = Copied::begin(runtime, id);
                Ok(Response::new(Box::pin(silent(copy.run(inbound)))))
            }
            other => {
                let name = other.map(|o| String::from_utf8_lossy(o).into_owned()).unwrap_or_default();
                runtime
                    .report
                    .say("unknown_filter", "a stream came without `x-forebay-filter: decide` or `capture`");
                Err(Status::invalid_argument(format!(
                    "`{}` is `{name}`; the filter's initial metadata must say `decide` or `capture`",
                    names::FILTER
                )))
            }
        }
    }
}

/// The stream's own task is Envoy's request for it: no spawned task, and dropping it ends everything.
fn answers(stream: DecideStream) -> impl Stream<Item = Result<ProcessingResponse, Status>> + Send {
    futures_util::stream::unfold(stream, |mut stream| async move {
        let next = stream.next().await?;
        Some((next, stream))
    })
}

/// Runs to the end without saying anything.
fn silent(
    run: impl Future<Output = ()> + Send,
) -> impl Stream<Item = Result<ProcessingResponse, Status>> + Send {
    futures_util::stream::unfold(Some(run), |run| async move {
        run?.await;
        None::<(Result<ProcessingResponse, Status>, Option<_>)>
    })
}
