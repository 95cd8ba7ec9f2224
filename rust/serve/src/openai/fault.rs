//! Owns: an error in `OpenAI`'s shape: its status, type, code, the field that it blames, and the words.
//! Must not know: where it happened.
//! On failure: this is the failure.

use std::fmt::Display;

use bytes::Bytes;
use forebay_core::json::{Json, JsonError};
use forebay_core::refusal::Wire;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use tonic::Code;
use tonic::body::Body;

use crate::kserve::{BatchEnd, Failure};

/// An error that the client reads in `OpenAI`'s shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    status: StatusCode,
    failure: Failure,
    param: Option<String>,
}

// === impl Fault ===

impl Fault {
    /// A field that cannot be served as it is.
    pub(super) fn field(param: impl Display, message: String) -> Self {
        let fault = Self::from(failure(Code::InvalidArgument, "openai_field", message));
        Self { param: Some(param.to_string()), ..fault }
    }

    /// A field of another type than it must have.
    pub(super) fn wrong_type(param: impl Display, expected: &str, got: &Json<'_>) -> Self {
        let message = format!("`{param}` is of type {}; it must be {expected}", got.type_name());
        Self::field(param, message)
    }

    /// A field that is not there.
    pub(super) fn missing(param: impl Display, expected: &str) -> Self {
        let message = format!("`{param}` is missing; it must be {expected}");
        Self::field(param, message)
    }

    /// A field that this model's tensors have no place for.
    pub(super) fn not_offered(param: impl Display) -> Self {
        let message = format!("`{param}` is not offered for this model; leave it out");
        Self::field(param, message)
    }

    /// A body above the bound.
    pub(super) fn too_large(limit_bytes: usize) -> Self {
        let message = format!("the body has more than {limit_bytes} bytes; make it smaller");
        let failure = failure(Code::ResourceExhausted, "openai_too_large", message);
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, failure, param: None }
    }

    /// A body that broke off.
    pub(super) fn unread() -> Self {
        let message = "the body ended before it was whole; send it again".to_owned();
        failure(Code::InvalidArgument, "openai_unreadable", message).into()
    }

    /// The policy's mapping does not fit the model.
    pub(super) fn mapping(message: String) -> Self {
        failure(Code::Internal, "openai_mapping", message).into()
    }

    /// The model's answer is not what its mapping says.
    pub(super) fn answer(reason: impl Display) -> Self {
        Failure::answer(&reason).into()
    }

    /// A file that the policy names cannot be used. Clients read nothing of where it lies.
    pub(super) fn tokenizer() -> Self {
        let message = "the tokenizer of this model cannot be loaded at present; retry later".to_owned();
        failure(Code::Unavailable, "openai_tokenizer", message).into()
    }

    /// The end of a request that failed so.
    pub(super) fn end(&self) -> BatchEnd {
        self.failure.end()
    }

    /// The error as a whole answer.
    pub(super) fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::new(http_body_util::Full::new(Bytes::from(self.body()))));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.failure.retry_after_s() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }

    /// The error's object, `{"error": …}`.
    pub(super) fn body(&self) -> Vec<u8> {
        let status = self.status.as_u16();
        Wire {
            status,
            grpc: self.failure.code as u32,
            kind: match status {
                401 => "authentication_error",
                403 => "permission_error",
                429 => "rate_limit_error",
                500.. => "server_error",
                _ => "invalid_request_error",
            },
            code: self.failure.slug,
            param: self.param.clone(),
            message: self.failure.message.clone(),
            retry_after_s: None,
        }
        .body()
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self { status: failure.http_status(), failure, param: None }
    }
}

impl From<JsonError> for Fault {
    fn from(error: JsonError) -> Self {
        failure(Code::InvalidArgument, "openai_json", error.to_string()).into()
    }
}

fn failure(code: Code, slug: &'static str, message: String) -> Failure {
    Failure { code, slug, message, retry_after_ns: None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use forebay_core::json::{Bounds, Document};

    fn read(fault: &Fault) -> (u16, String, Option<String>, String) {
        let body = fault.body();
        let document = Document::parse(&body, Bounds::default()).unwrap();
        let error = document.get("error").unwrap();
        let text = |name: &str| error.get(name).and_then(Json::as_str).map(str::to_owned);
        let status = fault.response().status().as_u16();
        (status, text("type").unwrap(), text("param"), text("message").unwrap())
    }

    #[test]
    fn a_field_is_named() {
        let fault = Fault::wrong_type("input[1]", "a string", &Json::Bool(true));
        let (status, kind, param, message) = read(&fault);
        assert_eq!(
            (status, kind.as_str(), param.as_deref()),
            (400, "invalid_request_error", Some("input[1]"))
        );
        assert_eq!(message, "`input[1]` is of type boolean; it must be a string");
        assert_eq!(fault.end(), BatchEnd::Failed { code: Code::InvalidArgument, slug: "openai_field" });
    }

    #[test]
    fn the_status_says_what_to_do() {
        let (status, kind, param, message) = read(&Fault::tokenizer());
        assert_eq!((status, kind.as_str(), param), (503, "server_error", None));
        assert!(!message.contains('/'), "{message}");
        assert_eq!(Fault::tokenizer().response().headers()["retry-after"], "1");
        assert_eq!(read(&Fault::too_large(9)).0, 413);
        assert_eq!(read(&Fault::answer("no rows")).0, 500);
        let busy = failure(Code::ResourceExhausted, "x", String::new());
        assert_eq!(read(&Fault::from(busy)).1, "rate_limit_error");
    }
}
