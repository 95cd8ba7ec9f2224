#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::rig::{LimitScope as S, Rig, SECOND, Unit as U, chat, key, limit, policy};
use crate::engine::MetaValue;
use crate::policy::pb;

fn with(limits: Vec<pb::Limit>) -> Rig {
    Rig::new(&pb::Policy { limits, ..policy() })
}

#[test]
fn requests_are_counted_until_their_window_is_over() {
    let rig = with(vec![limit("rpm", S::Key, U::Requests, 2)]);
    for _ in 0..2 {
        rig.log(rig.forward(&chat("small", "x")).id);
    }
    let answer = rig.ask(&chat("small", "x")).answer();
    assert_eq!((answer.status, answer.code), (429, "rate_limit_exceeded"));
    let after = answer.headers.iter().find(|(n, _)| *n == "retry-after").unwrap().1.parse::<u64>().unwrap();
    assert!((1..=64).contains(&after), "{after}");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.contains("`rpm` of 2 requests"), "{text}");
    rig.log(rig.forward(&chat("small", "x").by("fbk_rival")).id);
    rig.sleep(after * SECOND);
    rig.log(rig.forward(&chat("small", "x")).id);
    rig.is_quiet();
}

#[test]
fn tokens_are_taken_at_the_bound_and_a_request_that_never_fits_is_told() {
    let rig = with(vec![limit("tpm", S::Tenant, U::Tokens, 1_000)]);
    let forward = rig.forward(&chat("small", "x").and(r#""max_tokens":50,"n":2"#));
    let record = rig.record(forward.id);
    assert!(record.bound_tokens >= record.prompt_tokens + 100);
    assert_eq!(rig.left("tpm", "acme"), 1_000 - record.bound_tokens);
    let number = |name| forward.metadata.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
    assert_eq!(number("bound_tokens"), Some(MetaValue::Number(record.bound_tokens)));
    assert_eq!(number("limit_tokens"), Some(MetaValue::Text("1000".into())));
    assert_eq!(number("remaining_tokens"), Some(MetaValue::Text((1_000 - record.bound_tokens).to_string())));
    let answer = rig.ask(&chat("small", "x").and(r#""n":12"#)).answer();
    assert_eq!(answer.code, "rate_limit_exceeded");
    assert!(answer.headers.iter().all(|(n, _)| *n != "retry-after"), "it can never fit");
    rig.log(forward.id);
    rig.is_quiet();
}

#[test]
fn a_refusal_at_the_second_gate_gives_the_first_back_whole() {
    // Caller limits are taken first, those of model and pool once these are known.
    for second in [
        limit("late", S::Tenant, U::Tokens, 10),
        limit("late", S::Model, U::Requests, 1),
        limit("late", S::Pool, U::Concurrency, 1),
        limit("late", S::Provider, U::Requests, 1),
    ] {
        let rig = with(vec![
            limit("rpm", S::Key, U::Requests, 5),
            limit("open", S::User, U::Concurrency, 5),
            limit("both", S::Tenant, U::Tokens, 100_000),
            second,
        ]);
        let ask = chat("small", "x").with("x-forebay-user", "ann");
        let _ = rig.ask(&ask);
        let before = (rig.left("rpm", "acme"), rig.left("open", "ann"), rig.left("both", "acme"));
        assert_eq!(rig.refused(&ask), (429, "rate_limit_exceeded"));
        assert_eq!((rig.left("rpm", "acme"), rig.left("open", "ann"), rig.left("both", "acme")), before);
        assert_eq!(rig.engine.pool_views(rig.now())[0].requests as usize, rig.engine.open_reservations());
    }
}

#[test]
fn one_of_many_without_room_charges_none() {
    let rig = with(vec![
        limit("key", S::Key, U::Requests, 9),
        limit("tenant", S::Tenant, U::Requests, 9),
        limit("address", S::ClientAddress, U::Requests, 1),
    ]);
    rig.log(rig.forward(&chat("small", "x")).id);
    assert_eq!(rig.refused(&chat("small", "x")).0, 429);
    rig.log(rig.forward(&chat("small", "x").with("x-forwarded-for", "10.0.0.1, 10.0.0.2")).id);
    assert_eq!((rig.left("key", "acme"), rig.left("tenant", "acme")), (7, 7));
    assert_eq!(rig.left("address", "10.0.0.2"), 0);
}

#[test]
fn refusals_of_any_kind_cost_nothing() {
    let rig = with(vec![limit("rpm", S::Key, U::Requests, 5), limit("tpm", S::Key, U::Tokens, 5_000)]);
    for ask in [chat("nothing", "x"), chat("vector", "x"), chat("small", "x").and(r#""n":0"#)] {
        rig.refused(&ask);
    }
    rig.engine.observe_pool("a", true, false);
    assert_eq!(rig.refused(&chat("small", "x")), (503, "no_healthy_pool"));
    assert_eq!((rig.left("rpm", "acme"), rig.left("tpm", "acme")), (5, 5_000));
    rig.is_quiet();
}

#[test]
fn a_limit_counts_only_whom_it_names() {
    let only = |name: &str, change: fn(&mut pb::Limit)| {
        let mut limit = limit(name, S::Key, U::Requests, 1);
        change(&mut limit);
        limit
    };
    for (limit, ask) in [
        (only("tenant", |l| l.tenants = vec!["acme".into()]), chat("small", "x").by("fbk_rival")),
        (only("tier", |l| l.tiers = vec!["pro".into()]), chat("small", "x").by("fbk_rival")),
        (only("key", |l| l.keys = vec!["acme".into()]), chat("small", "x").by("fbk_second")),
        (only("model", |l| l.models = vec!["small".into()]), chat("large", "x")),
        (
            only("feature", |l| l.features = vec!["search".into()]),
            chat("small", "x").with("x-forebay-feature", ""),
        ),
    ] {
        let mut policy = pb::Policy { limits: vec![limit], ..policy() };
        policy.tiers = vec![pb::Tier { name: "pro".into(), ..pb::Tier::default() }];
        policy.tenants[0].tier = "pro".into();
        policy.keys.push(key("second", "acme"));
        let rig = Rig::new(&policy);
        let counted = chat("mini", "x").with("x-forebay-feature", "search");
        rig.log(rig.forward(&counted).id);
        assert_eq!(rig.refused(&counted).0, 429);
        for _ in 0..3 {
            rig.log(rig.forward(&ask).id);
        }
        rig.is_quiet();
    }
}

#[test]
fn nobody_and_nothing_are_not_counted() {
    // A limit per user, tier, feature or provider says nothing about requests that have none.
    for scope in [S::User, S::Tier, S::Feature, S::Provider] {
        let mut policy = pb::Policy { limits: vec![limit("one", scope, U::Requests, 1)], ..policy() };
        policy.pools[0].provider.clear();
        let rig = Rig::new(&policy);
        for _ in 0..3 {
            rig.log(rig.forward(&chat("small", "x")).id);
        }
    }
    let rig = with(vec![limit("one", S::Feature, U::Requests, 1)]);
    let ask = chat("small", "x").with("x-forebay-feature", "search");
    rig.log(rig.forward(&ask).id);
    assert_eq!(rig.refused(&ask).0, 429);
}

#[test]
fn a_shared_scope_is_shared_by_all_tenants_and_the_others_are_not() {
    let rig = with(vec![limit("model", S::Model, U::Requests, 2), limit("user", S::User, U::Requests, 1)]);
    rig.log(rig.forward(&chat("small", "x").with("x-forebay-user", "ann")).id);
    rig.log(rig.forward(&chat("small", "x").with("x-forebay-user", "ann").by("fbk_rival")).id);
    assert_eq!(rig.left("model", "small"), 0);
    assert_eq!(rig.refused(&chat("small", "x")).0, 429);
    rig.log(rig.forward(&chat("large", "x")).id);
    rig.is_quiet();
}

#[test]
fn a_full_table_refuses_and_gives_everything_back() {
    let policy = pb::Policy {
        limits: vec![
            limit("rpm", S::Key, U::Requests, 5),
            limit("tpm", S::Key, U::Tokens, 50_000),
            limit("open", S::Key, U::Concurrency, 5),
        ],
        ..policy()
    };
    let config = crate::engine::EngineConfig { max_reservations: 1, ..Default::default() };
    let rig = Rig::with(&policy, config);
    let forward = rig.forward(&chat("small", "x"));
    let before = (rig.left("rpm", "acme"), rig.left("tpm", "acme"), rig.left("open", "acme"));
    let prompts = rig.counter("forebay_prompt_tokens_total");
    assert_eq!(rig.refused(&chat("small", "y")), (503, "overloaded"));
    assert_eq!((rig.left("rpm", "acme"), rig.left("tpm", "acme"), rig.left("open", "acme")), before);
    assert_eq!(rig.counter("forebay_prompt_tokens_total"), prompts, "only forwarded requests count");
    let text = rig.engine.metrics_text(rig.now());
    let decided = |outcome: &str| {
        let label = format!("outcome=\"{outcome}\"");
        let lines = text.lines().filter(|l| l.starts_with("forebay_requests_total{") && l.contains(&label));
        lines.map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    assert_eq!((decided("forward"), decided("overloaded")), (1, 1), "each decision is counted once");
    rig.log(forward.id);
    rig.is_quiet();
}
