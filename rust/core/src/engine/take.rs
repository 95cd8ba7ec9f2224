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
use super::{Clock, Engine, Live};
use crate::budget::Period;
use crate::limit::{Claim, ClaimPeriod, Held, Kind, Limiter, Refused, Scope};
use crate::policy::{BudgetPolicy, LimitMatch, ModelPolicy, WhenExhausted};
use crate::record::{Record, Stage};
use crate::refusal::Refusal;

/// A lease that is asked for is this many times what the request is short by, if that is more than the usual one.
const LEASE_FACTOR: u64 = 4;
/// A soft budget takes any bound, also an absurd one: of many such, the sum still fits its bucket's 64 bits.
const MAX_SOFT_AMOUNT: u64 = 1 << 52;

/// Of the limits that wait until a place is known: which are taken now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Part {
    /// All of them. Of a request whose body is not read: those that need no model, and of tokens what is left
    #[default]
    All,
    /// Those that such a request still needs once its tensors are read: of its model, of tokens, and budgets
    Tensors,
}

/// Where a request was placed and what it may cost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Placed {
    /// Which limits that concerns
    pub part: Part,
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

/// A request as limits and budgets see it.
#[derive(Clone, Copy)]
pub(super) struct Seen<'s> {
    pub live: &'s Live,
    pub record: &'s Record,
    pub key: u32,
    pub address: &'s str,
}

/// All claims of a step.
pub(super) struct Claims<'a> {
    all: Vec<Claim<'a>>,
    /// The first so many are limits', the others budgets'
    limits: usize,
    named: Vec<Named<'a>>,
    /// A soft budget lets it pass without a bound
    pub is_soft: bool,
}

