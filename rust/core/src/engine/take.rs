//! Owns: which limits a request meets, and taking them: the caller's first, those of model and pool once known.
//! Must not know: how limits count.
//! On failure: closed; a limit without room refuses, and what was taken before is given back by the session.

use super::session::Session;
use super::{Clock, Engine};
use crate::limit::{Claim, Kind, LimitSpec, Refused, Scope, ScopeValue, SharedScope};
use crate::record::Stage;
use crate::refusal::Refusal;

/// Where a request was placed and what it may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// The model's index; `None` where the body was not read
    pub model: Option<u32>,
    /// The pool's index
    pub pool: u32,
    /// Prompt and bounded output of all choices
    pub bound_tokens: u64,
}

// === impl Engine ===

impl Engine {
    /// Takes request and concurrency limits that depend on the caller alone. Once for a request.
    pub(super) fn take_caller_limits(
        &self,
        session: &mut Session,
        clock: &impl Clock,
    ) -> Result<(), Refusal> {
        if session.limited {
            return Ok(());
        }
        session.limited = true;
        self.take(session, None, Stage::Limit, clock)
    }

    /// Takes what is left: tokens, and all that depends on model, pool or provider.
    pub(super) fn take_placed_limits(
        &self,
        session: &mut Session,
        placed: &Placed,
        clock: &impl Clock,
    ) -> Result<(), Refusal> {
        self.take(session, Some(placed), Stage::Reserve, clock)
    }

    fn take(
        &self,
        session: &mut Session,
        placed: Option<&Placed>,
        stage: Stage,
        clock: &impl Clock,
    ) -> Result<(), Refusal> {
        let live = session.live.clone();
        let snapshot = &live.snapshot;
        let mut claims: Vec<Claim<'_>> = Vec::new();
        for (limit, matches) in snapshot.limits.iter().zip(&snapshot.limit_matches) {
            let late = limit.kind == Kind::Tokens
                || matches!(limit.scope, Scope::Model | Scope::Pool | Scope::Provider)
                || matches.needs_model();
            if late != placed.is_some() {
                continue;
            }
            let tier = session.key().map_or("", |k| &*k.tier);
            let record = &session.record;
            if !matches.caller(&record.tenant, tier, &record.key, &record.feature) {
                continue;
            }
            let model = placed.and_then(|p| p.model).and_then(|m| snapshot.models.get(m as usize));
            if matches.needs_model() && !model.is_some_and(|m| matches.model(&m.name)) {
                continue;
            }
            let Some(scope) = self.scope_value(session, limit, placed) else { continue };
            let amount = match limit.kind {
                Kind::Tokens => placed.map_or(0, |p| p.bound_tokens),
                Kind::Requests | Kind::Concurrency => 1,
            };
            claims.push(Claim { limit, scope, amount });
        }
        let result = self.limiter.reserve(&claims, clock.now_ns());
        session.mark(stage, clock);
        match result {
            Ok(held) => {
                session.note(stage, || match claims.as_slice() {
                    [] => "no limit applies".to_owned(),
                    some => some
                        .iter()
                        .zip(held.charges())
                        .map(|(c, h)| format!("`{}`: {} taken, {} left", c.limit.name, h.amount, h.remaining))
                        .collect::<Vec<_>>()
                        .join("; "),
                });
                session.taken.join(held);
                Ok(())
            }
            Err(refused) => {
                session.note(stage, || refused.to_string());
                Err(limit_refusal(&refused))
            }
        }
    }

    fn scope_value(
        &self,
        session: &Session,
        limit: &LimitSpec,
        placed: Option<&Placed>,
    ) -> Option<ScopeValue> {
        let key = &self.scope_key;
        let record = &session.record;
        let snapshot = &session.live.snapshot;
        let within = |value: &str| Some(ScopeValue::new(key, &record.tenant, limit.scope, value));
        let shared = |scope: SharedScope, value: &str| Some(ScopeValue::shared(key, scope, value));
        let pool = || placed.and_then(|p| snapshot.pools.get(p.pool as usize));
        match limit.scope {
            Scope::Key => within(&record.key),
            Scope::User => some(&record.user).and_then(within),
            Scope::Tenant => within(&record.tenant),
            Scope::Feature => some(&record.feature).and_then(within),
            Scope::Tier => {
                session.key().and_then(|k| some(&k.tier)).and_then(|t| shared(SharedScope::Tier, t))
            }
            Scope::Model => {
                let model = placed.and_then(|p| p.model).and_then(|m| snapshot.models.get(m as usize))?;
                shared(SharedScope::Model, &model.name)
            }
            Scope::Pool => shared(SharedScope::Pool, &pool()?.name),
            Scope::Provider => some(&pool()?.provider).and_then(|p| shared(SharedScope::Provider, p)),
            Scope::ClientAddress => shared(SharedScope::ClientAddress, &session.caller.address),
        }
    }
}

/// Without a user, a feature, a tier or a provider there is nothing to count.
fn some(value: &str) -> Option<&str> {
    (!value.is_empty()).then_some(value)
}

fn limit_refusal(refused: &Refused) -> Refusal {
    Refusal::Limit {
        name: refused.name.to_string(),
        unit: match refused.kind {
            Kind::Requests => "requests",
            Kind::Tokens => "tokens",
            Kind::Concurrency => "requests at once",
        },
        capacity: refused.capacity,
        requested: refused.requested,
        remaining: refused.remaining,
        retry_after_ns: refused.retry_after_ns,
    }
}
