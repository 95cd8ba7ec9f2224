//! Whatever happens in whatever order, at quiet nothing is held.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::rig::{
    Ask, LimitScope as S, Rig, SECOND, Told, Unit as U, Waiting, WhenFull, cached, chat, limit,
};
use crate::answer::BodyEnd;
use crate::engine::{BatchEnded, Capture};
use crate::policy::pb;

#[derive(Debug, Clone)]
enum Op {
    Ask { model: usize, text: usize, stream: bool, key: usize },
    Upload,
    Resume(usize),
    Leave(usize),
    Close(usize),
    Batch(usize),
    Log(usize),
    Unreachable(usize),
    Capture(usize),
    Finish(usize, bool),
    Tick(u64),
    Invalidate,
    Swap(usize),
    Pool(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..8_usize;
    prop_oneof![
        8 => (0..3_usize, 0..2_usize, any::<bool>(), 0..2_usize)
            .prop_map(|(model, text, stream, key)| Op::Ask { model, text, stream, key }),
        1 => Just(Op::Upload),
        3 => at.clone().prop_map(Op::Resume),
        1 => at.clone().prop_map(Op::Leave),
        2 => at.clone().prop_map(Op::Close),
        1 => at.clone().prop_map(Op::Batch),
        3 => at.clone().prop_map(Op::Log),
        1 => at.clone().prop_map(Op::Unreachable),
        2 => at.clone().prop_map(Op::Capture),
        2 => (at, any::<bool>()).prop_map(|(at, whole)| Op::Finish(at, whole)),
        2 => prop_oneof![Just(SECOND / 2), Just(31 * SECOND), Just(700 * SECOND)].prop_map(Op::Tick),
        1 => Just(Op::Invalidate),
        1 => (0..3_usize).prop_map(Op::Swap),
        1 => any::<bool>().prop_map(Op::Pool),
    ]
}

fn policies() -> [pb::Policy; 3] {
    let mut first = cached();
    first.pools[0].max_concurrency = 3;
    first.routes[0].when_full = WhenFull::NextModel as i32;
    first.routes[0].next_models = vec!["large".into()];
    first.limits = vec![
        limit("key", S::Key, U::Concurrency, 6),
        limit("pool", S::Pool, U::Concurrency, 4),
        limit("tpm", S::Tenant, U::Tokens, 3_000),
        limit("rpm", S::Model, U::Requests, 30),
    ];
    let mut second = first.clone();
    second.limits.remove(2);
    second.models[0].pools.push("b".into());
    let mut third = second.clone();
    third.cache = Some(pb::Cache { max_bytes: 1 << 20, max_followers: 1, ..pb::Cache::default() });
    third.limits.reverse();
    [first, second, third]
}

#[derive(Default)]
struct World {
    waiting: Vec<Waiting>,
    open: Vec<u128>,
    captures: Vec<Capture>,
}

// === impl World ===

impl World {
    fn take(&mut self, told: Told) {
        match told {
            Told::Answer(_) => {}
            Told::Forward(forward) => self.open.push(forward.id),
            Told::Follow(waiting) => self.waiting.push(waiting),
            Told::Resolve(..) | Told::Lease(_) => panic!("there is no stage and no budget"),
        }
    }

    /// An id may be ended many times, so it stays in the list unless it was logged.
    fn id(&self, at: usize) -> Option<u128> {
        (!self.open.is_empty()).then(|| self.open[at % self.open.len()])
    }

    fn step(&mut self, rig: &Rig, op: &Op) {
        let now = rig.now();
        match *op {
            Op::Ask { model, text, stream, key } => {
                let mut ask = chat(["small", "large", "nothing"][model], ["x", "y"][text]);
                ask = ask.by(["fbk_acme", "fbk_rival"][key]);
                if stream {
                    ask = ask.and("\"stream\":true");
                }
                self.take(rig.ask(&ask));
            }
            Op::Upload => self.take(rig.ask(&Ask::post("/files/x", "bytes"))),
            Op::Resume(at) if !self.waiting.is_empty() => {
                let waiting = self.waiting.remove(at % self.waiting.len());
                let told = rig.resume(waiting);
                self.take(told);
            }
            Op::Leave(at) if !self.waiting.is_empty() => drop(self.waiting.remove(at % self.waiting.len())),
            Op::Close(at) => self.id(at).into_iter().for_each(|id| rig.engine.stream_closed(id, now)),
            Op::Batch(at) => self
                .id(at)
                .into_iter()
                .for_each(|id| rig.engine.batch_finished(id, BatchEnded::default(), now)),
            Op::Log(at) => self.id(at).into_iter().for_each(|id| rig.log(id)),
            Op::Unreachable(at) => self.id(at).into_iter().for_each(|id| rig.log_unreachable(id)),
            Op::Capture(at) => self.captures.extend(self.id(at).and_then(|id| rig.engine.capture(id))),
            Op::Finish(at, whole) if !self.captures.is_empty() => {
                let capture = self.captures.remove(at % self.captures.len());
                let end = if whole { BodyEnd::Complete } else { BodyEnd::Cut };
                let _ = rig.finish(capture, "hi", end);
            }
            Op::Tick(ns) => {
                rig.sleep(ns);
                rig.engine.tick(rig.now());
            }
            Op::Invalidate => {
                rig.engine.invalidate(&crate::cache::Selector::All);
            }
            Op::Swap(at) => rig.swap(&policies()[at]),
            Op::Pool(healthy) => rig.engine.observe_pool("a", true, healthy),
            Op::Resume(_) | Op::Leave(_) | Op::Finish(..) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn at_quiet_nothing_is_held(ops in proptest::collection::vec(op(), 1..120), order in 0..3_usize) {
        let rig = Rig::new(&policies()[0]);
        let mut world = World::default();
        let mut caches = Vec::new();
        for op in &ops {
            world.step(&rig, op);
            caches.extend(rig.engine.live().cache.clone());
            caches.dedup_by(|a, b| std::sync::Arc::ptr_eq(a, b));
        }
        // Everything that is still under way ends, in one of several orders; what is not logged expires.
        for turn in 0..3 {
            match (turn + order) % 3 {
                0 => world.captures.clear(),
                1 => {
                    for (i, id) in world.open.iter().enumerate() {
                        if i % 2 == 0 { rig.log(*id) }
                    }
                }
                _ => {
                    while let Some(waiting) = world.waiting.pop() {
                        let told = rig.resume(waiting);
                        if let Told::Forward(forward) = told { world.open.push(forward.id) }
                    }
                }
            }
        }
        world.captures.clear();
        world.waiting.clear();
        rig.sleep(2_000 * SECOND);
        rig.engine.tick(rig.now());
        rig.is_quiet();
        for cache in &caches {
            prop_assert_eq!((cache.flights.len(), cache.flights.followers(), cache.budget.held_bytes()), (0, 0, 0));
        }
        rig.swap(&policies()[0]);
        prop_assert_eq!(rig.left("key", "acme"), 6);
        prop_assert_eq!((rig.left("pool", "a"), rig.left("pool", "b"), rig.left("pool", "raw")), (4, 4, 4));
        // Nor did a slot come back twice: exactly as many fit as before.
        rig.engine.observe_pool("a", true, true);
        let fits = (0..10).filter(|n| {
            let ask = chat("large", &format!("z{n}"));
            matches!(rig.ask(&ask), Told::Forward(_))
        }).count();
        prop_assert_eq!(fits, 4);
    }
}
