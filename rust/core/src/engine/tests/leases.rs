#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::Ordering::Relaxed;

use super::books::{Books, standing, used};
use super::rig::{
    BudgetUnit as B, LimitScope as S, Rig, SECOND, Told, Unit as U, Waiting, WhenExhausted, WhenFull, budget,
    chat, limit, spending,
};
use crate::engine::{Engine, EngineConfig, FollowOutcome};
use crate::policy::pb;

const BIG: u64 = 64_000_000;

fn rig() -> (Rig, Books) {
    with(&spending(vec![budget("money", S::Tenant, B::Nanousd, BIG)]))
}

fn cached() -> (Rig, Books) {
    let budgets = vec![budget("money", S::Tenant, B::Nanousd, BIG)];
    with(&pb::Policy { cache: Some(pb::Cache::default()), ..spending(budgets) })
}

fn with(policy: &pb::Policy) -> (Rig, Books) {
    let rig = Rig::new(policy);
    let books = Books::of(&rig);
    (rig, books)
}

fn waits(waiting: &Waiting) -> bool {
    waiting.told.lock().is_none()
}

#[test]
fn a_lease_is_asked_for_granted_and_used() {
    let (rig, mut books) = rig();
    let waiting = rig.ask(&chat("small", "x")).lease();
    assert_eq!(waiting.until_ns, rig.now() + SECOND / 2, "half of what Envoy waits");
    let asks = rig.engine.take_lease_asks(9);
    let ask = &asks[0];
    assert_eq!((asks.len(), &*ask.budget, &*ask.value, ask.unit), (1, "money", "acme", "nanousd"));
    assert_eq!((ask.period_start_s, ask.period_end_s), (1_699_999_200, 1_700_002_800));
    assert_eq!((ask.amount, ask.want), (BIG, BIG / 64));
    assert!(rig.engine.take_lease_asks(9).is_empty() && waits(&waiting));
    books.serve(&rig, ask);
    assert!(!waits(&waiting));
    let id = rig.resume_lease(waiting).forward().id;
    let reserved = rig.record(id).reserved_nanousd;
    let stands = standing(&rig, "money", "acme").unwrap();
    assert_eq!((stands.granted, stands.used), (BIG / 64, reserved));
    rig.log(id);
    rig.is_quiet();
}

#[test]
fn many_requests_on_one_bucket_make_one_ask() {
    let (rig, mut books) = rig();
    let waiting: Vec<Waiting> = (0..50).map(|_| rig.ask(&chat("small", "x")).lease()).collect();
    let rival = rig.ask(&chat("small", "x").by("fbk_rival")).lease();
    let asks = rig.engine.take_lease_asks(99);
    assert_eq!(asks.iter().map(|a| &*a.value).collect::<Vec<_>>(), ["acme", "rival"]);
    books.serve(&rig, &asks[0]);
    assert!(waits(&rival), "the other tenant's is not this one");
    for waiting in waiting {
        assert!(!waits(&waiting));
        let id = rig.resume_lease(waiting).forward().id;
        rig.log(id);
    }
    assert!(rig.engine.take_lease_asks(9).is_empty());
    drop(rival);
    books.serve(&rig, &asks[1]);
    rig.is_quiet();
}

