//! Owns: the one tree of exceptions, and the mapping of every core error to it.
//! Must not know: when an error happens.
//! On failure: this is the failure.

use forebay_core::limit::Refused;
use forebay_core::policy::{Finding, Severity};
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(forebay._core, ForebayError, PyException, "Base of all errors of forebay's core.");
create_exception!(
    forebay._core,
    PolicyRefused,
    ForebayError,
    "A policy did not validate; `findings` lists every reason."
);
create_exception!(forebay._core, LimitExceeded, ForebayError, "A limit has no room; nothing was taken.");
create_exception!(forebay._core, GatewayError, ForebayError, "The gateway's servers could not be started.");
create_exception!(
    forebay._core,
    BatchRefused,
    ForebayError,
    "A request does not fit its batch; `slug` names why."
);
create_exception!(forebay._core, AnswerRefused, ForebayError, "An answer is not kept; `slug` names why.");

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("ForebayError", py.get_type::<ForebayError>())?;
    module.add("PolicyRefused", py.get_type::<PolicyRefused>())?;
    module.add("LimitExceeded", py.get_type::<LimitExceeded>())?;
    module.add("GatewayError", py.get_type::<GatewayError>())?;
    module.add("BatchRefused", py.get_type::<BatchRefused>())?;
    module.add("AnswerRefused", py.get_type::<AnswerRefused>())
}

/// A finding as it crosses: severity, slug, path, message.
pub type FindingRow = (&'static str, &'static str, String, String);

pub fn finding_rows(findings: Vec<Finding>) -> Vec<FindingRow> {
    let word = |s: Severity| if s == Severity::Error { "error" } else { "warning" };
    findings.into_iter().map(|f| (word(f.severity), f.slug, f.path, f.message)).collect()
}

pub fn policy_refused(py: Python<'_>, findings: Vec<Finding>) -> PyErr {
    let first = findings.iter().find(|f| f.severity == Severity::Error);
    let message =
        first.map_or_else(|| "the policy is refused".to_owned(), |f| format!("{}: {}", f.path, f.message));
    let error = PolicyRefused::new_err(message);
    // The exception is usable without the attribute.
    let _ = error.value(py).setattr("findings", finding_rows(findings));
    error
}

/// An answer that is not kept or cannot be told: the slug leads the message and is an attribute.
pub fn answer_refused(slug: &'static str, why: impl std::fmt::Display) -> PyErr {
    Python::attach(|py| {
        let error = AnswerRefused::new_err(format!("{slug}: {why}"));
        // The message begins with it.
        let _ = error.value(py).setattr("slug", slug);
        error
    })
}

pub fn limit_exceeded(refused: &Refused) -> PyErr {
    Python::attach(|py| {
        let error = LimitExceeded::new_err(refused.to_string());
        let value = error.value(py);
        // As above: the message alone says it all.
        let _ = value.setattr("limit", refused.name.to_string());
        let _ = value.setattr("requested", refused.requested);
        let _ = value.setattr("remaining", refused.remaining);
        let _ = value.setattr("retry_after_ns", refused.retry_after_ns);
        error
    })
}
