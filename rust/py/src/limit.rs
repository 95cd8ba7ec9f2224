//! Owns the limiter as Python classes: names become specs and scope values, results become objects.
//! Must not know: how buckets count; policies; the gateway, which calls the core without Python.
//! On failure: `LimitExceeded` for a refusal, `ValueError` for a limit that cannot be kept or found.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_core::limit as limits;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Adds the classes of this file to the extension module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<LimitSpec>()?;
    module.add_class::<Limiter>()?;
    module.add_class::<Held>()?;
    module.add_class::<Remaining>()?;
    module.add_class::<LimiterStats>()
}

/// One limit: what is counted, per what, and how much of it passes in which time.
///
/// `LimitSpec("minute", "tokens", capacity=60_000, window_ns=60 * 10**9)` lets each user have
/// 60,000 tokens in any minute; `LimitSpec("slots", "concurrency", scope="pool", capacity=32)`
/// lets a pool have 32 requests in flight.
///
/// Shape: `kind` is `requests`, `tokens` or `concurrency`; `scope` is `key`, `user`, `tenant`,
/// `tier`, `feature`, `model`, `pool`, `provider` or `client_address`; `algorithm` is
/// `sliding_window` (never more than `capacity` in any span of the window), `fixed_window` (in
/// each aligned window) or `token_bucket` (never more than `burst` at once, draining at
/// `capacity` per window).
///
/// Units: `capacity` and `burst` in requests, tokens or requests in flight; `window_ns` in ns, 0
/// for concurrency.
///
/// Raises: `ValueError` for an unknown word, or a definition that cannot be kept.
#[pyclass(frozen, module = "forebay._core")]
pub struct LimitSpec {
    definition: limits::LimitDefinition,
}

// === impl LimitSpec ===

#[pymethods]
impl LimitSpec {
    #[new]
    #[pyo3(signature = (name, kind, *, capacity, window_ns = 0, scope = "user", algorithm = "sliding_window", burst = 0))]
    fn new(
        name: &str,
        kind: &str,
        capacity: u64,
        window_ns: u64,
        scope: &str,
        algorithm: &str,
        burst: u64,
    ) -> PyResult<Self> {
        let definition = limits::LimitDefinition {
            id: limits::LimitId(0),
            name: name.into(),
            kind: limits::Kind::parse(kind).ok_or_else(|| unknown("kind", kind))?,
            scope: limits::Scope::parse(scope).ok_or_else(|| unknown("scope", scope))?,
            capacity,
            window_ns,
            algorithm: algorithm_of(algorithm, burst)?,
        };
        limits::LimitSpec::new(definition.clone()).map_err(cannot_be_kept)?;
        Ok(Self { definition })
    }

    /// The limit's name.
    #[getter]
    fn name(&self) -> &str {
        &self.definition.name
    }

    /// What it counts.
    #[getter]
    fn kind(&self) -> &'static str {
        self.definition.kind.as_str()
    }

    /// Per what it counts.
    #[getter]
    fn scope(&self) -> &'static str {
        self.definition.scope.as_str()
    }

    /// The most it admits, per window or in flight.
    #[getter]
    fn capacity(&self) -> u64 {
        self.definition.capacity
    }

    /// The length of its window in ns; 0 for concurrency.
    #[getter]
    fn window_ns(&self) -> u64 {
        self.definition.window_ns
    }

    fn __repr__(&self) -> String {
        let limits::LimitDefinition { name, kind, scope, capacity, window_ns, .. } = &self.definition;
        format!(
            "LimitSpec({name:?}, {:?}, scope={:?}, capacity={capacity}, window_ns={window_ns})",
            kind.as_str(),
            scope.as_str(),
        )
    }
}

