//! Owns: the running servers, as a class.
//! Must not know: the policy, the admin port.
//! On failure: an address that is no address or cannot be bound raises before anything is served.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use forebay_core::engine::LeaseAsk;
use forebay_serve::{Gateway as ServeGateway, JournalSettings, Listen};
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
/// message. `journal` is the folder that records of what requests cost are written to, at most `max_journal_bytes`
/// at once; without it none are made.
///
/// Raises: `GatewayError` when an address is malformed or taken, or the journal cannot be begun.
#[pyclass(frozen, module = "forebay._core")]
pub struct Gateway {
    inner: ServeGateway,
}

#[pymethods]
impl Gateway {
    #[new]
    #[pyo3(signature = (engine, ext_proc, batch, workers, max_body_bytes, *, journal=None,
        max_journal_bytes=268_435_456))]
    #[allow(clippy::too_many_arguments)] // keyword-only parts of one configuration
    fn new(
        py: Python<'_>,
        engine: &Engine,
        ext_proc: &str,
        batch: &str,
        workers: usize,
        max_body_bytes: usize,
        journal: Option<PathBuf>,
        max_journal_bytes: u64,
    ) -> PyResult<Self> {
        let journal = journal.map(|directory| JournalSettings { directory, max_bytes: max_journal_bytes });
        let listen =
            Listen { ext_proc: address(ext_proc)?, batch: address(batch)?, workers, max_body_bytes, journal };
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

    /// The next buckets of budgets that need a lease. Blocks at most `timeout_ms` with the GIL released.
    ///
    /// Returns: `(token, budget, value, unit, period_start_s, period_end_s, amount, want)` each, empty when nothing came;
    /// `None` once the gateway stopped. Each token is answered with `Engine.grant` or `Engine.lease_failed`.
    #[allow(clippy::type_complexity)] // a row
    fn next_leases(
        &self,
        py: Python<'_>,
        timeout_ms: u64,
    ) -> Option<Vec<(u64, String, String, &'static str, i64, i64, u64, u64)>> {
        let asks = py.detach(|| self.inner.leases().next(Duration::from_millis(timeout_ms)))?;
        let row = |a: LeaseAsk| {
            let (budget, value) = (a.budget.to_string(), a.value.to_string());
            (a.token, budget, value, a.unit, a.period_start_s, a.period_end_s, a.amount, a.want)
        };
        Some(asks.into_iter().map(row).collect())
    }

    /// Bytes that the journal wrote, and writes that failed.
    #[getter]
    fn journal_counts(&self) -> (u64, u64) {
        self.inner.journal_counts()
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
