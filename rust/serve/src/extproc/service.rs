//! Owns: the gRPC service that Envoy's `ext_proc` filters call, and what all its streams share.
//! Must not know: what is decided.
//! On failure: closed; a stream for an unknown filter is refused with an error.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessor;
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use forebay_core::engine::{Engine, Session};
use forebay_core::names;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::capture;
use super::decide::DecideStream;
use crate::clock::SystemClock;
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
    pub report: Report,
}

/// The service.
#[derive(Clone)]
pub struct ExtProc {
    runtime: Arc<Runtime>,
}

// === impl Runtime ===

impl Runtime {
    /// A fresh random id.
    pub fn fresh_id(&self) -> u128 {
        rand::random()
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
    /// The service over a runtime.
    pub fn new(runtime: Arc<Runtime>) -> Self {
        Self { runtime }
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ExternalProcessor for ExtProc {
    type ProcessStream = Answers;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let filter = request.metadata().get(names::FILTER).map(|v| v.as_bytes().to_vec());
        let runtime = self.runtime.clone();
        match filter.as_deref() {
            Some(b"decide") => {
                let stream = DecideStream::new(runtime, request.into_inner());
                Ok(Response::new(Box::pin(answers(stream))))
            }
            Some(b"capture") => {
                let inbound = request.into_inner();
                Ok(Response::new(Box::pin(silent(capture::run(runtime, inbound)))))
            }
            other => {
                let name = other.map(|o| String::from_utf8_lossy(o).into_owned()).unwrap_or_default();
                runtime.report.say("unknown_filter", "a stream came without `x-forebay-filter: decide` or `capture`");
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
fn silent(run: impl Future<Output = ()> + Send) -> impl Stream<Item = Result<ProcessingResponse, Status>> + Send {
    futures_util::stream::unfold(Some(run), |run| async move {
        run?.await;
        None::<(Result<ProcessingResponse, Status>, Option<_>)>
    })
}
