//! Owns: the engine and one request in it, as classes.
//! Must not know: servers.
//! On failure: a policy that is refused raises; a decision never raises, it is an answer.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use forebay_core::answer::{BodyEnd, ResponseHead};
use forebay_core::cache::Selector;
use forebay_core::engine::{
    BodyStep, Clock, Engine as CoreEngine, EngineConfig, FollowOutcome, HeadStep, LogEntry, Resolution,
    Session as CoreSession, UsageText, Waiter,
};
use forebay_core::record::RecordEnd;
use forebay_core::request::Head;
use forebay_serve::SystemClock;
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::decision::Decision;
use crate::error::policy_refused;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Engine>()?;
    module.add_class::<Session>()
}

/// The decision and all its state: limits, cache, flights, pools, records.
///
/// `policy` is a serialised `forebay.v1.Policy`; `secret` keys all hashes (32 bytes; random when left out).
///
/// Raises: `PolicyRefused`; `ValueError` for a secret of another length.
/// Cost: linear in the policy; the GIL is released in every method.
#[pyclass(frozen, module = "forebay._core")]
pub struct Engine {
    pub engine: Arc<CoreEngine>,
    pub clock: SystemClock,
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (policy, *, secret=None, owner="forebay"))]
    fn new(py: Python<'_>, policy: &[u8], secret: Option<&[u8]>, owner: &str) -> PyResult<Self> {
        let secret: [u8; 32] = match secret {
            None => rand::random(),
            Some(bytes) => {
                bytes.try_into().map_err(|_| PyValueError::new_err("`secret` must have 32 bytes"))?
            }
        };
        let engine = py
            .detach(|| {
                let snapshot = forebay_core::policy::compile(policy)?;
                let config = EngineConfig {
                    secret,
                    owner: Arc::from(owner),
                    max_reservations: snapshot.sizes.max_reservations,
                    max_buckets: snapshot.sizes.max_buckets,
                    max_records: snapshot.sizes.max_records,
                    ..EngineConfig::default()
                };
                Ok(CoreEngine::new(config, snapshot))
            })
            .map_err(|findings| policy_refused(py, findings))?;
        Ok(Self { engine: Arc::new(engine), clock: SystemClock::default() })
    }

    /// Puts a policy into force, at once and whole.
    ///
    /// Returns: its revision, 16 hex digits.
    /// Raises: `PolicyRefused`; the policy before stays in force.
    fn swap(&self, py: Python<'_>, policy: &[u8]) -> PyResult<String> {
        let result = py.detach(|| self.engine.swap(policy));
        result.map(|r| r.to_string()).map_err(|findings| policy_refused(py, findings))
    }

    /// The revision of the policy in force, 16 hex digits.
    #[getter]
    fn revision(&self) -> String {
        self.engine.live().snapshot.revision.to_string()
    }

    /// Decides on a request's headers.
    ///
    /// `headers` are (name, value) with lower-case names, `:method` and `:path` among them; `end_stream`: no body
    /// follows.
    /// Returns: a session, whose `decision` says what follows.
    #[pyo3(signature = (headers, end_stream=false))]
    fn head(&self, py: Python<'_>, headers: Vec<(String, Vec<u8>)>, end_stream: bool) -> PyResult<Session> {
        let id: u128 = rand::random();
        let step = py.detach(|| {
            let head = Head::read(headers.iter().map(|(n, v)| (n.as_str(), v.as_slice())), end_stream);
            self.engine.head(head, id, &self.clock)
        });
        let (decision, inner) = match step {
            HeadStep::Answer(answer) => (Decision::answer(py, id, answer), None),
            HeadStep::Forward(forward) => (Decision::forward(py, forward)?, None),
            HeadStep::Body(session) => (Decision::wait(py, "body", id, 0), Some(session)),
        };
        Ok(Session {
            engine: self.engine.clone(),
            clock: self.clock,
            decision: Py::new(py, decision)?,
            inner: Mutex::new(Inner { session: inner, told: None, leasing: false }),
        })
    }

    /// Decides on a whole request, waiting for nothing: a request that would follow another goes on alone.
    ///
    /// Returns: a decision, `answer` or `forward`; `resolve` where a route has a Python stage.
    #[pyo3(signature = (method, path, headers, body=None))]
    fn decide(
        &self,
        py: Python<'_>,
        method: String,
        path: String,
        headers: Vec<(String, String)>,
        body: Option<&[u8]>,
    ) -> PyResult<Py<Decision>> {
        let body = body.unwrap_or_default();
        let mut all =
            vec![(":method".to_owned(), method.into_bytes()), (":path".to_owned(), path.into_bytes())];
        all.extend(headers.into_iter().map(|(n, v)| (n, v.into_bytes())));
        let session = self.head(py, all, body.is_empty())?;
        if session.inner.lock().session.is_none() {
            return Ok(session.decision.clone_ref(py));
        }
        let decision = session.body(py, body)?;
        if decision.borrow(py).get_action() != "follow" {
            return Ok(decision);
        }
        if let Some(inner) = &mut session.inner.lock().session {
            inner.followed(FollowOutcome::GoAlone);
        }
        session.body(py, body)
    }

    /// Says that a request ended, as Envoy's access log does.
    ///
    /// `local_reply`: no upstream answered, so its tokens and money come back. `usage`: the answer's usage object, JSON;
    /// without one the use is estimated from `answer_bytes`.
    /// Raises: `ValueError` for an id that is no 32 hex digits.
    #[pyo3(signature = (id, status=200, *, duration_ns=0, local_reply=false, aborted=false, unreachable=false,
        timed_out=false, reset=false, answer_bytes=0, usage_start=None, usage=None))]
    #[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)] // keyword-only flags of one event
    fn end(
        &self,
        py: Python<'_>,
        id: &str,
        status: u16,
        duration_ns: u64,
        local_reply: bool,
        aborted: bool,
        unreachable: bool,
        timed_out: bool,
        reset: bool,
        answer_bytes: u64,
        usage_start: Option<&[u8]>,
        usage: Option<&[u8]>,
    ) -> PyResult<()> {
        let id = parse_id(id)?;
        let end = RecordEnd { status, duration_ns, local_reply, aborted, ..RecordEnd::default() };
        let usage = UsageText { start: usage_start, last: usage, ..UsageText::default() };
        let entry =
            LogEntry { end, unreachable, timed_out, reset, answer_bytes, usage, ..LogEntry::default() };
        py.detach(|| self.engine.logged(id, &entry, self.clock.now_ns()));
        Ok(())
    }

    /// Says that a buffered request's stream closed: its slot is free.
    ///
    /// Raises: `ValueError` for an id that is no 32 hex digits.
    fn stream_closed(&self, py: Python<'_>, id: &str) -> PyResult<()> {
        let id = parse_id(id)?;
        py.detach(|| self.engine.stream_closed(id, self.clock.now_ns()));
        Ok(())
    }

    /// Feeds the engine the whole response of a request that was forwarded with `capture`; a stream is folded.
    ///
    /// `end`: `complete`, or `cut` where the connection broke.
    /// Returns: `stored`, `replaced`, or why it was not kept; `unknown` if nobody waits for it.
    /// Raises: `ValueError` for an id that is no 32 hex digits, or another `end`.
    #[pyo3(signature = (id, body, *, status=200, content_type="application/json", content_encoding=None, end="complete"))]
    #[allow(clippy::too_many_arguments)] // keyword-only parts of one response
    fn capture(
        &self,
        py: Python<'_>,
        id: &str,
        body: &[u8],
        status: u16,
        content_type: &str,
        content_encoding: Option<&str>,
        end: &str,
    ) -> PyResult<&'static str> {
        let id = parse_id(id)?;
        let end = match end {
            "complete" => BodyEnd::Complete,
            "cut" => BodyEnd::Cut,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "a response ends `complete` or `cut`, not `{end}`"
                )));
            }
        };
        Ok(py.detach(|| {
            let Some(mut capture) = self.engine.capture(id) else { return "unknown" };
            capture.head(&ResponseHead { status, content_type: Some(content_type), content_encoding });
            capture.body(body);
            match self.engine.captured(capture, end, self.clock.now_ns()) {
                Ok(outcome) => outcome.slug(),
                Err(reason) => reason.slug(),
            }
        }))
    }

    /// Removes cached answers: of a tag, of a model (and revision), of a tenant, or all without an argument.
    ///
    /// Returns: how many were removed.
    #[pyo3(signature = (*, tag=None, model=None, revision=None, tenant=None))]
    fn invalidate(
        &self,
        py: Python<'_>,
        tag: Option<&str>,
        model: Option<&str>,
        revision: Option<&str>,
        tenant: Option<&str>,
    ) -> u64 {
        let selector = match (tag, model, tenant) {
            (Some(tag), _, _) => Selector::Tag(Arc::from(tag)),
            (None, Some(model), _) => {
                Selector::Model { model: Arc::from(model), revision: revision.map(Arc::from) }
            }
            (None, None, Some(tenant)) => Selector::Tenant(Arc::from(tenant)),
            (None, None, None) => Selector::All,
        };
        py.detach(|| self.engine.invalidate(&selector))
    }

    /// Puts a drawn lease into its budget's bucket and wakes who waits for it. An unknown token changes nothing.
    ///
    /// `granted` was drawn, `left` is what the bucket could still be granted, in its unit.
    fn grant(&self, py: Python<'_>, token: u64, granted: u64, left: u64) {
        py.detach(|| self.engine.grant_lease(token, granted, left, self.clock.now_ns()));
    }

    /// Says that nothing could be drawn for an ask: who waits for it asks again, or is refused with 503.
    fn lease_failed(&self, py: Python<'_>, token: u64) {
        py.detach(|| self.engine.fail_lease(token));
    }

    /// What every bucket of a budget was leased: `(budget, value, period_start_s, granted, used)`.
    fn lease_balances(&self, py: Python<'_>) -> Vec<(String, String, i64, u64, u64)> {
        let balances = py.detach(|| self.engine.lease_balances(self.clock.now_ns()));
        balances
            .into_iter()
            .map(|b| (b.budget.to_string(), b.value.to_string(), b.period_start_s, b.granted, b.used))
            .collect()
    }

    /// Counts a policy that was refused before it reached the engine, such as a file that is no YAML.
    fn count_refused_policy(&self) {
        self.engine.metrics().counters.policies_refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// Says whether Envoy has a pool and finds it healthy. A pool that no policy names yet begins so.
    fn observe_pool(&self, name: &str, routable: bool, healthy: bool) {
        self.engine.observe_pool(name, routable, healthy);
    }

    /// The pools as (name, requests in flight, tokens reserved, routable, healthy).
    fn pools(&self) -> Vec<(String, u32, u64, bool, bool)> {
        let views = self.engine.pool_views(self.clock.now_ns());
        views.into_iter().map(|v| (v.name.to_string(), v.requests, v.tokens, v.routable, v.healthy)).collect()
    }

    /// The counters as Prometheus text.
    fn metrics_text(&self, py: Python<'_>) -> String {
        py.detach(|| self.engine.metrics_text(self.clock.now_ns()))
    }

    /// The last decision records, oldest first, as a JSON array.
    fn records_json(&self, py: Python<'_>, limit: usize) -> String {
        py.detach(|| self.engine.records_json(limit))
    }

    /// From now on new requests are refused with 503; those in flight go on.
    fn drain(&self) {
        self.engine.drain();
    }

    /// Whether new requests are refused.
    #[getter]
    fn draining(&self) -> bool {
        self.engine.is_draining()
    }

    /// Reservations that nothing ended yet.
    #[getter]
    fn open_reservations(&self) -> usize {
        self.engine.open_reservations()
    }
}

