//! Owns: which pool a model's request goes to, and making it ready: reservation opened, body shaped, metadata made.
//! Must not know: how a pool's health is observed.
//! On failure: closed; without a usable pool, a slot or room in the table the request is refused.

use std::sync::Arc;

use super::answer::MetaValue;
use super::end::Open;
use super::recall::Fill;
use super::session::Session;
use super::{Clock, Engine, Forward};
use crate::limit::Reservation;
use crate::policy::pb::pool::Protocol;
use crate::policy::pb::route::{Operation, WhenFull};
use crate::policy::{ModelPolicy, Snapshot};
use crate::pool::{self, Lease, NoPlace};
use crate::record::Stage;
use crate::refusal::Refusal;

/// What goes along to the upstream.
#[derive(Debug, Default)]
pub(super) struct Onward {
    /// The changed body
    pub body: Option<Vec<u8>>,
    /// The usage event must not reach the client
    pub drop_usage: bool,
    /// Keep the answer
    pub fill: Option<Fill>,
    /// The request was buffered: its stream stays open until the response ends
    pub buffered: bool,
    /// The model that serves, as an index; `None` where the body was not read
    pub model: Option<u32>,
    /// Which prices the bound was made with
    pub price_revision: Arc<str>,
}

/// The status of a refusal because all pools are full.
pub(super) fn full_status(when_full: WhenFull) -> u16 {
    if when_full == WhenFull::Full503 { 503 } else { 429 }
}

// === impl Engine ===

impl Engine {
    /// A place at one of the model's pools.
    pub(super) fn place(
        &self,
        session: &mut Session,
        operation: Operation,
        model: &ModelPolicy,
        bound_tokens: u64,
        clock: &impl Clock,
    ) -> Result<(Lease, u32), NoPlace> {
        let live = session.live.clone();
        let mut candidates = Vec::with_capacity(model.pools.len());
        for &at in &model.pools {
            if let (Some(state), Some(policy)) =
                (live.pools.get(at as usize), live.snapshot.pools.get(at as usize))
                && speaks(policy.protocol, model, operation)
            {
                candidates.push((state, policy.max_concurrency));
            }
        }
        let result = pool::pick(&candidates, bound_tokens, clock.now_ns());
        session.mark(Stage::Place, clock);
        match result {
            Ok(lease) => {
                if session.record.reason.is_empty() {
                    session.record.reason =
                        if candidates.len() == 1 { "the model's only pool" } else { "the least loaded pool" };
                }
                let at = live.snapshot.pool_named(lease.pool().name()).unwrap_or_default();
                if let Some(pool) = live.snapshot.pools.get(at as usize) {
                    session.record.provider = pool.provider.clone();
                }
                session.note(Stage::Place, || {
                    format!(
                        "pool `{}`: the least loaded of {} candidates",
                        lease.pool().name(),
                        candidates.len()
                    )
                });
                Ok((lease, at))
            }
            Err(no) => {
                session.note(Stage::Place, || format!("no pool of `{}`: {no:?}", model.name));
                Err(no)
            }
        }
    }

