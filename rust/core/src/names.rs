//! Owns: every header and metadata key that forebay reads or writes, each with a sentence. The Python side and the
//! rendered Envoy configuration are checked against this file.
//! Must not know: who uses them.
//! On failure: nothing here can fail.

/// The cluster that Envoy routes to. Set by decide alone; a client's copy is removed before any filter.
pub const POOL: &str = "x-forebay-internal-pool";
/// `1`: copy the response to capture. Set by decide alone.
pub const CAPTURE: &str = "x-forebay-internal-capture";
/// The reservation id as 32 hex digits, for the batch service. Set by decide alone.
pub const ID: &str = "x-forebay-internal-id";
/// All headers that begin so never cross the edge.
pub const INTERNAL_PREFIX: &str = "x-forebay-internal-";
/// Which service an `ext_proc` stream is for, in its initial metadata: `decide` or `capture`.
pub const FILTER: &str = "x-forebay-filter";
/// The feature that a client names.
pub const FEATURE: &str = "x-forebay-feature";
/// The user that a client names, when its key names none.
pub const USER: &str = "x-forebay-user";
/// The run of an agent that a client names; what the scope RUN counts.
pub const RUN: &str = "x-forebay-run";
/// The evaluation that a client names; what the scope EVAL counts.
pub const EVAL: &str = "x-forebay-eval";
/// W3C trace context: read, and sent on with our span as the parent.
pub const TRACEPARENT: &str = "traceparent";
/// The namespace of the dynamic metadata that tells the usage: what Envoy found in the answer, and `drop` from decide.
pub const USAGE_NAMESPACE: &str = "forebay.usage";
/// The namespace of the dynamic metadata that follows a request to the access log.
pub const NAMESPACE: &str = "forebay";
/// Headers that may carry a client's key; none of them reaches an upstream.
pub const CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// Answered by forebay: the reservation id.
pub const REQUEST_ID: &str = "x-forebay-request-id";
/// Answered by forebay: the model that served.
pub const MODEL: &str = "x-forebay-model";
/// Answered by forebay: `hit`, `miss`, `follow` or `bypass`.
pub const CACHE: &str = "x-forebay-cache";
/// Answered by forebay: what was reserved for the request, in nano-USD.
pub const COST_RESERVED: &str = "x-forebay-cost-nanousd-reserved";
