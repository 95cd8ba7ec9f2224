#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use prost::Message as _;

use super::rig::{LimitScope as S, Rig, Unit as U, cached, chat, limit, policy};
use crate::engine::HeadStep;
use crate::policy::{Severity, compile, pb};

#[test]
fn a_session_keeps_the_policy_it_began_under() {
    let rig = Rig::new(&policy());
    let ask = chat("mini", "x");
    let HeadStep::Body(session) = rig.head(&ask) else { panic!("no body") };
    let mut next = policy();
    next.models[0].aliases.clear();
    next.models[0].pools = vec!["b".into()];
    next.models[0].upstream_name = "new".into();
    rig.swap(&next);
    let before = rig.go_on(session, &ask.body).forward();
    assert_eq!(&*before.pool, "a");
    assert_eq!(rig.refused(&ask), (404, "model_not_found"));
    assert_eq!(&*rig.forward(&chat("small", "x")).pool, "b");
    // Counts in flight outlive the policy that made them.
    assert_eq!(rig.engine.pool_views(rig.now())[0].requests, 1);
    rig.log(before.id);
    assert_eq!(rig.engine.pool_views(rig.now())[0].requests, 0);
}

#[test]
fn a_key_that_is_taken_away_is_refused_at_once() {
    let rig = Rig::new(&policy());
    let mut next = policy();
    next.keys[0].disabled = true;
    rig.swap(&next);
    assert_eq!(rig.refused(&chat("small", "x")), (401, "expired_api_key"));
    next.keys.remove(0);
    rig.swap(&next);
    assert_eq!(rig.refused(&chat("small", "x")), (401, "invalid_api_key"));
}

#[test]
fn counters_of_limits_live_on_by_name() {
    let begin = pb::Policy {
        limits: vec![limit("rpm", S::Key, U::Requests, 3), limit("open", S::Key, U::Concurrency, 2)],
        ..policy()
    };
    let rig = Rig::new(&begin);
    let held = rig.forward(&chat("small", "x"));
    rig.log(rig.forward(&chat("small", "x")).id);
    // Another limit before them, another amount, another order: what was used stays used.
    let next = pb::Policy {
        limits: vec![
            limit("new", S::Tenant, U::Requests, 9),
            limit("open", S::Key, U::Concurrency, 1),
            limit("rpm", S::Key, U::Requests, 4),
        ],
        ..policy()
    };
    rig.swap(&next);
    assert_eq!((rig.left("rpm", "acme"), rig.left("open", "acme"), rig.left("new", "acme")), (2, 0, 9));
    assert_eq!(rig.refused(&chat("small", "x")).0, 429);
    rig.log(held.id);
    assert_eq!(rig.left("open", "acme"), 1);
    rig.log(rig.forward(&chat("small", "x")).id);
    rig.is_quiet();
}

#[test]
fn the_cache_stays_while_its_bounds_stay() {
    let rig = Rig::new(&cached());
    let leader = rig.forward(&chat("small", "x"));
    rig.fill(&leader, "hi").unwrap();
    rig.log(leader.id);
    let mut next = cached();
    next.name = "another".into();
    rig.swap(&next);
    assert_eq!(rig.ask(&chat("small", "x")).cache_state(), "hit");
    next.cache = Some(pb::Cache { max_bytes: 32 << 20, ..pb::Cache::default() });
    rig.swap(&next);
    let again = rig.forward(&chat("small", "x"));
    assert!(again.capture);
    // A fill of the old cache ends in the old cache, and its followers are answered.
    let follower = rig.ask(&chat("small", "x")).follow();
    next.cache = None;
    rig.swap(&next);
    rig.fill(&again, "hi").unwrap();
    assert_eq!(rig.resume(follower).cache_state(), "follow");
    rig.log(again.id);
    let none = rig.forward(&chat("small", "x"));
    assert!(!none.capture);
    rig.log(none.id);
    rig.is_quiet();
}

#[test]
fn an_invalid_policy_changes_nothing() {
    let rig = Rig::new(&policy());
    let before = rig.engine.live();
    let mut bad = policy();
    bad.models[0].pools = vec!["nowhere".into()];
    assert!(rig.engine.swap(&bad.encode_to_vec()).unwrap_err().iter().any(|f| f.slug == "unknown_pool"));
    assert!(rig.engine.swap(b"\xff").unwrap_err().iter().any(|f| f.slug == "not_a_policy"));
    assert!(Arc::ptr_eq(&before, &rig.engine.live()));
    assert_eq!(rig.counter("forebay_policies_refused_total"), 2);
}

#[test]
fn what_would_be_left_out_is_refused() {
    let refused = |change: &dyn Fn(&mut pb::Policy), slug: &str| {
        let mut policy = cached();
        policy.limits = vec![limit("rpm", S::Key, U::Requests, 3)];
        change(&mut policy);
        let findings = compile(&policy.encode_to_vec()).expect_err(slug);
        assert!(
            findings.iter().any(|f| f.slug == slug && f.severity == Severity::Error),
            "{slug}: {findings:#?}"
        );
    };
    refused(&|p| p.limits[0].window_ms = 0, "no_window");
    refused(&|p| p.limits[0].unit = U::Concurrency as i32, "field_not_used");
    refused(&|p| p.limits[0].amount = 0, "no_amount");
    refused(&|p| p.limits[0].models = vec!["mini".into()], "unknown_model");
    refused(&|p| p.limits.push(limit("rpm", S::Tenant, U::Tokens, 3)), "duplicate_name");
    refused(&|p| p.routes[1].name = "chat".into(), "duplicate_name");
    refused(&|p| p.pools[1].name = "a".into(), "duplicate_name");
    refused(&|p| p.models[1].name = "small".into(), "duplicate_name");
    refused(&|p| p.tenants[1].name = "acme".into(), "duplicate_name");
    refused(&|p| p.keys[1].id = "acme".into(), "duplicate_name");
    refused(&|p| p.routes[0].feature = "nothing".into(), "unknown_feature");
    refused(&|p| p.keys[0].tenant = "nobody".into(), "unknown_tenant");
    refused(&|p| p.keys[0].features = vec!["nothing".into()], "unknown_feature");
    refused(&|p| p.tenants[0].models = vec!["nothing".into()], "unknown_model");
    refused(&|p| p.models[0].tokenizer = "o200k".into(), "unknown_tokenizer");
}
