//! Owns the Python face of the exact cache, of the collector of answers and of the event stream reader.
//! Must not know policy, keys or the gateway: these classes serve anyone who wants the parts alone.
//! On failure: an answer that cannot be kept is `AnswerRefused`, a bad argument a `ValueError`, each beginning with a
//! stable slug; a miss is `None`.

use std::sync::{Arc, Mutex, PoisonError};

use forebay_core::answer::{
    AnswerKind, BodyEnd, CaptureBudget, CollectLimits, Collector, Expect, ResponseHead, SseLimits,
    StreamUsage,
};
use forebay_core::{answer, cache};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::error::answer_refused;

/// What a stored answer is invalidated by, and what kind of answer it is.
///
/// Raises: `ValueError` when `kind` is not `chat`, `completion` or `embedding`.
///
/// >>> AnswerLabels("acme", "small-chat", revision="2026-11", tags=("faq",)).tenant
/// 'acme'
#[pyclass(frozen, module = "forebay._core")]
pub struct AnswerLabels {
    kind: AnswerKind,
    tenant: Arc<str>,
    model: Arc<str>,
    revision: Arc<str>,
    tags: Arc<[Arc<str>]>,
}

/// An answer that was found.
///
/// It stays valid when the cache evicts or invalidates it meanwhile.
#[pyclass(frozen, module = "forebay._core")]
pub struct CachedAnswer {
    entry: Arc<cache::Entry>,
}

/// Complete answers under 32-byte keys, bounded in bytes, with age and invalidation; safe to share between threads.
///
/// Units: bytes; `now_ns` is any monotonic clock, the same in every call.
/// Cost: a look-up is one lock and one probe, well under a microsecond; the GIL is held. Memory: an entry counts as
/// its text plus an eighth plus under 900 bytes; the sum never passes `max_bytes`.
/// Source: S3-FIFO, Yang et al., SOSP 2023.
///
/// >>> cache = ExactCache(max_bytes=1 << 20, max_entry_bytes=1 << 16)
/// >>> labels = AnswerLabels("acme", "small-chat", tags=("faq",))
/// >>> ticket = cache.begin_fill()
/// >>> cache.store(bytes(32), b'{"id":"a"}', labels, ticket=ticket, ttl_ns=60_000_000_000, now_ns=0)
/// 'stored'
/// >>> cache.lookup(bytes(32), now_ns=1).body
/// b'{"id":"a"}'
/// >>> cache.invalidate_tag("faq")
/// 1
#[pyclass(frozen, module = "forebay._core")]
pub struct ExactCache {
    cache: cache::ExactCache,
}

/// One response on its way past: chunks in, the complete plain JSON answer out, or the reason why it may not be stored.
///
/// Units: bytes. `status` and the two headers are those of the response.
/// Raises: `ValueError` when `kind` is unknown.
/// Cost: linear in the bytes pushed; holds the answer, not the stream; the GIL is held.
///
/// >>> collector = AnswerCollector("chat", 200, "application/json", max_answer_bytes=1 << 20)
/// >>> collector.push(b'{"choices":[{"message":{"content":"hi"},')
/// >>> collector.push(b'"finish_reason":"stop"}]}')
/// >>> collector.finish()[:10]
/// b'{"choices"'
#[pyclass(frozen, module = "forebay._core")]
pub struct AnswerCollector {
    collector: Mutex<Option<Collector>>,
}

/// Reads server-sent events from chunks that may be split at any byte.
///
/// Units: bytes of one event, and of the whole stream.
/// Cost: linear in the bytes fed; the GIL is held.
/// Source: WHATWG HTML, 9.2.6.
///
/// >>> reader = SseReader(max_event_bytes=1 << 20, max_stream_bytes=1 << 26)
/// >>> reader.feed(b"data: a\n\nda")
/// [(b'', b'a')]
/// >>> reader.feed(b"ta: [DONE]\n\n")
/// [(b'', b'[DONE]')]
#[pyclass(frozen, module = "forebay._core")]
pub struct SseReader {
    reader: Mutex<answer::SseReader>,
}

