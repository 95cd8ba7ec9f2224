//! Owns: taking what limits and budgets count of a tensor request once its tensors are read, all at once or none.
//! Must not know: tensors; how a request waits for a lease.
//! On failure: closed; what has no room is refused, and what was taken for a request that is over is given back.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::AtBatch;
use crate::engine::end::Open;
use crate::engine::ledger::cost_or_nothing;
use crate::engine::recall::Waiter;
use crate::engine::session::BudgetNote;
use crate::engine::take::{LeaseWait, Part, Placed, Seen, Short};
use crate::engine::{Clock, Engine, Live};
use crate::limit::Held;
use crate::policy::pb::route::Operation;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::usage::TokenUse;

/// What an inference will use.
#[derive(Debug, Clone, Copy)]
pub struct TensorsUsed<'a> {
    /// The model as the client named it
    pub model: &'a str,
    /// Rows times their length, unpadded
    pub tokens: u64,
}

/// What became of taking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchTake {
    /// All of it, or nothing counts it
    Taken,
    /// A budget's lease is on its way: wait for the waiter to be called or for this time, and ask again
    Lease {
        /// The end of the wait, on the engine's clock
        until_ns: u64,
    },
}

/// What was taken for one inference.
#[derive(Debug)]
pub(in crate::engine) struct TensorPart {
    pub held: Held,
    pub charges: Vec<BudgetNote>,
    pub tokens: u64,
    /// `None`: the model has no price
    pub nanousd: Option<u64>,
}

/// Who takes, as its reservation was when its tensors were read.
struct Taker {
    live: Arc<Live>,
    record: Box<Record>,
    key: u32,
    address: Box<str>,
    lease_until_ns: u64,
}

// === impl Engine ===

impl Engine {
    /// Takes what limits and budgets count of an inference: its tokens, their price, and all that depends on its model.
    ///
    /// A request that was decided from its body has taken all at its decision, so nothing is taken here.
    pub fn batch_take(
        &self,
        id: u128,
        used: TensorsUsed<'_>,
        waiter: &mut dyn FnMut() -> Waiter,
        clock: &impl Clock,
    ) -> Result<BatchTake, Refusal> {
        let taker = self.open.amend(id, |reservation| {
            let open = &mut reservation.owner;
            (open.operation() == Operation::Kserve).then(|| Taker::of(open))
        });
        let Some(taker) = taker.ok_or(Refusal::UnknownKey)? else { return Ok(BatchTake::Taken) };
        let live = &*taker.live;
        let snapshot = &live.snapshot;
        let at = snapshot.model_named(used.model);
        let at = at.ok_or_else(|| Refusal::UnknownModel(used.model.to_owned()))?;
        let model = snapshot.models.get(at as usize).ok_or(Refusal::Internal)?;
        let tokens = TokenUse { prompt: used.tokens, ..TokenUse::default() };
        let nanousd = model.prices.as_ref().map(|prices| cost_or_nothing(prices, &tokens));
        let placed = Placed {
            part: Part::Tensors,
            model: Some(at),
            pool: snapshot.pool_named(&taker.record.pool).unwrap_or_default(),
            bound_tokens: used.tokens,
            bound_nanousd: nanousd,
            unbounded: None,
        };
        let seen = Seen { live, record: &taker.record, key: taker.key, address: &taker.address };
        let claims = match self.placed_claims(&seen, live, &placed, clock) {
            Ok(claims) => claims,
            Err(Short::Refuse(refusal)) => return Err(refusal),
            Err(Short::Lease) => return Err(Refusal::BudgetUnavailable),
        };
        let held = match self.reserve(&claims, clock) {
            Ok(held) => held,
            Err(refused) => {
                let most_ns = snapshot.timing.message_timeout_ns / 2;
                let mut wait = LeaseWait { until_ns: taker.lease_until_ns, most_ns };
                return match self.short_of(live, &claims, &refused, &mut wait, waiter, clock) {
                    Short::Refuse(refusal) => Err(refusal),
                    Short::Lease => {
                        self.open.amend(id, |r| r.owner.at_batch().lease_until_ns = wait.until_ns);
                        Ok(BatchTake::Lease { until_ns: wait.until_ns })
                    }
                };
            }
        };
        let is_soft = claims.is_soft || claims.is_over(&held);
        let charges = claims.notes();
        let mut part = Some(TensorPart { held, charges, tokens: used.tokens, nanousd });
        self.open.amend(id, |reservation| reservation.owner.join(&mut part, at, used.model));
        if let Some(part) = part {
            // It ended while this was taken.
            self.limiter.cancel(&part.held, clock.now_ns());
            return Err(Refusal::UnknownKey);
        }
        let counters = &self.metrics.counters;
        counters.budget_soft.fetch_add(u64::from(is_soft), Relaxed);
        counters.prompt_tokens.fetch_add(used.tokens, Relaxed);
        counters.bound_tokens.fetch_add(used.tokens, Relaxed);
        Ok(BatchTake::Taken)
    }
}

// === impl Taker ===

impl Taker {
    fn of(open: &Open) -> Self {
        Self {
            live: open.live.clone(),
            record: open.record.clone(),
            key: open.key,
            address: open.address.clone(),
            lease_until_ns: open.batch.as_ref().map_or(0, |batch| batch.lease_until_ns),
        }
    }
}

// === impl Open ===

impl Open {
    /// What it did at the batch service.
    pub(in crate::engine) fn at_batch(&mut self) -> &mut AtBatch {
        self.batch.get_or_insert_default()
    }

    /// Takes over a part, unless the request's slot was freed: then nobody would free what the part holds.
    fn join(&mut self, part: &mut Option<TensorPart>, model: u32, asked: &str) {
        if self.lease.is_none() {
            return;
        }
        let Some(part) = part.take() else { return };
        self.model = Some(model);
        self.named = Some(model);
        let record = &mut self.record;
        if let Some(policy) = self.live.snapshot.models.get(model as usize) {
            record.model = policy.name.clone();
        }
        asked.clone_into(&mut record.asked);
        record.exact = true;
        record.prompt_tokens = record.prompt_tokens.saturating_add(part.tokens);
        record.bound_tokens = record.bound_tokens.saturating_add(part.tokens);
        record.reserved_nanousd = record.reserved_nanousd.saturating_add(part.nanousd.unwrap_or_default());
        let batch = self.at_batch();
        batch.lease_until_ns = 0;
        batch.parts.push(part);
    }
}
