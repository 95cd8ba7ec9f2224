//! Owns: requests that wait for a person's stage, as frozen views, and their answers.
//! Must not know: what a stage does.
//! On failure: a batch that is dropped without answers fails its requests at once; the policy says what then.

use forebay_core::engine::{Resolution, StageView};
use forebay_serve::StageRequest;
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<StageBatch>()?;
    module.add_class::<StageRequestView>()
}

/// A request as a stage sees it.
#[pyclass(frozen, get_all, module = "forebay._core", name = "StageRequest")]
pub struct StageRequestView {
    /// The model as it was named
    model: String,
    /// The route
    route: String,
    /// The tenant
    tenant: String,
    /// The user; empty: none
    user: String,
    /// The feature; empty: none
    feature: String,
    /// Class of service; empty: none
    tier: String,
    /// Tools are offered
    tools: bool,
    /// Images are sent
    vision: bool,
    /// JSON is demanded
    json: bool,
    /// A stream is asked for
    stream: bool,
    body: Py<PyBytes>,
}

impl StageRequestView {
    pub fn new(py: Python<'_>, view: &StageView, body: &[u8]) -> Self {
        Self {
            model: view.model.clone(),
            route: view.route.to_string(),
            tenant: view.tenant.to_string(),
            user: view.user.to_string(),
            feature: view.feature.to_string(),
            tier: view.tier.to_string(),
            tools: view.tools,
            vision: view.vision,
            json: view.json,
            stream: view.stream,
            body: PyBytes::new(py, body).unbind(),
        }
    }
}

#[pymethods]
impl StageRequestView {
    /// The request's body, as it came.
    #[getter]
    fn body(&self, py: Python<'_>) -> Py<PyBytes> {
        self.body.clone_ref(py)
    }
}

/// Requests of one stage that are decided in one call.
#[pyclass(frozen, module = "forebay._core")]
pub struct StageBatch {
    target: String,
    requests: Vec<Py<StageRequestView>>,
    waiting: Mutex<Option<Vec<StageRequest>>>,
}

// === impl StageBatch ===

impl StageBatch {
    pub fn new(py: Python<'_>, waiting: Vec<StageRequest>) -> PyResult<Self> {
        let target = waiting.first().map(|r| r.call.target.to_string()).unwrap_or_default();
        let mut requests = Vec::with_capacity(waiting.len());
        for request in &waiting {
            requests.push(Py::new(py, StageRequestView::new(py, &request.call.view, &request.body))?);
        }
        Ok(Self { target, requests, waiting: Mutex::new(Some(waiting)) })
    }
}

#[pymethods]
impl StageBatch {
    /// `package.module:function`; empty for an empty batch.
    #[getter]
    fn target(&self) -> &str {
        &self.target
    }

    /// The requests, oldest first.
    #[getter]
    fn requests(&self, py: Python<'_>) -> Vec<Py<StageRequestView>> {
        self.requests.iter().map(|r| r.clone_ref(py)).collect()
    }

    /// Answers all requests: for each (model, reason), or `None` where the stage failed.
    ///
    /// Raises: `ValueError` if the number differs or the batch was answered already.
    fn answer(&self, answers: Vec<Option<(String, String)>>) -> PyResult<()> {
        let mut slot = self.waiting.lock();
        let count = slot.as_ref().map_or(0, Vec::len);
        if slot.is_none() {
            return Err(PyValueError::new_err("this batch was answered already"));
        }
        if count != answers.len() {
            return Err(PyValueError::new_err(format!("{} answers for {count} requests", answers.len())));
        }
        for (request, answer) in slot.take().into_iter().flatten().zip(answers) {
            request.answer(match answer {
                Some((model, reason)) => Resolution::Model { model, reason },
                None => Resolution::Failed("the stage gave no answer"),
            });
        }
        Ok(())
    }

    fn __len__(&self) -> usize {
        self.requests.len()
    }
}
