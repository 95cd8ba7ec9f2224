//! Owns: budgets as deciding needs them: the leased limit, its calendar, which requests it counts, what follows at its end.
//! Must not know: how leases are drawn.
//! On failure: closed; a budget that cannot be kept refuses the policy, since without it more would be spent.

use std::collections::HashMap;
use std::sync::Arc;

use super::limits::{LimitMatch, limit_scope};
use super::{Finding, Severity, pb};
use crate::budget::{Calendar, PeriodKind};
use crate::limit::{Algorithm, Enforcement, Kind, LimitDefinition, LimitId, LimitSpec};

pub use pb::budget::WhenExhausted;

/// A lease is at least this share of the budget, so that most requests find one drawn.
const LEASE_SHARE: u64 = 64;

/// A budget.
#[derive(Debug)]
pub struct BudgetPolicy {
    /// Its name
    pub name: Arc<str>,
    /// What its buckets count by
    pub limit: LimitSpec,
    /// When its periods begin and end
    pub calendar: Calendar,
    /// Which requests it counts
    pub matches: LimitMatch,
    /// Never overspent, and only what is bounded is admitted
    pub is_hard: bool,
    /// What follows when nothing is left
    pub when_exhausted: WhenExhausted,
    /// `NEXT_MODEL`: which, as indices
    pub next_models: Vec<u32>,
    /// The least that is drawn at once
    pub lease_amount: u64,
}

// === impl BudgetPolicy ===

impl BudgetPolicy {
    /// The budget at index `at`; limits and budgets share one row of ids, in which it is `id`.
    pub(super) fn new(
        at: usize,
        id: usize,
        budget: &pb::Budget,
        models: &HashMap<Arc<str>, u32, ahash::RandomState>,
    ) -> Result<Self, Finding> {
        let refuse = |slug: &'static str, message: String| Finding {
            severity: Severity::Error,
            slug,
            path: format!("budgets[{at}]"),
            message,
        };
        let kind = match budget.period() {
            pb::budget::Period::Hour => PeriodKind::Hour,
            pb::budget::Period::Month => PeriodKind::Month,
            pb::budget::Period::Day | pb::budget::Period::Unspecified => PeriodKind::Day,
        };
        let zone = if budget.timezone.is_empty() { "UTC" } else { budget.timezone.as_str() };
        let calendar =
            Calendar::new(kind, zone).map_err(|error| refuse("budget_timezone", error.to_string()))?;
        let is_hard = budget.enforcement() != pb::budget::Enforcement::Soft;
        let enforcement = if is_hard { Enforcement::Hard } else { Enforcement::Soft };
        let limit = LimitSpec::new(LimitDefinition {
            id: LimitId(id as u32),
            name: Arc::from(budget.name.as_str()),
            kind: if budget.unit() == pb::budget::Unit::Tokens { Kind::Tokens } else { Kind::Money },
            scope: limit_scope(budget.scope()),
            capacity: budget.amount,
            window_ns: 0,
            algorithm: Algorithm::Leased { enforcement },
        })
        .map_err(|error| refuse(error.slug(), error.to_string()))?;
        Ok(Self {
            name: Arc::from(budget.name.as_str()),
            limit,
            calendar,
            matches: LimitMatch::of_budget(budget),
            is_hard,
            when_exhausted: budget.when_exhausted(),
            next_models: budget.next_models.iter().filter_map(|m| models.get(m.as_str()).copied()).collect(),
            lease_amount: (budget.amount / LEASE_SHARE).max(1),
        })
    }
}
