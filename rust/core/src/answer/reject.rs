//! Owns the reasons why an answer is not stored, each with a stable slug.
//! Must not know how a reason was found.
//! On failure: a reason is an outcome and never reaches a client.

use super::sse::SseError;

/// Why an answer is not storable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStorable {
    /// The status was not 200.
    Status(u16),
    /// `content-type` is neither JSON nor an event stream.
    ContentType,
    /// `content-encoding` is not identity; the bytes would have to be decoded first.
    ContentEncoding,
    /// The connection ended before the body did.
    Cut,
    /// The protocol's end was not reached: no `[DONE]`, no `finish_reason`, or a choice is missing.
    Incomplete(&'static str),
    /// The model ended for a reason that is not an answer, such as `abort`.
    FinishReason,
    /// An error object under status 200.
    ErrorObject,
    /// The body is not what the protocol says.
    Malformed(&'static str),
    /// A field that cannot be folded faithfully; the place is given.
    UnknownField(String),
    /// Larger than what one response may hold.
    TooLarge,
    /// All captures together hold as much as they may.
    BudgetFull,
    /// The event stream broke its bounds.
    Sse(SseError),
}

impl NotStorable {
    /// The stable slug, used as a label of metrics.
    pub const fn slug(&self) -> &'static str {
        match self {
            Self::Status(_) => "answer_status",
            Self::ContentType => "answer_content_type",
            Self::ContentEncoding => "answer_content_encoding",
            Self::Cut => "answer_cut",
            Self::Incomplete(_) => "answer_incomplete",
            Self::FinishReason => "answer_finish_reason",
            Self::ErrorObject => "answer_error_object",
            Self::Malformed(_) => "answer_malformed",
            Self::UnknownField(_) => "answer_unknown_field",
            Self::TooLarge => "answer_too_large",
            Self::BudgetFull => "answer_budget_full",
            Self::Sse(error) => error.slug(),
        }
    }
}

impl std::fmt::Display for NotStorable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status is {status}, only 200 is stored"),
            Self::ContentType => f.write_str("`content-type` is neither JSON nor an event stream"),
            Self::ContentEncoding => f.write_str("`content-encoding` is not identity"),
            Self::Cut => f.write_str("the connection ended before the body did"),
            Self::Incomplete(what) => write!(f, "the answer is incomplete: {what}"),
            Self::FinishReason => f.write_str("`finish_reason` does not name an end of an answer"),
            Self::ErrorObject => f.write_str("the body is an error object"),
            Self::Malformed(what) => write!(f, "the answer is malformed: {what}"),
            Self::UnknownField(path) => write!(f, "the field `{path}` cannot be folded faithfully"),
            Self::TooLarge => f.write_str("the answer is larger than one response may hold"),
            Self::BudgetFull => f.write_str("all captures together hold as much as they may"),
            Self::Sse(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NotStorable {}

impl From<SseError> for NotStorable {
    fn from(error: SseError) -> Self {
        Self::Sse(error)
    }
}
