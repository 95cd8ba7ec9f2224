//! Owns: one HTTP/2 request from path and headers to the front that reads its body, and its end told exactly once.
//! Must not know: bodies, tensors, queues.
//! On failure: closed; without a known mark in `x-forebay-internal-id` no byte of the body is read.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use forebay_core::batch::Priority;
use http::{HeaderMap, HeaderValue, header};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use super::deadline::time_left;
use super::infer::Asked;
use super::{Admission, BatchEnd, BatchQueue, Failure, grpc, method};
use crate::{openai, rest};

/// Carries the reservation's id; set by the decision alone.
const ID_HEADER: &str = "x-forebay-internal-id";
/// Carries a class; counts where it is less urgent than what the policy gives.
const PRIORITY_HEADER: &str = "x-forebay-priority";

/// Every front of the batch service, before a queue.
#[derive(Clone)]
pub struct KserveService {
    queue: Arc<BatchQueue>,
    admission: Arc<dyn Admission>,
    max_message_bytes: usize,
    default_timeout: Duration,
    loaded: Arc<openai::Loaded>,
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
        Self { queue, admission, max_message_bytes, default_timeout, loaded: Arc::default() }
    }

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let known = marked_id(request.headers()).and_then(|id| Some((id, self.admission.admitted(id)?)));
        let Some((id, mut admitted)) = known else {
            return refusal(request.headers(), Failure::undecided());
        };
        let ending = Ending { admission: Arc::clone(&self.admission), id, end: BatchEnd::Cancelled };
        if let Some(wished) = wished_priority(request.headers()) {
            admitted.priority = admitted.priority.max(wished);
        }
        let bound = self.queue.timeout_of(&admitted.pool).unwrap_or(self.default_timeout);
        let asked = Asked {
            queue: Arc::clone(&self.queue),
            upstreams: Arc::clone(self.queue.upstreams()),
            admission: self.admission,
            admitted,
            id,
            time_left: time_left(request.headers(), bound),
            max_message_bytes: self.max_message_bytes,
            loaded: self.loaded,
        };
        let path = request.uri().path();
        if asked.admitted.placed.is_some() {
            openai::answer(asked, ending, request).await
        } else if path == "/v2" || path.starts_with("/v2/") {
            rest::answer(asked, ending, request).await
        } else if let Some((method, treatment)) = method::of_path(path) {
            grpc::answer(asked, ending, grpc::Call { method, treatment }, request).await
        } else {
            let failure = Failure::no_call(path);
            let mut ending = ending;
            ending.ends(failure.end());
            refusal(request.headers(), failure)
        }
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

/// Tells the end of an admitted request when it goes out of scope, also when the client's leaving drops it.
pub(crate) struct Ending {
    admission: Arc<dyn Admission>,
    id: u128,
    end: BatchEnd,
}

// === impl Ending ===

impl Ending {
    /// How it ended, unless something is said later.
    pub(crate) fn ends(&mut self, end: BatchEnd) {
        self.end = end;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.admission.finished(self.id, self.end.clone());
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

/// The class that a client asks for; a word that is none counts as absent.
fn wished_priority(headers: &HeaderMap) -> Option<Priority> {
    Priority::from_name(headers.get(PRIORITY_HEADER)?.to_str().ok()?)
}

/// A refusal before anybody knows a front: in gRPC's form to a gRPC client, in `KServe`'s JSON to others.
fn refusal(headers: &HeaderMap, failure: Failure) -> http::Response<Body> {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return Status::from(failure).into_http();
    }
    // The words of these refusals hold nothing that JSON would have to escape but a path's quotes.
    let words = failure.message.replace(['\\', '"'], "'");
    let mut response = http::Response::new(Body::new(format!("{{\"error\":\"{words}\"}}")));
    *response.status_mut() = failure.http_status();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
