//! Owns: one HTTP/2 request of the protocol from path and headers to its handler, and its end told exactly once.
//! Must not know: tensors, queues.
//! On failure: closed; without a known mark in `x-forebay-internal-id` no byte of the body is read.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use super::deadline::time_left;
use super::infer::Asked;
use super::method::{self, Treatment};
use super::pb::{ModelInferRequest, ModelInferResponse};
use super::{Admission, BatchEnd, BatchQueue, Failure, forward, infer};
use crate::codec::BytesCodec;

/// Carries the reservation's id; set by the decision alone.
const ID_HEADER: &str = "x-forebay-internal-id";

/// The protocol's gRPC service in front of a queue.
#[derive(Clone)]
pub struct KserveService {
    queue: Arc<BatchQueue>,
    admission: Arc<dyn Admission>,
    max_message_bytes: usize,
    default_timeout: Duration,
}

// === impl KserveService ===

impl KserveService {
    /// A service that takes messages up to `max_message_bytes` and waits at most `default_timeout` for any answer.
    pub fn new(
        queue: Arc<BatchQueue>,
        admission: Arc<dyn Admission>,
        max_message_bytes: usize,
        default_timeout: Duration,
    ) -> Self {
        Self { queue, admission, max_message_bytes, default_timeout }
    }

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let Some((method, treatment)) = method::of_path(request.uri().path()) else {
            let path = request.uri().path();
            return Status::unimplemented(format!("`{path}` is no call of `{}`", method::SERVICE))
                .into_http();
        };
        let known = marked_id(request.headers()).and_then(|id| Some((id, self.admission.admitted(id)?)));
        let Some((id, admitted)) = known else {
            return Status::from(Failure::undecided()).into_http();
        };
        let mut ending = Ending { admission: &*self.admission, id, end: BatchEnd::Cancelled };
        let asked = Asked {
            queue: Arc::clone(&self.queue),
            admission: Arc::clone(&self.admission),
            admitted,
            id,
            time_left: time_left(request.headers(), self.default_timeout),
        };
        let told: OnceLock<BatchEnd> = OnceLock::new();
        let (asked, told_here) = (&asked, &told);
        let response = match treatment {
            Treatment::Infer => {
                let handler = move |message: ModelInferRequest| async move {
                    let (response, end) = infer::infer(asked, message).await;
                    told_here.get_or_init(|| end);
                    response.map(Response::new).map_err(Status::from)
                };
                let codec = ProstCodec::<ModelInferResponse, ModelInferRequest>::default();
                self.grpc(codec).unary(Handler(handler), request).await
            }
            Treatment::Server | Treatment::Model | Treatment::List | Treatment::ModelOrList => {
                let handler = move |message: Bytes| async move {
                    let (response, end) = forward::forward(asked, method, treatment, message).await;
                    told_here.get_or_init(|| end);
                    response.map(Response::new).map_err(Status::from)
                };
                self.grpc(BytesCodec).unary(Handler(handler), request).await
            }
            Treatment::Stream | Treatment::Control | Treatment::SharedMemory => {
                let failure = not_taken(method, treatment);
                told.get_or_init(|| BatchEnd::Failed { code: failure.code, slug: failure.slug });
                Status::from(failure).into_http()
            }
        };
        // The handler never ran when the message could not be read.
        let unread = BatchEnd::Failed { code: code_of(&response), slug: "batch_unreadable" };
        ending.end = told.into_inner().unwrap_or(unread);
        response
    }

    fn grpc<C: tonic::codec::Codec>(&self, codec: C) -> Grpc<C> {
        Grpc::new(codec)
            .max_decoding_message_size(self.max_message_bytes)
            .max_encoding_message_size(usize::MAX)
    }
}

impl Service<http::Request<Body>> for KserveService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}

impl NamedService for KserveService {
    const NAME: &'static str = method::SERVICE;
}

/// Tells the end of an admitted request when it goes out of scope, also when the client's leaving drops it.
struct Ending<'a> {
    admission: &'a dyn Admission,
    id: u128,
    end: BatchEnd,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.admission.finished(self.id, self.end.clone());
    }
}

/// One async function as tonic wants its handlers.
struct Handler<F>(F);

impl<F, Fut, M, R> Service<Request<M>> for Handler<F>
where
    F: FnMut(M) -> Fut,
    Fut: Future<Output = Result<Response<R>, Status>>,
{
    type Response = Response<R>;
    type Error = Status;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<M>) -> Fut {
        (self.0)(request.into_inner())
    }
}

/// The mark: exactly 32 hex digits, exactly once.
fn marked_id(headers: &HeaderMap) -> Option<u128> {
    let mut values = headers.get_all(ID_HEADER).iter();
    let value = values.next()?.to_str().ok()?;
    let well_formed = value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    if values.next().is_some() || !well_formed {
        return None;
    }
    u128::from_str_radix(value, 16).ok()
}

fn not_taken(method: &str, treatment: Treatment) -> Failure {
    match treatment {
        Treatment::Stream => Failure::refused(
            "batch_stream",
            Code::Unimplemented,
            format!("`{method}` is not offered here; send one `ModelInfer` for every request"),
        ),
        Treatment::SharedMemory => Failure::refused(
            "batch_shared_memory",
            Code::Unimplemented,
            format!(
                "`{method}` is not offered: a gateway cannot reach a client's memory; send tensors in the request"
            ),
        ),
        _ => Failure::refused(
            "batch_control",
            Code::PermissionDenied,
            format!("`{method}` changes or shows the server's own settings; call the model server itself"),
        ),
    }
}

/// The gRPC status of an answer without a body.
fn code_of(response: &http::Response<Body>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Unknown, |value| Code::from_bytes(value.as_bytes()))
}
