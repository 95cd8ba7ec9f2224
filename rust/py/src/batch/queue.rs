//! Owns: the gateway's batch queue as the sender sees it.
//! Must not know: how the sender reaches a server.
//! On failure: an id that nobody waits for is no error: the caller is told `False`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_core::batch::{Bounds, Capacity};
use forebay_serve::kserve::{self, Failure, Next, QueueSettings, Work, WorkKind};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use tonic::Code;

use super::model::{ModelShape, lane};

/// Most calls, other than inferences, that wait for the sender.
const MAX_CALLS: usize = 256;
const LEARN_TIMEOUT: Duration = Duration::from_secs(5);
const RELEARN_AFTER: Duration = Duration::from_secs(5);

/// Where requests become batches and answers find back: the service pushes, a sender calls `next` and `complete`.
///
/// Shape: one queue for each pool, model, version and form of request; first come, first served.
///
/// Units: `max_rows` and `max_bytes` are what may wait for one pool; `max_delay_ns` is how long a request waits
/// for company while a slot is free, for example 2,000,000 (2 ms). An idle instance never waits.
///
/// Cost: a request waits without a thread. `next` lets go of the GIL while it waits and while it joins.
#[pyclass(frozen, module = "forebay._core")]
pub struct BatchQueue {
    queue: Arc<kserve::BatchQueue>,
}

// === impl BatchQueue ===

impl BatchQueue {
    /// The class around a queue that a server holds too.
    pub fn of(queue: Arc<kserve::BatchQueue>) -> Self {
        Self { queue }
    }

    /// The queue inside.
    pub fn inner(&self) -> &Arc<kserve::BatchQueue> {
        &self.queue
    }
}

#[pymethods]
impl BatchQueue {
    #[new]
    #[pyo3(signature = (*, max_rows = 16_384, max_bytes = 268_435_456, max_delay_ns = 2_000_000))]
    fn new(max_rows: u64, max_bytes: u64, max_delay_ns: u64) -> Self {
        let settings = QueueSettings {
            bounds: Bounds { max_rows, max_bytes, max_delay_ns },
            max_calls: MAX_CALLS,
            learn_timeout: LEARN_TIMEOUT,
            relearn_after: RELEARN_AFTER,
        };
        Self { queue: Arc::new(kserve::BatchQueue::new(settings)) }
    }

    /// Waits for something to send, in one thread.
    ///
    /// Units: `timeout_ms` in ms.
    ///
    /// Returns: `None` when nothing came in time, or when the queue is closed (`closed` tells).
    ///
    /// Cost: one copy of the batch's tensors; GIL released.
    #[pyo3(signature = (timeout_ms))]
    fn next(&self, py: Python<'_>, timeout_ms: u64) -> Option<ReadyBatch> {
        match py.detach(|| self.queue.next_blocking(Duration::from_millis(timeout_ms))) {
            Next::Work(work) => Some(ReadyBatch { work }),
            Next::Idle | Next::Closed => None,
        }
    }

    /// The answer of what `next` gave, as the server's encoded message.
    ///
    /// Returns: whether anyone waited for it.
    ///
    /// Cost: one copy of `response`; cutting it copies nothing; GIL released.
    #[pyo3(signature = (id, response))]
    #[expect(clippy::needless_pass_by_value, reason = "it must live while the GIL is released")]
    fn complete(&self, py: Python<'_>, id: u64, response: PyBackedBytes) -> bool {
        py.detach(|| self.queue.complete(id, Bytes::copy_from_slice(&response)))
    }

    /// What `next` gave has failed.
    ///
    /// Shape: `grpc_code` is the number of a gRPC status, for example 14 for UNAVAILABLE; `message` is for the client.
    ///
    /// Returns: whether anyone waited for it.
    ///
    /// Raises: `ValueError` for 0 or a number that is no gRPC status.
    #[pyo3(signature = (id, grpc_code, message))]
    fn fail(&self, py: Python<'_>, id: u64, grpc_code: i32, message: String) -> PyResult<bool> {
        if !(1..=16).contains(&grpc_code) {
            return Err(PyValueError::new_err(format!("`{grpc_code}` is no gRPC error; use 1 to 16")));
        }
        let failure = Failure::upstream(Code::from_i32(grpc_code), message);
        Ok(py.detach(|| self.queue.fail(id, &failure)))
    }

    /// The answer of a `learn`: the model's shape, and what its servers may have in flight.
    ///
    /// Units: `instances` are batches that run at once over all endpoints; `slots` are batches in flight, so
    /// instances and one more for each endpoint.
    ///
    /// Returns: whether the id was that of a `learn`.
    #[pyo3(signature = (id, shape, *, instances, slots))]
    fn learned(&self, py: Python<'_>, id: u64, shape: &ModelShape, instances: u32, slots: u32) -> bool {
        let shape = shape.shape.clone();
        py.detach(|| self.queue.learned(id, shape, Capacity { instances, slots }))
    }

