//! Owns: which limits and budgets a request meets, and taking them: the caller's first, those of model and pool once
//! known, all of a step at once or none.
//! Must not know: how limits count, where leases are drawn.
//! On failure: closed; a limit without room refuses, and what was taken before is given back by the session.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::counted::Who;
use super::lease::Need;
use super::recall::Waiter;
use super::session::{BudgetNote, Session};
use super::{Clock, Engine};
use crate::budget::Period;
use crate::limit::{Claim, ClaimPeriod, Held, Kind, Limiter, Refused, Scope};
use crate::policy::{BudgetPolicy, ModelPolicy, WhenExhausted};
use crate::record::Stage;
use crate::refusal::Refusal;

/// A lease that is asked for is this many times what the request is short by, if that is more than the usual one.
const LEASE_FACTOR: u64 = 4;
/// A soft budget takes any bound, also an absurd one: of many such, the sum still fits its bucket's 64 bits.
const MAX_SOFT_AMOUNT: u64 = 1 << 52;

/// Where a request was placed and what it may cost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Placed {
    /// The model's index; `None` where the body was not read
    pub model: Option<u32>,
    /// The pool's index
    pub pool: u32,
    /// Prompt and bounded output of all choices
    pub bound_tokens: u64,
    /// What that costs; `None`: the model has no price
    pub bound_nanousd: Option<u64>,
    /// Why that is no bound; `None`: it is one
    pub unbounded: Option<&'static str>,
}

/// Why a request did not get what it needs.
#[derive(Debug)]
pub(super) enum Short {
    /// There is no room
    Refuse(Refusal),
    /// A budget has room, but its lease must be drawn first
    Lease,
}

