//! Owns: a policy to vary, a clock to move, and an engine to ask, for the tests beside it.
//! Must not know: what a test is about.
//! On failure: it panics, as a test does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use prost::Message as _;

use crate::answer::{BodyEnd, NotStorable, ResponseHead};
use crate::cache::StoreOutcome;
use crate::engine::{
    Answer, BodyStep, Capture, Clock, Engine, EngineConfig, FollowOutcome, Forward, HeadStep, LogEntry,
    Logged, Session, StageCall, UsageText, Waiter,
};
use crate::limit::{Claim, Kind, Scope, ScopeValue};
use crate::policy::pb;
use crate::record::{Record, RecordEnd};
use crate::request::Head;

pub use super::given::*;

pub const SECOND: u64 = 1_000_000_000;
pub const CHAT: &str = "/v1/chat/completions";

/// A clock that stands still until it is moved; the calendar's may be set apart from the other.
#[derive(Debug)]
pub struct FakeClock {
    now_ns: AtomicU64,
    set_ns: AtomicI64,
}

impl Clock for FakeClock {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(Relaxed)
    }

    fn unix_ns(&self) -> u64 {
        let unix_ns = 1_700_000_000 * SECOND + self.now_ns.load(Relaxed);
        unix_ns.saturating_add_signed(self.set_ns.load(Relaxed))
    }
}

/// An engine and its time.
pub struct Rig {
    pub engine: Engine,
    pub clock: FakeClock,
    /// Times that somebody was called to draw leases
    pub bells: Arc<AtomicU64>,
    next_id: AtomicU64,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Ask {
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

/// What a request came to.
#[derive(Debug)]
pub enum Told {
    Answer(Answer),
    Forward(Forward),
    Follow(Waiting),
    Lease(Waiting),
    Resolve(Box<Session>, StageCall),
}

/// A request that follows another.
pub struct Waiting {
    pub session: Box<Session>,
    pub body: String,
    pub until_ns: u64,
    pub told: Arc<Mutex<Option<FollowOutcome>>>,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("told", &self.told.lock()).finish_non_exhaustive()
    }
}

/// Leases are drawn by whoever tests, as by a gateway's ledger.
fn served(engine: Engine, bells: &Arc<AtomicU64>) -> Engine {
    let bells = bells.clone();
    engine.on_lease_ask(Box::new(move || {
        bells.fetch_add(1, Relaxed);
    }));
    engine
}

// === requests ===

/// A chat of one message with the model, by the key of acme.
pub fn chat(model: &str, text: &str) -> Ask {
    Ask::post(
        CHAT,
        &format!(
            r#"{{"model":"{model}","temperature":0,"messages":[{{"role":"user","content":"{text}"}}]}}"#
        ),
    )
}

impl Ask {
    pub fn post(path: &str, body: &str) -> Self {
        Self {
            headers: vec![
                (":method", "POST".into()),
                (":path", path.into()),
                ("authorization", "Bearer fbk_acme".into()),
                ("content-type", "application/json".into()),
                ("x-forwarded-for", "10.0.0.1".into()),
            ],
            body: body.to_owned(),
        }
    }

    /// Replaces a header, or adds it; an empty value removes it.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(n, _)| *n != name);
        if !value.is_empty() {
            self.headers.push((name, value.to_owned()));
        }
        self
    }

    pub fn by(self, key: &str) -> Self {
        self.with("authorization", &format!("Bearer {key}"))
    }

    /// Adds fields to the body's object.
    pub fn and(mut self, fields: &str) -> Self {
        self.body.insert_str(1, &format!("{fields},"));
        self
    }
}

// === impl Told ===

impl Told {
    pub fn answer(self) -> Answer {
        match self {
            Self::Answer(answer) => answer,
            other => panic!("no answer: {other:?}"),
        }
    }

    pub fn forward(self) -> Forward {
        match self {
            Self::Forward(forward) => forward,
            Self::Answer(answer) => panic!("{}", String::from_utf8_lossy(&answer.body)),
            other => panic!("not forwarded: {other:?}"),
        }
    }

    pub fn follow(self) -> Waiting {
        match self {
            Self::Follow(waiting) => waiting,
            other => panic!("it does not follow: {other:?}"),
        }
    }

