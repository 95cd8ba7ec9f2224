#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::rig::{Ask, LimitScope as S, Rig, SECOND, Unit as U, chat, limit, policy};
use crate::engine::{BatchEnded, Engine, HeadStep, LogEntry};
use crate::policy::pb;
use crate::record::RecordEnd;

fn rig() -> Rig {
    let limits = vec![
        limit("open", S::Tenant, U::Concurrency, 3),
        limit("tpm", S::Tenant, U::Tokens, 100_000),
        limit("rpm", S::Tenant, U::Requests, 100),
    ];
    Rig::new(&pb::Policy { limits, ..policy() })
}

type End = fn(&Engine, u128, u64);

const ENDS: [(&str, End); 3] = [
    ("stream closed", |e, id, now| e.stream_closed(id, now)),
    ("batch finished", |e, id, now| e.batch_finished(id, BatchEnded::default(), now)),
    ("logged", |e, id, now| {
        e.logged(id, &LogEntry::default(), now);
    }),
];

#[test]
fn the_first_end_frees_the_slot_and_no_other_does_again() {
    for (first, free) in ENDS {
        for (second, again) in ENDS {
            let rig = rig();
            let ids: Vec<u128> = (0..3).map(|_| rig.forward(&chat("small", "x")).id).collect();
            assert_eq!(rig.refused(&chat("small", "x")).0, 429);
            free(&rig.engine, ids[0], rig.now());
            assert_eq!(rig.left("open", "acme"), 1, "{first}");
            assert_eq!(rig.engine.pool_views(rig.now())[0].requests, 2, "{first}");
            again(&rig.engine, ids[0], rig.now());
            again(&rig.engine, ids[0], rig.now());
            assert_eq!(rig.left("open", "acme"), 1, "{first}, then {second}");
            assert_eq!(rig.engine.pool_views(rig.now())[0].requests, 2, "{first}, then {second}");
            for id in &ids {
                rig.log(*id);
            }
            assert_eq!(rig.left("open", "acme"), 3);
            rig.is_quiet();
        }
    }
}

#[test]
fn the_end_of_a_headers_only_stream_is_no_end_of_its_request() {
    let rig = rig();
    let forward = rig.forward(&Ask::post("/files/x", "bytes"));
    rig.engine.stream_closed(forward.id, rig.now());
    assert_eq!(rig.left("open", "acme"), 2);
    rig.engine.batch_finished(forward.id, BatchEnded::default(), rig.now());
    assert_eq!(rig.left("open", "acme"), 3);
    rig.log(forward.id);
    rig.is_quiet();
}

#[test]
fn what_nobody_ends_expires_once() {
    let rig = rig();
    let forward = rig.forward(&Ask::post("/files/x", "bytes"));
    let wait_ns = rig.engine.live().snapshot.timing.reservation_ns;
    rig.sleep(wait_ns - SECOND);
    rig.engine.tick(rig.now());
    assert_eq!((rig.engine.open_reservations(), rig.left("open", "acme")), (1, 2));
    rig.sleep(3 * SECOND);
    rig.engine.tick(rig.now());
    assert_eq!((rig.engine.open_reservations(), rig.left("open", "acme")), (0, 3));
    rig.log(forward.id);
    assert_eq!(rig.left("open", "acme"), 3);
    assert_eq!(rig.counter("forebay_reservations_expired_total"), 1);
    assert_eq!(rig.counter("forebay_settled_late_total"), 1);
    rig.log(forward.id);
    assert_eq!(rig.counter("forebay_log_entries_unknown_total"), 1);
    rig.is_quiet();
}

#[test]
fn tokens_come_back_where_envoy_answered_itself() {
    let rig = rig();
    let served = rig.forward(&chat("small", "x"));
    let bound = rig.record(served.id).bound_tokens;
    rig.log(served.id);
    assert_eq!(rig.left("tpm", "acme"), 100_000 - bound, "an upstream had it");
    let lost = rig.forward(&chat("small", "x"));
    assert_eq!(rig.left("tpm", "acme"), 100_000 - 2 * bound);
    let end = RecordEnd { status: 503, local_reply: true, ..RecordEnd::default() };
    rig.engine.logged(lost.id, &LogEntry { end, ..LogEntry::default() }, rig.now());
    assert_eq!(rig.left("tpm", "acme"), 100_000 - bound);
    assert_eq!(rig.left("rpm", "acme"), 98, "it was a request all the same");
    rig.is_quiet();
}

#[test]
fn a_pool_that_cannot_be_reached_rests_and_comes_back() {
    let rig = Rig::new(&policy());
    let ids: Vec<u128> = (0..5).map(|_| rig.forward(&chat("small", "x")).id).collect();
    for id in &ids[..4] {
        rig.log_unreachable(*id);
    }
    let healthy = || rig.engine.pool_views(rig.now())[0].healthy;
    assert!(healthy());
    rig.log(ids[4]);
    for n in 0..5 {
        assert!(healthy(), "a success ended the row; {n} failures since");
        let id = rig.forward(&chat("small", "x")).id;
        rig.log_unreachable(id);
    }
    assert!(!healthy());
    assert_eq!(rig.refused(&chat("small", "x")), (503, "no_healthy_pool"));
    rig.sleep(5 * SECOND);
    rig.log(rig.forward(&chat("small", "x")).id);
    rig.is_quiet();
}

#[test]
fn a_client_that_left_says_nothing_about_a_pool() {
    let rig = Rig::new(&policy());
    for _ in 0..5 {
        let id = rig.forward(&chat("small", "x")).id;
        rig.log_unreachable(id);
        if rig.engine.pool_views(rig.now())[0].healthy {
            let id = rig.forward(&chat("small", "x")).id;
            let end = RecordEnd { aborted: true, ..RecordEnd::default() };
            rig.engine.logged(id, &LogEntry { end, ..LogEntry::default() }, rig.now());
        }
    }
    assert!(!rig.engine.pool_views(rig.now())[0].healthy);
}

#[test]
fn a_session_that_is_dropped_gives_everything_back() {
    let rig = rig();
    let HeadStep::Body(mut session) = rig.head(&chat("small", "x")) else { panic!("no body") };
    rig.engine.take_caller_limits(&mut session, &rig.clock).unwrap();
    assert_eq!((rig.left("open", "acme"), rig.left("rpm", "acme")), (2, 99));
    drop(session);
    assert_eq!((rig.left("open", "acme"), rig.left("rpm", "acme")), (3, 100));
    rig.is_quiet();
}

#[test]
fn records_say_how_it_ended() {
    let rig = rig();
    let forward = rig.forward(&chat("small", "x"));
    let end = RecordEnd { status: 200, duration_ns: 7, attempts: 2, ..RecordEnd::default() };
    rig.engine.logged(forward.id, &LogEntry { end, ..LogEntry::default() }, rig.now());
    rig.refused(&chat("nothing", "x"));
    let records = rig.engine.records_json(10);
    assert!(
        records.contains("\"outcome\":\"forward\"") && records.contains("\"duration_ns\":7"),
        "{records}"
    );
    assert!(
        records.contains("\"outcome\":\"model_not_found\"") && records.contains("\"status\":404"),
        "{records}"
    );
    assert!(!records.contains("fbk_"), "a secret is in a record");
}
