#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::rig::{Rig, SECOND, Waiting, cached, chat};
use crate::answer::BodyEnd;
use crate::engine::{FollowOutcome, HeadStep, LogEntry};
use crate::policy::pb;

fn is_lead(waiting: &Waiting) -> bool {
    matches!(*waiting.told.lock(), Some(FollowOutcome::Lead))
}

fn is_answered(waiting: &Waiting) -> bool {
    matches!(*waiting.told.lock(), Some(FollowOutcome::Answered(_)))
}

fn waits(waiting: &Waiting) -> bool {
    waiting.told.lock().is_none()
}

#[test]
fn equal_requests_follow_the_first_and_get_its_answer() {
    let rig = Rig::new(&cached());
    let leader = rig.forward(&chat("small", "x"));
    let followers: Vec<Waiting> = (0..3).map(|_| rig.ask(&chat("small", "x")).follow()).collect();
    assert!(followers.iter().all(|f| waits(f) && f.until_ns == rig.now() + 30 * SECOND));
    let other = rig.forward(&chat("small", "y"));
    rig.fill(&leader, "hi").unwrap();
    assert!(followers.iter().all(is_answered));
    for follower in followers {
        assert_eq!(rig.resume(follower).cache_state(), "follow");
    }
    rig.log(leader.id);
    rig.log(other.id);
    rig.is_quiet();
}