/// Adds the classes to the extension.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<AnswerLabels>()?;
    module.add_class::<CachedAnswer>()?;
    module.add_class::<ExactCache>()?;
    module.add_class::<AnswerCollector>()?;
    module.add_class::<SseReader>()
}

fn refused(slug: &str, why: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("{slug}: {why}"))
}

fn kind_of(name: &str) -> PyResult<AnswerKind> {
    AnswerKind::from_name(name).ok_or_else(|| {
        refused("answer_kind_unknown", format_args!("`{name}` is not `chat`, `completion` or `embedding`"))
    })
}

fn key_of(key: &[u8]) -> PyResult<cache::CacheKey> {
    let bytes = key.try_into().map_err(|_| {
        refused(
            "cache_key_length",
            format_args!("a key has 32 bytes, this one has {}; hash it first", key.len()),
        )
    })?;
    Ok(cache::CacheKey(bytes))
}

// === impl AnswerLabels ===

#[pymethods]
impl AnswerLabels {
    #[new]
    #[pyo3(signature = (tenant, model, *, revision = "", tags = Vec::new(), kind = "chat"))]
    fn new(tenant: &str, model: &str, revision: &str, tags: Vec<String>, kind: &str) -> PyResult<Self> {
        Ok(Self {
            kind: kind_of(kind)?,
            tenant: tenant.into(),
            model: model.into(),
            revision: revision.into(),
            tags: tags.into_iter().map(Arc::from).collect(),
        })
    }

    /// Whose the answer is.
    #[getter]
    fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The model that gave it.
    #[getter]
    fn model(&self) -> &str {
        &self.model
    }

    /// The model's revision; empty where there is none.
    #[getter]
    fn revision(&self) -> &str {
        &self.revision
    }

    /// The tags that it carries.
    #[getter]
    fn tags(&self) -> Vec<&str> {
        self.tags.iter().map(AsRef::as_ref).collect()
    }

    /// `chat`, `completion` or `embedding`.
    #[getter]
    fn kind(&self) -> &'static str {
        self.kind.as_str()
    }
}

// === impl CachedAnswer ===

#[pymethods]
impl CachedAnswer {
    /// The complete plain JSON answer, as it was stored.
    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.entry.body)
    }

    /// Its labels.
    #[getter]
    fn labels(&self) -> AnswerLabels {
        AnswerLabels {
            kind: self.entry.kind,
            tenant: Arc::clone(&self.entry.tenant),
            model: Arc::clone(&self.entry.model),
            revision: Arc::clone(&self.entry.revision),
            tags: Arc::clone(&self.entry.tags),
        }
    }

    /// When it was stored, on the clock that `store` was given.
    #[getter]
    fn stored_ns(&self) -> u64 {
        self.entry.stored_ns
    }

    /// From when on it is no longer found.
    #[getter]
    fn expires_ns(&self) -> u64 {
        self.entry.expires_ns
    }
}

// === impl ExactCache ===

#[pymethods]
impl ExactCache {
    #[new]
    #[pyo3(signature = (max_bytes, max_entry_bytes = 1_048_576))]
    fn new(max_bytes: usize, max_entry_bytes: usize) -> Self {
        let config = cache::CacheConfig { max_bytes, max_entry_bytes, shards: 16 };
        Self { cache: cache::ExactCache::new(config) }
    }

    /// A ticket for an answer that is computed from now on; take it before the look-up that misses.
    ///
    /// Returns: a number to hand to `store`, which then refuses the answer if an invalidation came in between.
    fn begin_fill(&self) -> u64 {
        self.cache.begin_fill().0
    }