    /// Opens the reservation and says the way. The session has nothing left to give back afterwards.
    pub(super) fn forward(
        &self,
        session: &mut Session,
        lease: Lease,
        onward: Onward,
        clock: &impl Clock,
    ) -> Result<Forward, Refusal> {
        let live = session.live.clone();
        let id = session.id();
        let pool = lease.pool().clone();
        let batch = live
            .snapshot
            .pool_named(pool.name())
            .and_then(|at| live.snapshot.pools.get(at as usize))
            .is_some_and(|p| p.protocol == Protocol::KserveGrpc);
        session.record.pool = pool.name().clone();
        session.record.outcome = "forward";
        let capture = onward.fill.is_some();
        let metadata = self.metadata(session, &live.snapshot, &onward.price_revision, clock);
        session.mark(Stage::Shape, clock);
        session.note(Stage::Shape, || match &onward.body {
            Some(body) => format!("the body is rewritten, {} bytes", body.len()),
            None => "the body goes on as it came".into(),
        });
        let record = session.record.clone();
        let now_ns = clock.now_ns();
        let open = Open {
            lease: Some(lease),
            pool: pool.clone(),
            fill: onward.fill,
            buffered: onward.buffered,
            record,
            live: live.clone(),
            route: session.route,
            key: session.caller.key,
            feature: session.caller.feature,
            named: session.named,
            model: onward.model,
            charges: std::mem::take(&mut session.charges),
            tracing: session.tracing,
            envoy_id: session.envoy_id,
            address: session.caller.address.clone(),
            cache_control: session.cache_control,
            batch: None,
        };
        let reservation = Reservation {
            held: session.taken.hand_on(),
            owner: open,
            expires_ns: now_ns.saturating_add(live.snapshot.timing.reservation_ns),
        };
        if let Err(refused) = self.open.insert(id, reservation) {
            // The table is full: what was taken is given back, followers are freed with the fill.
            self.limiter.cancel(&refused.reservation.held, now_ns);
            return Err(Refusal::Overloaded);
        }
        if !onward.buffered {
            self.unread.insert(session.envoy_id, id);
        }
        self.metrics.decided(&session.record);
        Ok(Forward {
            id,
            pool: pool.name().clone(),
            capture,
            batch,
            body: onward.body,
            traceparent: session.tracing.map(|t| t.traceparent()),
            drop_usage: onward.drop_usage,
            metadata,
        })
    }

    fn metadata(
        &self,
        session: &Session,
        snapshot: &Snapshot,
        price_revision: &Arc<str>,
        clock: &impl Clock,
    ) -> Vec<(&'static str, MetaValue)> {
        let record = &session.record;
        let mut out = Vec::with_capacity(28);
        out.push(("id", MetaValue::Text(format!("{:032x}", record.id))));
        out.push(("owner", MetaValue::Shared(self.owner.clone())));
        for (name, value) in [
            ("tenant", &record.tenant),
            ("key", &record.key),
            ("user", &record.user),
            ("feature", &record.feature),
            ("route", &record.route),
            ("model", &record.model),
            ("pool", &record.pool),
            ("provider", &record.provider),
            ("run", &record.run),
            ("eval", &record.eval),
            ("price_revision", price_revision),
        ] {
            if !value.is_empty() {
                out.push((name, MetaValue::Shared(value.clone())));
            }
        }
        out.push(("cache", MetaValue::Word(record.cache.name())));
        out.push(("operation", MetaValue::Word(record.operation)));
        if record.stream {
            out.push(("stream", MetaValue::Word("1")));
        }
        if record.bound_tokens > 0 {
            out.push(("bound_tokens", MetaValue::Number(record.bound_tokens)));
            out.push(("prompt_tokens", MetaValue::Text(record.prompt_tokens.to_string())));
        }
        if record.reserved_nanousd > 0 {
            out.push(("reserved_nanousd", MetaValue::Text(record.reserved_nanousd.to_string())));
        }
        for rate in self.rates(session, snapshot, clock) {
            // As text: Envoy writes a number of metadata into a header as a float, and 2000000 becomes `2e+06`.
            out.push((rate.names.limit_key, MetaValue::Text(rate.limit.to_string())));
            out.push((rate.names.remaining_key, MetaValue::Text(rate.remaining.to_string())));
            out.push((rate.names.reset_key, MetaValue::Text(rate.reset())));
        }
        out
    }
}

/// Whether a pool of this protocol serves the operation. Some servers that speak `OpenAI`'s protocol also serve messages;
/// a tensor server serves what the model's policy maps onto tensors.
fn speaks(protocol: Protocol, model: &ModelPolicy, operation: Operation) -> bool {
    let tensors = model.tensors.as_deref();
    match protocol {
        Protocol::Openai => true,
        Protocol::Anthropic => operation == Operation::Messages,
        Protocol::KserveGrpc => match operation {
            Operation::Embedding => tensors.is_some_and(|t| t.embeddings.is_some()),
            Operation::ChatCompletions | Operation::TextCompletions => {
                tensors.is_some_and(|t| t.generation.is_some())
            }
            _ => false,
        },
        _ => false,
    }
}
