//! Owns: the first stages, on headers alone: identify, route, and the whole decision where no body is read.
//! Must not know: bodies.
//! On failure: closed; a stranger is refused here, before a byte of its body is buffered.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sha2::{Digest, Sha256};

use super::session::{Caller, Session, Taken};
use super::{Answer, Clock, Engine, Forward};
use crate::policy::pb::pool::Protocol;
use crate::policy::pb::route::Operation;
use crate::pool;
use crate::record::{Record, Stage};
use crate::refusal::{ErrorShape, Refusal};
use crate::request::Head;
use crate::trace::TraceContext;

/// What follows from the head.
#[derive(Debug)]
pub enum HeadStep {
    /// Answered, nothing else will come
    Answer(Answer),
    /// Decided by headers alone
    Forward(Forward),
    /// The body is needed, at most this many bytes
    Body(Box<Session>),
}

/// Who is told how the decision came about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told<'a> {
    /// Nobody: a request of a client
    Nobody,
    /// The caller of `explain`; with `key_id` the client is that key, whatever the headers say
    Explained { key_id: Option<&'a str> },
}

// === impl Engine ===

impl Engine {
    /// Decides as far as headers allow. `id` is fresh and random.
    pub fn head(&self, head: Result<Head<'_>, Refusal>, id: u128, clock: &impl Clock) -> HeadStep {
        self.head_as(head, id, Told::Nobody, clock).0
    }

    /// As [`Engine::head`], and what is left of the session where the head decided all.
    pub(super) fn head_as(
        &self,
        head: Result<Head<'_>, Refusal>,
        id: u128,
        told: Told<'_>,
        clock: &impl Clock,
    ) -> (HeadStep, Option<Box<Session>>) {
        let live = self.live.load_full();
        let mut record = Box::new(Record { id, unix_ns: clock.unix_ns(), ..Record::default() });
        record.policy = live.snapshot.revision.clone();
        let mut session = Box::new(Session::new(live, record, Taken::new(self.limiter.clone()), clock));
        let key_id = match told {
            Told::Nobody => None,
            Told::Explained { key_id } => {
                session.trace = Some(Vec::new());
                key_id
            }
        };
        let outcome = match head {
            Ok(head) => self.identify(&mut session, &head, key_id, clock),
            Err(refusal) => Err(refusal),
        };
        let step = match outcome {
            Ok(Operation::ListModels) => HeadStep::Answer(self.list_models(&mut session, clock)),
            Ok(Operation::Forward | Operation::Kserve) => match self.forward_head(&mut session, clock) {
                Ok(forward) => HeadStep::Forward(forward),
                Err(refusal) => HeadStep::Answer(self.refuse(&mut session, &refusal)),
            },
            Ok(_) => return (HeadStep::Body(session), None),
            Err(refusal) => {
                session.mark(Stage::Identify, clock);
                session.note(Stage::Identify, || refusal.wire().message);
                HeadStep::Answer(self.refuse(&mut session, &refusal))
            }
        };
        (step, Some(session))
    }

    fn identify(
        &self,
        session: &mut Session,
        head: &Head<'_>,
        key_id: Option<&str>,
        clock: &impl Clock,
    ) -> Result<Operation, Refusal> {
        if self.draining.load(Relaxed) {
            return Err(Refusal::Draining);
        }
        session.is_grpc = head.is_grpc();
        session.envoy_id = head.envoy_id;
        let live = session.live.clone();
        let snapshot = &live.snapshot;
        let matched = snapshot.route(head.method, head.path);
        if let Some(route) = matched.and_then(|at| snapshot.routes.get(at as usize)) {
            session.record.operation = operation_name(route.operation);
            session.errors = ErrorShape::of(route.operation);
        }
        session.tracing = snapshot
            .tracing
            .map(|tracing| TraceContext::of(session.id(), head.traceparent, tracing.sampled_per_million));
        let at = if let Some(id) = key_id {
            snapshot.key_by_id(id).ok_or(Refusal::UnknownKey)?
        } else {
            let presented = head.key.ok_or(Refusal::MissingKey)?;
            snapshot.key_by_digest(&Sha256::digest(presented).into()).ok_or(Refusal::UnknownKey)?
        };
        let key = snapshot.key(at).ok_or(Refusal::UnknownKey)?;
        let tenant = snapshot.tenants.get(key.tenant as usize).ok_or(Refusal::UnknownKey)?;
        session.record.key = key.id.clone();
        session.record.tenant = tenant.name.clone();
        if key.disabled || (key.expires_unix_ms != 0 && clock.unix_ns() / 1_000_000 >= key.expires_unix_ms) {
            return Err(Refusal::ExpiredKey);
        }
        let route_at = matched.ok_or_else(|| {
            if snapshot.path_is_listed(head.path) {
                Refusal::WrongMethod(head.method.to_owned())
            } else {
                Refusal::UnknownPath(head.path.to_owned())
            }
        })?;
        let route = snapshot.routes.get(route_at as usize).ok_or(Refusal::Internal)?;
        let feature = match route.feature {
            Some(feature) => feature,
            None if head.feature.is_empty() => snapshot.no_feature(),
            None => {
                let named = snapshot.feature_named(head.feature);
                let feature = named.ok_or_else(|| Refusal::UnknownFeature(head.feature.to_owned()))?;
                if key.features.as_ref().is_some_and(|f| !f.contains(&feature)) {
                    return Err(Refusal::FeatureForbidden(head.feature.to_owned()));
                }
                feature
            }
        };
        session.route = route_at;
        session.caller = Caller {
            key: at,
            user: key.user.clone().unwrap_or_else(|| Arc::from(head.user)),
            feature,
            address: Box::from(head.client_address),
        };
        session.cache_control = head.cache_control;
        session.record.route = route.name.clone();
        session.record.user = session.caller.user.clone();
        session.record.run = some_text(head.run);
        session.record.eval = some_text(head.eval);
        session.record.feature =
            snapshot.features.get(feature as usize).map(|f| f.name.clone()).unwrap_or_default();
        if matches!(
            route.operation,
            Operation::ChatCompletions
                | Operation::TextCompletions
                | Operation::Embedding
                | Operation::Responses
                | Operation::Messages
        ) {
            body_is_readable(head, snapshot.timing.max_body_bytes)?;
        }
        session.mark(Stage::Identify, clock);
        session.note(Stage::Identify, || {
            format!("key `{}` of tenant `{}` on route `{}`", key.id, tenant.name, route.name)
        });
        Ok(route.operation)
    }