    pub fn lease(self) -> Waiting {
        match self {
            Self::Lease(waiting) => waiting,
            Self::Answer(answer) => panic!("{}", String::from_utf8_lossy(&answer.body)),
            other => panic!("it waits for no lease: {other:?}"),
        }
    }

    /// Status and code of an answer.
    pub fn refused(self) -> (u16, &'static str) {
        let answer = self.answer();
        (answer.status, answer.code)
    }

    /// What the cache said, by the answer's own header.
    pub fn cache_state(self) -> String {
        let answer = self.answer();
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        answer
            .headers
            .iter()
            .find(|(n, _)| *n == "x-forebay-cache")
            .map(|(_, v)| v.to_string())
            .unwrap_or_default()
    }
}

// === impl Rig ===

impl Rig {
    pub fn new(policy: &pb::Policy) -> Self {
        Self::with(policy, EngineConfig { max_buckets: 4_096, memo_entries: 64, ..EngineConfig::default() })
    }

    pub fn with(policy: &pb::Policy, config: EngineConfig) -> Self {
        let snapshot = crate::policy::compile(&policy.encode_to_vec()).unwrap_or_else(|f| panic!("{f:#?}"));
        let bells = Arc::default();
        Self {
            engine: served(Engine::new(config, snapshot), &bells),
            bells,
            clock: FakeClock { now_ns: AtomicU64::new(SECOND), set_ns: AtomicI64::new(0) },
            next_id: AtomicU64::new(1),
        }
    }

    pub fn now(&self) -> u64 {
        self.clock.now_ns()
    }

    pub fn sleep(&self, ns: u64) {
        self.clock.now_ns.fetch_add(ns, Relaxed);
    }

    /// Sets the calendar's clock by so much.
    pub fn set_clock(&self, by_ns: i64) {
        self.clock.set_ns.fetch_add(by_ns, Relaxed);
    }

    pub fn swap(&self, policy: &pb::Policy) {
        self.engine.swap(&policy.encode_to_vec()).unwrap_or_else(|f| panic!("{f:#?}"));
    }

    /// The head alone.
    pub fn head(&self, ask: &Ask) -> HeadStep {
        let id = u128::from(self.next_id.fetch_add(1, Relaxed));
        let pairs = ask.headers.iter().map(|(n, v)| (*n, v.as_bytes()));
        self.engine.head(Head::read(pairs, ask.body.is_empty()), id, &self.clock)
    }

    /// Head and body, up to the first thing that is not ours to do.
    pub fn ask(&self, ask: &Ask) -> Told {
        match self.head(ask) {
            HeadStep::Answer(answer) => Told::Answer(answer),
            HeadStep::Forward(forward) => Told::Forward(forward),
            HeadStep::Body(session) => self.go_on(session, &ask.body),
        }
    }

    pub fn go_on(&self, mut session: Box<Session>, body: &str) -> Told {
        let told = Arc::new(Mutex::new(None));
        let mut waiter = || -> Waiter {
            let told = told.clone();
            Box::new(move |outcome| assert!(told.lock().replace(outcome).is_none(), "told twice"))
        };
        match self.engine.body(&mut session, body.as_bytes(), &mut waiter, &self.clock) {
            BodyStep::Answer(answer) => Told::Answer(answer),
            BodyStep::Forward(forward) => Told::Forward(forward),
            BodyStep::Resolve(call) => Told::Resolve(session, call),
            BodyStep::Follow { until_ns } => {
                Told::Follow(Waiting { session, body: body.to_owned(), until_ns, told })
            }
            BodyStep::Lease { until_ns } => {
                Told::Lease(Waiting { session, body: body.to_owned(), until_ns, told })
            }
        }
    }

    /// The follower goes on with what it was told; with nothing told, its time was over.
    pub fn resume(&self, waiting: Waiting) -> Told {
        let Waiting { mut session, body, told, .. } = waiting;
        session.followed(told.lock().take().unwrap_or(FollowOutcome::GoAlone));
        self.go_on(session, &body)
    }

    /// Whoever waited for a lease goes on, whether it came or not.
    pub fn resume_lease(&self, waiting: Waiting) -> Told {
        let Waiting { session, body, .. } = waiting;
        self.go_on(session, &body)
    }

    pub fn forward(&self, ask: &Ask) -> Forward {
        self.ask(ask).forward()
    }

