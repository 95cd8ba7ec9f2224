#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};

use super::rig::{LimitScope as S, Rig, Told, Unit as U, cached, chat, limit, policy};
use crate::engine::BatchEnded;
use crate::policy::pb;

const THREADS: usize = 64;

fn on_all_threads(work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });
}

#[test]
fn no_limit_admits_more_than_it_says() {
    const TOKENS: u64 = 20_000;
    const OPEN: i64 = 7;
    let policy = pb::Policy {
        limits: vec![
            limit("tpm", S::Tenant, U::Tokens, TOKENS),
            limit("open", S::Tenant, U::Concurrency, OPEN as u64),
            limit("rpm", S::Key, U::Requests, 150),
        ],
        ..policy()
    };
    let rig = Rig::new(&policy);
    let (tokens, admitted, open) = (AtomicU64::new(0), AtomicU64::new(0), AtomicI64::new(0));
    on_all_threads(|thread| {
        for n in 0..12 {
            let ask = chat(if n % 2 == 0 { "small" } else { "large" }, "x")
                .and(&format!("\"max_tokens\":{}", 1 + thread));
            match rig.ask(&ask) {
                Told::Forward(forward) => {
                    assert!(open.fetch_add(1, SeqCst) < OPEN, "too many at once");
                    admitted.fetch_add(1, SeqCst);
                    tokens.fetch_add(rig.record(forward.id).bound_tokens, SeqCst);
                    std::thread::yield_now();
                    open.fetch_sub(1, SeqCst);
                    // Several ends at once: one of them frees.
                    rig.engine.stream_closed(forward.id, rig.now());
                    rig.engine.batch_finished(forward.id, BatchEnded::default(), rig.now());
                    rig.log(forward.id);
                }
                told => assert_eq!(told.refused(), (429, "rate_limit_exceeded")),
            }
        }
    });
    let (tokens, admitted) = (tokens.into_inner(), admitted.into_inner());
    assert!(tokens <= TOKENS && admitted <= 150, "{tokens} tokens in {admitted} requests");
    assert_eq!(rig.left("tpm", "acme"), TOKENS - tokens, "refused requests left nothing behind");
    assert_eq!((rig.left("rpm", "acme"), rig.left("open", "acme")), (150 - admitted, OPEN as u64));
    rig.is_quiet();
}

#[test]
fn equal_requests_of_many_threads_have_one_leader_at_a_time() {
    let rig = Rig::new(&cached());
    let (leading, forwards) = (AtomicI64::new(0), AtomicU64::new(0));
    on_all_threads(|thread| {
        let mut told = rig.ask(&chat("small", "x"));
        loop {
            match told {
                Told::Answer(answer) => {
                    assert_eq!(answer.status, 200);
                    return;
                }
                Told::Forward(forward) => {
                    assert_eq!(leading.fetch_add(1, SeqCst), 0, "two lead");
                    let n = forwards.fetch_add(1, SeqCst);
                    std::thread::yield_now();
                    leading.fetch_sub(1, SeqCst);
                    // The first few fail, each in its own way.
                    match n {
                        0..5 => rig.log(forward.id),
                        5..8 => drop(rig.engine.capture(forward.id).unwrap()),
                        _ => {
                            rig.fill(&forward, "hi").unwrap();
                        }
                    }
                    rig.log(forward.id);
                    return;
                }
                Told::Follow(waiting) => {
                    if thread % 7 == 3 {
                        return;
                    }
                    while waiting.told.lock().is_none() {
                        std::thread::yield_now();
                    }
                    told = rig.resume(waiting);
                }
                Told::Resolve(..) | Told::Lease(_) => panic!("there is no stage and no budget"),
            }
        }
    });
    rig.is_quiet();
}
