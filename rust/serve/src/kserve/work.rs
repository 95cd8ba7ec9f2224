//! Owns: what the sender is given to do, and what waits for its answer.
//! Must not know: queues, how the sender reaches a server.
//! On failure: not applicable.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use forebay_core::batch::{Batch, LaneKey, ModelShape, Tensor};
use tokio::sync::oneshot;

use super::Failure;
use super::wire::AnswerHead;

/// What a piece of work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkKind {
    /// A batch for `ModelInfer`
    Infer,
    /// A client's call, forwarded as it is
    Call,
    /// A `ModelConfig` call of the queue itself, to be answered with the model's shape
    Learn,
}

/// One call to a model server.
#[derive(Debug, Clone)]
pub struct Work {
    /// Names it in the answer
    pub id: u64,
    /// What it is
    pub kind: WorkKind,
    /// The protocol's call, such as `ModelInfer`
    pub method: &'static str,
    /// Which pool's servers may do it
    pub pool: Arc<str>,
    /// The model as the pool knows it; empty if the call names none
    pub model: Arc<str>,
    /// The version; empty lets the server choose
    pub version: Arc<str>,
    /// Rows of the batch; 0 for a call
    pub rows: u64,
    /// Rows times the length that they are padded to
    pub padded_tokens: u64,
    /// Requests in it
    pub requests: usize,
    /// After this nobody waits any more
    pub timeout: Duration,
    /// The encoded request message
    pub request: Bytes,
}

/// A request's part of a batch's answer, or all of it where it went in several.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub tensors: Vec<Tensor>,
    pub head: Arc<AnswerHead>,
    /// Rows of the batch that it went with; of the largest, where it went with several
    pub batch_rows: u64,
    pub padded_tokens: u64,
    pub queue_ns: u64,
    pub service_ns: u64,
}

/// Who waits for a request's part of an answer.
#[derive(Debug)]
pub(super) struct Waiter {
    pub reply: oneshot::Sender<Result<Reply, Failure>>,
    /// After this nobody waits; later joiners move it
    pub expires_ns: Arc<AtomicU64>,
}

pub(super) type Learner = oneshot::Sender<Result<Arc<ModelShape>, Failure>>;
pub(super) type Caller = oneshot::Sender<Result<Bytes, Failure>>;

/// A call that waits for the sender.
#[derive(Debug)]
pub(super) struct PendingCall {
    pub method: &'static str,
    pub pool: Arc<str>,
    pub model: Arc<str>,
    pub request: Bytes,
    pub deadline_ns: u64,
    pub caller: Caller,
}

/// Work that the sender has and that has not ended.
#[derive(Debug)]
pub(super) enum InFlight {
    Infer { batch: Batch<Waiter> },
    Call(Caller),
    Learn(LaneKey),
}
