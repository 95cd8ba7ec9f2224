//! Owns: how a request ended at the batch service, and what that means for what was taken for its tensors.
//! Must not know: batches, limits' insides.
//! On failure: closed; what may have run and was not told stays spent, marked as estimated.

use super::AtBatch;
use crate::account::{Outcome, Settlement, Source};
use crate::engine::Engine;
use crate::engine::end::{LogEntry, Open};
use crate::limit::{Kind, Limiter};
use crate::policy::pb::BudgetCharge;
use crate::policy::pb::route::Operation;
use crate::record::CacheState;
use crate::usage::TokenUse;

/// Whether a model server worked for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ran {
    /// It did
    Whole,
    /// It did not: refused, answered from the cache, or by an equal request's answer
    #[default]
    Nothing,
    /// It may have: the client left, or its time was over
    Unknown,
}

/// How a request ended at the batch service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchEnded {
    /// `Ok`, or why not
    pub outcome: Outcome,
    /// A failure's stable name; empty: it was none
    pub code: &'static str,
    /// Whether it cost anything
    pub ran: Ran,
    /// Its rows
    pub rows: u64,
    /// Rows of the batch that it went with
    pub batch_rows: u64,
    /// Rows times their length, unpadded
    pub tokens: u64,
    /// Its rows times the length that they were padded to
    pub padded_tokens: u64,
    /// From its arrival to the batch's leaving
    pub queue_ns: u64,
    /// From the batch's leaving to its answer
    pub service_ns: u64,
}

// === impl Engine ===

impl Engine {
    /// The batch service is done with a request: its slot is free, and its record tells how it went.
    pub fn batch_finished(&self, id: u128, ended: BatchEnded, now_ns: u64) {
        let lease = self.open.amend(id, |reservation| {
            let open = &mut reservation.owner;
            open.at_batch().end = Some(ended);
            open.record.batch = Some(ended);
            match ended.outcome {
                Outcome::Hit => open.record.cache = CacheState::Hit,
                Outcome::Follow => open.record.cache = CacheState::Follow,
                _ => {}
            }
            self.free_slot(reservation, now_ns)
        });
        drop(lease);
    }
}

// === impl Open ===

impl Open {
    /// The verdict on a request whose tensors were counted where they were read.
    pub(in crate::engine) fn judge_tensors(&self, entry: &LogEntry<'_>) -> Settlement {
        let told = Outcome::of(&entry.ending());
        let Some(batch) = &self.batch else { return Settlement { outcome: told, ..Settlement::default() } };
        let (outcome, ran) = match &batch.end {
            Some(end) if end.outcome == Outcome::Ok => (told, end.ran),
            Some(end) => (end.outcome, end.ran),
            None if told == Outcome::Ok => (told, Ran::Whole),
            None => (told, Ran::Unknown),
        };
        let source = match ran {
            _ if batch.parts.is_empty() => Source::Nothing,
            Ran::Nothing => Source::Nothing,
            Ran::Whole => Source::Exact,
            Ran::Unknown => Source::Estimated,
        };
        let prompt = if source == Source::Nothing { 0 } else { batch.tokens() };
        Settlement { outcome, used: TokenUse { prompt, ..TokenUse::default() }, source }
    }

    /// Whether how it ended is known without its entry in the log.
    pub(in crate::engine) fn has_ended_at_batch(&self) -> bool {
        self.operation() == Operation::Kserve && self.batch.as_ref().is_some_and(|batch| batch.end.is_some())
    }

    /// What was taken for tensors, if that is what it costs: its tokens' price, and what budgets are charged of it.
    pub(in crate::engine) fn taken_for_tensors(&self) -> Option<&AtBatch> {
        self.batch.as_deref().filter(|batch| !batch.parts.is_empty())
    }
}

// === impl AtBatch ===

impl AtBatch {
    fn tokens(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.tokens))
    }

    /// What it costs; `None`: one of its models has no price.
    pub(in crate::engine) fn nanousd(&self, settlement: &Settlement) -> Option<u64> {
        let mut costs = self.parts.iter().map(|part| part.nanousd);
        let sum = costs.try_fold(0_u64, |sum, nanousd| Some(sum.saturating_add(nanousd?)))?;
        Some(if settlement.source == Source::Nothing { 0 } else { sum })
    }

    /// Keeps what was taken, or gives it back where nothing ran. Call it once.
    pub(in crate::engine) fn settle(&self, limiter: &Limiter, settlement: &Settlement, now_ns: u64) {
        let is_spent = settlement.source != Source::Nothing;
        for part in &self.parts {
            let (tokens, nanousd) =
                if is_spent { (part.tokens, part.nanousd.unwrap_or_default()) } else { (0, 0) };
            limiter.settle(&part.held, tokens, now_ns);
            limiter.settle_money(&part.held, nanousd, now_ns);
        }
    }

    /// What each budget is charged, once for each of its values and periods.
    pub(in crate::engine) fn charges(&self, settlement: &Settlement) -> Vec<BudgetCharge> {
        let is_spent = settlement.source != Source::Nothing;
        let mut all: Vec<BudgetCharge> = Vec::new();
        for part in &self.parts {
            for note in &part.charges {
                let spent = match note.kind {
                    Kind::Money => part.nanousd.unwrap_or_default(),
                    _ => part.tokens,
                };
                let amount = if is_spent { spent } else { 0 };
                let same = all.iter_mut().find(|charge| {
                    *charge.budget == *note.budget
                        && *charge.value == *note.value
                        && charge.period_start_s == note.period_start_s
                });
                match same {
                    Some(charge) => charge.amount = charge.amount.saturating_add(amount),
                    None => all.push(BudgetCharge {
                        budget: note.budget.to_string(),
                        value: note.value.to_string(),
                        period_start_s: note.period_start_s,
                        amount,
                    }),
                }
            }
        }
        all
    }
}