    /// Finds the answer under `key`.
    ///
    /// Shape: `key`: 32 bytes. Units: `max_age_ns` as in the request's `cache-control: max-age`, times 10⁹.
    /// Returns: the answer, or `None` on a miss.
    /// Raises: `ValueError` when the key has another length.
    #[pyo3(signature = (key, *, now_ns, max_age_ns = None))]
    fn lookup(&self, key: &[u8], now_ns: u64, max_age_ns: Option<u64>) -> PyResult<Option<CachedAnswer>> {
        let key = key_of(key)?;
        Ok(self.cache.lookup(&key, now_ns, max_age_ns).map(|entry| CachedAnswer { entry }))
    }

    /// Stores a complete answer.
    ///
    /// Shape: `key`: 32 bytes. Units: `ttl_ns` from `now_ns` on.
    /// Returns: `stored`, `replaced`, or why not: `too_large`, `expired`, `stale`.
    /// Raises: `ValueError` when the key has another length.
    /// Cost: one copy of `body`.
    #[pyo3(signature = (key, body, labels, *, ticket, ttl_ns, now_ns))]
    #[allow(clippy::too_many_arguments)] // Keyword-only in Python, where they read as one sentence.
    fn store(
        &self,
        key: &[u8],
        body: &[u8],
        labels: &AnswerLabels,
        ticket: u64,
        ttl_ns: u64,
        now_ns: u64,
    ) -> PyResult<&'static str> {
        let entry = cache::Entry {
            body: bytes::Bytes::copy_from_slice(body),
            kind: labels.kind,
            tenant: Arc::clone(&labels.tenant),
            model: Arc::clone(&labels.model),
            revision: Arc::clone(&labels.revision),
            tags: Arc::clone(&labels.tags),
            usage: answer::Usage::of_body(body),
            stored_ns: now_ns,
            expires_ns: now_ns.saturating_add(ttl_ns),
            streams: cache::Streams::default(),
        };
        let (outcome, _) = self.cache.store(key_of(key)?, entry, cache::FillTicket(ticket), now_ns);
        Ok(outcome.slug())
    }

    /// The answer as an event stream that ends with `data: [DONE]`; rendered once, then kept with the answer.
    ///
    /// Raises: `AnswerRefused` when a part of the answer has no place in a stream.
    fn stream<'py>(
        &self,
        py: Python<'py>,
        key: &[u8],
        answer: &CachedAnswer,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.render(py, key, answer, StreamUsage::Omit)
    }

    /// As `stream`, with the usage in an event before the last, as `stream_options.include_usage` asks for it.
    ///
    /// Raises: `AnswerRefused` also when the answer has no usage.
    fn stream_with_usage<'py>(
        &self,
        py: Python<'py>,
        key: &[u8],
        answer: &CachedAnswer,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.render(py, key, answer, StreamUsage::Include)
    }

    /// Removes what carries `tag`, and refuses such answers that are being computed; says how many were removed.
    ///
    /// Cost: walks all entries, one shard locked at a time; about 1 ms for 40,000.
    fn invalidate_tag(&self, tag: &str) -> u64 {
        self.cache.invalidate_tag(tag)
    }

    /// As `invalidate_tag`, for the answers of a model: of one revision, or of all.
    #[pyo3(signature = (model, revision = None))]
    fn invalidate_model(&self, model: &str, revision: Option<&str>) -> u64 {
        self.cache.invalidate_model(model, revision)
    }

    /// As `invalidate_tag`, for a tenant's answers.
    fn invalidate_tenant(&self, tenant: &str) -> u64 {
        self.cache.invalidate_tenant(tenant)
    }

    /// As `invalidate_tag`, for everything.
    fn clear(&self) -> u64 {
        self.cache.clear()
    }

    /// What the cache holds and has done, by name.
    fn stats(&self) -> std::collections::BTreeMap<&'static str, u64> {
        let stats = self.cache.stats();
        std::collections::BTreeMap::from([
            ("entries", stats.entries),
            ("bytes", stats.bytes),
            ("hits", stats.hits),
            ("misses", stats.misses),
            ("stored", stats.stored),
            ("evictions", stats.evictions),
            ("expired", stats.expired),
            ("invalidated", stats.invalidated),
            ("refused_stale", stats.refused_stale),
            ("refused_too_large", stats.refused_too_large),
        ])
    }
}