/// One request between its headers and its decision. Dropped before a decision, it gives back what was taken.
#[pyclass(frozen, module = "forebay._core")]
pub struct Session {
    engine: Arc<CoreEngine>,
    clock: SystemClock,
    decision: Py<Decision>,
    inner: Mutex<Inner>,
}

struct Inner {
    session: Option<Box<CoreSession>>,
    told: Option<mpsc::Receiver<FollowOutcome>>,
    /// What is waited for is a lease, which says nothing about a flight
    leasing: bool,
}

#[pymethods]
impl Session {
    /// What followed from the headers.
    #[getter]
    fn decision(&self, py: Python<'_>) -> Py<Decision> {
        self.decision.clone_ref(py)
    }

    /// Decides on the whole body. After `follow` or `resolve`, wait and call it again with the same body.
    ///
    /// Raises: `ValueError` if the decision was made already.
    fn body(&self, py: Python<'_>, body: &[u8]) -> PyResult<Py<Decision>> {
        let (id, step) = py
            .detach(|| {
                let mut inner = self.inner.lock();
                let Inner { session, told, leasing } = &mut *inner;
                let session = session.as_mut()?;
                let mut waiter = || -> Waiter {
                    let (tx, rx) = mpsc::channel();
                    *told = Some(rx);
                    Box::new(move |outcome| {
                        // Nobody waits any more: the session leaves the flight when it is dropped.
                        let _ = tx.send(outcome);
                    })
                };
                let step = self.engine.body(session, body, &mut waiter, &self.clock);
                let id = session.id();
                *leasing = matches!(step, BodyStep::Lease { .. });
                if matches!(step, BodyStep::Answer(_) | BodyStep::Forward(_)) {
                    inner.session = None;
                }
                Some((id, step))
            })
            .ok_or_else(|| PyValueError::new_err("the decision on this request was made already"))?;
        let decision = match step {
            BodyStep::Answer(answer) => Decision::answer(py, id, answer),
            BodyStep::Forward(forward) => Decision::forward(py, forward)?,
            BodyStep::Resolve(call) => Decision::resolve(py, id, &call, body)?,
            BodyStep::Follow { until_ns } => {
                Decision::wait(py, "follow", id, until_ns.saturating_sub(self.clock.now_ns()))
            }
            BodyStep::Lease { until_ns } => {
                Decision::wait(py, "lease", id, until_ns.saturating_sub(self.clock.now_ns()))
            }
        };
        Py::new(py, decision)
    }

