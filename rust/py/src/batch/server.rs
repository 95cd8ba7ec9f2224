//! Owns: a batch service alone, without a decision in front: for trials, and for use as a plain batcher.
//! Must not know: policies; it admits a fixed table of ids.
//! On failure: `OSError` when the address cannot be had; clients without a known id are refused.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_serve::kserve::{FixedAdmission, KserveService, ServerSettings, send, serve};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::queue::BatchQueue;

const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A `KServe` v2 gRPC server in front of a queue, with threads of its own, which also send the queue's batches.
///
/// Shape: `address` is `host:port`, port 0 for any; `admitted: dict[str, str]` maps what clients send as
/// `x-forebay-internal-id` (32 hex digits) to the pool that serves them.
///
/// Units: `max_message_bytes` for one request; `default_timeout_ms` for requests that bring no deadline.
///
/// Raises: `ValueError` for an address or id that is none; `OSError` when the address cannot be had.
#[pyclass(frozen, module = "forebay._core")]
pub struct BatchServer {
    address: SocketAddr,
    running: Mutex<Option<Running>>,
}

struct Running {
    runtime: Runtime,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    stop: oneshot::Sender<()>,
}

// === impl BatchServer ===

#[pymethods]
impl BatchServer {
    #[new]
    #[pyo3(signature = (queue, address, admitted, *, max_message_bytes = 67_108_864, default_timeout_ms = 60_000))]
    fn new(
        queue: &BatchQueue,
        address: &str,
        admitted: HashMap<String, String>,
        max_message_bytes: usize,
        default_timeout_ms: u64,
    ) -> PyResult<Self> {
        let address: SocketAddr = address.parse().map_err(|_| {
            PyValueError::new_err(format!("`{address}` is no `host:port` with a numeric host"))
        })?;
        let pools = admitted.into_iter().map(|(id, pool)| match u128::from_str_radix(&id, 16) {
            Ok(number) if id.len() == 32 => Ok((number, Arc::from(pool))),
            _ => Err(PyValueError::new_err(format!("`{id}` is no id; give 32 hex digits"))),
        });
        let admission = Arc::new(FixedAdmission::new(pools.collect::<PyResult<_>>()?));
        let timeout = Duration::from_millis(default_timeout_ms);
        let service = KserveService::new(Arc::clone(queue.inner()), admission, max_message_bytes, timeout);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address))?;
        let address = listener.local_addr()?;
        runtime.spawn(send(Arc::clone(queue.inner())));
        let (stop, stopped) = oneshot::channel();
        let serving = runtime.spawn(serve(listener, service, ServerSettings::default(), async {
            // Resolves also when the server object is dropped without `stop`.
            let _ = stopped.await;
        }));
        Ok(Self { address, running: Mutex::new(Some(Running { runtime, serving, stop })) })
    }

    /// `host:port` that it listens on.
    #[getter]
    fn address(&self) -> String {
        self.address.to_string()
    }

    /// Takes no new connections, waits at most 5 s for open requests, and ends. Safe to call twice.
    fn stop(&self, py: Python<'_>) {
        let running = self.running.lock().take();
        if let Some(Running { runtime, serving, stop }) = running {
            py.detach(|| {
                // Both can only fail where the server has ended already, which is what is wanted.
                let _ = stop.send(());
                let _ = runtime.block_on(async { tokio::time::timeout(STOP_TIMEOUT, serving).await });
                runtime.shutdown_background();
            });
        }
    }
}

impl Drop for BatchServer {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().take() {
            running.runtime.shutdown_background();
        }
    }
}
