#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::rig::{Capability, LimitScope as S, Rig, Unit as U, WhenFull, cached, chat, limit, model, policy};
use crate::engine::FollowOutcome;
use crate::policy::pb;

/// Pool `a` takes one request; the route says what happens then.
fn narrow(mut policy: pb::Policy, when_full: WhenFull, next: &[&str]) -> pb::Policy {
    policy.pools[0].max_concurrency = 1;
    policy.routes[0].when_full = when_full as i32;
    policy.routes[0].next_models = next.iter().map(|n| (*n).to_owned()).collect();
    policy
}

#[test]
fn a_full_pool_answers_as_the_route_says() {
    for (when_full, status) in
        [(WhenFull::Unspecified, 429), (WhenFull::Full429, 429), (WhenFull::Full503, 503)]
    {
        let rig = Rig::new(&narrow(policy(), when_full, &[]));
        let forward = rig.forward(&chat("small", "x"));
        let answer = rig.ask(&chat("small", "x")).answer();
        assert_eq!((answer.status, answer.code), (status, "pool_full"));
        assert!(answer.headers.iter().any(|(n, _)| *n == "retry-after"));
        rig.engine.stream_closed(forward.id, rig.now());
        let next = rig.forward(&chat("small", "x"));
        rig.log(forward.id);
        rig.log(next.id);
        rig.is_quiet();
    }
}

#[test]
fn headers_only_routes_are_full_too() {
    let mut policy = policy();
    policy.pools[2].max_concurrency = 1;
    policy.routes[4].when_full = WhenFull::Full503 as i32;
    let rig = Rig::new(&policy);
    let ask = super::rig::Ask::post("/files/x", "bytes");
    let forward = rig.forward(&ask);
    assert_eq!(rig.refused(&ask), (503, "pool_full"));
    rig.log(forward.id);
    rig.engine.observe_pool("raw", false, true);
    assert_eq!(rig.refused(&ask), (503, "no_healthy_pool"));
    rig.is_quiet();
}

#[test]
fn health_and_routability_come_from_envoy() {
    let mut policy = policy();
    policy.models[0].pools = vec!["a".into(), "b".into()];
    let rig = Rig::new(&policy);
    rig.engine.observe_pool("a", false, true);
    assert_eq!(&*rig.forward(&chat("small", "x")).pool, "b");
    rig.engine.observe_pool("b", true, false);
    assert_eq!(rig.refused(&chat("small", "x")), (503, "no_healthy_pool"));
    rig.engine.observe_pool("a", true, true);
    assert_eq!(&*rig.forward(&chat("small", "x")).pool, "a");
}

#[test]
fn the_pool_with_the_fewest_tokens_is_taken() {
    let mut policy = policy();
    policy.models[0].pools = vec!["b".into(), "a".into()];
    let rig = Rig::new(&policy);
    let pools: Vec<String> = (0..4).map(|_| rig.forward(&chat("small", "x")).pool.to_string()).collect();
    assert_eq!(pools, ["b", "a", "b", "a"]);
}

