//! Owns: what the batch service asks about a request that carries a decision's mark.
//! Must not know: limits, keys, policy; the engine answers.
//! On failure: closed; an id that nobody admitted is refused.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use forebay_core::batch::{Priority, Tenant};
use forebay_core::cache::CacheKey;
use forebay_core::policy::pb;
use tokio::sync::oneshot;
use tonic::Code;

/// A request that a decision let through.
#[derive(Clone)]
pub struct Admitted {
    /// The pool that serves it
    pub pool: Arc<str>,
    /// Whose it is
    pub tenant: Tenant,
    /// The key's id
    pub key: Arc<str>,
    /// In which class it waits
    pub priority: Priority,
    /// What the decision made of an `OpenAI` request; `None`: the request is `KServe`'s, and names its model itself
    pub placed: Option<Placed>,
    /// Whether the key may see a model, by the name that the pool knows
    pub models: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

/// An `OpenAI` request that was decided from its body.
#[derive(Debug, Clone)]
pub struct Placed {
    /// What it asks for: embeddings, chat or text completions
    pub operation: pb::route::Operation,
    /// The model as clients name it
    pub model: Arc<str>,
    /// The model as the pool knows it
    pub upstream: Arc<str>,
    /// How it becomes tensors and back, defaults filled in
    pub tensors: Arc<pb::Tensors>,
    /// The model's tokenizer as the policy names it
    pub tokenizer: Arc<str>,
    /// Prompt and output together; 0: unknown
    pub context_window_tokens: u64,
}

/// What an inference will use, known once its tensors are read.
#[derive(Debug, Clone, Copy)]
pub struct TensorUse<'a> {
    /// The model as the client named it
    pub model: &'a str,
    /// Its rows
    pub rows: u64,
    /// Rows times their length, unpadded
    pub tokens: u64,
}

/// What became of taking limits and budgets for an inference.
#[derive(Debug)]
pub enum Take {
    /// All of it, or nothing counts it
    Taken,
    /// A budget's lease must come first; ask again when this resolves, however it does
    Wait(oneshot::Receiver<()>),
}

/// What the exact cache says about an inference.
#[derive(Debug, Clone)]
pub enum Recall {
    /// Its model's answers vary, or the client wants a fresh one
    Off,
    /// Equal requests may share an answer under this key; nobody has it yet
    Miss {
        /// Names tenant, model, version and inputs
        key: CacheKey,
        /// Whether the answer may be kept
        keeps: bool,
    },
    /// The answer, as it was kept
    Hit(Bytes),
}

/// Why a model was refused for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The gRPC status, such as `PERMISSION_DENIED` or `RESOURCE_EXHAUSTED`
    pub code: Code,
    /// A stable name for records
    pub slug: &'static str,
    /// For the client
    pub message: String,
    /// When it may succeed; `None`: not by waiting
    pub retry_after_ns: Option<u64>,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchEnd {
    /// A batch brought its answer
    Answered {
        /// Its rows
        rows: u64,
        /// Rows times their length, unpadded
        tokens: u64,
        /// Rows of the batch that it went with
        batch_rows: u64,
        /// Its rows times the length that they were padded to
        padded_tokens: u64,
        /// From its arrival to the batch's leaving
        queue_ns: u64,
        /// From the batch's leaving to its answer
        service_ns: u64,
    },
    /// The cache had its answer
    Recalled {
        /// Its rows
        rows: u64,
    },
    /// An equal request that was in flight brought its answer
    Followed {
        /// Its rows
        rows: u64,
    },
    /// A call that is no inference, or a stream, was answered
    Forwarded,
    /// It was answered with an error
    Failed {
        /// The gRPC status
        code: Code,
        /// The error's stable name
        slug: &'static str,
    },
    /// The client left first
    Cancelled,
}

/// The decisions behind the batch service. Every method is called on the request path and must not block.
pub trait Admission: Send + Sync + 'static {
    /// The admitted request of an id; `None`: unknown, spent or expired.
    fn admitted(&self, id: u128) -> Option<Admitted>;

    /// The name of `model` upstream, if this request may use it.
    fn model(&self, id: u128, model: &str) -> Result<Arc<str>, Denied>;

    /// Takes what limits and budgets count of a `KServe` inference: its tokens and what depends on its model. Called
    /// once its tensors are read and its answer is not in the cache, before it is queued.
    fn take(&self, _id: u128, _used: &TensorUse<'_>) -> Result<Take, Denied> {
        Ok(Take::Taken)
    }

    /// Asks the exact cache. `parts` together are the whole request but tenant and model, each bounded by its place.
    fn recall(&self, _id: u128, _model: &str, _parts: &[&[u8]]) -> Recall {
        Recall::Off
    }

    /// Keeps the answer of a request that missed.
    fn keep(&self, _id: u128, _key: CacheKey, _answer: Bytes) {}

    /// The request ended. Called exactly once for every id that [`Admission::admitted`] knew.
    fn finished(&self, id: u128, end: BatchEnd);
}

/// A fixed table: ids that stay admitted, each to one pool and all its models. For use without a decision in front.
#[derive(Debug, Clone, Default)]
pub struct FixedAdmission {
    pools: HashMap<u128, Arc<str>>,
}

// === impl Admitted ===

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pool, tenant, key, .. } = self;
        write!(f, "Admitted {{ pool: {pool}, tenant: {}, key: {key} }}", tenant.name)
    }
}

// === impl FixedAdmission ===

impl FixedAdmission {
    /// A table of ids and pools.
    pub fn new(pools: HashMap<u128, Arc<str>>) -> Self {
        Self { pools }
    }
}

impl Admission for FixedAdmission {
    fn admitted(&self, id: u128) -> Option<Admitted> {
        let pool = Arc::clone(self.pools.get(&id)?);
        Some(Admitted {
            pool,
            tenant: Tenant { name: "".into(), weight: 1 },
            key: "".into(),
            priority: Priority::default(),
            placed: None,
            models: Arc::new(|_| true),
        })
    }

    fn model(&self, _: u128, model: &str) -> Result<Arc<str>, Denied> {
        Ok(model.into())
    }

    fn finished(&self, _: u128, _: BatchEnd) {}
}