/// Counts what scope values take, over several limits at once, all or nothing.
///
/// Shape: `specs: list[LimitSpec]` with distinct names; `max_buckets`: how many pairs of limit and
/// scope value are remembered, for example 100,000. When all of them are live, newcomers of a
/// limit share one bucket: nobody is ever refilled by being forgotten.
///
/// Units: `now_ns` is any monotonic count of ns, for example `time.monotonic_ns()`. Where it steps
/// back, time stands still.
///
/// Raises: `ValueError` for two limits of one name.
///
/// Cost: about 0.2 KB for each bucket. Any number of threads may call it; the GIL is held, since
/// a call is shorter than letting go of it.
///
/// Example:
///
/// >>> from forebay._core import Limiter, LimitExceeded, LimitSpec
/// >>> minute = LimitSpec("minute", "tokens", capacity=1_000, window_ns=60 * 10**9)
/// >>> limiter = Limiter([minute])
/// >>> held = limiter.reserve([("minute", "acme/ada", 800)], now_ns=0)
/// >>> try:
/// ...     limiter.reserve([("minute", "acme/ada", 300)], now_ns=1)
/// ... except LimitExceeded as refused:
/// ...     print(refused)
/// limit `minute` allows 1000 tokens per user and has 200 left, 300 asked for; retry in 64000 ms
/// >>> held.settle(actual_tokens=120, now_ns=2)
/// True
/// >>> limiter.peek("minute", "acme/ada", now_ns=2).remaining
/// 880
#[pyclass(frozen, module = "forebay._core")]
pub struct Limiter {
    shared: Arc<limits::Limiter>,
    specs: HashMap<Arc<str>, limits::LimitSpec>,
    key: limits::HashKey,
}

// === impl Limiter ===

#[pymethods]
impl Limiter {
    #[new]
    #[pyo3(signature = (specs, *, max_buckets = 100_000))]
    fn new(py: Python<'_>, specs: Vec<PyRef<'_, LimitSpec>>, max_buckets: usize) -> PyResult<Self> {
        let mut by_name = HashMap::with_capacity(specs.len());
        for (index, spec) in specs.into_iter().enumerate() {
            let definition =
                limits::LimitDefinition { id: limits::LimitId(index as u32), ..spec.definition.clone() };
            let name = Arc::clone(&definition.name);
            let checked = limits::LimitSpec::new(definition).map_err(cannot_be_kept)?;
            if by_name.insert(Arc::clone(&name), checked).is_some() {
                return Err(PyValueError::new_err(format!(
                    "two limits are named `{name}`; give each its own name"
                )));
            }
        }
        let random: [u8; 32] = py.import("os")?.call_method1("urandom", (32,))?.extract()?;
        Ok(Self {
            shared: Arc::new(limits::Limiter::new(limits::LimiterConfig {
                max_buckets,
                ..limits::LimiterConfig::default()
            })),
            specs: by_name,
            key: limits::HashKey::new(random),
        })
    }

    /// Takes all claims, or none of them.
    ///
    /// Shape: `claims: list[tuple[str, str, int]]`: name of a limit, value of its scope, amount. A
    /// value is any string that is one party's alone: put the tenant into it (`acme/ada`).
    ///
    /// Returns: what is held, to be settled and released at the end of the request.
    ///
    /// Raises: `LimitExceeded` where a limit has no room, naming the one that keeps the request
    /// away longest; then nothing was taken. `ValueError` for an unknown name. `OverflowError` for
    /// a negative amount.
    ///
    /// Cost: O(claims), about 1 µs; GIL held.
    #[pyo3(signature = (claims, now_ns))]
    fn reserve(&self, claims: Vec<(String, String, u64)>, now_ns: u64) -> PyResult<Held> {
        let claims = claims
            .into_iter()
            .map(|(name, value, amount)| self.claim(&name, &value, amount))
            .collect::<PyResult<Vec<_>>>()?;
        let taken =
            self.shared.reserve(&claims, now_ns).map_err(|refused| crate::error::limit_exceeded(&refused))?;
        Ok(Held {
            limiter: Arc::clone(&self.shared),
            taken,
            settled: AtomicBool::new(false),
            released: AtomicBool::new(false),
        })
    }

    /// What is left of a limit for one value of its scope; takes nothing.
    ///
    /// Returns: `Remaining`, for `x-ratelimit-*` headers.
    ///
    /// Raises: `ValueError` for an unknown name.
    ///
    /// Cost: O(1), about 0.5 µs; GIL held.
    #[pyo3(signature = (limit_name, scope_value, now_ns))]
    fn peek(&self, limit_name: &str, scope_value: &str, now_ns: u64) -> PyResult<Remaining> {
        let claim = self.claim(limit_name, scope_value, 0)?;
        let limits::Remaining { limit, remaining, reset_ns } = self.shared.peek(&claim, now_ns);
        Ok(Remaining { limit, remaining, reset_ns })
    }

    /// What the limiter holds and has done.
    fn stats(&self) -> LimiterStats {
        let limits::LimiterStats { buckets, overflow_buckets, evicted, overflowed } = self.shared.stats();
        LimiterStats { buckets, overflow_buckets, evicted, overflowed }
    }
}

