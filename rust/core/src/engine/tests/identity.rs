#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::rig::{Ask, CHAT, Capability, Rig, SECOND, chat, key, model, policy};
use crate::engine::HeadStep;

#[test]
fn a_stranger_is_refused_at_the_head() {
    let rig = Rig::new(&policy());
    for (ask, code) in [
        (chat("small", "x").with("authorization", ""), "missing_api_key"),
        (chat("small", "x").with("authorization", "Basic Zm9v"), "missing_api_key"),
        (chat("small", "x").by("fbk_nobody"), "invalid_api_key"),
        (chat("small", "x").by("acme"), "invalid_api_key"),
    ] {
        let HeadStep::Answer(answer) = rig.head(&ask) else { panic!("{code}: the body was asked for") };
        assert_eq!((answer.status, answer.code), (401, code));
    }
    rig.is_quiet();
}

#[test]
fn the_secret_may_stand_in_other_headers() {
    let rig = Rig::new(&policy());
    for header in ["x-api-key", "api-key"] {
        let ask = chat("small", "x").with("authorization", "").with(header, "fbk_acme");
        assert!(matches!(rig.head(&ask), HeadStep::Body(_)), "{header}");
    }
}

#[test]
fn a_key_ends_when_it_says_so() {
    let mut policy = policy();
    policy.keys[0].expires_unix_ms = 1_700_000_010_000;
    policy.keys[1].disabled = true;
    let rig = Rig::new(&policy);
    assert_eq!(rig.refused(&chat("small", "x").by("fbk_rival")), (401, "expired_api_key"));
    rig.log(rig.forward(&chat("small", "x")).id);
    rig.sleep(9 * SECOND - 1);
    rig.log(rig.forward(&chat("small", "x")).id);
    rig.sleep(1);
    assert_eq!(rig.refused(&chat("small", "x")), (401, "expired_api_key"));
    rig.is_quiet();
}

