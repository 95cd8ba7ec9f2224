//! Owns: the rules of `budgets`: who may spend how much in which period, and what follows at the end.
//! Must not know: how a budget is kept, leases, the ledger's files.
//! On failure: a finding; what a hard budget would refuse is said before it does.

use super::limits::{self, Narrowing};
use super::models::{names_a_model, writes_text};
use super::names::{self, Alphabet, Names};
use super::{Report, pb};
use crate::budget::{Calendar, PeriodKind};
use crate::price::{Prices, bound_nanousd};
use pb::budget::{Enforcement, Period, Unit, WhenExhausted};

/// A quarter of what an `i64` holds, which the ledger's file has: sums of reservations stay inside.
const MOST_AMOUNT: u64 = 1 << 62;
/// Every request is held against every budget.
const MOST_BUDGETS: usize = 256;
const MOST_THRESHOLDS: usize = 16;
const MOST_PERCENT: u32 = 1_000;

pub(super) fn check(policy: &pb::Policy, names: &Names, report: &mut Report) {
    let budgets = policy.budgets.iter().enumerate();
    names::check_unique(budgets.map(|(i, b)| (format!("budgets[{i}].name"), &*b.name)), report);
    if policy.budgets.len() > MOST_BUDGETS {
        let message = format!("has {} budgets; at most {MOST_BUDGETS} are allowed", policy.budgets.len());
        report.error("too_many", "budgets", message);
    }
    if !policy.budgets.is_empty() && policy.ledger.is_none() {
        let message = "budgets are kept in the ledger, and the policy has none; add `ledger: {}`";
        report.error("no_ledger", "ledger", message);
    }
    for (i, budget) in policy.budgets.iter().enumerate() {
        let path = format!("budgets[{i}]");
        names::check_name(&budget.name, &format!("{path}.name"), Alphabet::Plain, report);
        limits::check_scope(budget.scope(), policy, &format!("{path}.scope"), report);
        check_amount(budget, &path, report);
        check_period(budget, &path, report);
        check_end(budget, &path, names, report);
        check_thresholds(budget, &path, report);
        limits::check_lists(&Narrowing::of_budget(budget), &path, names, report);
        if is_hard(budget) {
            check_bounds(budget, policy, &path, report);
        }
    }
}

fn is_hard(budget: &pb::Budget) -> bool {
    budget.enforcement() != Enforcement::Soft
}

fn check_amount(budget: &pb::Budget, path: &str, report: &mut Report) {
    if Unit::try_from(budget.unit).unwrap_or_default() == Unit::Unspecified {
        report.error("no_unit", format!("{path}.unit"), "must be given: `NANOUSD` or `TOKENS`");
    }
    let amount = format!("{path}.amount");
    if budget.amount == 0 {
        let message = "must be given and above 0, such as 25000000000 for 25 USD; disable a key to refuse it";
        report.error("no_amount", amount.as_str(), message);
    }
    report.within(&amount, budget.amount, 1, MOST_AMOUNT);
}

fn check_period(budget: &pb::Budget, path: &str, report: &mut Report) {
    if Period::try_from(budget.period).unwrap_or_default() == Period::Unspecified {
        report.error("no_period", format!("{path}.period"), "must be given: `HOUR`, `DAY` or `MONTH`");
    }
    let zone = &budget.timezone;
    // The same reading as the request path's, which would refuse the policy without a place in the file.
    if !zone.is_empty() && Calendar::new(PeriodKind::Day, zone).is_err() {
        let message =
            format!("`{}` is no timezone; write its IANA name, such as `Europe/Berlin`", names::shown(zone));
        report.error("unknown_timezone", format!("{path}.timezone"), message);
    }
}