/// A budget's claim with the names that the ledger knows it by.
struct Named<'a> {
    budget: &'a BudgetPolicy,
    value: Arc<str>,
    period_start_s: i64,
    period_end_s: i64,
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
        self.refuse_drained_budgets(session, clock)?;
        let live = session.live.clone();
        let claims = self.limit_claims(session, &live, None);
        self.reserve(session, &claims, &[], Stage::Limit, clock).map(drop).map_err(|refused| {
            session.note(Stage::Limit, || refused.to_string());
            limit_refusal(&refused, self.reset_ns(&refused, &claims, clock))
        })
    }

    /// Takes what is left: tokens, money, and all that depends on model, pool or provider.
    pub(super) fn take_placed_limits(
        &self,
        session: &mut Session,
        placed: &Placed,
        waiter: &mut dyn FnMut() -> Waiter,
        clock: &impl Clock,
    ) -> Result<(), Short> {
        // Of a model that was tried before, or of a turn before a lease came, nothing was taken.
        session.is_soft = false;
        let live = session.live.clone();
        let mut claims = self.limit_claims(session, &live, Some(placed));
        let limits = claims.len();
        let named = self.budget_claims(session, &live.snapshot.budgets, placed, &mut claims, clock)?;
        let mut result = self.reserve(session, &claims, &named, Stage::Reserve, clock);
        if let Err(refused) = &result
            && !refused.leases.is_empty()
            && !self.leases.is_served()
        {
            self.lease_from_memory(&claims, refused, clock);
            result = self.reserve(session, &claims, &named, Stage::Reserve, clock);
        }
        let refused = match result {
            Ok(held) => {
                self.ask_ahead(&claims[limits..], &held, &named);
                session.charges = named
                    .iter()
                    .map(|n| BudgetNote {
                        budget: n.budget.name.clone(),
                        value: n.value.clone(),
                        period_start_s: n.period_start_s,
                        kind: n.budget.limit.kind,
                    })
                    .collect();
                return Ok(());
            }
            Err(refused) => refused,
        };
        session.note(Stage::Reserve, || refused.to_string());
        if refused.leases.is_empty() {
            let at = refused.limit.0 as usize;
            return Err(Short::Refuse(match at.checked_sub(live.snapshot.limits.len()) {
                Some(_) => {
                    self.metrics.counters.budget_refused.fetch_add(1, Relaxed);
                    budget_refusal(&refused)
                }
                None => limit_refusal(&refused, self.reset_ns(&refused, &claims, clock)),
            }));
        }
        self.ask_leases(session, &claims[limits..], limits, &refused, &named, waiter, clock)
    }

    fn reserve(
        &self,
        session: &mut Session,
        claims: &[Claim<'_>],
        named: &[Named<'_>],
        stage: Stage,
        clock: &impl Clock,
    ) -> Result<Vec<crate::limit::Charge>, Refused> {
        let result = self.limiter.reserve(claims, clock.now_ns());
        session.mark(stage, clock);
        let held = result?;
        session.note(stage, || told(claims, &held));
        // Looked at again only where there is a budget.
        let charges = if named.is_empty() {
            Vec::new()
        } else {
            held.charges().skip(claims.len() - named.len()).collect()
        };
        if charges.iter().any(|c| c.over) {
            session.is_soft = true;
        }
        session.taken.join(held);
        Ok(charges)
    }

    /// Until all of the limit that refused is there again.
    fn reset_ns(&self, refused: &Refused, claims: &[Claim<'_>], clock: &impl Clock) -> u64 {
        let claim = claims.iter().find(|c| c.limit.id == refused.limit);
        claim.map_or(0, |claim| self.limiter.peek(claim, clock.now_ns()).reset_ns)
    }

    fn limit_claims<'a>(
        &self,
        session: &Session,
        live: &'a super::Live,
        placed: Option<&Placed>,
    ) -> Vec<Claim<'a>> {
        let snapshot = &live.snapshot;
        let who = who(session, placed);
        let mut claims: Vec<Claim<'_>> = Vec::new();
        for (limit, matches) in snapshot.limits.iter().zip(&snapshot.limit_matches) {
            let late = limit.kind == Kind::Tokens
                || matches!(limit.scope, Scope::Model | Scope::Pool | Scope::Provider)
                || matches.needs_model();
            if late != placed.is_some() || !counts(session, matches, placed) {
                continue;
            }
            let Some(counted) = who.under(limit.scope) else { continue };
            let amount = match limit.kind {
                Kind::Tokens => placed.map_or(0, |p| p.bound_tokens),
                Kind::Money => placed.and_then(|p| p.bound_nanousd).unwrap_or_default(),
                Kind::Requests | Kind::Concurrency => 1,
            };
            claims.push(Claim { limit, scope: counted.value(&self.scope_key), amount, period: None });
        }
        claims
    }

    /// The claims of budgets, which stand behind those of limits.
    fn budget_claims<'a>(
        &self,
        session: &mut Session,
        budgets: &'a [BudgetPolicy],
        placed: &Placed,
        claims: &mut Vec<Claim<'a>>,
        clock: &impl Clock,
    ) -> Result<Vec<Named<'a>>, Short> {
        if budgets.is_empty() || placed.model.is_none() {
            return Ok(Vec::new());
        }
        let who = who(session, Some(placed));
        let mut is_soft = false;
        let mut named = Vec::new();
        for budget in budgets {
            if !counts(session, &budget.matches, Some(placed)) {
                continue;
            }
            let Some(counted) = who.under(budget.limit.scope) else { continue };
            let is_money = budget.limit.kind == Kind::Money;
            let unbounded = match placed.bound_nanousd {
                None if is_money => Some("the model has no price"),
                _ => placed.unbounded,
            };
            if let Some(why) = unbounded {
                if budget.is_hard {
                    self.metrics.counters.budget_refused.fetch_add(1, Relaxed);
                    let name = budget.name.to_string();
                    return Err(Short::Refuse(Refusal::BudgetUnbounded { name, why }));
                }
                is_soft = true;
            }
            let bound = if is_money { placed.bound_nanousd.unwrap_or_default() } else { placed.bound_tokens };
            let amount = if budget.is_hard { bound } else { bound.min(MAX_SOFT_AMOUNT) };
            let (period, wait_ns) = self.period_of(budget, clock);
            let claim_period = claim_period(&period, wait_ns, clock);
            let scope = counted.value(&self.scope_key);
            claims.push(Claim { limit: &budget.limit, scope, amount, period: Some(claim_period) });
            named.push(Named {
                budget,
                value: Arc::from(counted.name()),
                period_start_s: period.start_s,
                period_end_s: period.end_s,
            });
        }
        session.is_soft |= is_soft;
        Ok(named)
    }

    /// A budget's present period, and how long it still is.
    fn period_of(&self, budget: &BudgetPolicy, clock: &impl Clock) -> (Period, u64) {
        let unix_ns = clock.unix_ns();
        let current = budget.calendar.current(unix_ns);
        if current.stepped_back {
            self.metrics.counters.clock_steps.fetch_add(1, Relaxed);
        }
        let end_ns = u64::try_from(current.period.end_s).unwrap_or_default().saturating_mul(1_000_000_000);
        (current.period, end_ns.saturating_sub(unix_ns))
    }

    /// A budget that gives nothing once it is spent refuses here, before an answer is looked for.
    fn refuse_drained_budgets(&self, session: &Session, clock: &impl Clock) -> Result<(), Refusal> {
        let who = who(session, None);
        for budget in &session.live.snapshot.budgets {
            let refuses = budget.is_hard
                && matches!(budget.when_exhausted, WhenExhausted::Refuse | WhenExhausted::Unspecified);
            if !refuses || budget.matches.needs_model() || !counts(session, &budget.matches, None) {
                continue;
            }
            let Some(counted) = who.under(budget.limit.scope) else { continue };
            let (period, wait_ns) = self.period_of(budget, clock);
            let claim = Claim {
                limit: &budget.limit,
                scope: counted.value(&self.scope_key),
                amount: 0,
                period: Some(claim_period(&period, wait_ns, clock)),
            };
            if self.limiter.peek(&claim, clock.now_ns()).remaining == 0 {
                self.metrics.counters.budget_refused.fetch_add(1, Relaxed);
                return Err(Refusal::Budget {
                    name: budget.name.to_string(),
                    unit: unit(budget.limit.kind),
                    amount: budget.limit.capacity,
                    requested: 1,
                    remaining: 0,
                    retry_after_ns: Some(wait_ns),
                });
            }
        }
        Ok(())
    }

    /// Draws the next lease before the present one is used up.
    fn ask_ahead(&self, claims: &[Claim<'_>], charges: &[crate::limit::Charge], named: &[Named<'_>]) {
        for ((claim, charge), named) in claims.iter().zip(charges).zip(named) {
            let Some(left) = charge.lease_left else { continue };
            let low = left < named.budget.lease_amount.saturating_div(2).max(charge.amount);
            if low && charge.lease_may_grow {
                let want = named.budget.lease_amount.saturating_add(charge.lease_short);
                self.ask_lease(claim, named, want, None);
            }
        }
    }

    /// Nobody draws leases for this engine: it is used alone, and its budgets count from nothing, in memory.
    fn lease_from_memory(&self, claims: &[Claim<'_>], refused: &Refused, clock: &impl Clock) {
        for need in &refused.leases {
            let Some(claim) = claims.get(need.claim) else { continue };
            let all = Claim { amount: claim.limit.capacity.saturating_sub(need.granted), ..*claim };
            // An ended period has no use for it; the request meets the next one.
            let _ = self.limiter.grant(&all, 0, clock.now_ns());
        }
    }

    /// Asks for the leases that a request is short of, and waits for them as long as it may.
    #[allow(clippy::too_many_arguments)] // one step of `take_placed_limits`, which has them all
    fn ask_leases(
        &self,
        session: &mut Session,
        claims: &[Claim<'_>],
        limits: usize,
        refused: &Refused,
        named: &[Named<'_>],
        waiter: &mut dyn FnMut() -> Waiter,
        clock: &impl Clock,
    ) -> Result<(), Short> {
        let now_ns = clock.now_ns();
        if session.lease_until_ns == 0 {
            session.lease_until_ns = now_ns.saturating_add(session.message_timeout_ns() / 2);
        } else if now_ns >= session.lease_until_ns {
            return Err(Short::Refuse(Refusal::BudgetUnavailable));
        }
        // The first is waited for; the others come with it, or the request asks again.
        let mut first = true;
        for need in &refused.leases {
            let at = need.claim.saturating_sub(limits);
            let (Some(claim), Some(named)) = (claims.get(at), named.get(at)) else { continue };
            let want = named.budget.lease_amount.max(need.short_by.saturating_mul(LEASE_FACTOR));
            let told = std::mem::take(&mut first).then(&mut *waiter);
            if !self.ask_lease(claim, named, want, told) {
                return Err(Short::Refuse(Refusal::Overloaded));
            }
        }
        self.metrics.counters.lease_waits.fetch_add(1, Relaxed);
        Err(Short::Lease)
    }

    fn ask_lease(&self, claim: &Claim<'_>, named: &Named<'_>, want: u64, waiter: Option<Waiter>) -> bool {
        self.metrics.counters.lease_asks.fetch_add(1, Relaxed);
        let need = Need {
            claim: *claim,
            key: Limiter::lease_key(claim),
            budget: &named.budget.name,
            value: &named.value,
            unit: if named.budget.limit.kind == Kind::Money { "nanousd" } else { "tokens" },
            period_end_s: named.period_end_s,
            want,
        };
        self.leases.ask(&need, waiter, &self.limiter)
    }
}

/// What is known of a session's request, with its place where it has one.
fn who<'s>(session: &'s Session, placed: Option<&Placed>) -> Who<'s> {
    let record = &session.record;
    let pool = placed.and_then(|p| session.live.snapshot.pools.get(p.pool as usize));
    Who {
        tenant: &record.tenant,
        key: &record.key,
        user: &record.user,
        feature: &record.feature,
        run: &record.run,
        eval: &record.eval,
        tier: session.key().map_or("", |k| &*k.tier),
        model: placed_model(session, placed).map_or("", |m| &*m.name),
        pool: pool.map_or("", |p| &*p.name),
        provider: pool.map_or("", |p| &*p.provider),
        address: Some(&session.caller.address),
    }
}

