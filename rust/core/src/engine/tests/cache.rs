#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::rig::{Ask, LimitScope as S, Rig, SECOND, Unit as U, cached, chat, key, limit};
use crate::cache::Selector;
use crate::policy::pb::{self, FeatureCache, feature_cache};

/// Asks, lets the upstream answer, and ends the request.
fn served(rig: &Rig, ask: &Ask, text: &str) {
    let forward = rig.forward(ask);
    rig.fill(&forward, text).unwrap();
    rig.log(forward.id);
}

fn search(rig_policy: &mut pb::Policy, cache: FeatureCache) {
    rig_policy.features[0].cache = Some(cache);
}

#[test]
fn an_answer_serves_plain_and_streamed_requests() {
    let rig = Rig::new(&cached());
    served(&rig, &chat("small", "x"), "hi there");
    let plain = rig.ask(&chat("small", "x")).answer();
    assert!(String::from_utf8_lossy(&plain.body).contains("hi there"));
    let header =
        |name: &str| plain.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()).unwrap();
    assert_eq!(
        (header("content-type").as_str(), header("x-forebay-cache").as_str()),
        ("application/json", "hit")
    );
    assert_eq!((header("age").as_str(), header("x-forebay-model").as_str()), ("0", "small"));
    rig.sleep(7 * SECOND);
    let stream = rig.ask(&chat("mini", "x").and(r#""stream":true"#)).answer();
    let body = String::from_utf8_lossy(&stream.body).into_owned();
    assert!(body.starts_with("data: {") && body.ends_with("data: [DONE]\n\n"), "{body}");
    assert!(!body.contains("\"usage\":{"), "usage was not asked for");
    assert!(stream.headers.iter().any(|(n, v)| *n == "content-type" && v == "text/event-stream"));
    assert!(stream.headers.iter().any(|(n, v)| *n == "age" && v == "7"));
    let usage = chat("small", "x").and(r#""stream":true,"stream_options":{"include_usage":true}"#);
    assert!(String::from_utf8_lossy(&rig.ask(&usage).answer().body).contains("\"usage\":{"));
    assert_eq!(rig.counter("forebay_saved_tokens_total"), 15);
    rig.is_quiet();
}

#[test]
fn an_answer_is_served_as_long_as_it_lives() {
    let mut policy = cached();
    search(&mut policy, FeatureCache { ttl_ms: 5_000, ..FeatureCache::default() });
    let rig = Rig::new(&policy);
    let ask = chat("small", "x").with("x-forebay-feature", "search");
    served(&rig, &ask, "hi");
    rig.sleep(5 * SECOND - 1);
    assert_eq!(rig.ask(&ask).cache_state(), "hit");
    rig.sleep(1);
    served(&rig, &ask, "hi");
    rig.is_quiet();
}

#[test]
fn a_request_may_refuse_what_is_kept() {
    let rig = Rig::new(&cached());
    let with = |directive: &str| chat("small", "x").with("cache-control", directive);
    let silent = rig.forward(&with("no-store"));
    assert!(!silent.capture, "no-store is not kept");
    assert_eq!(rig.record(silent.id).cache.name(), "bypass");
    served(&rig, &chat("small", "x"), "old");
    rig.sleep(10 * SECOND);
    assert!(!rig.forward(&with("no-store")).capture, "nor answered");
    assert_eq!(rig.ask(&with("max-age=10")).cache_state(), "hit");
    let fresh = rig.forward(&with("max-age=9"));
    assert!(fresh.capture);
    served(&rig, &with("no-cache"), "new");
    let body = rig.ask(&with("max-age=9")).answer().body;
    assert!(String::from_utf8_lossy(&body).contains("new"), "the new answer took the place of the old one");
    for id in 1..9 {
        rig.log(id);
    }
    rig.is_quiet();
}

#[test]
fn sampled_and_stateful_requests_pass_by() {
    let mut policy = cached();
    search(
        &mut policy,
        FeatureCache { sampled: feature_cache::Sampled::Share as i32, ..FeatureCache::default() },
    );
    let rig = Rig::new(&policy);
    let warm = || Ask {
        body: chat("small", "x").body.replace("\"temperature\":0", "\"temperature\":0.7"),
        ..chat("", "")
    };
    let none = Ask { body: chat("small", "x").body.replace("\"temperature\":0,", ""), ..chat("", "") };
    for ask in [warm(), none] {
        assert!(!rig.forward(&ask).capture, "{}", ask.body);
        let shared = ask.with("x-forebay-feature", "search");
        served(&rig, &shared, "hi");
        assert_eq!(rig.ask(&shared).cache_state(), "hit");
    }
    for field in [r#""store":true"#, r#""previous_response_id":"r""#, r#""conversation":"c""#] {
        let ask = chat("small", "x").and(field);
        assert!(!rig.forward(&ask).capture, "{field}");
        assert!(!rig.forward(&ask.with("x-forebay-feature", "search")).capture, "{field}");
    }
}

#[test]
fn features_and_models_share_nothing_and_a_feature_may_be_off() {
    let mut policy = cached();
    policy.features.push(pb::Feature { name: "off".into(), ..pb::Feature::default() });
    policy.features[1].cache =
        Some(FeatureCache { mode: feature_cache::Mode::Off as i32, ..FeatureCache::default() });
    let rig = Rig::new(&policy);
    served(&rig, &chat("small", "x"), "none");
    assert!(!rig.forward(&chat("small", "x").with("x-forebay-feature", "off")).capture);
    served(&rig, &chat("small", "x").with("x-forebay-feature", "search"), "search");
    served(&rig, &chat("large", "x"), "large");
    for (ask, text) in [
        (chat("small", "x"), "none"),
        (chat("small", "x").with("x-forebay-feature", "search"), "search"),
        (chat("large", "x"), "large"),
    ] {
        assert!(String::from_utf8_lossy(&rig.ask(&ask).answer().body).contains(text));
    }
}

#[test]
fn users_may_be_kept_apart() {
    let mut policy = cached();
    search(
        &mut policy,
        FeatureCache { sharing: feature_cache::Sharing::User as i32, ..FeatureCache::default() },
    );
    policy.keys.push(key("second", "acme"));
    policy.keys[2].user = "ann".into();
    let rig = Rig::new(&policy);
    let of = |user: &str| chat("small", "x").with("x-forebay-feature", "search").with("x-forebay-user", user);
    served(&rig, &of("ann"), "for ann");
    served(&rig, &of("bob"), "for bob");
    assert!(String::from_utf8_lossy(&rig.ask(&of("ann")).answer().body).contains("for ann"));
    assert_eq!(rig.ask(&of("bob").by("fbk_second")).cache_state(), "hit", "the key says who it is");
    // Nobody in particular shares with nobody: two strangers are not the same user.
    assert!(!rig.forward(&of("")).capture);
    // Elsewhere the tenant shares.
    served(&rig, &chat("small", "y").with("x-forebay-user", "ann"), "for all");
    assert_eq!(rig.ask(&chat("small", "y").with("x-forebay-user", "bob")).cache_state(), "hit");
}

#[test]
fn the_effective_request_is_the_key() {
    let rig = Rig::new(&cached());
    served(&rig, &chat("small", "x"), "hi");
    // The model's bound is 100: saying it, or more, changes nothing.
    assert_eq!(rig.ask(&chat("small", "x").and(r#""max_tokens":100"#)).cache_state(), "hit");
    assert_eq!(rig.ask(&chat("small", "x").and(r#""max_completion_tokens":500"#)).cache_state(), "hit");
    assert_eq!(rig.ask(&chat("small", "x").and(r#""user":"u""#)).cache_state(), "hit");
    for field in [r#""max_tokens":99"#, r#""seed":1"#, r#""stop":"a""#, r#""n":2"#] {
        rig.forward(&chat("small", "x").and(field));
    }
    rig.forward(&chat("small", "X"));
}

#[test]
fn answers_can_be_called_back() {
    let mut policy = cached();
    search(&mut policy, FeatureCache { tags: vec!["docs".into()], ..FeatureCache::default() });
    policy.models[0].revision = "r1".into();
    let rig = Rig::new(&policy);
    let ask = chat("small", "x").with("x-forebay-feature", "search");
    for selector in [
        Selector::Tag("docs".into()),
        Selector::Tag("cheap".into()),
        Selector::Tenant("acme".into()),
        Selector::Model { model: "small".into(), revision: Some("r1".into()) },
        Selector::All,
    ] {
        served(&rig, &ask, "hi");
        assert_eq!(rig.ask(&ask).cache_state(), "hit");
        assert_eq!(rig.engine.invalidate(&selector), 1, "{selector:?}");
        // A fill that was under way is refused, too.
        let late = rig.forward(&ask);
        rig.engine.invalidate(&selector);
        assert_eq!(rig.fill(&late, "late").unwrap().slug(), "stale");
        rig.log(late.id);
    }
    served(&rig, &ask, "hi");
    policy.models[0].revision = "r2".into();
    rig.swap(&policy);
    let fresh = rig.forward(&ask);
    rig.log(fresh.id);
    rig.is_quiet();
}

#[test]
fn a_hit_is_a_request_but_takes_no_tokens_and_no_slot() {
    let mut policy = cached();
    policy.limits = vec![
        limit("rpm", S::Key, U::Requests, 3),
        limit("tpm", S::Key, U::Tokens, 10_000),
        limit("open", S::Key, U::Concurrency, 1),
    ];
    let rig = Rig::new(&policy);
    served(&rig, &chat("small", "x"), "hi");
    let tokens = rig.left("tpm", "acme");
    for _ in 0..2 {
        assert_eq!(rig.ask(&chat("small", "x")).cache_state(), "hit");
    }
    assert_eq!((rig.left("tpm", "acme"), rig.left("open", "acme"), rig.left("rpm", "acme")), (tokens, 1, 0));
    assert_eq!(rig.refused(&chat("small", "x")).0, 429);
    rig.is_quiet();
}