    fn list_models(&self, session: &mut Session, clock: &impl Clock) -> Answer {
        if let Err(refusal) = self.take_caller_limits(session, clock) {
            return self.refuse(session, &refusal);
        }
        let live = session.live.clone();
        match session.key() {
            Some(key) => {
                let answer = Answer::models(session.id(), &live, key);
                self.answered(session, answer, "models of the key", clock)
            }
            None => self.refuse(session, &Refusal::Internal),
        }
    }

    /// Decides a request whose body is not read.
    fn forward_head(&self, session: &mut Session, clock: &impl Clock) -> Result<Forward, Refusal> {
        self.take_caller_limits(session, clock)?;
        let live = session.live.clone();
        let route = live.snapshot.routes.get(session.route as usize).ok_or(Refusal::Internal)?;
        let at = if let Some(pool) = route.pool {
            pool
        } else {
            let kserve = live.snapshot.pools.iter().position(|p| p.protocol == Protocol::KserveGrpc);
            kserve.ok_or_else(|| Refusal::NoPool(route.name.to_string()))? as u32
        };
        let (Some(policy), Some(state)) = (live.snapshot.pools.get(at as usize), live.pools.get(at as usize))
        else {
            return Err(Refusal::Internal);
        };
        let lease =
            pool::pick(&[(state, policy.max_concurrency)], 0, clock.now_ns()).map_err(|no| match no {
                pool::NoPlace::Full => Refusal::PoolFull {
                    model: policy.name.to_string(),
                    status: super::place::full_status(route.when_full),
                },
                pool::NoPlace::Unhealthy => Refusal::NoPool(policy.name.to_string()),
            })?;
        session.record.pool = policy.name.clone();
        session.record.provider = policy.provider.clone();
        session.mark(Stage::Place, clock);
        session.note(Stage::Place, || format!("pool `{}`, named by the route", policy.name));
        let placed = super::take::Placed { pool: at, ..super::take::Placed::default() };
        // Without a model there is no budget, and so nothing to wait for.
        self.take_placed_limits(session, &placed, &mut || Box::new(|_| ()), clock).map_err(|short| {
            match short {
                super::take::Short::Refuse(refusal) => refusal,
                super::take::Short::Lease => Refusal::BudgetUnavailable,
            }
        })?;
        self.forward(session, lease, super::place::Onward::default(), clock)
    }
}

/// The operation as records and metrics name it.
pub(super) fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::ChatCompletions => "chat_completions",
        Operation::TextCompletions => "text_completions",
        Operation::Embedding => "embedding",
        Operation::Responses => "responses",
        Operation::Messages => "messages",
        Operation::ListModels => "list_models",
        Operation::Kserve => "kserve",
        Operation::Forward | Operation::Unspecified => "forward",
    }
}

/// Shared where there is none: most requests name no run.
fn some_text(text: &str) -> Arc<str> {
    if text.is_empty() { Arc::default() } else { Arc::from(text) }
}

fn body_is_readable(head: &Head<'_>, max_body_bytes: u64) -> Result<(), Refusal> {
    if head.end_stream {
        return Err(Refusal::Json("the body is empty; send a JSON object".into()));
    }
    if !head.is_json() {
        return Err(Refusal::ContentType(head.content_type.to_owned()));
    }
    if head.is_encoded() {
        return Err(Refusal::Encoding(head.content_encoding.to_owned()));
    }
    if head.content_length.is_some_and(|n| n > max_body_bytes) {
        return Err(Refusal::TooLarge { limit_bytes: max_body_bytes });
    }
    Ok(())
}