#[test]
fn features_are_known_permitted_or_fixed() {
    let mut policy = policy();
    policy.features.push(crate::policy::pb::Feature { name: "batch".into(), ..Default::default() });
    policy.keys[0].features = vec!["search".into()];
    policy.routes[1].feature = "batch".into();
    let rig = Rig::new(&policy);
    let with = |feature: &str| chat("small", "x").with("x-forebay-feature", feature);
    assert_eq!(rig.refused(&with("nothing")), (400, "feature_not_found"));
    assert_eq!(rig.refused(&with("batch")), (403, "feature_forbidden"));
    assert_eq!(&*rig.record(rig.forward(&with("search")).id).feature, "search");
    assert_eq!(&*rig.record(rig.forward(&chat("small", "x")).id).feature, "");
    assert_eq!(&*rig.record(rig.forward(&with("batch").by("fbk_rival")).id).feature, "batch");
    // A route's own feature is not for the client to choose, nor for the key to permit.
    let text = Ask::post("/v1/completions", r#"{"model":"small","prompt":"x"}"#)
        .with("x-forebay-feature", "nothing");
    assert_eq!(&*rig.record(rig.forward(&text).id).feature, "batch");
}

#[test]
fn a_key_with_a_user_is_that_user() {
    let mut policy = policy();
    policy.keys[0].user = "ann".into();
    let rig = Rig::new(&policy);
    let ask = chat("small", "x").with("x-forebay-user", "bob");
    assert_eq!(&*rig.record(rig.forward(&ask).id).user, "ann");
    assert_eq!(&*rig.record(rig.forward(&ask.by("fbk_rival")).id).user, "bob");
}

#[test]
fn paths_and_methods_are_those_of_the_routes() {
    let rig = Rig::new(&policy());
    let at = |method: &str, path: &str| chat("small", "x").with(":method", method).with(":path", path);
    assert_eq!(rig.refused(&at("POST", "/v1/other")), (404, "unknown_path"));
    assert_eq!(rig.refused(&at("POST", "/v1/chat/completions/")), (404, "unknown_path"));
    assert_eq!(rig.refused(&at("POST", "/files")), (404, "unknown_path"));
    assert_eq!(rig.refused(&at("DELETE", CHAT)), (405, "method_not_allowed"));
    assert_eq!(rig.refused(&at("POST", "/v1/models")), (405, "method_not_allowed"));
    assert_eq!(&*rig.forward(&at("PUT", "/files/a/b?c=d")).pool, "raw");
    assert_eq!(&*rig.forward(&at("POST", "/v1/chat/completions?api-version=1")).pool, "a");
    // A stranger learns nothing about paths.
    assert_eq!(rig.refused(&at("POST", "/v1/other").by("fbk_nobody")), (401, "invalid_api_key"));
}

#[test]
fn bodies_that_cannot_be_read_are_refused_before_they_come() {
    let mut policy = policy();
    policy.gateway = Some(crate::policy::pb::Gateway { max_body_bytes: 65_536, ..Default::default() });
    let rig = Rig::new(&policy);
    let ask = || chat("small", "x");
    for (ask, refusal) in [
        (ask().with("content-type", "text/plain"), (415, "unsupported_media_type")),
        (ask().with("content-type", ""), (415, "unsupported_media_type")),
        (ask().with("content-encoding", "gzip"), (415, "unsupported_encoding")),
        (ask().with("content-length", "65537"), (413, "request_too_large")),
        (ask().with("content-length", "many"), (400, "invalid_header")),
        (ask().with("x-forebay-user", &"u".repeat(300)), (400, "invalid_header")),
        (Ask { body: String::new(), ..ask() }, (400, "invalid_json")),
    ] {
        let HeadStep::Answer(answer) = rig.head(&ask) else { panic!("{refusal:?}: the body was asked for") };
        assert_eq!((answer.status, answer.code), refusal);
    }
    let long = chat("small", &"x".repeat(70_000));
    assert_eq!(rig.refused(&long), (413, "request_too_large"), "chunked, so only its body tells");
    rig.is_quiet();
}

#[test]
fn the_list_of_models_is_what_the_key_may_use() {
    let mut policy = policy();
    policy.tenants[0].models = vec!["tag:cheap".into(), "vector".into()];
    policy.models.push(model("cheap2", "b", &[Capability::Chat]));
    policy.models[4].tags = vec!["cheap".into()];
    policy.keys.push(key("narrow", "acme"));
    policy.keys[2].models = vec!["mini".into(), "large".into()];
    let rig = Rig::new(&policy);
    let names = |secret: &str| {
        let ask =
            Ask { body: String::new(), ..chat("", "") }.with(":method", "GET").with(":path", "/v1/models");
        let answer = rig.ask(&ask.by(secret)).answer();
        assert_eq!(answer.status, 200);
        let body = String::from_utf8(answer.body.to_vec()).unwrap();
        let names: Vec<String> =
            body.split("\"id\":\"").skip(1).map(|s| s.split('"').next().unwrap().into()).collect();
        names
    };
    assert_eq!(names("fbk_acme"), ["small", "vector", "cheap2"]);
    assert_eq!(names("fbk_narrow"), ["small"], "by alias, and never more than the tenant");
    assert_eq!(names("fbk_rival").len(), 5);
    let refused = |secret: &str, model: &str| rig.refused(&chat(model, "x").by(secret));
    assert_eq!(refused("fbk_acme", "large"), (403, "model_forbidden"));
    assert_eq!(refused("fbk_narrow", "large"), (403, "model_forbidden"));
    assert_eq!(refused("fbk_narrow", "cheap2"), (403, "model_forbidden"));
    rig.log(rig.forward(&chat("mini", "x").by("fbk_narrow")).id);
    rig.is_quiet();
}

#[test]
fn a_draining_gateway_refuses_newcomers_only() {
    let rig = Rig::new(&policy());
    let HeadStep::Body(session) = rig.head(&chat("small", "x")) else { panic!("no body") };
    rig.engine.drain();
    assert_eq!(rig.refused(&chat("small", "x")), (503, "draining"));
    let forward = rig.go_on(session, &chat("small", "x").body).forward();
    assert_eq!(rig.engine.open_reservations(), 1);
    rig.log(forward.id);
    rig.is_quiet();
}
