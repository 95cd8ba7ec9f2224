//! Owns: the errors of the batch service and their gRPC statuses.
//! Must not know: tensors (their refusals come with a message), transport.
//! On failure: not applicable.

use forebay_core::batch::{BatchError, Class};
use http::StatusCode;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::{BatchEnd, Denied};

/// An error that a client may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The gRPC status
    pub code: Code,
    /// A stable name for records
    pub slug: &'static str,
    /// For the client
    pub message: String,
    /// When it may succeed; `None`: nobody knows, or not by waiting
    pub retry_after_ns: Option<u64>,
}

// === impl Failure ===

impl Failure {
    /// The end of a request that failed so.
    pub(crate) fn end(&self) -> BatchEnd {
        BatchEnd::Failed { code: self.code, slug: self.slug }
    }

    /// The HTTP status of the same failure.
    pub(crate) fn http_status(&self) -> StatusCode {
        match self.code {
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What `retry-after` says, in whole seconds; `None`: it is left out. What is unavailable always says something.
    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        let asked = self.retry_after_ns.map(|ns| ns.div_ceil(1_000_000_000).max(1));
        asked.or((self.code == Code::Unavailable).then_some(1))
    }

    /// No decision's mark, or one that nobody knows.
    pub(crate) fn undecided() -> Self {
        let message = "no decision came with this request; send it through the gateway's listener".to_owned();
        Self { code: Code::Unauthenticated, slug: "batch_undecided", message, retry_after_ns: None }
    }

    /// A path that no front has.
    pub(super) fn no_call(path: &str) -> Self {
        let message = format!("`{path}` is no call of this service; send `KServe` v2 by gRPC or HTTP");
        Self { code: Code::Unimplemented, slug: "batch_no_call", message, retry_after_ns: None }
    }

    /// The time that the client gave is over.
    pub(crate) fn deadline(waited: std::time::Duration) -> Self {
        let message = format!("no answer came within {} ms", waited.as_millis());
        Self { code: Code::DeadlineExceeded, slug: "batch_deadline", message, retry_after_ns: None }
    }

    /// The time that the client gave was over before it came.
    pub(super) fn past() -> Self {
        let message = "the deadline had passed when the request came; give it more time".to_owned();
        Self { code: Code::DeadlineExceeded, slug: "batch_deadline", message, retry_after_ns: None }
    }

    /// The gateway ends.
    pub(super) fn closing() -> Self {
        let message = "the gateway is shutting down; try again".to_owned();
        Self { code: Code::Unavailable, slug: "batch_closing", message, retry_after_ns: None }
    }

    /// Too many calls wait or are on their way.
    pub(super) fn busy(open: usize) -> Self {
        let message = format!("{open} calls wait for the model server already; try again later");
        Self { code: Code::Unavailable, slug: "batch_busy", message, retry_after_ns: None }
    }

    /// A call that this service does not take.
    pub(crate) fn refused(slug: &'static str, code: Code, message: impl Into<String>) -> Self {
        Self { code, slug, message: message.into(), retry_after_ns: None }
    }

    /// The model server said no.
    pub fn upstream(code: Code, message: String) -> Self {
        Self { code, slug: "batch_upstream", message, retry_after_ns: None }
    }

    /// The model server's answer cannot be used.
    pub(crate) fn answer(reason: &dyn std::fmt::Display) -> Self {
        let message = format!("the model server's answer cannot be used: {reason}");
        Self { code: Code::Internal, slug: "batch_answer", message, retry_after_ns: None }
    }
}

impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Self {
        let code = match error.class() {
            Class::Request => Code::InvalidArgument,
            Class::Load => Code::Unavailable,
            Class::Answer => Code::Internal,
        };
        Self { code, slug: error.slug(), message: error.to_string(), retry_after_ns: None }
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self {
            code: denied.code,
            slug: denied.slug,
            message: denied.message,
            retry_after_ns: denied.retry_after_ns,
        }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut metadata = MetadataMap::new();
        if let Some(seconds) = failure.retry_after_s() {
            metadata.insert("retry-after", seconds.into());
        }
        Status::with_metadata(failure.code, failure.message, metadata)
    }
}