/// The model that a request was placed with.
fn placed_model<'s>(session: &'s Session, placed: Option<&Placed>) -> Option<&'s ModelPolicy> {
    placed.and_then(|p| p.model).and_then(|m| session.live.snapshot.models.get(m as usize))
}

/// Whether a limit or a budget counts the request.
fn counts(session: &Session, matches: &crate::policy::LimitMatch, placed: Option<&Placed>) -> bool {
    let tier = session.key().map_or("", |k| &*k.tier);
    let record = &session.record;
    if !matches.caller(&record.tenant, tier, &record.key, &record.feature) {
        return false;
    }
    !matches.needs_model() || placed_model(session, placed).is_some_and(|m| matches.model(&m.name))
}

fn told(claims: &[Claim<'_>], held: &Held) -> String {
    if claims.is_empty() {
        return "no limit applies".to_owned();
    }
    let lines = claims.iter().zip(held.charges());
    lines
        .map(|(c, h)| format!("`{}`: {} taken, {} left", c.limit.name, h.amount, h.remaining))
        .collect::<Vec<_>>()
        .join("; ")
}

/// The period as a claim has it, on the engine's clock.
fn claim_period(period: &Period, wait_ns: u64, clock: &impl Clock) -> ClaimPeriod {
    ClaimPeriod { start_s: period.start_s, ends_ns: clock.now_ns().saturating_add(wait_ns) }
}

fn unit(kind: Kind) -> &'static str {
    if kind == Kind::Concurrency { "requests at once" } else { kind.unit() }
}

fn limit_refusal(refused: &Refused, reset_ns: u64) -> Refusal {
    Refusal::Limit {
        name: refused.name.to_string(),
        unit: unit(refused.kind),
        capacity: refused.capacity,
        requested: refused.requested,
        remaining: refused.remaining,
        retry_after_ns: refused.retry_after_ns,
        reset_ns,
    }
}

fn budget_refusal(refused: &Refused) -> Refusal {
    Refusal::Budget {
        name: refused.name.to_string(),
        unit: unit(refused.kind),
        amount: refused.capacity,
        requested: refused.requested,
        remaining: refused.remaining,
        retry_after_ns: refused.retry_after_ns,
    }
}
