//! Owns the token counter as a Python class: texts and bodies in, counts out.
//! Must not know: how tokens are counted; the gateway, which calls the core without Python.
//! On failure: `ValueError` for an unknown tokenizer or a body that is not JSON; counting itself never fails.

use forebay_core::json::{Bounds, Document};
use forebay_core::tokens as core;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Adds the class of this file to the extension module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<TokenCounter>()
}

/// Counting fewer bytes takes less time than letting go of the GIL and waiting for it again.
const DETACH_BYTES: usize = 16 * 1024;

/// Counts the tokens of texts and of chat requests, without a download.
///
/// Shape: `tokenizer` is `o200k_base` or `cl100k_base`, which are exact, or a named estimate:
/// `estimate:generic`, `estimate:llama`, `estimate:llama2`, `estimate:mistral`, `estimate:qwen`,
/// `estimate:deepseek`, `estimate:gemma`. `memo_entries`: how many texts of a kilobyte or more
/// are remembered, for example 65,536; 0 remembers nothing.
///
/// Raises: `ValueError` for a name that is not known; it lists those that are.
///
/// Cost: the first counter of an encoding builds its tables, about 0.1 s and 20 MB; 32 bytes for
/// each memo entry. Any number of threads may call it.
///
/// Example:
///
/// >>> from forebay._core import TokenCounter
/// >>> counter = TokenCounter("o200k_base")
/// >>> counter.count("hello world")
/// 2
/// >>> counter.count_chat(b'{"messages":[{"role":"user","content":"hello world"}]}')
/// (9, 0, True)
#[pyclass(frozen, module = "forebay._core")]
pub struct TokenCounter {
    rules: core::CountRules,
    memo: Option<core::Memo>,
}

// === impl TokenCounter ===

#[pymethods]
impl TokenCounter {
    #[new]
    #[pyo3(signature = (tokenizer, *, memo_entries = 0))]
    fn new(py: Python<'_>, tokenizer: &str, memo_entries: usize) -> PyResult<Self> {
        let tokenizer = core::Tokenizer::from_name(tokenizer)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        py.detach(|| tokenizer.warm());
        let rules = core::CountRules { tokenizer, image: core::ImageRule::default() };
        Ok(Self { rules, memo: (memo_entries > 0).then(|| core::Memo::new(memo_entries)) })
    }

    /// The tokenizer's name.
    #[getter]
    fn tokenizer(&self) -> &'static str {
        self.rules.tokenizer.name()
    }

    /// Whether the tokenizer's vocabulary is known, so that texts are counted exactly.
    #[getter]
    fn exact(&self) -> bool {
        matches!(self.rules.tokenizer, core::Tokenizer::Exact(_))
    }

    /// Tokens of one text; names of special tokens count as ordinary text.
    ///
    /// Cost: linear; a kilobyte of English in about 4 µs. The GIL is released above 16 KiB.
    fn count(&self, py: Python<'_>, text: &str) -> u64 {
        let count = || self.rules.tokenizer.count(text).tokens;
        if text.len() > DETACH_BYTES { py.detach(count) } else { count() }
    }

    /// Tokens of each text.
    ///
    /// Cost: as `count` for each; one crossing for all. The GIL is released.
    fn count_batch(&self, py: Python<'_>, texts: Vec<String>) -> Vec<u64> {
        py.detach(|| texts.iter().map(|text| self.rules.tokenizer.count(text).tokens).collect())
    }

    /// Tokens of the prompt of a chat completions request.
    ///
    /// Shape: `body` is the request's JSON.
    ///
    /// Returns: tokens, by how many the true number may be higher, and whether every part was
    /// counted by a published vocabulary and a published rule.
    ///
    /// Raises: `ValueError` for a body that is not one valid JSON object.
    ///
    /// Cost: linear; texts that the memo knows cost their hash. The GIL is released above 16 KiB.
    ///
    /// Source: `OpenAI` Cookbook, "How to count tokens with tiktoken".
    fn count_chat(&self, py: Python<'_>, body: &Bound<'_, PyBytes>) -> PyResult<(u64, u64, bool)> {
        let body = body.as_bytes();
        let count = || {
            let document = Document::parse(body, Bounds::default())?;
            Ok(core::count_chat(&self.rules, self.memo.as_ref(), &document))
        };
        let counted = if body.len() > DETACH_BYTES { py.detach(count) } else { count() };
        let count = counted
            .map_err(|error: forebay_core::json::JsonError| PyValueError::new_err(error.to_string()))?;
        Ok((count.tokens, count.margin_tokens, count.exact))
    }

    /// Look-ups that the memo answered, and those that it did not.
    fn memo_stats(&self) -> (u64, u64) {
        let stats = self.memo.as_ref().map(core::Memo::stats).unwrap_or_default();
        (stats.hits, stats.misses)
    }

    /// Every token of the vocabulary as bytes and rank: the mergeable ranks of a reference tokenizer.
    ///
    /// Raises: `ValueError` for an estimate, which has none.
    fn ranks<'py>(&self, py: Python<'py>) -> PyResult<Vec<(Bound<'py, PyBytes>, u32)>> {
        let core::Tokenizer::Exact(encoding) = self.rules.tokenizer else {
            let name = self.rules.tokenizer.name();
            return Err(PyValueError::new_err(format!("`{name}` is an estimate and has no vocabulary")));
        };
        Ok(encoding.ranks().into_iter().map(|(token, rank)| (PyBytes::new(py, token), rank)).collect())
    }

    fn __repr__(&self) -> String {
        format!("TokenCounter({:?})", self.rules.tokenizer.name())
    }
}
