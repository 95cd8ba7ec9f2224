//! Owns: the cache key as a class.
//! Must not know: where answers are kept.
//! On failure: a body that cannot be read raises; without a tenant no key can be built.

use forebay_core::json::{Bounds, Document};
use forebay_core::key::{Identity, KeySecret};
use forebay_core::policy::pb::route::Operation;
use forebay_core::request::Asked;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<CacheKeys>()
}

/// Makes the identity of an answer: a keyed BLAKE3 over an injective form of the effective request.
///
/// Shape: `secret` has 32 bytes; a key has 32 bytes.
///
/// Raises: `ValueError` for a secret of another length.
///
/// Cost: linear in the body, about 2 µs for 1 KB; the GIL is held.
///
/// Example:
///
/// >>> from forebay._core import CacheKeys
/// >>> keys = CacheKeys(bytes(32))
/// >>> body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0}'
/// >>> one = keys.of(body, tenant="acme", model="small-chat")
/// >>> one == keys.of(body.replace(b'"hi"', b'"h\\u0069"'), tenant="acme", model="small-chat")
/// True
/// >>> one == keys.of(body, tenant="bistro", model="small-chat")
/// False
#[pyclass(frozen, module = "forebay._core")]
pub struct CacheKeys {
    secret: KeySecret,
}

#[pymethods]
impl CacheKeys {
    #[new]
    fn new(secret: &[u8]) -> PyResult<Self> {
        let bytes = secret.try_into().map_err(|_| PyValueError::new_err("`secret` must have 32 bytes"))?;
        Ok(Self { secret: KeySecret::new(bytes) })
    }

    /// The key of the answer to a body. What names the model, the form of the answer or the asker does not count in
    /// the body; `tenant`, `model`, `revision`, `user`, `feature` and `output_tokens` count as given.
    ///
    /// Shape: `operation` is `chat`, `completion` or `embedding`.
    ///
    /// Raises: `ValueError` when the body is no acceptable JSON object of its operation, or `tenant` is empty.
    #[pyo3(signature = (body, *, tenant, model, revision="", user=None, feature="", output_tokens=None, operation="chat"))]
    #[allow(clippy::too_many_arguments)] // keyword-only parts of one identity
    fn of<'py>(
        &self,
        py: Python<'py>,
        body: &[u8],
        tenant: &str,
        model: &str,
        revision: &str,
        user: Option<&str>,
        feature: &str,
        output_tokens: Option<u64>,
        operation: &str,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let operation = match operation {
            "chat" => Operation::ChatCompletions,
            "completion" => Operation::TextCompletions,
            "embedding" => Operation::Embedding,
            other => {
                return Err(PyValueError::new_err(format!(
                    "`{other}` is no operation; say chat, completion or embedding"
                )));
            }
        };
        if tenant.is_empty() {
            return Err(PyValueError::new_err("`tenant` is empty; an answer always belongs to somebody"));
        }
        let document =
            Document::parse(body, Bounds::default()).map_err(|e| PyValueError::new_err(e.to_string()))?;
        let asked = Asked::read(document, operation)
            .map_err(|refusal| PyValueError::new_err(refusal.wire().message))?;
        let identity = Identity { tenant, user, feature, model, revision };
        Ok(PyBytes::new(py, &self.secret.cache_key(&identity, &asked, output_tokens).0))
    }
}
