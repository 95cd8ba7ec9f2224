#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::rig::{Ask, LimitScope as S, Rig, Told, Unit as U, cached, chat, limit, policy};
use crate::engine::Resolution;
use crate::policy::pb::{self, resolve::OnFailure};

fn staged(mut policy: pb::Policy, on_failure: OnFailure) -> pb::Policy {
    let fallback = if on_failure == OnFailure::FallbackModel { "large" } else { "" };
    policy.routes[0].resolve = Some(pb::Resolve {
        python: "mine:pick".into(),
        deadline_ms: 20,
        on_failure: on_failure as i32,
        fallback_model: fallback.into(),
        ..pb::Resolve::default()
    });
    policy
}

fn resolve(rig: &Rig, ask: &Ask, resolution: Resolution) -> Told {
    let Told::Resolve(mut session, call) = rig.ask(ask) else { panic!("the stage was not asked") };
    assert_eq!((&*call.target, call.deadline_ns), ("mine:pick", 20_000_000));
    session.resolved(resolution);
    rig.go_on(session, &ask.body)
}

fn named(model: &str) -> Resolution {
    Resolution::Model { model: model.into(), reason: "because".into() }
}

fn model_of(rig: &Rig, told: Told) -> String {
    let id = told.forward().id;
    let model = rig.record(id).model.to_string();
    rig.log(id);
    model
}

#[test]
fn the_stage_sees_the_request_and_names_the_model() {
    let mut policy = staged(policy(), OnFailure::Refuse);
    policy.limits = vec![limit("rpm", S::Key, U::Requests, 5)];
    let rig = Rig::new(&policy);
    let ask = chat("auto", "x").and(r#""stream":true"#).with("x-forebay-user", "ann");
    let Told::Resolve(session, call) = rig.ask(&ask) else { panic!("the stage was not asked") };
    assert_eq!((call.view.model.as_str(), &*call.view.tenant, &*call.view.user), ("auto", "acme", "ann"));
    assert!(call.view.stream && !call.view.tools && !call.view.vision && !call.view.json);
    assert_eq!(rig.left("rpm", "acme"), 4, "limits come before dear work");
    drop(session);
    assert_eq!(rig.left("rpm", "acme"), 5);
    // Any name goes to the stage, and an alias from it is a model.
    assert_eq!(model_of(&rig, resolve(&rig, &ask, named("mini"))), "small");
    assert_eq!(model_of(&rig, resolve(&rig, &chat("small", "x"), named("large"))), "large");
    assert_eq!(rig.left("rpm", "acme"), 3, "once for a request");
    rig.is_quiet();
}

#[test]
fn a_failed_stage_does_what_the_policy_says() {
    let failed = || Resolution::Failed("the stage was too slow");
    for resolution in [failed, || named("nothing")] {
        let rig = Rig::new(&staged(policy(), OnFailure::Refuse));
        assert_eq!(resolve(&rig, &chat("small", "x"), resolution()).refused(), (503, "stage_failed"));
        let rig = Rig::new(&staged(policy(), OnFailure::KeepModel));
        assert_eq!(model_of(&rig, resolve(&rig, &chat("small", "x"), resolution())), "small");
        assert_eq!(resolve(&rig, &chat("auto", "x"), resolution()).refused(), (503, "stage_failed"));
        let rig = Rig::new(&staged(policy(), OnFailure::FallbackModel));
        assert_eq!(model_of(&rig, resolve(&rig, &chat("auto", "x"), resolution())), "large");
        assert_eq!(rig.counter("forebay_stage_failures_total"), 1);
        rig.is_quiet();
    }
}

#[test]
fn the_stage_grants_nothing() {
    for on_failure in [OnFailure::KeepModel, OnFailure::FallbackModel] {
        let mut policy = staged(policy(), on_failure);
        policy.tenants[0].models = vec!["small".into(), "vector".into()];
        policy.limits = vec![limit("rpm", S::Key, U::Requests, 5)];
        let rig = Rig::new(&policy);
        assert_eq!(resolve(&rig, &chat("small", "x"), named("large")).refused(), (403, "model_forbidden"));
        assert_eq!(
            resolve(&rig, &chat("small", "x"), named("vector")).refused(),
            (400, "unsupported_capability")
        );
        // Nor is it asked about a model that the key may not even name.
        assert_eq!(rig.refused(&chat("large", "x")), (403, "model_forbidden"));
        let failed =
            resolve(&rig, &chat("auto", "x"), Resolution::Failed("the stage gave no answer")).refused();
        let expected = if on_failure == OnFailure::FallbackModel {
            (403, "model_forbidden")
        } else {
            (503, "stage_failed")
        };
        assert_eq!(failed, expected);
        assert_eq!(rig.left("rpm", "acme"), 5);
        rig.is_quiet();
    }
}

#[test]
fn a_follower_keeps_what_the_stage_said_and_asks_it_once() {
    let rig = Rig::new(&staged(cached(), OnFailure::FallbackModel));
    let leader = resolve(&rig, &chat("auto", "x"), named("large")).forward();
    let follower = resolve(&rig, &chat("small", "x"), Resolution::Failed("the stage was too slow")).follow();
    rig.fill(&leader, "hi").unwrap();
    assert_eq!(rig.resume(follower).cache_state(), "follow");
    assert_eq!(
        rig.counter("forebay_stage_failures_total"),
        1,
        "one failure, however often the decision goes on"
    );
    rig.log(leader.id);
    rig.is_quiet();
}