impl ExactCache {
    fn render<'py>(
        &self,
        py: Python<'py>,
        key: &[u8],
        answer: &CachedAnswer,
        usage: StreamUsage,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let stream = self.cache.stream(&key_of(key)?, &answer.entry, usage);
        let stream = stream.map_err(|reason| answer_refused(reason.slug(), reason))?;
        Ok(PyBytes::new(py, &stream))
    }
}

// === impl AnswerCollector ===

#[pymethods]
impl AnswerCollector {
    #[new]
    #[pyo3(signature = (kind, status, content_type, *, content_encoding = None, max_answer_bytes = 1_048_576))]
    fn new(
        kind: &str,
        status: u16,
        content_type: &str,
        content_encoding: Option<&str>,
        max_answer_bytes: usize,
    ) -> PyResult<Self> {
        let expect = Expect { kind: kind_of(kind)?, items: None };
        let head = ResponseHead { status, content_type: Some(content_type), content_encoding };
        let limits = CollectLimits {
            max_answer_bytes,
            max_event_bytes: max_answer_bytes,
            max_stream_bytes: (max_answer_bytes as u64).saturating_mul(64),
        };
        let budget = CaptureBudget::new(max_answer_bytes.saturating_mul(2));
        Ok(Self { collector: Mutex::new(Some(Collector::new(expect, &head, limits, &budget))) })
    }

    /// Takes the next chunk of the body; nothing is kept once the answer is known not to be storable.
    fn push(&self, chunk: &[u8]) {
        if let Some(collector) = self.lock().as_mut() {
            collector.push(chunk);
        }
    }

    /// Ends a body that came whole.
    ///
    /// Returns: the complete plain JSON answer; of a stream, folded.
    /// Raises: `AnswerRefused` with the slug of the reason why the answer is not storable; `ValueError` when it was
    /// ended before.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.end(py, BodyEnd::Complete)
    }

    /// Ends a body whose connection broke; only a stream that was complete by its protocol is still an answer.
    ///
    /// Raises: as `finish`.
    fn cut<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        self.end(py, BodyEnd::Cut)
    }

    /// The slug of the reason why the answer will not be storable, as soon as it is known.
    #[getter]
    fn refusal(&self) -> Option<&'static str> {
        self.lock().as_ref()?.refusal().map(answer::NotStorable::slug)
    }
}

impl AnswerCollector {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Collector>> {
        self.collector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end<'py>(&self, py: Python<'py>, end: BodyEnd) -> PyResult<Bound<'py, PyBytes>> {
        let collector = self.lock().take();
        let collector = collector.ok_or_else(|| refused("answer_ended", "the body was ended before"))?;
        let answer = collector.finish(end).map_err(|reason| answer_refused(reason.slug(), reason))?;
        Ok(PyBytes::new(py, &answer.body))
    }
}

// === impl SseReader ===

#[pymethods]
impl SseReader {
    #[new]
    #[pyo3(signature = (max_event_bytes = 1_048_576, max_stream_bytes = 67_108_864))]
    fn new(max_event_bytes: usize, max_stream_bytes: u64) -> Self {
        let limits = SseLimits { max_event_bytes, max_stream_bytes };
        Self { reader: Mutex::new(answer::SseReader::new(limits)) }
    }

    /// Reads on.
    ///
    /// Returns: the events that are now complete, each as type (empty means `message`) and data.
    /// Raises: `ValueError` past a bound, and in every later call; events of the same chunk are then lost.
    fn feed<'py>(
        &self,
        py: Python<'py>,
        chunk: &[u8],
    ) -> PyResult<Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>> {
        let mut events = Vec::new();
        self.reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .feed(chunk, |event| events.push((PyBytes::new(py, event.event), PyBytes::new(py, event.data))))
            .map_err(|error| refused(error.slug(), error))?;
        Ok(events)
    }
}
