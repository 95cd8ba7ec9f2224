//! Owns: a decision as Python sees it: frozen, with what is needed to act on it.
//! Must not know: how it came about.
//! On failure: it cannot fail.

use forebay_core::engine::{Answer, Forward, MetaValue, StageCall};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::stage::StageRequestView;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Decision>()
}

/// What a decision says: `answer` (ours), `forward` (to a pool), `body` (send the body), `follow`, `lease` or `resolve`
/// (wait).
#[pyclass(frozen, get_all, module = "forebay._core")]
pub struct Decision {
    /// `answer`, `forward`, `body`, `follow`, `lease` or `resolve`
    action: &'static str,
    /// The reservation id, 32 hex digits
    id: String,
    /// `answer`: HTTP status; otherwise 0
    status: u16,
    /// `answer`: (name, value) pairs
    headers: Vec<(String, String)>,
    /// `answer`: gRPC status and message, for gRPC callers
    grpc: Option<(u32, String)>,
    /// `answer`: a refusal's slug; empty for an answer that is none
    code: &'static str,
    /// `forward`: the pool
    pool: String,
    /// `forward`: copy the response to capture
    capture: bool,
    /// `forward`: the pool is the batch service
    batch: bool,
    /// `forward`: the trace context that the upstream gets; `None`: what the client sent goes on
    traceparent: Option<String>,
    /// `forward`: the stream's usage event was asked for by us, so the client must not see it
    drop_usage: bool,
    /// `follow`, `lease` and `resolve`: the longest wait
    wait_ns: u64,
    /// `resolve`: the stage, `package.module:function`
    target: String,
    request: Option<Py<StageRequestView>>,
    body: Option<Py<PyBytes>>,
    metadata: Py<PyDict>,
}

#[pymethods]
impl Decision {
    /// `answer`: the body. `forward`: the changed body, or `None` where it goes on as it came.
    #[getter]
    fn body(&self, py: Python<'_>) -> Option<Py<PyBytes>> {
        self.body.as_ref().map(|b| b.clone_ref(py))
    }

    /// `resolve`: the request as the stage sees it
    #[getter]
    fn request(&self, py: Python<'_>) -> Option<Py<StageRequestView>> {
        self.request.as_ref().map(|r| r.clone_ref(py))
    }

    fn __repr__(&self) -> String {
        format!(
            "Decision(action='{}', status={}, pool='{}', code='{}')",
            self.action, self.status, self.pool, self.code
        )
    }
}

// === impl Decision ===

impl Decision {
    fn empty(py: Python<'_>, action: &'static str, id: u128) -> Self {
        Self {
            action,
            id: format!("{id:032x}"),
            status: 0,
            headers: Vec::new(),
            grpc: None,
            code: "",
            pool: String::new(),
            capture: false,
            batch: false,
            traceparent: None,
            drop_usage: false,
            wait_ns: 0,
            target: String::new(),
            request: None,
            body: None,
            metadata: PyDict::new(py).unbind(),
        }
    }

    pub fn get_action(&self) -> &'static str {
        self.action
    }

    pub fn wait(py: Python<'_>, action: &'static str, id: u128, wait_ns: u64) -> Self {
        Self { wait_ns, ..Self::empty(py, action, id) }
    }

    pub fn resolve(py: Python<'_>, id: u128, call: &StageCall, body: &[u8]) -> PyResult<Self> {
        let request = StageRequestView::new(py, &call.view, body);
        Ok(Self {
            wait_ns: call.deadline_ns,
            target: call.target.to_string(),
            request: Some(Py::new(py, request)?),
            ..Self::empty(py, "resolve", id)
        })
    }

    pub fn answer(py: Python<'_>, id: u128, answer: Answer) -> Self {
        Self {
            status: answer.status,
            headers: answer.headers.iter().map(|(n, v)| ((*n).to_owned(), v.to_string())).collect(),
            body: Some(PyBytes::new(py, &answer.body).unbind()),
            grpc: answer.grpc,
            code: answer.code,
            ..Self::empty(py, "answer", id)
        }
    }

    pub fn forward(py: Python<'_>, forward: Forward) -> PyResult<Self> {
        let metadata = PyDict::new(py);
        for (name, value) in forward.metadata {
            match value {
                MetaValue::Shared(text) => metadata.set_item(name, &*text)?,
                MetaValue::Word(word) => metadata.set_item(name, word)?,
                MetaValue::Text(text) => metadata.set_item(name, text)?,
                MetaValue::Number(number) => metadata.set_item(name, number)?,
            }
        }
        Ok(Self {
            pool: forward.pool.to_string(),
            capture: forward.capture,
            batch: forward.batch,
            traceparent: forward.traceparent,
            drop_usage: forward.drop_usage,
            body: forward.body.map(|b| PyBytes::new(py, &b).unbind()),
            metadata: metadata.unbind(),
            ..Self::empty(py, "forward", forward.id)
        })
    }
}
