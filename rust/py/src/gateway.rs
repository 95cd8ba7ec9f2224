//! Owns: the running servers, as a class.
//! Must not know: the policy, the admin port.
//! On failure: an address that is no address or cannot be bound raises before anything is served.

use std::net::SocketAddr;
use std::time::Duration;

use forebay_serve::{Gateway as ServeGateway, Listen};
use pyo3::prelude::*;

use crate::batch::BatchQueue;
use crate::engine::Engine;
use crate::error::GatewayError;
use crate::stage::StageBatch;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Gateway>()
}

/// The servers that Envoy talks to, on threads of their own that never take the GIL.
///
/// `ext_proc` and `batch` are `host:port`, port 0 for any free one; `workers` are threads; `max_body_bytes` bounds one
/// message.
///
/// Raises: `GatewayError` when an address is malformed or taken.
#[pyclass(frozen, module = "forebay._core")]
pub struct Gateway {
    inner: ServeGateway,
}

#[pymethods]
impl Gateway {
    #[new]
    fn new(
        py: Python<'_>,
        engine: &Engine,
        ext_proc: &str,
        batch: &str,
        workers: usize,
        max_body_bytes: usize,
    ) -> PyResult<Self> {
        let listen = Listen { ext_proc: address(ext_proc)?, batch: address(batch)?, workers, max_body_bytes };
        let (core, clock) = (engine.engine.clone(), engine.clock);
        let inner = py.detach(|| ServeGateway::start(core, clock, &listen));
        let inner = inner
            .map_err(|e| GatewayError::new_err(format!("cannot serve on `{ext_proc}` and `{batch}`: {e}")))?;
        Ok(Self { inner })
    }

    /// Where `ext_proc` and access log listen, `host:port`.
    #[getter]
    fn ext_proc_address(&self) -> String {
        self.inner.ext_proc_addr().to_string()
    }

    /// Where the batch service listens, `host:port`.
    #[getter]
    fn batch_address(&self) -> String {
        self.inner.batch_addr().to_string()
    }

    /// Batches that wait to be sent.
    #[getter]
    fn batches(&self) -> BatchQueue {
        BatchQueue::of(self.inner.batches().clone())
    }

    /// The next requests of one Python stage, oldest first. Blocks at most `timeout_ms` with the GIL released.
    ///
    /// Returns: a batch, empty when nothing came; `None` once the gateway stopped.
    fn next_stage_batch(&self, py: Python<'_>, timeout_ms: u64) -> PyResult<Option<StageBatch>> {
        let next = py.detach(|| self.inner.stages().next(Duration::from_millis(timeout_ms)));
        next.map(|requests| StageBatch::new(py, requests)).transpose()
    }

    /// Refuses new requests, waits at most `wait_ms` for those in flight, and stops all threads.
    ///
    /// Returns: how many were still in flight. Called again, 0.
    fn shutdown(&self, py: Python<'_>, wait_ms: u64) -> usize {
        py.detach(|| self.inner.shutdown(Duration::from_millis(wait_ms)))
    }
}

fn address(text: &str) -> PyResult<SocketAddr> {
    text.parse().map_err(|_| GatewayError::new_err(format!("`{text}` is no `host:port` with a numeric host")))
}