#[test]
fn the_next_lease_is_asked_for_before_this_one_is_used_up() {
    let (rig, mut books) = rig();
    let lease = BIG / 64;
    let id = books.ask(&rig, &chat("small", "x")).forward().id;
    rig.log_usage(id, &format!(r#"{{"prompt_tokens":{},"completion_tokens":0}}"#, lease / 3));
    let second = rig.forward(&chat("small", "x")).id;
    assert!(rig.engine.take_lease_asks(9).is_empty(), "two thirds are left");
    rig.log_usage(second, &format!(r#"{{"prompt_tokens":{},"completion_tokens":0}}"#, lease / 3));
    for _ in 0..3 {
        rig.forward(&chat("small", "x"));
    }
    let asks = rig.engine.take_lease_asks(9);
    assert_eq!(asks.iter().map(|a| a.want).collect::<Vec<_>>(), [lease], "one ask, before anybody waits");
    books.serve(&rig, &asks[0]);
    rig.forward(&chat("small", "x"));
    assert!(rig.engine.take_lease_asks(9).is_empty());
    assert_eq!(rig.counter("forebay_lease_waits_total"), 1, "only the first of all");
}

#[test]
fn a_lease_is_large_enough_for_what_waits_for_it() {
    let mut policy = spending(vec![budget("money", S::Tenant, B::Nanousd, 1_000)]);
    policy.models[0].max_output_tokens = 300;
    let (rig, mut books) = with(&policy);
    let waiting = rig.ask(&chat("small", "x")).lease();
    let asks = books.serve_all(&rig);
    assert!(asks[0].want > 600, "{asks:?}");
    rig.resume_lease(waiting).forward();
}

#[test]
fn without_a_lease_in_time_the_request_is_refused() {
    let mut policy = spending(vec![budget("money", S::Tenant, B::Nanousd, BIG)]);
    policy.limits = vec![limit("open", S::Tenant, U::Concurrency, 2)];
    let (rig, mut books) = with(&policy);
    let waiting = rig.ask(&chat("small", "x")).lease();
    assert_eq!(rig.left("open", "acme"), 1);
    let until_ns = waiting.until_ns;
    rig.sleep(SECOND / 4);
    let waiting = rig.resume_lease(waiting).lease();
    assert_eq!(waiting.until_ns, until_ns, "waiting again makes the wait no longer");
    rig.sleep(SECOND / 4);
    let answer = rig.resume_lease(waiting).answer();
    assert_eq!((answer.status, answer.code), (503, "budget_unavailable"));
    assert_eq!(rig.left("open", "acme"), 2);
    // It comes late, and is there for the next one; nobody is told twice.
    assert_eq!(books.serve_all(&rig).len(), 1);
    rig.forward(&chat("small", "x"));
}

#[test]
fn a_drawer_that_fails_is_asked_again_at_the_next_turn_and_not_at_once() {
    let (rig, mut books) = rig();
    let mut waiting = rig.ask(&chat("small", "x")).lease();
    rig.engine.tick(rig.now());
    for _ in 0..2 {
        let asks = rig.engine.take_lease_asks(9);
        assert_eq!(asks.len(), 1);
        rig.engine.fail_lease(asks[0].token);
        rig.engine.fail_lease(asks[0].token);
        assert!(waits(&waiting), "not yet");
        let other = rig.ask(&chat("small", "y")).lease();
        assert!(rig.engine.take_lease_asks(9).is_empty(), "nor does another request ask again");
        rig.sleep(SECOND / 4);
        rig.engine.tick(rig.now());
        assert!(!waits(&waiting) && !waits(&other));
        match rig.resume_lease(waiting) {
            Told::Lease(again) => waiting = again,
            told => {
                assert_eq!(told.refused(), (503, "budget_unavailable"));
                waiting = rig.ask(&chat("small", "x")).lease();
                break;
            }
        }
    }
    books.serve_all(&rig);
    rig.resume_lease(waiting).forward();
}

#[test]
fn a_failed_lease_that_comes_after_all_is_kept() {
    let (rig, mut books) = rig();
    let waiting = rig.ask(&chat("small", "x")).lease();
    let asks = rig.engine.take_lease_asks(9);
    rig.engine.fail_lease(asks[0].token);
    books.serve(&rig, &asks[0]);
    assert!(!waits(&waiting));
    // The turn finds nothing more to end.
    rig.sleep(SECOND);
    rig.engine.tick(rig.now());
    rig.engine.grant_lease(asks[0].token, 5, 5, rig.now());
    rig.engine.grant_lease(99, 5, 5, rig.now());
    rig.engine.fail_lease(99);
    assert_eq!(
        standing(&rig, "money", "acme").unwrap().granted,
        BIG / 64,
        "an unknown token changes nothing"
    );
    rig.resume_lease(waiting).forward();
}

#[test]
fn the_bell_rings_once_for_each_ask() {
    let (rig, mut books) = rig();
    let waiting: Vec<Waiting> = (0..3).map(|_| rig.ask(&chat("small", "x")).lease()).collect();
    assert_eq!(rig.bells.load(Relaxed), 1);
    books.serve_all(&rig);
    drop(waiting);
    rig.ask(&chat("small", "x").by("fbk_rival")).lease();
    assert_eq!(rig.bells.load(Relaxed), 2);
}

#[test]
fn where_nobody_draws_leases_budgets_count_in_memory() {
    let budgets = vec![budget("money", S::Tenant, B::Nanousd, 500), budget("soft", S::Tenant, B::Tokens, 1)];
    let mut policy = spending(budgets);
    policy.budgets[1].enforcement = super::rig::Enforcement::Soft as i32;
    let mut rig = Rig::new(&policy);
    let snapshot = crate::policy::compile(&prost::Message::encode_to_vec(&policy)).unwrap();
    rig.engine = Engine::new(EngineConfig::default(), snapshot);
    let first = rig.forward(&chat("small", "x")).id;
    rig.forward(&chat("small", "x"));
    assert_eq!(rig.refused(&chat("small", "x")), (429, "budget_exhausted"));
    rig.log_usage(first, r#"{"prompt_tokens":1,"completion_tokens":1}"#);
    rig.forward(&chat("small", "x"));
    assert_eq!(rig.refused(&chat("small", "x")), (429, "budget_exhausted"));
    assert_eq!(rig.counter("forebay_lease_waits_total"), 0);
}

#[test]
fn who_waits_for_an_ask_that_nobody_serves_is_bounded() {
    let (rig, mut books) = rig();
    let mut refused = 0;
    for n in 0..17_000 {
        match rig.ask(&chat("small", "x")) {
            Told::Lease(waiting) => drop(waiting),
            told => {
                refused += 1;
                assert!(n >= 16_384);
                assert_eq!(told.refused().0, 503);
            }
        }
    }
    assert_eq!(refused, 17_000 - 16_384);
    assert_eq!(books.serve_all(&rig).len(), 1);
    rig.forward(&chat("small", "x"));
}

#[test]
fn two_budgets_that_lack_a_lease_are_asked_for_together() {
    let budgets = vec![budget("money", S::Tenant, B::Nanousd, BIG), budget("tokens", S::Key, B::Tokens, BIG)];
    let (rig, mut books) = with(&spending(budgets));
    let waiting = rig.ask(&chat("small", "x")).lease();
    let asks = rig.engine.take_lease_asks(9);
    assert_eq!(
        asks.iter().map(|a| (&*a.value, a.unit)).collect::<Vec<_>>(),
        [("acme", "nanousd"), ("acme/acme", "tokens")]
    );
    // The second comes first: it waits for the other, and then goes on.
    books.serve(&rig, &asks[1]);
    assert!(waits(&waiting));
    books.serve(&rig, &asks[0]);
    rig.resume_lease(waiting).forward();
    // Where only the first came, it waits for the second.
    let waiting = rig.ask(&chat("small", "x").by("fbk_rival")).lease();
    let asks = rig.engine.take_lease_asks(9);
    books.serve(&rig, &asks[0]);
    let waiting = rig.resume_lease(waiting).lease();
    assert!(rig.engine.take_lease_asks(9).is_empty(), "it was asked for before");
    books.serve(&rig, &asks[1]);
    assert!(!waits(&waiting));
    rig.resume_lease(waiting).forward();
}

#[test]
fn a_lease_of_a_period_that_ended_meanwhile_is_of_no_use() {
    let (rig, mut books) = rig();
    let waiting = rig.ask(&chat("small", "x")).lease();
    let asks = rig.engine.take_lease_asks(9);
    rig.sleep(2_799 * SECOND);
    books.serve(&rig, &asks[0]);
    // Its own time is over too.
    assert_eq!(rig.resume_lease(waiting).refused(), (503, "budget_unavailable"));
    let waiting = rig.ask(&chat("small", "x")).lease();
    let next = rig.engine.take_lease_asks(9);
    assert_eq!(next[0].period_start_s, asks[0].period_end_s);
    books.serve(&rig, &next[0]);
    rig.resume_lease(waiting).forward();
    assert_eq!(used(&rig, "money", "acme"), standing(&rig, "money", "acme").unwrap().used);
}

#[test]
fn a_clock_set_back_does_not_lose_whose_a_lease_is() {
    let (rig, mut books) = rig();
    books.ask(&rig, &chat("small", "x")).forward();
    rig.set_clock(-600 * SECOND as i64);
    // The clock of the period ends it later now, for the bucket and for its name.
    for _ in 0..6_000 {
        books.ask(&rig, &chat("small", "x")).forward();
        books.serve_all(&rig);
    }
    rig.sleep(2_799 * SECOND);
    rig.engine.tick(rig.now());
    let stands = standing(&rig, "money", "acme").expect("its name is known");
    assert!(stands.granted >= stands.used && stands.used > 0);
}

#[test]
fn a_leader_that_waits_for_a_lease_leads_on() {
    let (rig, mut books) = cached();
    let leader = rig.ask(&chat("small", "x")).lease();
    let followers: Vec<Waiting> = (0..3).map(|_| rig.ask(&chat("small", "x")).follow()).collect();
    assert!(followers.iter().all(waits), "nobody was promoted to wait for the same lease");
    assert_eq!(rig.engine.take_lease_asks(9).len(), 1);
    drop(books.serve_all(&rig));
    let token = 1;
    rig.engine.grant_lease(token, BIG / 64, BIG - BIG / 64, rig.now());
    let forward = rig.resume_lease(leader).forward();
    rig.fill(&forward, "hi").unwrap();
    for follower in followers {
        assert_eq!(rig.resume(follower).cache_state(), "follow");
    }
    rig.log(forward.id);
    rig.is_quiet();
}

#[test]
fn a_leader_without_a_lease_in_time_is_succeeded() {
    let (rig, mut books) = cached();
    let leader = rig.ask(&chat("small", "x")).lease();
    let first = rig.ask(&chat("small", "x")).follow();
    let second = rig.ask(&chat("small", "x")).follow();
    rig.sleep(SECOND);
    assert_eq!(rig.resume_lease(leader).refused(), (503, "budget_unavailable"));
    assert!(matches!(*first.told.lock(), Some(FollowOutcome::Lead)));
    assert!(waits(&second));
    // The new leader waits for the lease in its turn, and leads on.
    let first = rig.resume(first).lease();
    assert!(waits(&second));
    books.serve_all(&rig);
    let forward = rig.resume_lease(first).forward();
    rig.fill(&forward, "hi").unwrap();
    assert_eq!(rig.resume(second).cache_state(), "follow");
    rig.log(forward.id);
    rig.is_quiet();
}

#[test]
fn a_leader_that_leaves_while_it_waits_for_a_lease_is_succeeded() {
    let (rig, mut books) = cached();
    let leader = rig.ask(&chat("small", "x")).lease();
    let follower = rig.ask(&chat("small", "x")).follow();
    drop(leader);
    assert!(matches!(*follower.told.lock(), Some(FollowOutcome::Lead)));
    let follower = rig.resume(follower).lease();
    books.serve_all(&rig);
    rig.log(rig.resume_lease(follower).forward().id);
    rig.is_quiet();
}

#[test]
fn a_leader_finds_the_answer_that_came_while_it_waited() {
    let (rig, mut books) = cached();
    let rival = chat("small", "x").with("cache-control", "no-cache");
    let leader = rig.ask(&chat("small", "x")).lease();
    let other = rig.ask(&rival).lease();
    let follower = rig.ask(&chat("small", "x")).follow();
    books.serve_all(&rig);
    let forward = rig.resume_lease(other).forward();
    rig.fill(&forward, "hi").unwrap();
    assert_eq!(rig.resume_lease(leader).cache_state(), "hit");
    let told = rig.resume(follower).cache_state();
    assert!(told == "hit" || told == "follow", "{told}");
    rig.log(forward.id);
    rig.is_quiet();
}

#[test]
fn a_follower_that_goes_alone_waits_for_its_lease() {
    let (rig, mut books) = cached();
    let leader = rig.ask(&chat("small", "x")).lease();
    let follower = rig.ask(&chat("small", "x")).follow();
    rig.sleep(31 * SECOND);
    rig.engine.tick(rig.now());
    let alone = rig.resume(follower).lease();
    books.serve_all(&rig);
    rig.log(rig.resume_lease(alone).forward().id);
    drop(leader);
    rig.is_quiet();
}

#[test]
fn a_follower_of_the_next_model_is_answered_by_it() {
    let mut spare = budget("money", S::Tenant, B::Nanousd, 400);
    spare.when_exhausted = WhenExhausted::NextModel as i32;
    spare.next_models = vec!["small".into()];
    let (rig, mut books) = with(&pb::Policy { cache: Some(pb::Cache::default()), ..spending(vec![spare]) });
    let leader = books.ask(&rig, &chat("large", "x")).forward();
    let Told::Follow(follower) = books.ask(&rig, &chat("large", "x")) else { panic!("it does not follow") };
    rig.fill(&leader, "hi").unwrap();
    let answer = rig.resume(follower).answer();
    assert_eq!(answer.status, 200);
    rig.log(leader.id);
    rig.is_quiet();
}

#[test]
fn a_request_whose_model_changes_while_it_waits_leads_for_nobody() {
    // The lease that comes is too small for the large model: the small one serves, and followers of the large are freed.
    let mut spare = budget("money", S::Tenant, B::Nanousd, 2_500);
    spare.when_exhausted = WhenExhausted::NextModel as i32;
    spare.next_models = vec!["small".into()];
    let mut policy = spending(vec![spare]);
    policy.cache = Some(pb::Cache::default());
    policy.routes[0].when_full = WhenFull::Full429 as i32;
    let (rig, _) = with(&policy);
    let leader = rig.ask(&chat("large", "x")).lease();
    let follower = rig.ask(&chat("large", "x")).follow();
    let ask = rig.engine.take_lease_asks(9).remove(0);
    rig.engine.grant_lease(ask.token, 1_000, 0, rig.now());
    let forward = rig.resume_lease(leader).forward();
    assert_eq!(&*rig.record(forward.id).model, "small");
    assert!(matches!(*follower.told.lock(), Some(FollowOutcome::Lead)));
    let Told::Follow(follower) = rig.resume(follower) else { panic!("it does not follow the small model's") };
    rig.fill(&forward, "hi").unwrap();
    assert_eq!(rig.resume(follower).answer().status, 200);
    rig.log(forward.id);
    rig.is_quiet();
}

#[test]
fn many_threads_and_one_drawer_lose_nothing() {
    let nanousd = 200_000;
    let drawn = parking_lot::Mutex::new(0_u64);
    let mut policy = spending(vec![budget("money", S::Tenant, B::Nanousd, nanousd)]);
    policy.limits = vec![limit("open", S::Tenant, U::Concurrency, 64)];
    let (rig, mut books) = with(&policy);
    let working = std::sync::atomic::AtomicUsize::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (rig, working) = (&rig, &working);
            scope.spawn(move || {
                for n in 0..300_u64 {
                    let mut told = rig.ask(&chat("small", "x"));
                    while let Told::Lease(waiting) = told {
                        while waits(&waiting) {
                            std::thread::yield_now();
                        }
                        told = rig.resume_lease(waiting);
                    }
                    match told {
                        Told::Forward(forward) if n % 5 == thread => rig.log(forward.id),
                        Told::Forward(forward) => {
                            rig.log_usage(forward.id, r#"{"prompt_tokens":50,"completion_tokens":60}"#);
                        }
                        told => assert_eq!(told.refused(), (429, "budget_exhausted")),
                    }
                }
                working.fetch_sub(1, Relaxed);
            });
        }
        scope.spawn(|| {
            while working.load(Relaxed) > 0 {
                for ask in rig.engine.take_lease_asks(2) {
                    let mut drawn = drawn.lock();
                    let granted = ask.want.min(ask.amount - *drawn);
                    *drawn += granted;
                    rig.engine.grant_lease(ask.token, granted, ask.amount - *drawn, rig.now());
                }
                std::thread::yield_now();
            }
        });
    });
    let charged: u64 = books.read().charged().into_values().sum();
    let stands = standing(&rig, "money", "acme").unwrap();
    assert_eq!(stands.used, charged);
    assert!(charged <= stands.granted && stands.granted == *drawn.lock(), "{stands:?}");
    assert!(charged > nanousd * 9 / 10, "nearly all of it was spent: {charged}");
    assert_eq!(rig.left("open", "acme"), 64);
    rig.is_quiet();
}