/// How long a request still waits for leases.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseWait {
    /// 0: it does not wait yet
    pub until_ns: u64,
    pub most_ns: u64,
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
        self.refuse_drained_budgets(&session.seen(), clock)?;
        let live = session.live.clone();
        let limits = self.limit_claims(&session.seen(), &live, None);
        let claims = Claims { limits: limits.len(), all: limits, named: Vec::new(), is_soft: false };
        let result = self.reserve(&claims, clock);
        session.mark(Stage::Limit, clock);
        match result {
            Ok(held) => {
                session.note(Stage::Limit, || claims.told(&held));
                session.taken.join(held);
                Ok(())
            }
            Err(refused) => {
                session.note(Stage::Limit, || refused.to_string());
                Err(limit_refusal(&refused, self.reset_ns(&refused, &claims, clock)))
            }
        }
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
        let claims = self.placed_claims(&session.seen(), &live, placed, clock)?;
        let result = self.reserve(&claims, clock);
        session.mark(Stage::Reserve, clock);
        match result {
            Ok(held) => {
                session.note(Stage::Reserve, || claims.told(&held));
                session.is_soft = claims.is_soft || claims.is_over(&held);
                session.charges = claims.notes();
                session.taken.join(held);
                Ok(())
            }
            Err(refused) => {
                session.note(Stage::Reserve, || refused.to_string());
                let mut wait =
                    LeaseWait { until_ns: session.lease_until_ns, most_ns: session.message_timeout_ns() / 2 };
                let short = self.short_of(&live, &claims, &refused, &mut wait, waiter, clock);
                session.lease_until_ns = wait.until_ns;
                Err(short)
            }
        }
    }

    /// What a request claims of limits and budgets once its place is known.
    pub(super) fn placed_claims<'a>(
        &self,
        seen: &Seen<'_>,
        live: &'a Live,
        placed: &Placed,
        clock: &impl Clock,
    ) -> Result<Claims<'a>, Short> {
        let all = self.limit_claims(seen, live, Some(placed));
        let mut claims = Claims { limits: all.len(), all, named: Vec::new(), is_soft: false };
        self.budget_claims(seen, &live.snapshot.budgets, placed, &mut claims, clock)?;
        Ok(claims)
    }

    /// Takes all claims or none, and draws the next leases ahead.
    pub(super) fn reserve(&self, claims: &Claims<'_>, clock: &impl Clock) -> Result<Held, Refused> {
        let mut result = self.limiter.reserve(&claims.all, clock.now_ns());
        if let Err(refused) = &result
            && !refused.leases.is_empty()
            && !self.leases.is_served()
        {
            self.lease_from_memory(&claims.all, refused, clock);
            result = self.limiter.reserve(&claims.all, clock.now_ns());
        }
        if let Ok(held) = &result
            && !claims.named.is_empty()
        {
            self.ask_ahead(claims, held);
        }
        result
    }

    /// Why claims were refused, in the words of a client; where only leases are missing they are asked for.
    pub(super) fn short_of(
        &self,
        live: &Live,
        claims: &Claims<'_>,
        refused: &Refused,
        wait: &mut LeaseWait,
        waiter: &mut dyn FnMut() -> Waiter,
        clock: &impl Clock,
    ) -> Short {
        if refused.leases.is_empty() {
            let at = refused.limit.0 as usize;
            return Short::Refuse(match at.checked_sub(live.snapshot.limits.len()) {
                Some(_) => {
                    self.metrics.counters.budget_refused.fetch_add(1, Relaxed);
                    budget_refusal(refused)
                }
                None => limit_refusal(refused, self.reset_ns(refused, claims, clock)),
            });
        }
        self.ask_leases(claims, refused, wait, waiter, clock)
    }

    /// Until all of the limit that refused is there again.
    fn reset_ns(&self, refused: &Refused, claims: &Claims<'_>, clock: &impl Clock) -> u64 {
        let claim = claims.all.iter().find(|c| c.limit.id == refused.limit);
        claim.map_or(0, |claim| self.limiter.peek(claim, clock.now_ns()).reset_ns)
    }

    fn limit_claims<'a>(&self, seen: &Seen<'_>, live: &'a Live, placed: Option<&Placed>) -> Vec<Claim<'a>> {
        let snapshot = &live.snapshot;
        let who = seen.who(placed);
        let mut claims: Vec<Claim<'_>> = Vec::new();
        for (limit, matches) in snapshot.limits.iter().zip(&snapshot.limit_matches) {
            let of_tensors =
                limit.kind == Kind::Tokens || limit.scope == Scope::Model || matches.needs_model();
            let late = of_tensors || matches!(limit.scope, Scope::Pool | Scope::Provider);
            let is_now = match placed.map(|p| p.part) {
                None => !late,
                Some(Part::All) => late,
                Some(Part::Tensors) => of_tensors,
            };
            if !is_now || !seen.is_counted(matches, placed) {
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
        seen: &Seen<'_>,
        budgets: &'a [BudgetPolicy],
        placed: &Placed,
        claims: &mut Claims<'a>,
        clock: &impl Clock,
    ) -> Result<(), Short> {
        if budgets.is_empty() || placed.model.is_none() {
            return Ok(());
        }
        let who = seen.who(Some(placed));
        for budget in budgets {
            if !seen.is_counted(&budget.matches, Some(placed)) {
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
                claims.is_soft = true;
            }
            let bound = if is_money { placed.bound_nanousd.unwrap_or_default() } else { placed.bound_tokens };
            let amount = if budget.is_hard { bound } else { bound.min(MAX_SOFT_AMOUNT) };
            let (period, wait_ns) = self.period_of(budget, clock);
            let claim_period = claim_period(&period, wait_ns, clock);
            let scope = counted.value(&self.scope_key);
            claims.all.push(Claim { limit: &budget.limit, scope, amount, period: Some(claim_period) });
            claims.named.push(Named {
                budget,
                value: Arc::from(counted.name()),
                period_start_s: period.start_s,
                period_end_s: period.end_s,
            });
        }
        Ok(())
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
    fn refuse_drained_budgets(&self, seen: &Seen<'_>, clock: &impl Clock) -> Result<(), Refusal> {
        let who = seen.who(None);
        for budget in &seen.live.snapshot.budgets {
            let refuses = budget.is_hard
                && matches!(budget.when_exhausted, WhenExhausted::Refuse | WhenExhausted::Unspecified);
            if !refuses || budget.matches.needs_model() || !seen.is_counted(&budget.matches, None) {
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
    fn ask_ahead(&self, claims: &Claims<'_>, held: &Held) {
        for ((claim, charge), named) in
            claims.budgets().iter().zip(held.charges().skip(claims.limits)).zip(&claims.named)
        {
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
    fn ask_leases(
        &self,
        claims: &Claims<'_>,
        refused: &Refused,
        wait: &mut LeaseWait,
        waiter: &mut dyn FnMut() -> Waiter,
        clock: &impl Clock,
    ) -> Short {
        let now_ns = clock.now_ns();
        if wait.until_ns == 0 {
            wait.until_ns = now_ns.saturating_add(wait.most_ns);
        } else if now_ns >= wait.until_ns {
            return Short::Refuse(Refusal::BudgetUnavailable);
        }
        // The first is waited for; the others come with it, or the request asks again.
        let mut first = true;
        for need in &refused.leases {
            let at = need.claim.saturating_sub(claims.limits);
            let (Some(claim), Some(named)) = (claims.budgets().get(at), claims.named.get(at)) else {
                continue;
            };
            let drawn = named.budget.lease_amount.max(need.short_by.saturating_mul(LEASE_FACTOR));
            let told = std::mem::take(&mut first).then(&mut *waiter);
            if !self.ask_lease(claim, named, drawn, told) {
                return Short::Refuse(Refusal::Overloaded);
            }
        }
        self.metrics.counters.lease_waits.fetch_add(1, Relaxed);
        Short::Lease
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

// === impl Seen ===

impl Seen<'_> {
    /// What is known of the request, with its place where it has one.
    fn who(&self, placed: Option<&Placed>) -> Who<'_> {
        let record = self.record;
        let pool = placed.and_then(|p| self.live.snapshot.pools.get(p.pool as usize));
        Who {
            tenant: &record.tenant,
            key: &record.key,
            user: &record.user,
            feature: &record.feature,
            run: &record.run,
            eval: &record.eval,
            tier: self.tier(),
            model: self.model(placed).map_or("", |m| &*m.name),
            pool: pool.map_or("", |p| &*p.name),
            provider: pool.map_or("", |p| &*p.provider),
            address: Some(self.address),
        }
    }

    fn tier(&self) -> &str {
        self.live.snapshot.key(self.key).map_or("", |k| &*k.tier)
    }

    /// The model that the request was placed with.
    fn model(&self, placed: Option<&Placed>) -> Option<&ModelPolicy> {
        placed.and_then(|p| p.model).and_then(|m| self.live.snapshot.models.get(m as usize))
    }

    /// Whether a limit or a budget counts the request.
    fn is_counted(&self, matches: &LimitMatch, placed: Option<&Placed>) -> bool {
        let record = self.record;
        if !matches.caller(&record.tenant, self.tier(), &record.key, &record.feature) {
            return false;
        }
        !matches.needs_model() || self.model(placed).is_some_and(|m| matches.model(&m.name))
    }
}

// === impl Claims ===

impl<'a> Claims<'a> {
    fn budgets(&self) -> &[Claim<'a>] {
        self.all.get(self.limits..).unwrap_or_default()
    }

    /// Whether a budget is spent above its amount.
    pub(super) fn is_over(&self, held: &Held) -> bool {
        !self.named.is_empty() && held.charges().any(|charge| charge.over)
    }

    /// What budgets are charged, in the order of their claims.
    pub(super) fn notes(&self) -> Vec<BudgetNote> {
        let note = |n: &Named<'_>| BudgetNote {
            budget: n.budget.name.clone(),
            value: n.value.clone(),
            period_start_s: n.period_start_s,
            kind: n.budget.limit.kind,
        };
        self.named.iter().map(note).collect()
    }

    fn told(&self, held: &Held) -> String {
        if self.all.is_empty() {
            return "no limit applies".to_owned();
        }
        let lines = self.all.iter().zip(held.charges());
        lines
            .map(|(c, h)| format!("`{}`: {} taken, {} left", c.limit.name, h.amount, h.remaining))
            .collect::<Vec<_>>()
            .join("; ")
    }
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
