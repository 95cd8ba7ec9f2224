//! Owns: the errors of the batch service and their gRPC statuses.
//! Must not know: tensors (their refusals come with a message), transport.
//! On failure: not applicable.

use forebay_core::batch::{BatchError, Class};
use tonic::{Code, Status};

use super::Denied;

/// An error that a client may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The gRPC status
    pub code: Code,
    /// A stable name for records
    pub slug: &'static str,
    /// For the client
    pub message: String,
}

// === impl Failure ===

impl Failure {
    /// No decision's mark, or one that nobody knows.
    pub(super) fn undecided() -> Self {
        let message = "no decision came with this request; send it through the gateway's listener".to_owned();
        Self { code: Code::Unauthenticated, slug: "batch_undecided", message }
    }

    /// The time that the client gave is over.
    pub(super) fn deadline(waited: std::time::Duration) -> Self {
        let message = format!("no answer came within {} ms", waited.as_millis());
        Self { code: Code::DeadlineExceeded, slug: "batch_deadline", message }
    }

    /// The gateway ends.
    pub(super) fn closing() -> Self {
        let message = "the gateway is shutting down; try again".to_owned();
        Self { code: Code::Unavailable, slug: "batch_closing", message }
    }

    /// Too many calls wait for the sender.
    pub(super) fn busy(waiting: usize) -> Self {
        let message = format!("{waiting} calls wait for the model server already; try again later");
        Self { code: Code::Unavailable, slug: "batch_busy", message }
    }

    /// A call that this service does not take.
    pub(super) fn refused(slug: &'static str, code: Code, message: impl Into<String>) -> Self {
        Self { code, slug, message: message.into() }
    }

    /// The model server said no.
    pub fn upstream(code: Code, message: String) -> Self {
        Self { code, slug: "batch_upstream", message }
    }

    /// The model server's answer cannot be used.
    pub(super) fn answer(reason: &dyn std::fmt::Display) -> Self {
        let message = format!("the model server's answer cannot be used: {reason}");
        Self { code: Code::Internal, slug: "batch_answer", message }
    }
}

impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Self {
        let code = match error.class() {
            Class::Request => Code::InvalidArgument,
            Class::Load => Code::Unavailable,
            Class::Answer => Code::Internal,
        };
        Self { code, slug: error.slug(), message: error.to_string() }
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self { code: denied.code, slug: denied.slug, message: denied.message }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        Status::new(failure.code, failure.message)
    }
}
