//! Owns: the rules of `tiers`, `tenants`, `keys` and `features`: who may use what.
//! Must not know: limits and routes.
//! On failure: a finding. A digest is never repeated whole into a message.

use std::collections::HashMap;

use super::gateway::DAY_MS;
use super::names::{self, Alphabet, Names, Wildcards};
use super::{Report, pb};
use pb::feature_cache::{Mode, Sampled, Sharing};

/// SHA-256 of nothing: what a script writes whose variable was empty.
const DIGEST_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// 2001-09-09 in milliseconds. Below it stands a time in seconds.
const EARLIEST_MS: u64 = 1_000_000_000_000;
/// Shares are ratios; beyond this one tenant alone is served.
const MOST_WEIGHT: u64 = 1_000_000;

pub(super) fn check(policy: &pb::Policy, names: &Names, report: &mut Report) {
    let tiers = policy.tiers.iter().enumerate();
    names::check_unique(tiers.map(|(i, t)| (format!("tiers[{i}].name"), &*t.name)), report);
    for (i, tier) in policy.tiers.iter().enumerate() {
        names::check_name(&tier.name, &format!("tiers[{i}].name"), Alphabet::Plain, report);
        check_priority(tier.priority, format!("tiers[{i}].priority"), report);
    }
    check_tenants(policy, names, report);
    check_keys(policy, names, report);
    check_features(policy, report);
}

fn check_tenants(policy: &pb::Policy, names: &Names, report: &mut Report) {
    let tenants = policy.tenants.iter().enumerate();
    names::check_unique(tenants.map(|(i, t)| (format!("tenants[{i}].name"), &*t.name)), report);
    for (i, tenant) in policy.tenants.iter().enumerate() {
        let path = format!("tenants[{i}]");
        names::check_name(&tenant.name, &format!("{path}.name"), Alphabet::Plain, report);
        if !tenant.tier.is_empty() {
            names.check_tier(&tenant.tier, format!("{path}.tier"), report);
        }
        report.within(&format!("{path}.weight"), u64::from(tenant.weight), 1, MOST_WEIGHT);
        let models = format!("{path}.models");
        names.check_models(&tenant.models, &models, Wildcards::Allowed, report);
        if tenant.models.is_empty() {
            let message = "the tenant may use no model; list some, or `\"*\"` for all";
            report.warn("tenant_without_models", models, message);
        }
    }
}

fn check_keys(policy: &pb::Policy, names: &Names, report: &mut Report) {
    let keys = policy.keys.iter().enumerate();
    names::check_unique(keys.map(|(i, k)| (format!("keys[{i}].id"), &*k.id)), report);
    if policy.keys.is_empty() {
        report.warn("no_keys", "keys", "there is no key, so every request is refused with 401");
    }
    let mut digests: HashMap<String, &str> = HashMap::with_capacity(policy.keys.len());
    for (i, key) in policy.keys.iter().enumerate() {
        let path = format!("keys[{i}]");
        names::check_name(&key.id, &format!("{path}.id"), Alphabet::Plain, report);
        check_digest(key, &path, &mut digests, report);
        check_key(key, &path, names, report);
    }
}

fn check_digest<'a>(
    key: &'a pb::Key,
    path: &str,
    digests: &mut HashMap<String, &'a str>,
    report: &mut Report,
) {
    let path = format!("{path}.sha256");
    if !report.digest(&path, &key.sha256) {
        return;
    }
    let digest = key.sha256.to_ascii_lowercase();
    if digest == DIGEST_OF_NOTHING {
        report.error("empty_key", path, "this is the SHA-256 of nothing; make a key with `forebay key new`");
    } else if let Some(other) = digests.get(&digest) {
        report.error("duplicate_key", path, format!("is also the digest of `{}`", names::shown(other)));
    } else {
        digests.insert(digest, &key.id);
    }
}

fn check_key(key: &pb::Key, path: &str, names: &Names, report: &mut Report) {
    report.text(&format!("{path}.user"), &key.user, 256);
    let tenant_path = format!("{path}.tenant");
    let tenant = if key.tenant.is_empty() {
        report.error("no_tenant", tenant_path, "must name the tenant that the key belongs to");
        None
    } else {
        names.check_tenant(&key.tenant, tenant_path, report)
    };
    if !key.tier.is_empty() {
        names.check_tier(&key.tier, format!("{path}.tier"), report);
    }
    let models = format!("{path}.models");
    names.check_models(&key.models, &models, Wildcards::Allowed, report);
    for (i, item) in key.models.iter().enumerate() {
        let denied =
            names.model(item).zip(tenant).filter(|(model, tenant)| !names.lists(&tenant.models, model));
        if let Some((_, tenant)) = denied {
            let (item, tenant) = (names::shown(item), names::shown(&tenant.name));
            let message = format!("a key narrows its tenant's list, and `{tenant}` may not use `{item}`");
            report.warn("key_widens_tenant", format!("{models}[{i}]"), message);
        }
    }
    for (i, feature) in key.features.iter().enumerate() {
        names.check_feature(feature, format!("{path}.features[{i}]"), report);
    }
    if key.expires_unix_ms != 0 && !(EARLIEST_MS..=EARLIEST_MS * 100).contains(&key.expires_unix_ms) {
        let message =
            format!("`{}` is no time in milliseconds since 1970; are these seconds?", key.expires_unix_ms);
        report.error("bad_time", format!("{path}.expires_unix_ms"), message);
    }
}

fn check_features(policy: &pb::Policy, report: &mut Report) {
    let features = policy.features.iter().enumerate();
    names::check_unique(features.map(|(i, f)| (format!("features[{i}].name"), &*f.name)), report);
    for (i, feature) in policy.features.iter().enumerate() {
        let path = format!("features[{i}]");
        names::check_name(&feature.name, &format!("{path}.name"), Alphabet::Plain, report);
        report.within(&format!("{path}.max_output_tokens"), feature.max_output_tokens, 1, 1_000_000_000);
        check_priority(feature.priority, format!("{path}.priority"), report);
        if let Some(cache) = &feature.cache {
            check_feature_cache(cache, policy.cache.is_some(), &format!("{path}.cache"), report);
        }
    }
}

fn check_priority(number: i32, path: String, report: &mut Report) {
    if pb::Priority::try_from(number).is_err() {
        let message = format!("`{number}` is no priority; write `P0`, `P1` or `P2`");
        report.error("unknown_value", path, message);
    }
}

fn check_feature_cache(cache: &pb::FeatureCache, policy_caches: bool, path: &str, report: &mut Report) {
    let known = [
        ("mode", cache.mode, Mode::try_from(cache.mode).is_ok()),
        ("sharing", cache.sharing, Sharing::try_from(cache.sharing).is_ok()),
        ("sampled", cache.sampled, Sampled::try_from(cache.sampled).is_ok()),
    ];
    for (field, number, good) in known {
        if !good {
            report.error(
                "unknown_value",
                format!("{path}.{field}"),
                format!("`{number}` is no value of `{field}`"),
            );
        }
    }
    if matches!(cache.mode(), Mode::Exact | Mode::Lookup) && !policy_caches {
        let message = "the policy has no `cache`, so nothing is cached; add `cache: {}`";
        report.warn("cache_missing", format!("{path}.mode"), message);
    }
    report.within(&format!("{path}.ttl_ms"), cache.ttl_ms, 1, 366 * DAY_MS);
    for (i, tag) in cache.tags.iter().enumerate() {
        names::check_name(tag, &format!("{path}.tags[{i}]"), Alphabet::Model, report);
    }
}
