//! Owns: the gateway's batch queue as Python sees it: models to learn, servers to watch, what is counted.
//! Must not know: how a model is learned, how a server is watched.
//! On failure: an id that nobody waits for is no error: the caller is told `False`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_core::batch::Bounds;
use forebay_serve::kserve::{
    self, Doubt, Failure, Next, QueueSettings, SentCounters, ServerAddress, ServerTls, Work,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tonic::Code;

use super::model::{LaneSettings, ModelShape, lane};

/// Most calls, other than inferences, that wait or are on their way.
const MAX_CALLS: usize = 256;
const LEARN_TIMEOUT: Duration = Duration::from_secs(5);
const RELEARN_AFTER: Duration = Duration::from_secs(5);

/// Where requests become batches and answers find back. The server that holds the queue sends the batches itself; Python
/// says which servers there are, what their models take, and which are ready.
///
/// Units: `max_rows`, `max_tokens` (rows times length, unpadded) and `max_bytes` are what may wait for one pool.
///
/// Cost: a request waits without a thread, and no batch passes through Python.
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
    #[pyo3(signature = (*, max_rows = 16_384, max_tokens = 4_194_304, max_bytes = 268_435_456))]
    fn new(max_rows: u64, max_tokens: u64, max_bytes: u64) -> Self {
        let settings = QueueSettings {
            bounds: Bounds { max_rows, max_tokens, max_bytes },
            max_calls: MAX_CALLS,
            learn_timeout: LEARN_TIMEOUT,
            relearn_after: RELEARN_AFTER,
        };
        Self { queue: Arc::new(kserve::BatchQueue::new(settings)) }
    }

    /// Waits for a model that somebody asks for and nobody knows. Any number of threads may wait.
    ///
    /// Units: `timeout_ms` in ms.
    ///
    /// Returns: `None` when nothing came in time, or when the queue is closed (`closed` tells).
    ///
    /// Cost: asleep until there is one; GIL released.
    #[pyo3(signature = (timeout_ms))]
    fn next(&self, py: Python<'_>, timeout_ms: u64) -> Option<UnknownModel> {
        match py.detach(|| self.queue.next_unknown_blocking(Duration::from_millis(timeout_ms))) {
            Next::Work(work) => Some(UnknownModel { work }),
            Next::Idle | Next::Closed => None,
        }
    }

    /// Waits for servers that have to be looked at, since calls to them failed: pool, `host:port`, and the number of the gRPC
    /// status, such as 14 for UNAVAILABLE: the server failed, and not the request.
    ///
    /// Units: `timeout_ms` in ms.
    ///
    /// Returns: nothing when there was none in time, or when the queue is closed (`closed` tells).
    ///
    /// Cost: asleep until there is one; GIL released.
    #[pyo3(signature = (timeout_ms))]
    fn doubted(&self, py: Python<'_>, timeout_ms: u64) -> Vec<(String, String, i32)> {
        let doubts = py.detach(|| self.queue.doubted_blocking(Duration::from_millis(timeout_ms)));
        doubts
            .into_iter()
            .map(|Doubt { pool, address, code }| (pool.to_string(), address, code as i32))
            .collect()
    }

    /// What `next` gave cannot be learned.
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

    /// What `next` gave was learned: the model's shape, and how its batches are made.
    ///
    /// Returns: whether anyone waited for it.
    #[pyo3(signature = (id, shape, settings))]
    fn learned(&self, py: Python<'_>, id: u64, shape: &ModelShape, settings: &LaneSettings) -> bool {
        let shape = shape.shape.clone();
        py.detach(|| {
            let Some(key) = self.queue.unknown_lane(id) else { return false };
            self.queue.upstreams().set_route(&key, settings.route.clone());
            self.queue.learned(id, shape, &settings.settings)
        })
    }

    /// Makes a model's shape known without being asked.
    #[pyo3(signature = (pool, model, version, shape, settings))]
    fn set_model(
        &self,
        py: Python<'_>,
        pool: &str,
        model: &str,
        version: &str,
        shape: &ModelShape,
        settings: &LaneSettings,
    ) {
        let (key, shape) = (lane(pool, model, version), shape.shape.clone());
        py.detach(|| {
            self.queue.upstreams().set_route(&key, settings.route.clone());
            self.queue.set_model(&key, shape, &settings.settings);
        });
    }

    /// Forgets a model's shape: its next request has it learned anew. What waits goes on as it was.
    #[pyo3(signature = (pool, model, version))]
    fn forget(&self, py: Python<'_>, pool: &str, model: &str, version: &str) {
        let key = lane(pool, model, version);
        py.detach(|| self.queue.forget(&key));
    }

    /// Says which servers a pool has.
    ///
    /// Shape: `endpoints: list[tuple[str, str, bytes | None, bool]]` are `host:port`, the name that TLS sends and
    /// verifies (empty: plain text), the authorities as PEM (`None`: the system's), and whether the server is ready.
    ///
    /// Raises: `ValueError` for an address or authorities that cannot be read; the pool then keeps what it had.
    #[pyo3(signature = (pool, endpoints))]
    fn set_endpoints(&self, py: Python<'_>, pool: &str, endpoints: Vec<GivenEndpoint>) -> PyResult<()> {
        let servers = endpoints.into_iter().map(|(address, sni, ca_pem, ready)| {
            let tls = (!sni.is_empty()).then(|| ServerTls { sni, ca_pem: ca_pem.map(Bytes::from) });
            (ServerAddress { address, tls }, ready)
        });
        let servers = servers.collect();
        let set = py.detach(|| self.queue.upstreams().set(pool, servers));
        set.map_err(|error| PyValueError::new_err(format!("pool `{pool}`: {error}")))
    }

    /// Gives a pool bounds of its own. What waits stays.
    ///
    /// Units: as `BatchQueue`'s; `timeout_ms` is how long a request without a deadline of its own waits.
    #[pyo3(signature = (pool, *, max_rows, max_tokens, max_bytes, timeout_ms))]
    fn set_bounds(
        &self,
        py: Python<'_>,
        pool: &str,
        max_rows: u64,
        max_tokens: u64,
        max_bytes: u64,
        timeout_ms: u64,
    ) {
        let bounds = Bounds { max_rows, max_tokens, max_bytes };
        py.detach(|| self.queue.set_bounds(pool, bounds, Duration::from_millis(timeout_ms)));
    }

    /// Takes nothing more and answers everything that waits with UNAVAILABLE. What was sent may still be answered.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.queue.close());
    }

    /// Closes, waits for what was sent, and answers the rest of it with UNAVAILABLE.
    ///
    /// Units: `timeout_ms` in ms.
    ///
    /// Returns: whether all of it had ended in time.
    #[pyo3(signature = (timeout_ms))]
    fn drain(&self, py: Python<'_>, timeout_ms: u64) -> bool {
        py.detach(|| self.queue.drain_blocking(Duration::from_millis(timeout_ms)))
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// What waits for a pool: requests, rows, tokens and bytes.
    #[pyo3(signature = (pool))]
    fn waiting(&self, pool: &str) -> (u64, u64, u64, u64) {
        let load = self.queue.load(pool);
        (load.requests, load.rows, load.tokens, load.bytes)
    }

    /// All metrics as Prometheus text.
    ///
    /// Cost: linear in what waits and in the models; GIL released.
    fn metrics_text(&self, py: Python<'_>) -> String {
        py.detach(|| self.queue.metrics_text())
    }

    /// Counters since the start.
    fn stats(&self) -> BatchQueueStats {
        let kserve::QueueStats { batches, requests, rows, refused, cancelled, in_flight } =
            self.queue.stats();
        let SentCounters { resends, failures } = self.queue.sent();
        let failures = failures.into_iter().map(|(code, count)| (code.to_owned(), count)).collect();
        BatchQueueStats { batches, requests, rows, refused, cancelled, in_flight, resends, failures }
    }
}

