#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::answer::AnswerKind;
use crate::cache::Streams;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

const CONFIG: FlightConfig =
    FlightConfig { max_flights: 1024, max_followers_per_flight: 4, max_followers: 6, lead_ns: 100 };

fn key(n: u8) -> CacheKey {
    CacheKey([n; 32])
}

fn answer() -> Arc<Entry> {
    Arc::new(Entry {
        body: bytes::Bytes::from_static(b"{}"),
        kind: AnswerKind::Chat,
        tenant: "t".into(),
        model: "m".into(),
        revision: "r".into(),
        tags: Arc::new([]),
        usage: None,
        stored_ns: 0,
        expires_ns: 1,
        streams: Streams::default(),
    })
}

fn join(flights: &Flights<u128>, id: u128) -> Join {
    flights.join(key(1), id, 0, 50, || id)
}

#[test]
fn followers_get_the_leaders_answer() {
    let flights = Flights::new(CONFIG);
    assert_eq!([1, 2, 3].map(|id| join(&flights, id)), [Join::Lead, Join::Follow, Join::Follow]);
    assert_eq!((flights.len(), flights.followers(), flights.next_end_ns()), (1, 2, Some(50)));
    assert!(flights.complete(&key(1), 2, &answer()).is_empty());
    let woken = flights.complete(&key(1), 1, &answer());
    assert_eq!(woken.iter().map(|wake| (wake.request_id, wake.waiter)).collect::<Vec<_>>(), [(2, 2), (3, 3)]);
    assert!(woken.iter().all(|wake| matches!(wake.outcome, Outcome::Answered(_))));
    assert!(flights.is_empty());
    assert_eq!((flights.followers(), flights.next_end_ns()), (0, None));
    assert_eq!(join(&flights, 4), Join::Lead);
}

#[test]
fn a_leader_that_fails_is_succeeded_by_exactly_one() {
    let flights = Flights::new(CONFIG);
    for id in 1..5 {
        join(&flights, id);
    }
    assert!(flights.abandon(&key(1), 2, 10).is_none());
    let promoted = flights.abandon(&key(1), 1, 10).unwrap();
    assert!(matches!((promoted.request_id, &promoted.outcome), (2, Outcome::Lead)));
    assert!(flights.abandon(&key(1), 1, 10).is_none());
    assert!(flights.complete(&key(1), 1, &answer()).is_empty());
    // The promoted one's stream has ended already: whoever delivers the outcome hands it on.
    let next = flights.leave(&key(1), 2, 10).promoted().unwrap();
    assert_eq!(next.request_id, 3);
    assert!(matches!(flights.leave(&key(1), 2, 10), Left::Absent));
    assert_eq!(flights.complete(&key(1), 3, &answer()).len(), 1);
    assert_eq!(join(&flights, 9), Join::Lead);
    assert!(matches!(flights.leave(&key(1), 9, 10), Left::Leader(None)));
    assert!(flights.is_empty());
}

#[test]
fn time_frees_followers_and_loses_leaders() {
    let flights = Flights::new(CONFIG);
    join(&flights, 1);
    join(&flights, 2);
    flights.join(key(1), 3, 0, 500, || 3);
    assert!(flights.expire(49).is_empty());
    let alone = flights.expire(50);
    assert!(matches!((alone.len(), alone[0].request_id, &alone[0].outcome), (1, 2, Outcome::GoAlone)));
    let lead = flights.expire(100);
    assert!(matches!((lead.len(), lead[0].request_id, &lead[0].outcome), (1, 3, Outcome::Lead)));
    assert_eq!(flights.next_end_ns(), Some(200));
    assert!(flights.expire(200).is_empty());
    assert!(flights.is_empty());
}

#[test]
fn the_bounds_hold() {
    let flights = Flights::new(CONFIG);
    let joined: Vec<Join> = (0..6).map(|id| join(&flights, id)).collect();
    assert_eq!(joined[1..5], [Join::Follow; 4]);
    assert_eq!(joined[5], Join::Full);
    let other = |id| flights.join(key(2), id, 0, 50, || id);
    assert_eq!([10, 11, 12, 13].map(other), [Join::Lead, Join::Follow, Join::Follow, Join::Full]);
    assert!(matches!(flights.leave(&key(1), 3, 0), Left::Follower(3)));
    assert_eq!(other(13), Join::Follow);
    assert_eq!((join(&flights, 0), join(&flights, 1)), (Join::Lead, Join::Full));
    assert_eq!(flights.join(key(1), 20, 50, 50, || panic!("no time to follow")), Join::Full);
    assert_eq!((flights.lead(key(1), 21, 0), flights.lead(key(3), 21, 0)), (Join::Full, Join::Lead));
    let one = Flights::<u128>::new(FlightConfig { max_flights: 1, ..CONFIG });
    assert_eq!((join(&one, 1), one.lead(key(17), 2, 0)), (Join::Lead, Join::Full));
}

