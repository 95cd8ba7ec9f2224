//! Owns: what the batch service asks about a request that carries a decision's mark.
//! Must not know: limits, keys, policy; the engine answers.
//! On failure: closed; an id that nobody admitted is refused.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use tonic::Code;

/// A request that a decision let through.
#[derive(Clone)]
pub struct Admitted {
    /// The pool that serves it
    pub pool: Arc<str>,
    /// Whose it is
    pub tenant: Arc<str>,
    /// The key's id
    pub key: Arc<str>,
    /// Whether the key may see a model, by the name that the pool knows
    pub models: Arc<dyn Fn(&str) -> bool + Send + Sync>,
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
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchEnd {
    /// A batch brought its answer
    Answered {
        /// Its rows
        rows: u64,
        /// Rows of the batch that it went with
        batch_rows: u64,
        /// From its arrival to the batch's leaving
        queue_ns: u64,
        /// From the batch's leaving to its answer
        service_ns: u64,
    },
    /// A call that is no inference was answered
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

    /// The name of `model` upstream, if this request may use it. `rows` is the first dimension of its first input,
    /// and 0 for a call that is no inference.
    fn model(&self, id: u128, model: &str, rows: u64) -> Result<Arc<str>, Denied>;

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
        write!(f, "Admitted {{ pool: {pool}, tenant: {tenant}, key: {key} }}")
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
        Some(Admitted { pool, tenant: "".into(), key: "".into(), models: Arc::new(|_| true) })
    }

    fn model(&self, _: u128, model: &str, _: u64) -> Result<Arc<str>, Denied> {
        Ok(model.into())
    }

    fn finished(&self, _: u128, _: BatchEnd) {}
}