impl Limiter {
    fn claim(&self, name: &str, value: &str, amount: u64) -> PyResult<limits::Claim<'_>> {
        let limit = self.specs.get(name).ok_or_else(|| {
            let mut names: Vec<&str> = self.specs.keys().map(AsRef::as_ref).collect();
            names.sort_unstable();
            let names = names.join("`, `");
            PyValueError::new_err(format!("no limit is named `{name}`; there are `{names}`"))
        })?;
        Ok(limits::Claim {
            limit,
            scope: limits::ScopeValue::new(&self.key, "", limit.scope, value),
            amount,
            period: None,
        })
    }
}

/// What `Limiter.reserve` took. Dropping it gives nothing back: settle tokens, release slots.
///
/// Each method acts once; a later call does nothing and returns `False`, so that the first of
/// several ends of a request wins.
#[pyclass(frozen, module = "forebay._core")]
pub struct Held {
    limiter: Arc<limits::Limiter>,
    taken: limits::Held,
    settled: AtomicBool,
    released: AtomicBool,
}

// === impl Held ===

#[pymethods]
impl Held {
    /// Replaces the tokens that were reserved by those really used.
    ///
    /// Units: `actual_tokens` in tokens; less than reserved is given back, more is charged now.
    ///
    /// Returns: whether this call did it.
    ///
    /// Cost: O(token claims); GIL held.
    #[pyo3(signature = (actual_tokens, now_ns))]
    fn settle(&self, actual_tokens: u64, now_ns: u64) -> bool {
        let first = !self.settled.swap(true, Ordering::Relaxed);
        if first {
            self.limiter.settle(&self.taken, actual_tokens, now_ns);
        }
        first
    }

    /// Frees the concurrency slots.
    ///
    /// Returns: whether this call did it.
    ///
    /// Cost: O(concurrency claims); GIL held.
    #[pyo3(signature = (now_ns))]
    fn release(&self, now_ns: u64) -> bool {
        let first = !self.released.swap(true, Ordering::Relaxed);
        if first {
            self.limiter.release(&self.taken, now_ns);
        }
        first
    }

    /// What was left of each limit just after, in the order of the claims.
    #[getter]
    fn remaining(&self) -> Vec<u64> {
        self.taken.charges().map(|charge| charge.remaining).collect()
    }

    fn __len__(&self) -> usize {
        self.taken.len()
    }
}

/// What is left of one limit for one value of its scope.
#[pyclass(frozen, get_all, module = "forebay._core")]
#[expect(clippy::struct_field_names, reason = "named as the rate headers name them")]
pub struct Remaining {
    /// The most the limit admits at once.
    limit: u64,
    /// What is left now.
    remaining: u64,
    /// ns until all of it is there again, if nothing more is taken; 0 for concurrency.
    reset_ns: u64,
}

#[pymethods]
impl Remaining {
    fn __repr__(&self) -> String {
        let Self { limit, remaining, reset_ns } = self;
        format!("Remaining(limit={limit}, remaining={remaining}, reset_ns={reset_ns})")
    }
}

/// What a limiter holds and has done.
#[pyclass(frozen, get_all, module = "forebay._core")]
pub struct LimiterStats {
    /// Buckets remembered.
    buckets: usize,
    /// Buckets that newcomers share because the table was full.
    overflow_buckets: usize,
    /// Buckets forgotten, each as good as new at that time.
    evicted: u64,
    /// Claims charged to a shared bucket: while this grows, `max_buckets` is too small.
    overflowed: u64,
}

#[pymethods]
impl LimiterStats {
    fn __repr__(&self) -> String {
        let Self { buckets, overflow_buckets, evicted, overflowed } = self;
        format!(
            "LimiterStats(buckets={buckets}, overflow_buckets={overflow_buckets}, \
             evicted={evicted}, overflowed={overflowed})"
        )
    }
}

fn algorithm_of(name: &str, burst: u64) -> PyResult<limits::Algorithm> {
    match name {
        "sliding_window" => Ok(limits::Algorithm::SlidingWindow),
        "fixed_window" => Ok(limits::Algorithm::FixedWindow),
        "token_bucket" => Ok(limits::Algorithm::TokenBucket { burst }),
        _ => Err(unknown("algorithm", name)),
    }
}

fn unknown(what: &str, value: &str) -> PyErr {
    PyValueError::new_err(format!("`{value}` is no {what} of a limit; see help(LimitSpec)"))
}

#[expect(clippy::needless_pass_by_value, reason = "fits `map_err`")]
fn cannot_be_kept(error: limits::DefinitionError) -> PyErr {
    PyValueError::new_err(error.to_string())
}