#[derive(Clone, Debug)]
enum Step {
    Join { key: u8, wait_ns: u64 },
    Lead { key: u8 },
    Complete { key: u8 },
    Abandon { key: u8 },
    Leave { key: u8, pick: prop::sample::Index },
    Late { key: u8, pick: prop::sample::Index },
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0_u8..3;
    let pick = any::<prop::sample::Index>();
    prop_oneof![
        8 => (key.clone(), 0_u64..120).prop_map(|(key, wait_ns)| Step::Join { key, wait_ns }),
        1 => key.clone().prop_map(|key| Step::Lead { key }),
        2 => key.clone().prop_map(|key| Step::Complete { key }),
        2 => key.clone().prop_map(|key| Step::Abandon { key }),
        3 => (key.clone(), pick.clone()).prop_map(|(key, pick)| Step::Leave { key, pick }),
        1 => (key, pick).prop_map(|(key, pick)| Step::Late { key, pick }),
        2 => (0_u64..60).prop_map(Step::Later),
    ]
}

/// What must be true, kept the plain way.
#[derive(Default)]
struct Truth {
    leaders: BTreeMap<u8, u128>,
    waiting: BTreeMap<u128, (u8, u64)>,
    gone: Vec<(u8, u128)>,
}

impl Truth {
    fn wake(&mut self, wake: &Wake<u128>, now_ns: u64) -> Result<(), TestCaseError> {
        prop_assert_eq!(wake.request_id, wake.waiter);
        let was = self.waiting.remove(&wake.request_id);
        prop_assert!(was.is_some(), "a second outcome");
        let (key, until_ns) = was.unwrap();
        match wake.outcome {
            Outcome::Lead => {
                prop_assert!(!self.leaders.contains_key(&key), "a second leader");
                self.leaders.insert(key, wake.request_id);
            }
            Outcome::GoAlone => prop_assert!(until_ns <= now_ns, "given up too early"),
            Outcome::Answered(_) => {}
        }
        Ok(())
    }

