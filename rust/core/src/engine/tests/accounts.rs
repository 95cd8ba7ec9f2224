//! Whatever happens in whatever order, at quiet all books say the same: buckets, limits, records and counters.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::books::{Books, Bucket, sum_of};
use super::rig::{
    BudgetUnit as B, Enforcement, LimitScope as S, Rig, SECOND, Told, Unit as U, Waiting, WhenExhausted,
    budget, chat, limit, prices, spending,
};
use crate::answer::BodyEnd;
use crate::engine::{LogEntry, UsageText};
use crate::policy::pb;
use crate::record::RecordEnd;

const TPM: u64 = 1_000_000_000;

#[derive(Debug, Clone)]
enum Op {
    Ask {
        model: usize,
        text: usize,
        stream: bool,
        key: usize,
        run: usize,
    },
    /// Draws for the oldest asks: all, a part, or nothing although there is more
    Serve {
        most: usize,
        part: u64,
    },
    Fail,
    Resume(usize),
    Leave(usize),
    Log {
        at: usize,
        prompt: u64,
        output: u64,
    },
    Estimate {
        at: usize,
        bytes: u64,
        aborted: bool,
    },
    Local(usize),
    Fill(usize),
    Close(usize),
    Tick(u64),
    Set(i64),
    Swap(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..8_usize;
    prop_oneof![
        10 => (0..3_usize, 0..3_usize, any::<bool>(), 0..2_usize, 0..3_usize)
            .prop_map(|(model, text, stream, key, run)| Op::Ask { model, text, stream, key, run }),
        5 => (1..4_usize, prop_oneof![3 => Just(1_u64), 1 => Just(2), 1 => Just(1_000)])
            .prop_map(|(most, part)| Op::Serve { most, part }),
        1 => Just(Op::Fail),
        5 => at.clone().prop_map(Op::Resume),
        1 => at.clone().prop_map(Op::Leave),
        4 => (at.clone(), 0..=100_u64, 0..=100_u64).prop_map(|(at, prompt, output)| Op::Log { at, prompt, output }),
        2 => (at.clone(), 0..2_000_u64, any::<bool>())
            .prop_map(|(at, bytes, aborted)| Op::Estimate { at, bytes, aborted }),
        1 => at.clone().prop_map(Op::Local),
        2 => at.clone().prop_map(Op::Fill),
        1 => at.prop_map(Op::Close),
        2 => prop_oneof![Just(SECOND / 4), Just(SECOND), Just(40 * SECOND), Just(700 * SECOND)].prop_map(Op::Tick),
        1 => prop_oneof![Just(-4_000), Just(-30), Just(30), Just(4_000)].prop_map(Op::Set),
        1 => (0..4_usize).prop_map(Op::Swap),
    ]
}

fn policies() -> [pb::Policy; 4] {
    let mut next = budget("month", S::Tenant, B::Nanousd, 40_000);
    next.period = pb::budget::Period::Month as i32;
    next.when_exhausted = WhenExhausted::NextModel as i32;
    next.next_models = vec!["small".into()];
    let mut cached = budget("hour", S::Key, B::Tokens, 1_500);
    cached.when_exhausted = WhenExhausted::CachedOnly as i32;
    let mut soft = budget("soft", S::Tenant, B::Nanousd, 3_000);
    soft.enforcement = Enforcement::Soft as i32;
    let budgets = vec![next, cached, budget("run", S::Run, B::Nanousd, 2_000), soft];
    let mut tpm = limit("tpm", S::Tenant, U::Tokens, TPM);
    tpm.window_ms = 86_400_000;
    let mut first = pb::Policy {
        cache: Some(pb::Cache::default()),
        limits: vec![tpm, limit("open", S::Tenant, U::Concurrency, 12)],
        ..spending(budgets)
    };
    // What is counted by estimate has a margin.
    first.models[1].tokenizer = "estimate:generic".into();
    let mut lower = first.clone();
    lower.budgets[0].amount /= 4;
    lower.budgets[1].amount *= 2;
    lower.models[0].prices = Some(prices(3, 5));
    let mut fewer = first.clone();
    fewer.budgets.remove(2);
    fewer.budgets.reverse();
    fewer.cache = None;
    let mut unpriced = first.clone();
    unpriced.models[1].prices = None;
    unpriced.limits.reverse();
    [first, lower, fewer, unpriced]
}

struct World {
    rig: Rig,
    books: Books,
    following: Vec<Waiting>,
    leasing: Vec<Waiting>,
    open: Vec<(u128, bool)>,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let rig = Rig::new(&policies()[0]);
        let books = Books::of(&rig);
        Self { rig, books, following: Vec::new(), leasing: Vec::new(), open: Vec::new() }
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Answer(_) => {}
            Told::Forward(forward) => self.open.push((forward.id, forward.capture)),
            Told::Follow(waiting) => self.following.push(waiting),
            Told::Lease(waiting) => self.leasing.push(waiting),
            Told::Resolve(..) => panic!("there is no stage"),
        }
    }

    fn id(&self, at: usize) -> Option<u128> {
        (!self.open.is_empty()).then(|| self.open[at % self.open.len()].0)
    }

    fn resume(&mut self, at: usize) {
        let both = self.following.len() + self.leasing.len();
        if both == 0 {
            return;
        }
        let at = at % both;
        let told = if at < self.following.len() {
            let waiting = self.following.remove(at);
            self.rig.resume(waiting)
        } else {
            let waiting = self.leasing.remove(at - self.following.len());
            self.rig.resume_lease(waiting)
        };
        self.take(told);
    }

    /// Within what was reserved, in hundredths of it. An id may be told many times.
    fn log(&mut self, at: usize, prompt: u64, output: u64) {
        let Some(id) = self.id(at) else { return };
        let known = |r: &mut crate::limit::Reservation<crate::engine::Open>| {
            (r.owner.record.prompt_tokens, r.owner.record.output_cap_tokens)
        };
        let (most, cap) = self
            .rig
            .engine
            .open
            .amend(id, known)
            .or_else(|| self.rig.engine.late.amend(id, known))
            .unwrap_or((1, 1));
        let usage = format!(
            r#"{{"prompt_tokens":{},"completion_tokens":{}}}"#,
            most * prompt / 100,
            cap * output / 100
        );
        let end = RecordEnd { status: 200, duration_ns: SECOND, attempts: 1, ..RecordEnd::default() };
        let usage = UsageText { last: Some(usage.as_bytes()), ..UsageText::default() };
        self.rig.log_entry(id, &LogEntry { end, usage, ..LogEntry::default() });
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Ask { model, text, stream, key, run } => {
                let mut ask = chat(["small", "large", "nothing"][model], ["x", "y", "zz zz"][text]);
                ask = ask.by(["fbk_acme", "fbk_rival"][key]).with("x-forebay-run", ["", "r1", "r2"][run]);
                if stream {
                    ask = ask.and("\"stream\":true");
                }
                let told = self.rig.ask(&ask);
                self.take(told);
            }
            Op::Serve { most, part } => {
                for mut ask in self.rig.engine.take_lease_asks(most) {
                    ask.want = ask.want.div_ceil(part);
                    self.books.serve(&self.rig, &ask);
                }
            }
            Op::Fail => {
                for ask in self.rig.engine.take_lease_asks(2) {
                    self.rig.engine.fail_lease(ask.token);
                }
            }
            Op::Resume(at) => self.resume(at),
            Op::Leave(at) if !self.leasing.is_empty() => drop(self.leasing.remove(at % self.leasing.len())),
            Op::Leave(at) if !self.following.is_empty() => {
                drop(self.following.remove(at % self.following.len()));
            }
            Op::Leave(_) => {}
            Op::Log { at, prompt, output } => self.log(at, prompt, output),
            Op::Estimate { at, bytes, aborted } => {
                let Some(id) = self.id(at) else { return };
                let end = RecordEnd { status: 200, aborted, attempts: 1, ..RecordEnd::default() };
                self.rig.log_entry(id, &LogEntry { end, answer_bytes: bytes, ..LogEntry::default() });
            }
            Op::Local(at) => self.id(at).into_iter().for_each(|id| self.rig.log_unreachable(id)),
            Op::Fill(at) => {
                if let Some(capture) = self.id(at).and_then(|id| self.rig.engine.capture(id)) {
                    let _ = self.rig.finish(capture, "hi", BodyEnd::Complete);
                }
            }
            Op::Close(at) => {
                self.id(at).into_iter().for_each(|id| self.rig.engine.stream_closed(id, self.rig.now()));
            }
            Op::Tick(ns) => {
                self.rig.sleep(ns);
                self.rig.engine.tick(self.rig.now());
            }
            Op::Set(seconds) => self.rig.set_clock(seconds * SECOND as i64),
            Op::Swap(at) => self.rig.swap(&policies()[at]),
        }
    }

    fn expire(&mut self) {
        self.rig.sleep(1_500 * SECOND);
        self.rig.engine.tick(self.rig.now());
    }

    /// Everything that is under way ends: some are logged, some expire, some of these are logged late.
    fn end(&mut self) {
        self.leasing.clear();
        self.following.clear();
        for at in 0..self.open.len() {
            if at % 3 == 0 {
                self.log(at, 50, 10);
            }
        }
        self.expire();
        for at in 0..self.open.len() {
            if at % 3 == 1 {
                self.log(at, 90, 100);
            }
        }
        self.expire();
        self.rig.engine.observe_pool("a", true, true);
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let rig = &self.rig;
        rig.is_quiet();
        prop_assert_eq!(rig.engine.late.len(), 0);
        let charged = self.books.read().charged();
        // Also the buckets whose period is over, of which only the limiter knows.
        let standing: u64 = rig.engine.limiter.leases(rig.now()).iter().map(|s| s.used).sum();
        prop_assert_eq!(standing, charged.values().sum::<u64>());
        // A lease that came too late for its bucket stands beside it.
        let mut balances: BTreeMap<Bucket, (u64, u64)> = BTreeMap::new();
        for balance in rig.engine.lease_balances(rig.now()) {
            let bucket = (balance.budget.to_string(), balance.value.to_string(), balance.period_start_s);
            if bucket.0 != "soft" {
                prop_assert!(balance.granted >= balance.used, "{:?}", balance);
            }
            let sums = balances.entry(bucket).or_default();
            *sums = (sums.0 + balance.granted, sums.1 + balance.used);
        }
        for (bucket, (granted, used)) in balances {
            prop_assert!(granted <= self.books.drawn.get(&bucket).copied().unwrap_or(0), "{:?}", &bucket);
            if used > 0 {
                prop_assert_eq!(used, charged.get(&bucket).copied().unwrap_or(0), "{:?}", &bucket);
            }
        }
        for (bucket, used) in charged {
            let most = match bucket.0.as_str() {
                "month" => 40_000,
                "hour" => 3_000,
                "run" => 2_000,
                _ => u64::MAX,
            };
            prop_assert!(used <= most, "{bucket:?} {used}");
        }
        let mine = self.books.records.values().filter(|r| r.tenant == "acme");
        let tokens: u64 = mine.map(|r| r.prompt_tokens + r.output_tokens).sum();
        prop_assert_eq!(TPM - rig.left("tpm", "acme"), tokens);
        prop_assert_eq!(rig.left("open", "acme"), 12);
        prop_assert_eq!(sum_of(rig, "forebay_cost_nanousd_total"), self.books.cost_nanousd());
        prop_assert_eq!(sum_of(rig, "forebay_journal_lost_total"), 0);
        let forwarded =
            self.books.records.values().filter(|r| !["hit", "follow", "refused"].contains(&&*r.outcome));
        prop_assert_eq!(forwarded.count(), self.open.len(), "each has one record");
        prop_assert_eq!(sum_of(rig, "forebay_settled_total"), self.open.len() as u64);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn at_quiet_all_books_agree(ops in proptest::collection::vec(op(), 1..150)) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
        }
        world.end();
        world.rig.swap(&policies()[0]);
        world.check()?;
    }
}