    /// How long Envoy waits for one answer, and the longest that may be announced instead, under the policy that
    /// decides on this request, in ns; zeros once it is decided.
    #[getter]
    fn message_timeouts_ns(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        inner.session.as_ref().map_or((0, 0), |s| (s.message_timeout_ns(), s.max_message_timeout_ns()))
    }

    /// After `follow` or `lease`: waits for the request in flight, or the lease, at most `timeout_ns`. Blocks with the
    /// GIL released.
    ///
    /// Returns: whether that came. Otherwise a follower goes on alone, unless it waits again.
    fn wait(&self, py: Python<'_>, timeout_ns: u64) -> bool {
        py.detach(|| {
            let Some(told) = self.inner.lock().told.take() else { return false };
            let outcome = told.recv_timeout(Duration::from_nanos(timeout_ns)).ok();
            let ended = outcome.is_some();
            let mut inner = self.inner.lock();
            if !ended {
                inner.told = Some(told);
            }
            if inner.leasing {
                return ended;
            }
            if let Some(session) = &mut inner.session {
                session.followed(outcome.unwrap_or(FollowOutcome::GoAlone));
            }
            ended
        })
    }

    /// After `resolve`: what the stage answered; `model=None` means that it failed.
    #[pyo3(signature = (model, reason=""))]
    fn resolved(&self, model: Option<&str>, reason: &str) {
        if let Some(session) = &mut self.inner.lock().session {
            session.resolved(match model {
                Some(model) => Resolution::Model { model: model.to_owned(), reason: reason.to_owned() },
                None => Resolution::Failed("the stage gave no answer"),
            });
        }
    }
}

fn parse_id(id: &str) -> PyResult<u128> {
    if id.len() != 32 {
        return Err(PyValueError::new_err(format!("`{id}` is no reservation id; it has 32 hex digits")));
    }
    u128::from_str_radix(id, 16)
        .map_err(|_| PyValueError::new_err(format!("`{id}` is no reservation id; it has 32 hex digits")))
}