    pub fn refused(&self, ask: &Ask) -> (u16, &'static str) {
        self.ask(ask).refused()
    }

    /// The upstream answers with this text; capture sees it whole.
    pub fn fill(&self, forward: &Forward, text: &str) -> Result<StoreOutcome, NotStorable> {
        assert!(forward.capture, "capture was not asked for");
        let capture = self.engine.capture(forward.id).expect("a fill");
        self.finish(capture, text, BodyEnd::Complete)
    }

    pub fn finish(
        &self,
        mut capture: Capture,
        text: &str,
        end: BodyEnd,
    ) -> Result<StoreOutcome, NotStorable> {
        let body = format!(
            r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}}}"#
        );
        capture.head(&ResponseHead {
            status: 200,
            content_type: Some("application/json"),
            ..ResponseHead::default()
        });
        capture.body(body.as_bytes());
        self.engine.captured(capture, end, self.now())
    }

    /// It ended well, and used all that was reserved for it.
    pub fn log(&self, id: u128) {
        let bound = self.engine.open.amend(id, |r| r.owner.record.bound_tokens).unwrap_or_default();
        self.log_usage(id, &format!(r#"{{"prompt_tokens":{bound},"completion_tokens":0}}"#));
    }

    /// It ended well, and the upstream said this of its use.
    pub fn log_usage(&self, id: u128, usage: &str) {
        let end = RecordEnd { status: 200, ..RecordEnd::default() };
        let usage = UsageText { last: Some(usage.as_bytes()), ..UsageText::default() };
        self.log_entry(id, &LogEntry { end, usage, ..LogEntry::default() });
    }

    /// It ended as this entry says.
    pub fn log_entry(&self, id: u128, entry: &LogEntry<'_>) -> Logged {
        self.engine.logged(id, entry, self.now())
    }

    /// Envoy answered instead of an upstream that it could not reach.
    pub fn log_unreachable(&self, id: u128) {
        let end = RecordEnd { status: 503, local_reply: true, ..RecordEnd::default() };
        self.engine.logged(id, &LogEntry { end, unreachable: true, ..LogEntry::default() }, self.now());
    }

    /// The record of an open reservation.
    pub fn record(&self, id: u128) -> Record {
        self.engine.open.amend(id, |r| (*r.owner.record).clone()).expect("an open reservation")
    }

    /// What is left of a limit for a value of its scope, in acme's tenant or shared.
    pub fn left(&self, name: &str, value: &str) -> u64 {
        let live = self.engine.live();
        let limit = live.snapshot.limits.iter().find(|l| &*l.name == name).expect("the limit");
        let key = &self.engine.scope_key;
        let scope = match limit.scope {
            Scope::Model => ScopeValue::shared(key, crate::limit::SharedScope::Model, value),
            Scope::Pool => ScopeValue::shared(key, crate::limit::SharedScope::Pool, value),
            Scope::Provider => ScopeValue::shared(key, crate::limit::SharedScope::Provider, value),
            Scope::ClientAddress => ScopeValue::shared(key, crate::limit::SharedScope::ClientAddress, value),
            Scope::Tier => ScopeValue::shared(key, crate::limit::SharedScope::Tier, value),
            scope => ScopeValue::new(key, "acme", scope, value),
        };
        let amount = u64::from(limit.kind != Kind::Tokens);
        self.engine.limiter.peek(&Claim { limit, scope, amount, period: None }, self.now()).remaining
    }

    /// Nothing is in flight anywhere.
    #[track_caller]
    pub fn is_quiet(&self) {
        assert_eq!(self.engine.open_reservations(), 0, "open reservations");
        for pool in self.engine.pool_views(self.now()) {
            assert_eq!((pool.requests, pool.tokens), (0, 0), "pool {}", pool.name);
        }
        if let Some(cache) = &self.engine.live().cache {
            assert_eq!((cache.flights.len(), cache.flights.followers()), (0, 0), "flights");
            assert_eq!(cache.budget.held_bytes(), 0, "captured bytes");
        }
    }

    pub fn counter(&self, name: &str) -> u64 {
        let values = self.engine.metrics().counters.values();
        values.into_iter().find(|(n, _)| *n == name).expect("the counter").1
    }
}