/// Address, TLS name, authorities, readiness.
type GivenEndpoint = (String, String, Option<Vec<u8>>, bool);

/// A model that somebody asks for: a `ModelConfig` call to a server of its pool, as an encoded message.
///
/// It is ended exactly once, by `BatchQueue.learned` or `fail`.
#[pyclass(frozen, module = "forebay._core")]
pub struct UnknownModel {
    work: Work,
}

// === impl UnknownModel ===

#[pymethods]
impl UnknownModel {
    /// Names it in the answer.
    #[getter]
    fn id(&self) -> u64 {
        self.work.id
    }

    /// Whose servers know it.
    #[getter]
    fn pool(&self) -> &str {
        &self.work.pool
    }

    /// The model as the pool knows it.
    #[getter]
    fn model(&self) -> &str {
        &self.work.model
    }

    /// The model's version; empty lets the server choose.
    #[getter]
    fn version(&self) -> &str {
        &self.work.version
    }

    /// After this many ns nobody waits for it.
    #[getter]
    fn timeout_ns(&self) -> u64 {
        u64::try_from(self.work.timeout.as_nanos()).unwrap_or(u64::MAX)
    }

    fn __repr__(&self) -> String {
        let Work { id, pool, model, version, .. } = &self.work;
        format!("UnknownModel(id={id}, pool={pool:?}, model={model:?}, version={version:?})")
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
    /// Requests that ended with an error, whatever it was.
    refused: u64,
    /// Requests whose client left or whose time was over.
    cancelled: u64,
    /// Batches, calls and models to learn that servers have now.
    in_flight: u64,
    /// Batches and calls that went to a second server.
    resends: u64,
    /// What servers failed, by the name of its gRPC status, such as `UNAVAILABLE`.
    failures: BTreeMap<String, u64>,
}

#[pymethods]
impl BatchQueueStats {
    fn __repr__(&self) -> String {
        let Self { batches, requests, rows, refused, cancelled, in_flight, .. } = self;
        format!(
            "BatchQueueStats(batches={batches}, requests={requests}, rows={rows}, refused={refused}, \
             cancelled={cancelled}, in_flight={in_flight})"
        )
    }
}