    /// Makes a model's shape known without being asked.
    #[pyo3(signature = (pool, model, version, shape, *, instances, slots))]
    #[expect(clippy::too_many_arguments, reason = "three names, a shape and a capacity")]
    fn set_model(
        &self,
        py: Python<'_>,
        pool: &str,
        model: &str,
        version: &str,
        shape: &ModelShape,
        instances: u32,
        slots: u32,
    ) {
        let (key, shape) = (lane(pool, model, version), shape.shape.clone());
        py.detach(|| self.queue.set_model(&key, shape, Capacity { instances, slots }));
    }

    /// Forgets a model's shape: its next request has it learned anew. What waits goes on as it was.
    #[pyo3(signature = (pool, model, version))]
    fn forget(&self, py: Python<'_>, pool: &str, model: &str, version: &str) {
        let key = lane(pool, model, version);
        py.detach(|| self.queue.forget(&key));
    }

    /// Takes nothing more and answers everything that waits with UNAVAILABLE. What `next` gave may still be answered.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.queue.close());
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Rows and bytes that wait for a pool.
    #[pyo3(signature = (pool))]
    fn waiting(&self, pool: &str) -> (u64, u64) {
        self.queue.waiting(pool)
    }

    /// Counters since the start.
    fn stats(&self) -> BatchQueueStats {
        let kserve::QueueStats { batches, requests, rows, refused, cancelled, in_flight } =
            self.queue.stats();
        BatchQueueStats { batches, requests, rows, refused, cancelled, in_flight }
    }
}

/// Something to send to a server of a pool, as an encoded message of the protocol.
///
/// `kind` is `infer` (a batch), `call` (a client's call, forwarded) or `learn` (a `ModelConfig` call; answer it
/// with `BatchQueue.learned`). Each is ended exactly once, by `complete`, `learned` or `fail`.
#[pyclass(frozen, module = "forebay._core")]
pub struct ReadyBatch {
    work: Work,
}

// === impl ReadyBatch ===

#[pymethods]
impl ReadyBatch {
    /// Names it in the answer.
    #[getter]
    fn id(&self) -> u64 {
        self.work.id
    }

    /// `infer`, `call` or `learn`.
    #[getter]
    fn kind(&self) -> &'static str {
        match self.work.kind {
            WorkKind::Infer => "infer",
            WorkKind::Call => "call",
            WorkKind::Learn => "learn",
        }
    }

    /// The protocol's call, for example `ModelInfer`.
    #[getter]
    fn method(&self) -> &'static str {
        self.work.method
    }

    /// Whose servers may do it.
    #[getter]
    fn pool(&self) -> &str {
        &self.work.pool
    }

    /// The model as the pool knows it; empty if the call names none.
    #[getter]
    fn model(&self) -> &str {
        &self.work.model
    }

    /// The model's version; empty lets the server choose.
    #[getter]
    fn version(&self) -> &str {
        &self.work.version
    }

    /// Rows of the batch; 0 for anything else.
    #[getter]
    fn rows(&self) -> u64 {
        self.work.rows
    }

    /// Requests in it.
    #[getter]
    fn requests(&self) -> usize {
        self.work.requests
    }

    /// After this many ns nobody waits for it.
    #[getter]
    fn timeout_ns(&self) -> u64 {
        u64::try_from(self.work.timeout.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The encoded request message. Cost: a copy at every call; GIL held.
    #[getter]
    fn request<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.work.request)
    }

    fn __repr__(&self) -> String {
        let Work { id, method, pool, model, rows, requests, .. } = &self.work;
        format!(
            "ReadyBatch(id={id}, method={method:?}, pool={pool:?}, model={model:?}, rows={rows}, \
             requests={requests})"
        )
    }
}

/// What a batch queue has done.
#[pyclass(frozen, get_all, module = "forebay._core")]
pub struct BatchQueueStats {
    /// Batches that left.
    batches: u64,
    /// Requests in them.
    requests: u64,
    /// Rows in them.
    rows: u64,
    /// Requests and calls refused because a queue was full.
    refused: u64,
    /// Requests taken back before they left.
    cancelled: u64,
    /// What the sender has now.
    in_flight: u64,
}

#[pymethods]
impl BatchQueueStats {
    fn __repr__(&self) -> String {
        let Self { batches, requests, rows, refused, cancelled, in_flight } = self;
        format!(
            "BatchQueueStats(batches={batches}, requests={requests}, rows={rows}, refused={refused}, \
             cancelled={cancelled}, in_flight={in_flight})"
        )
    }
}
