//! Owns: a refusal of the HTTP front: a failure and the HTTP status that says it best.
//! Must not know: JSON, tensors.
//! On failure: not applicable.

use http::{HeaderValue, Response, StatusCode, header};
use tonic::Code;
use tonic::body::Body;

use super::body;
use super::text;
use crate::kserve::Failure;

/// Why a request is not answered with what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub status: StatusCode,
    pub failure: Failure,
}

// === impl Fault ===

impl Fault {
    fn new(status: StatusCode, code: Code, slug: &'static str, message: String) -> Self {
        Self { status, failure: Failure { code, slug, message, retry_after_ns: None } }
    }

    /// The request's text or bytes are not in the protocol's form.
    pub(super) fn unreadable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::InvalidArgument, "batch_unreadable", message.into())
    }

    /// A tensor that this request's form cannot carry.
    pub(super) fn tensor(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::InvalidArgument, "rest_tensor", message.into())
    }

    /// What was asked after is not ready. The status is Triton's, which clients read as "no".
    pub(super) fn not_ready(what: &str) -> Self {
        let message = format!("{what} is not ready");
        Self::new(StatusCode::BAD_REQUEST, Code::Unavailable, "rest_not_ready", message)
    }

    /// A path that the protocol does not have.
    pub(super) fn no_path(path: &str) -> Self {
        let message = format!("`{path}` is no path of the inference protocol");
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, "rest_no_path", message)
    }

    /// A path that has another method.
    pub(super) fn no_method(method: &http::Method, path: &str, allowed: &str) -> Self {
        let message = format!("`{path}` takes {allowed}, not {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, "rest_no_method", message)
    }

    /// A call that would change or show the server's own settings.
    pub(super) fn control(path: &str) -> Self {
        let message =
            format!("`{path}` changes or shows the server's own settings; call the model server itself");
        Self::new(StatusCode::FORBIDDEN, Code::PermissionDenied, "batch_control", message)
    }

    /// A call that passes memory of the client's machine.
    pub(super) fn shared_memory(path: &str) -> Self {
        let message = format!(
            "`{path}` is not offered: a gateway cannot reach a client's memory; send tensors in the request"
        );
        Self::new(StatusCode::NOT_IMPLEMENTED, Code::Unimplemented, "batch_shared_memory", message)
    }

    /// Triton's `generate` calls.
    pub(super) fn generate(path: &str) -> Self {
        let message = format!("`{path}` is not offered here; send `infer`, or use the OpenAI paths");
        Self::new(StatusCode::NOT_IMPLEMENTED, Code::Unimplemented, "rest_generate", message)
    }

    /// A body above the bound, as it came or when it was opened.
    pub(super) fn too_large(limit_bytes: usize) -> Self {
        let message = format!("the body has more than {limit_bytes} bytes; send fewer rows in one request");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::OutOfRange, "rest_too_large", message)
    }

    /// A content coding that is not opened here.
    pub(super) fn coding(coding: &str) -> Self {
        let message = format!("`content-encoding: {coding}` is not read here; send gzip, deflate or none");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Unimplemented, "rest_coding", message)
    }

    /// The client did not send its whole body in time, or at all.
    pub(super) fn cut_off(reason: &dyn std::fmt::Display) -> Self {
        let message = format!("the body ended early: {reason}");
        Self::new(StatusCode::BAD_REQUEST, Code::Cancelled, "rest_cut_off", message)
    }

    /// The body took longer than the request has.
    pub(super) fn slow() -> Self {
        let message = "the body did not come within the request's time".to_owned();
        Self::new(StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, "rest_slow", message)
    }

    /// What the client reads.
    pub(super) fn into_response(self) -> Response<Body> {
        let mut json = b"{\"error\":".to_vec();
        text::string(&mut json, &self.failure.message);
        json.push(b'}');
        let mut response = body::json(self.status, json);
        let retry_after_s =
            if self.status == StatusCode::BAD_REQUEST { None } else { self.failure.retry_after_s() };
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self { status: failure.http_status(), failure }
    }
}
