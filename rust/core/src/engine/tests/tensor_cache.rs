//! The exact cache for the answers of deterministic models.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;

use super::books::records_in;
use super::rig::Rig;
use super::tensors::{answered, infer, ran, tensor_policy};
use crate::account::Outcome;
use crate::cache::Selector;
use crate::engine::{BatchEnded, BatchRecall};
use crate::policy::pb;

#[test]
fn answers_of_a_deterministic_model_are_kept_within_a_tenant() {
    let rig = Rig::new(&tensor_policy());
    let parts: &[&[u8]] = &[b"", b"ids", b"\x01\x02"];
    let miss = |id, parts: &[&[u8]]| match rig.recall(id, parts) {
        BatchRecall::Miss { key, keeps } => (key, keeps),
        other => panic!("{other:?}"),
    };
    let first = rig.forward(&infer()).id;
    rig.engine.batch_model(first, "tensor").unwrap();
    let (key, keeps) = miss(first, parts);
    assert!(keeps);
    rig.taken(first, "tensor", 100);
    let answer = Bytes::from_static(b"answer");
    assert!(rig.engine.batch_keep(first, key, answer.clone(), rig.now()).is_some());
    rig.finished(first, ran(100));
    rig.log_entry(first, &answered());

    let second = rig.forward(&infer()).id;
    assert_eq!(rig.recall(second, parts), BatchRecall::Hit(answer.clone()));
    rig.finished(second, BatchEnded { outcome: Outcome::Hit, rows: 1, ..BatchEnded::default() });
    let outbox = rig.engine.keep_records(1 << 20);
    rig.log_entry(second, &answered());
    let written = records_in(&outbox).remove(0);
    assert_eq!(
        (written.cache.as_str(), written.saved_by_cache_nanousd, written.prompt_tokens),
        ("hit", 300, 0)
    );

    let rival = rig.forward(&infer().by("fbk_rival")).id;
    assert_ne!(miss(rival, parts).0, key);
    let searching = rig.forward(&infer().with("x-forebay-feature", "search")).id;
    assert_ne!(miss(searching, parts).0, key, "features do not share");
    assert_ne!(miss(searching, &[b"", b"id", b"s\x01\x02"]).0, miss(searching, parts).0);
    for control in ["no-store", "no-cache", "max-age=0"] {
        let fresh = rig.forward(&infer().with("cache-control", control)).id;
        assert_eq!(rig.recall(fresh, parts), BatchRecall::Off, "{control}");
    }
    let plain = rig.forward(&infer()).id;
    assert_eq!(rig.engine.batch_recall(plain, "plain", parts, rig.now()), BatchRecall::Off);

    // An invalidation takes it away, and what began before it is not kept.
    let late = rig.forward(&infer()).id;
    rig.engine.batch_model(late, "tensor").unwrap();
    let (other, _) = miss(late, &[b"other"]);
    assert_eq!(rig.engine.invalidate(&Selector::Tag("vision".into())), 1);
    assert!(matches!(rig.recall(late, parts), BatchRecall::Miss { .. }));
    let kept = rig.engine.batch_keep(late, other, answer, rig.now());
    assert_eq!(kept, Some(crate::cache::StoreOutcome::Stale));
}

#[test]
fn without_a_cache_equal_requests_still_share_a_key_in_flight() {
    let mut policy = tensor_policy();
    policy.cache = None;
    let rig = Rig::new(&policy);
    let keys: Vec<_> = (0..2)
        .map(|_| match rig.recall(rig.forward(&infer()).id, &[b"x"]) {
            BatchRecall::Miss { key, keeps } => (key, keeps),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(keys[0] == keys[1] && !keys[0].1);
    let off = pb::FeatureCache { mode: pb::feature_cache::Mode::Off as i32, ..Default::default() };
    policy.features[0].cache = Some(off);
    let rig = Rig::new(&policy);
    let id = rig.forward(&infer().with("x-forebay-feature", "search")).id;
    assert_eq!(rig.recall(id, &[b"x"]), BatchRecall::Off);
}

#[test]
fn by_user_only_users_share() {
    let mut policy = tensor_policy();
    let user = pb::FeatureCache { sharing: pb::feature_cache::Sharing::User as i32, ..Default::default() };
    policy.features[0].cache = Some(user);
    let rig = Rig::new(&policy);
    let ask = |user: &str| infer().with("x-forebay-feature", "search").with("x-forebay-user", user);
    let key = |user: &str| match rig.recall(rig.forward(&ask(user)).id, &[b"x"]) {
        BatchRecall::Miss { key, .. } => Some(key),
        _ => None,
    };
    assert!(key("ann").is_some() && key("ann") == key("ann") && key("ann") != key("bob"));
    assert_eq!(key(""), None);
}