/// What follows when nothing is left.
fn check_end(budget: &pb::Budget, path: &str, names: &Names, report: &mut Report) {
    let enforcement = Enforcement::try_from(budget.enforcement);
    if enforcement.is_err() {
        let message = format!("`{}` is no value of `enforcement`", budget.enforcement);
        report.error("unknown_value", format!("{path}.enforcement"), message);
    }
    let when = WhenExhausted::try_from(budget.when_exhausted);
    let when_path = format!("{path}.when_exhausted");
    if when.is_err() {
        let message = format!("`{}` is no value of `when_exhausted`", budget.when_exhausted);
        report.error("unknown_value", when_path.as_str(), message);
    }
    if !is_hard(budget) && budget.when_exhausted != 0 {
        let message =
            "a `SOFT` budget never ends a request, so nothing follows; remove it, or make the budget `HARD`";
        report.error("field_not_used", when_path, message);
    }
    let list = format!("{path}.next_models");
    match (when == Ok(WhenExhausted::NextModel), budget.next_models.is_empty()) {
        (true, true) => {
            report.error("no_next_model", list.as_str(), "`NEXT_MODEL` must list the models to try");
        }
        (false, false) => {
            let message =
                "is looked at only with `when_exhausted: NEXT_MODEL`; give that, or remove the list";
            report.error("field_not_used", list.as_str(), message);
        }
        _ => {}
    }
    for (i, name) in budget.next_models.iter().enumerate() {
        let path = format!("{list}[{i}]");
        if budget.next_models.iter().take(i).any(|earlier| earlier == name) {
            report.error("duplicate_reference", path, format!("`{}` is listed twice", names::shown(name)));
            continue;
        }
        names.check_model(name, path, report);
    }
}

fn check_thresholds(budget: &pb::Budget, path: &str, report: &mut Report) {
    let path = format!("{path}.threshold_percents");
    let percents = &budget.threshold_percents;
    if percents.len() > MOST_THRESHOLDS {
        let message = format!("has {} thresholds; at most {MOST_THRESHOLDS} are allowed", percents.len());
        report.error("too_many", path.as_str(), message);
        return;
    }
    for (i, percent) in percents.iter().enumerate() {
        let path = format!("{path}[{i}]");
        if !(1..=MOST_PERCENT).contains(percent) {
            report.error("out_of_range", path, format!("`{percent}` is outside 1 to {MOST_PERCENT}"));
        } else if percents.iter().take(i).any(|earlier| earlier >= percent) {
            let message =
                format!("`{percent}` does not rise above those before it; write each once, in order");
            report.error("thresholds_not_rising", path, message);
        }
    }
}

/// A hard budget admits only what has a bound. What can have none, or none that fits, is refused; that is said here.
fn check_bounds(budget: &pb::Budget, policy: &pb::Policy, path: &str, report: &mut Report) {
    let counted = |model: &&pb::Model| {
        names_a_model(model) && (budget.models.is_empty() || budget.models.contains(&model.name))
    };
    let models = || policy.models.iter().filter(counted);
    let money = budget.unit() == Unit::Nanousd;
    if money && let Some(listed) = names::listed(models().filter(|m| m.prices.is_none()).map(|m| &*m.name)) {
        let message = format!(
            "{listed} have no `prices`: a hard budget in nano-USD refuses every request to them; give prices, or make \
             the budget `SOFT`"
        );
        report.warn("budget_without_prices", path, message);
    }
    let uncapped = models().filter(|m| writes_text(m) && m.max_output_tokens == 0).map(|m| &*m.name);
    if let Some(listed) = names::listed(uncapped) {
        let message = format!(
            "{listed} have no `max_output_tokens`: a hard budget refuses every request to them that gives no output \
             bound itself"
        );
        report.warn("budget_without_cap", path, message);
    }
    let small = models().filter(|m| least_bound(m, money) > Some(budget.amount)).map(|m| &*m.name);
    if let Some(listed) = names::listed(small).filter(|_| budget.amount > 0) {
        let message = format!(
            "`{}` is less than one answer of `max_output_tokens` by {listed} may use: a request that gives no smaller \
             output bound never fits",
            budget.amount
        );
        report.warn("budget_too_small", format!("{path}.amount"), message);
    }
}

/// What an answer of full length takes of the budget.
fn least_bound(model: &pb::Model, money: bool) -> Option<u64> {
    let tokens = Some(model.max_output_tokens).filter(|tokens| *tokens > 0)?;
    if !money {
        return Some(tokens);
    }
    Some(bound_nanousd(&Prices::new(model.prices.as_ref()?), 1, tokens))
}