#[test]
fn streamed_requests_lead_but_never_wait() {
    let rig = Rig::new(&cached());
    let stream = chat("small", "x").and(r#""stream":true"#);
    let leader = rig.forward(&stream);
    let alone = rig.forward(&stream);
    assert!(alone.capture, "its answer may be the first to be complete");
    let follower = rig.ask(&chat("small", "x")).follow();
    rig.log(alone.id);
    assert!(waits(&follower), "it did not follow that one");
    rig.fill(&leader, "hi").unwrap();
    assert_eq!(rig.resume(follower).cache_state(), "follow");
    rig.log(leader.id);
    rig.is_quiet();
}

#[test]
fn conditional_requests_neither_lead_nor_follow() {
    let rig = Rig::new(&cached());
    for directive in ["no-cache", "max-age=1", "no-store"] {
        let first = rig.forward(&chat("small", "x").with("cache-control", directive));
        let second = rig.forward(&chat("small", "x").with("cache-control", directive));
        rig.log(first.id);
        rig.log(second.id);
    }
    rig.is_quiet();
}

#[test]
fn a_leader_that_fails_in_any_way_promotes_exactly_one() {
    type Fail = fn(&Rig, u128);
    let ways: [(&str, Fail); 6] = [
        ("logged without a capture", |rig, id| rig.log(id)),
        ("logged as a local reply", Rig::log_unreachable),
        ("cut in the middle", |rig, id| {
            let capture = rig.engine.capture(id).unwrap();
            rig.finish(capture, "hi", BodyEnd::Cut).unwrap_err();
            rig.log(id);
        }),
        ("a capture that is dropped", |rig, id| {
            drop(rig.engine.capture(id).unwrap());
            rig.log(id);
        }),
        ("an invalidation meanwhile", |rig, id| {
            rig.engine.invalidate(&crate::cache::Selector::All);
            let capture = rig.engine.capture(id).unwrap();
            assert_eq!(rig.finish(capture, "hi", BodyEnd::Complete).unwrap().slug(), "stale");
            rig.log(id);
        }),
        ("expired", |rig, id| {
            rig.engine.stream_closed(id, rig.now());
            rig.sleep(29 * SECOND);
            rig.engine.tick(rig.now());
        }),
    ];
    for (way, fail) in ways {
        let rig = Rig::new(&cached());
        let leader = rig.forward(&chat("small", "x"));
        let first = rig.ask(&chat("small", "x")).follow();
        let second = rig.ask(&chat("small", "x")).follow();
        fail(&rig, leader.id);
        assert!(is_lead(&first) && waits(&second), "{way}");
        let next = rig.resume(first).forward();
        assert!(waits(&second), "{way}");
        rig.fill(&next, "hi").unwrap();
        assert_eq!(rig.resume(second).cache_state(), "follow", "{way}");
        rig.log(next.id);
        rig.is_quiet();
    }
}

#[test]
fn a_leader_that_is_refused_later_frees_its_followers() {
    let mut policy = cached();
    policy.models[0].context_window_tokens = 100;
    let rig = Rig::new(&policy);
    // It leads from the look-up on, and is refused at the count.
    let long = chat("small", &"word ".repeat(100));
    assert_eq!(rig.refused(&long).1, "context_length_exceeded");
    assert_eq!(rig.refused(&long).1, "context_length_exceeded");
    rig.engine.observe_pool("a", true, false);
    assert_eq!(rig.refused(&chat("small", "x")).1, "no_healthy_pool");
    rig.is_quiet();
}

#[test]
fn a_follower_that_leaves_is_forgotten() {
    let rig = Rig::new(&cached());
    let leader = rig.forward(&chat("small", "x"));
    let first = rig.ask(&chat("small", "x")).follow();
    let second = rig.ask(&chat("small", "x")).follow();
    let told = first.told.clone();
    drop(first);
    rig.log(leader.id);
    assert!(told.lock().is_none() && is_lead(&second));
    // Promoted, and gone before it heard of it.
    let third = rig.ask(&chat("small", "x")).follow();
    drop(second);
    assert!(is_lead(&third));
    drop(third);
    rig.is_quiet();
}

#[test]
fn a_follower_whose_time_is_over_goes_alone() {
    let rig = Rig::new(&cached());
    let leader = rig.forward(&chat("small", "x"));
    let by_tick = rig.ask(&chat("small", "x")).follow();
    rig.sleep(SECOND);
    let by_itself = rig.ask(&chat("small", "x")).follow();
    rig.sleep(29 * SECOND);
    rig.engine.tick(rig.now());
    assert!(matches!(*by_tick.told.lock(), Some(FollowOutcome::GoAlone)));
    assert!(waits(&by_itself));
    let alone = rig.resume(by_tick).forward();
    // This one's own clock was faster than the tick; it leaves the flight on its way.
    let faster = rig.resume(by_itself).forward();
    assert!(alone.capture && faster.capture);
    rig.fill(&alone, "hi").unwrap();
    assert_eq!(rig.ask(&chat("small", "x")).cache_state(), "hit");
    rig.log(alone.id);
    rig.log(faster.id);
    rig.log(leader.id);
    rig.is_quiet();
}

#[test]
fn followers_are_bounded() {
    let mut policy = cached();
    policy.cache = Some(pb::Cache { max_followers: 2, max_followers_total: 3, ..pb::Cache::default() });
    let rig = Rig::new(&policy);
    let first = rig.forward(&chat("small", "x"));
    let second = rig.forward(&chat("small", "y"));
    let _two = [rig.ask(&chat("small", "x")).follow(), rig.ask(&chat("small", "x")).follow()];
    let alone = rig.forward(&chat("small", "x"));
    let _third = rig.ask(&chat("small", "y")).follow();
    let also = rig.forward(&chat("small", "y"));
    for forward in [first, second, alone, also] {
        rig.log(forward.id);
    }
}

#[test]
fn an_answer_too_large_to_keep_is_still_given_to_followers() {
    let mut policy = cached();
    policy.cache = Some(pb::Cache { max_entry_bytes: 2_000, ..pb::Cache::default() });
    let rig = Rig::new(&policy);
    let leader = rig.forward(&chat("small", "x"));
    let follower = rig.ask(&chat("small", "x")).follow();
    assert_eq!(rig.fill(&leader, &"long ".repeat(1_000)).unwrap().slug(), "too_large");
    assert_eq!(rig.resume(follower).cache_state(), "follow");
    rig.log(leader.id);
    rig.is_quiet();
}

#[test]
fn captures_are_bounded_and_begin_once() {
    let mut policy = cached();
    policy.cache = Some(pb::Cache { capture_max_bytes: 1_000, ..pb::Cache::default() });
    let rig = Rig::new(&policy);
    let leader = rig.forward(&chat("small", "x"));
    let capture = rig.engine.capture(leader.id).unwrap();
    assert!(rig.engine.capture(leader.id).is_none(), "the second copy of one response");
    assert!(rig.engine.capture(12_345).is_none(), "nobody asked for it");
    assert_eq!(
        rig.finish(capture, &"long ".repeat(1_000), BodyEnd::Complete).unwrap_err().slug(),
        "answer_too_large"
    );
    assert_eq!(rig.counter("forebay_cache_rejected_total"), 1);
    rig.log(leader.id);
    rig.is_quiet();
}

#[test]
fn a_promoted_leader_has_a_leaders_time() {
    let rig = Rig::new(&cached());
    let leader = rig.forward(&chat("small", "x"));
    let lead_ns = rig.engine.live().snapshot.timing.reservation_ns;
    rig.sleep(lead_ns - 20 * SECOND);
    let first = rig.ask(&chat("small", "x")).follow();
    rig.engine.logged(leader.id, &LogEntry::default(), rig.now());
    let next = rig.resume(first).forward();
    // Had it inherited what was left of the first one's time, the next would lead beside it.
    rig.sleep(25 * SECOND);
    let second = rig.ask(&chat("small", "x")).follow();
    rig.engine.tick(rig.now());
    assert!(waits(&second));
    rig.fill(&next, "hi").unwrap();
    assert_eq!(rig.resume(second).cache_state(), "follow");
    rig.log(next.id);
    rig.is_quiet();
}

#[test]
fn a_session_that_leads_and_is_dropped_promotes() {
    let rig = Rig::new(&cached());
    let leader = rig.forward(&chat("small", "x"));
    let first = rig.ask(&chat("small", "x")).follow();
    let second = rig.ask(&chat("small", "x")).follow();
    rig.log(leader.id);
    let HeadStep::Body(unrelated) = rig.head(&chat("small", "x")) else { panic!("no body") };
    drop(unrelated);
    assert!(is_lead(&first) && waits(&second));
    drop(first);
    assert!(is_lead(&second));
    rig.log(rig.resume(second).forward().id);
    rig.is_quiet();
}