    fn followers(&self, key: u8) -> Vec<u128> {
        self.waiting.iter().filter(|(_, (of, _))| *of == key).map(|(id, _)| *id).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nobody_is_left_behind_and_one_leads(steps in proptest::collection::vec(step(), 0..120)) {
        let flights = Flights::<u128>::new(CONFIG);
        let mut truth = Truth::default();
        let mut now_ns = 0;
        for (id, step) in (1_u128..).zip(steps) {
            match step {
                Step::Join { key: k, wait_ns } => {
                    match flights.join(key(k), id, now_ns, now_ns + wait_ns, || id) {
                        Join::Lead => prop_assert!(truth.leaders.insert(k, id).is_none(), "a second leader"),
                        Join::Follow => {
                            prop_assert!(truth.leaders.contains_key(&k));
                            truth.waiting.insert(id, (k, now_ns + wait_ns));
                        }
                        Join::Full => {}
                    }
                }
                Step::Lead { key: k } => {
                    let led = flights.lead(key(k), id, now_ns) == Join::Lead;
                    prop_assert_eq!(led, !truth.leaders.contains_key(&k));
                    if led {
                        truth.leaders.insert(k, id);
                    }
                }
                Step::Complete { key: k } => {
                    let Some(leader) = truth.leaders.remove(&k) else { continue };
                    truth.gone.push((k, leader));
                    for wake in flights.complete(&key(k), leader, &answer()) {
                        truth.wake(&wake, now_ns)?;
                    }
                    prop_assert!(truth.followers(k).is_empty());
                }
                Step::Abandon { key: k } => {
                    let Some(leader) = truth.leaders.remove(&k) else { continue };
                    truth.gone.push((k, leader));
                    match flights.abandon(&key(k), leader, now_ns) {
                        Some(wake) => truth.wake(&wake, now_ns)?,
                        None => prop_assert!(truth.followers(k).is_empty()),
                    }
                }
                Step::Leave { key: k, pick } => {
                    let mut aboard = truth.followers(k);
                    aboard.extend(truth.leaders.get(&k));
                    if aboard.is_empty() {
                        continue;
                    }
                    let id = aboard[pick.index(aboard.len())];
                    truth.gone.push((k, id));
                    match flights.leave(&key(k), id, now_ns) {
                        Left::Follower(waiter) => {
                            prop_assert_eq!(waiter, id);
                            prop_assert!(truth.waiting.remove(&id).is_some());
                        }
                        Left::Leader(promoted) => {
                            prop_assert_eq!(truth.leaders.remove(&k), Some(id));
                            match promoted {
                                Some(wake) => truth.wake(&wake, now_ns)?,
                                None => prop_assert!(truth.followers(k).is_empty()),
                            }
                        }
                        Left::Absent => prop_assert!(false, "{} was aboard", id),
                    }
                }
                Step::Late { key: k, pick } => {
                    let gone: Vec<u128> = truth.gone.iter().filter(|(of, _)| *of == k).map(|(_, id)| *id).collect();
                    if !gone.is_empty() {
                        let id = gone[pick.index(gone.len())];
                        prop_assert!(flights.complete(&key(k), id, &answer()).is_empty());
                        prop_assert!(flights.abandon(&key(k), id, now_ns).is_none());
                        prop_assert!(matches!(flights.leave(&key(k), id, now_ns), Left::Absent));
                    }
                }
                Step::Later(ns) => {
                    now_ns += ns;
                    let lost: BTreeMap<u8, u128> = truth.leaders.clone();
                    let woken = flights.expire(now_ns);
                    for wake in &woken {
                        if matches!(wake.outcome, Outcome::Lead) {
                            let (k, _) = truth.waiting[&wake.request_id];
                            truth.gone.push((k, lost[&k]));
                            truth.leaders.remove(&k);
                        }
                        truth.wake(wake, now_ns)?;
                    }
                    // A leader lost without a follower ends its flight.
                    for (k, leader) in lost {
                        if truth.leaders.get(&k) == Some(&leader) && flights.shard(&key(k)).lock().followers(&key(k)).is_none() {
                            truth.leaders.remove(&k);
                            truth.gone.push((k, leader));
                        }
                    }
                    prop_assert!(truth.waiting.values().all(|(_, until_ns)| *until_ns > now_ns));
                }
            }
            prop_assert_eq!(flights.followers(), truth.waiting.len());
            prop_assert_eq!(flights.len(), truth.leaders.len());
            prop_assert!(flights.followers() <= CONFIG.max_followers);
            for (k, _) in truth.waiting.values() {
                prop_assert!(truth.leaders.contains_key(k), "followers without a leader");
            }
        }
        for _ in 0..20 {
            now_ns += 200;
            for wake in flights.expire(now_ns) {
                if matches!(wake.outcome, Outcome::Lead) {
                    truth.leaders.remove(&truth.waiting[&wake.request_id].0);
                }
                truth.wake(&wake, now_ns)?;
            }
        }
        prop_assert!(flights.is_empty() && truth.waiting.is_empty());
        prop_assert_eq!((flights.followers(), flights.next_end_ns()), (0, None));
    }
}

#[test]
fn racing_threads_leave_nobody_behind() {
    // Every follower blocks on its channel; the test ends only if each of them hears exactly one outcome.
    let config = FlightConfig { max_followers_per_flight: 64, max_followers: 256, ..CONFIG };
    let flights = Flights::<mpsc::Sender<Outcome>>::new(config);
    let leading = std::sync::Mutex::new(BTreeSet::new());
    let fly = |k: u8, id: u128| {
        assert!(leading.lock().unwrap().insert(k), "a second leader");
        assert!(leading.lock().unwrap().remove(&k));
        let woken = if id.is_multiple_of(3) {
            flights.leave(&key(k), id, 0).promoted().into_iter().collect()
        } else {
            flights.complete(&key(k), id, &answer())
        };
        for wake in woken {
            wake.waiter.send(wake.outcome).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..8_u128 {
            let (flights, fly) = (&flights, &fly);
            scope.spawn(move || {
                for n in 0..2000_u128 {
                    let (k, id) = ((n % 2) as u8, n * 8 + thread);
                    let (sender, receiver) = mpsc::channel();
                    match flights.join(key(k), id, 0, 50, || sender) {
                        Join::Lead => fly(k, id),
                        Join::Follow => {
                            let outcome = receiver.recv().unwrap();
                            if matches!(outcome, Outcome::Lead) {
                                fly(k, id);
                            }
                            assert!(receiver.recv().is_err(), "a second outcome");
                        }
                        Join::Full => {}
                    }
                }
            });
        }
    });
    assert!(flights.is_empty());
    assert_eq!(flights.followers(), 0);
}
