//! Owns: checking and explaining a policy, as functions.
//! Must not know: files, YAML.
//! On failure: findings are returned by `check_policy` and raised by `explain`.

use forebay_core::engine::{ExplainRequest, explain as explain_request};
use forebay_core::policy::pb::Policy;
use forebay_core::policy::{Severity, compile, validate};
use forebay_serve::SystemClock;
use prost::Message;
use pyo3::prelude::*;

use crate::error::{FindingRow, finding_rows, policy_refused};

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(check_policy, module)?)?;
    module.add_function(wrap_pyfunction!(explain, module)?)
}

/// Checks a serialised `forebay.v1.Policy`.
///
/// Returns: a list of (severity, slug, path, message); severity is `error` or `warning`. Without an error the policy
/// can be put into force.
/// Cost: linear in the policy; the GIL is released.
#[pyfunction]
fn check_policy(py: Python<'_>, policy: &[u8]) -> Vec<FindingRow> {
    py.detach(|| {
        let findings = match Policy::decode(policy) {
            Ok(message) => validate(&message),
            Err(_) => compile(policy).err().unwrap_or_default(),
        };
        debug_assert!(findings.iter().all(|f| matches!(f.severity, Severity::Error | Severity::Warning)));
        finding_rows(findings)
    })
}

/// Explains the decision on one request under a policy, without a network.
///
/// `headers` are (name, value) with lower-case names; `as_key_id` decides as that key, whatever the headers say.
/// Returns: a JSON object with `stages`, `record` and `result`.
/// Raises: `PolicyRefused`.
/// Cost: builds an engine; the GIL is released.
#[pyfunction]
#[pyo3(signature = (policy, method, path, headers, body, as_key_id=None))]
fn explain(
    py: Python<'_>,
    policy: &[u8],
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: &[u8],
    as_key_id: Option<&str>,
) -> PyResult<String> {
    let mut all = vec![(":method".to_owned(), method), (":path".to_owned(), path)];
    all.extend(headers);
    let result = py.detach(|| {
        let request = ExplainRequest { headers: &all, body, key_id: as_key_id };
        explain_request(policy, request, &SystemClock::default())
    });
    result.map_err(|findings| policy_refused(py, findings))
}