#[test]
fn the_next_model_is_tried_where_it_may_and_can() {
    let mut policy = narrow(policy(), WhenFull::NextModel, &["forbidden", "plain", "large"]);
    policy.models.push(model("forbidden", "b", &[Capability::Chat, Capability::Tools]));
    policy.models.push(model("plain", "b", &[Capability::Chat]));
    policy.tenants[0].models = vec!["small".into(), "plain".into(), "large".into()];
    let rig = Rig::new(&policy);
    let with_tools = chat("small", "x").and(r#""tools":[{"type":"function","function":{"name":"f"}}]"#);
    let models: Vec<String> = [&with_tools, &with_tools, &chat("small", "x")]
        .map(|ask| {
            let forward = rig.forward(ask);
            let record = rig.record(forward.id);
            assert_eq!(record.asked, "small");
            record.model.to_string()
        })
        .into();
    assert_eq!(models, ["small", "large", "plain"]);
    for id in 1..=3 {
        rig.log(id);
    }
    rig.is_quiet();
}

#[test]
fn without_a_next_model_left_it_is_429() {
    let rig = Rig::new(&narrow(policy(), WhenFull::NextModel, &["large"]));
    let forward = rig.forward(&chat("small", "x"));
    rig.engine.observe_pool("b", true, false);
    assert_eq!(rig.refused(&chat("small", "x")), (429, "pool_full"), "one was full, whatever the next is");
    rig.log(forward.id);
    rig.engine.observe_pool("a", true, false);
    assert_eq!(rig.refused(&chat("small", "x")), (503, "no_healthy_pool"));
    rig.is_quiet();
}

#[test]
fn a_limit_of_the_next_model_is_its_own() {
    let mut policy = narrow(policy(), WhenFull::NextModel, &["large"]);
    policy.limits = vec![limit("model", S::Model, U::Requests, 1), limit("rpm", S::Key, U::Requests, 50)];
    let rig = Rig::new(&policy);
    rig.forward(&chat("small", "x"));
    rig.forward(&chat("small", "x"));
    assert_eq!((rig.left("model", "small"), rig.left("model", "large")), (0, 0));
    assert_eq!(rig.refused(&chat("small", "x")), (429, "pool_full"));
    assert_eq!(rig.left("rpm", "acme"), 48);
}

#[test]
fn a_full_table_is_no_reason_to_try_the_next_model() {
    let mut policy = narrow(policy(), WhenFull::NextModel, &["large", "large"]);
    policy.limits = vec![limit("rpm", S::Key, U::Requests, 50)];
    let config = crate::engine::EngineConfig { max_reservations: 1, ..Default::default() };
    let rig = Rig::with(&policy, config);
    rig.forward(&chat("small", "x"));
    assert_eq!(rig.refused(&chat("small", "x")), (503, "overloaded"));
    assert_eq!(rig.left("rpm", "acme"), 49);
}

#[test]
fn the_fallback_answers_under_its_own_key() {
    let rig = Rig::new(&narrow(cached(), WhenFull::NextModel, &["large"]));
    let occupied = rig.forward(&chat("small", "other"));
    let forward = rig.forward(&chat("small", "x"));
    assert_eq!(&*forward.pool, "b");
    rig.fill(&forward, "from large").unwrap();
    rig.log(forward.id);
    // Asked for by its own name it is the same request; under the first model's name it is not.
    let large = chat("large", "x");
    assert_eq!(rig.ask(&large).cache_state(), "hit");
    rig.log(occupied.id);
    let small = rig.forward(&chat("small", "x"));
    assert_eq!(&*small.pool, "a");
    // While the first model is full, its fallback's answer serves.
    assert_eq!(rig.ask(&chat("small", "x").with("cache-control", "max-age=60")).cache_state(), "hit");
    rig.log(small.id);
    rig.is_quiet();
}

#[test]
fn followers_of_a_model_that_is_full_are_freed() {
    let rig = Rig::new(&narrow(cached(), WhenFull::NextModel, &["large"]));
    let leader = rig.forward(&chat("small", "x"));
    let first = rig.ask(&chat("small", "x")).follow();
    let second = rig.ask(&chat("small", "x")).follow();
    // Its log comes without a capture: nothing was kept, but the pool is taken by another meanwhile.
    rig.engine.stream_closed(leader.id, rig.now());
    let occupied = rig.forward(&chat("small", "other"));
    rig.log(leader.id);
    assert!(matches!(*first.told.lock(), Some(FollowOutcome::Lead)));
    assert!(second.told.lock().is_none());
    // The first finds the pool full and leads at the fallback; the second is freed, and follows it there.
    let forward = rig.resume(first).forward();
    assert_eq!(&*forward.pool, "b");
    assert!(matches!(*second.told.lock(), Some(FollowOutcome::Lead)));
    let second = rig.resume(second).follow();
    rig.fill(&forward, "from large").unwrap();
    assert_eq!(rig.resume(second).cache_state(), "hit");
    rig.log(forward.id);
    rig.log(occupied.id);
    rig.is_quiet();
}
