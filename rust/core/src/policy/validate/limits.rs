//! Owns: the rules of `limits`: a bound that says what, of whom, how much and for how long.
//! Must not know: how a limit is kept.
//! On failure: a finding; a limit that cannot be kept exactly is said.

use super::gateway::DAY_MS;
use super::models::writes_text;
use super::names::{self, Alphabet, Names, Wildcards};
use super::{Report, pb};
use pb::limit::{Scope, Unit};

/// Buckets are filled in units of amount × time; above this their products would leave 64 bits.
const MOST_AMOUNT: u64 = 1_000_000_000_000;
/// Every request is held against every limit.
const MOST_LIMITS: usize = 1024;

pub(super) fn check(policy: &pb::Policy, names: &Names, report: &mut Report) {
    let limits = policy.limits.iter().enumerate();
    names::check_unique(limits.map(|(i, l)| (format!("limits[{i}].name"), &*l.name)), report);
    if policy.limits.len() > MOST_LIMITS {
        let message = format!("has {} limits; at most {MOST_LIMITS} are allowed", policy.limits.len());
        report.error("too_many", "limits", message);
    }
    for (i, limit) in policy.limits.iter().enumerate() {
        let path = format!("limits[{i}]");
        names::check_name(&limit.name, &format!("{path}.name"), Alphabet::Plain, report);
        check_scope(limit.scope(), policy, &format!("{path}.scope"), report);
        check_bound(limit, &path, report);
        check_lists(&Narrowing::of_limit(limit), &path, names, report);
        if limit.unit() == Unit::Tokens {
            check_caps(limit, policy, &path, report);
        }
    }
}

fn check_bound(limit: &pb::Limit, path: &str, report: &mut Report) {
    if limit.amount == 0 {
        report.error(
            "no_amount",
            format!("{path}.amount"),
            "must be given and above 0; disable a key to refuse it",
        );
    }
    report.within(&format!("{path}.amount"), limit.amount, 1, MOST_AMOUNT);
    let window = format!("{path}.window_ms");
    report.within(&window, limit.window_ms, 1, 366 * DAY_MS);
    match Unit::try_from(limit.unit).unwrap_or_default() {
        Unit::Unspecified => {
            report.error(
                "no_unit",
                format!("{path}.unit"),
                "must be given: `REQUESTS`, `TOKENS` or `CONCURRENCY`",
            );
        }
        Unit::Requests | Unit::Tokens if limit.window_ms == 0 => {
            report.error("no_window", window, "must be given, such as 60000 for a limit per minute");
        }
        Unit::Concurrency if limit.window_ms != 0 => {
            let message = "`CONCURRENCY` counts what is open now and has no window; remove it";
            report.error("field_not_used", window, message);
        }
        Unit::Requests | Unit::Tokens | Unit::Concurrency => {}
    }
}

/// The lists that narrow a limit or a budget to some requests.
pub(super) struct Narrowing<'a> {
    tenants: &'a [String],
    tiers: &'a [String],
    keys: &'a [String],
    features: &'a [String],
    models: &'a [String],
}

// === impl Narrowing ===

impl<'a> Narrowing<'a> {
    fn of_limit(limit: &'a pb::Limit) -> Self {
        let pb::Limit { tenants, tiers, keys, features, models, .. } = limit;
        Self { tenants, tiers, keys, features, models }
    }

    pub(super) fn of_budget(budget: &'a pb::Budget) -> Self {
        let pb::Budget { tenants, tiers, keys, features, models, .. } = budget;
        Self { tenants, tiers, keys, features, models }
    }
}

pub(super) fn check_lists(lists: &Narrowing<'_>, path: &str, names: &Names, report: &mut Report) {
    for (i, name) in lists.tenants.iter().enumerate() {
        names.check_tenant(name, format!("{path}.tenants[{i}]"), report);
    }
    for (i, name) in lists.tiers.iter().enumerate() {
        names.check_tier(name, format!("{path}.tiers[{i}]"), report);
    }
    for (i, id) in lists.keys.iter().enumerate() {
        if !names.keys.contains(id.as_str()) {
            report.error(
                "unknown_key",
                format!("{path}.keys[{i}]"),
                format!("no key has the id `{}`", names::shown(id)),
            );
        }
    }
    for (i, name) in lists.features.iter().enumerate() {
        names.check_feature(name, format!("{path}.features[{i}]"), report);
    }
    names.check_models(lists.models, &format!("{path}.models"), Wildcards::Refused, report);
}

/// A scope must be given, and something must have a value of it.
pub(super) fn check_scope(scope: Scope, policy: &pb::Policy, path: &str, report: &mut Report) {
    match scope {
        Scope::Unspecified => {
            let message = "must be given: what is counted, such as `KEY`, `TENANT` or `MODEL`";
            report.error("no_scope", path, message);
        }
        Scope::Provider if policy.pools.iter().all(|pool| pool.provider.is_empty()) => {
            report.warn("scope_empty", path, "no pool has a `provider`, so nothing is counted");
        }
        Scope::Tier if policy.tiers.is_empty() => {
            report.warn("scope_empty", path, "there are no tiers, so nothing is counted");
        }
        Scope::Feature if policy.features.is_empty() => {
            report.warn("scope_empty", path, "there are no features, so nothing is counted");
        }
        _ => {}
    }
}

/// A token limit is hard only when the output has a bound before it is written.
fn check_caps(limit: &pb::Limit, policy: &pb::Policy, path: &str, report: &mut Report) {
    let counted = |model: &&pb::Model| limit.models.is_empty() || limit.models.contains(&model.name);
    let uncapped = policy
        .models
        .iter()
        .filter(counted)
        .filter(|model| writes_text(model) && model.max_output_tokens == 0)
        .map(|model| &*model.name);
    if let Some(listed) = names::listed(uncapped) {
        let message = format!(
            "{listed} have no `max_output_tokens`: a request that gives none itself has no output cap, \
             and the limit cannot be kept for it"
        );
        report.warn("no_output_cap", path, message);
    }
}
