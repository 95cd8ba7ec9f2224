//! Whatever happens to tensor requests in whatever order: limits and budgets hold exactly what was charged, each once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::books::{records_in, used};
use super::rig::{BudgetUnit as B, LimitScope as S, Rig, SECOND, Unit as U, budget, limit};
use super::tensors::{answered, failed, infer, ran, tensor_policy};
use crate::account::{Outbox, Outcome};
use crate::engine::{BatchEnded, BatchTake, LogEntry, Ran};
use crate::policy::pb;
use crate::policy::pb::LedgerRecord;
use crate::record::RecordEnd;

const TOKENS: u64 = 4_000;
const NANOUSD: u64 = 9_000;

#[derive(Debug, Clone)]
enum Op {
    Ask,
    Take(usize, u64),
    Grant,
    Finish(usize, usize),
    Log(usize, bool),
    Tick(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..6_usize;
    prop_oneof![
        4 => Just(Op::Ask),
        6 => (at.clone(), 1..900_u64).prop_map(|(at, tokens)| Op::Take(at, tokens)),
        2 => Just(Op::Grant),
        4 => (at.clone(), 0..5_usize).prop_map(|(at, how)| Op::Finish(at, how)),
        4 => (at, any::<bool>()).prop_map(|(at, left)| Op::Log(at, left)),
        1 => prop_oneof![Just(SECOND / 2), Just(700 * SECOND)].prop_map(Op::Tick),
    ]
}

fn ended(how: usize) -> BatchEnded {
    match how {
        0 => ran(1),
        1 => failed(Outcome::Refused, Ran::Nothing),
        2 => failed(Outcome::Follow, Ran::Nothing),
        3 => failed(Outcome::Timeout, Ran::Unknown),
        _ => failed(Outcome::Aborted, Ran::Unknown),
    }
}

fn governed() -> pb::Policy {
    let mut policy = tensor_policy();
    // A window so long that nothing comes back by itself.
    let mut tpm = limit("tokens", S::Tenant, U::Tokens, TOKENS);
    tpm.window_ms = 86_400_000 * 30;
    policy.limits =
        vec![tpm, limit("model", S::Model, U::Concurrency, 3), limit("key", S::Key, U::Concurrency, 5)];
    let month = |name, unit, amount| pb::Budget {
        period: pb::budget::Period::Month as i32,
        ..budget(name, S::Tenant, unit, amount)
    };
    policy.budgets = vec![month("money", B::Nanousd, NANOUSD), month("month-tokens", B::Tokens, 5 * TOKENS)];
    policy
}

/// What a test keeps of the books.
struct World<'r> {
    rig: &'r Rig,
    outbox: &'r Outbox,
    ids: Vec<u128>,
    records: HashMap<Vec<u8>, LedgerRecord>,
}

// === impl World ===

impl World<'_> {
    /// Ids stay in the list, so that what is over is ended again.
    fn id(&self, at: usize) -> Option<u128> {
        (!self.ids.is_empty()).then(|| self.ids[at % self.ids.len()])
    }

    fn grant(&self) {
        for ask in self.rig.engine.take_lease_asks(99) {
            // A store gives the whole budget once.
            let granted =
                if ask.want > 0 && used(self.rig, &ask.budget, "acme") == 0 { ask.amount } else { 0 };
            self.rig.engine.grant_lease(ask.token, granted, 0, self.rig.now());
        }
    }

    fn step(&mut self, op: &Op) {
        let rig = self.rig;
        match *op {
            Op::Ask => {
                if let super::rig::Told::Forward(forward) = rig.ask(&infer()) {
                    self.ids.push(forward.id);
                }
            }
            Op::Take(at, tokens) => {
                if let Some(id) = self.id(at)
                    && let Ok(BatchTake::Lease { .. }) = rig.take(id, "tensor", tokens)
                {
                    self.grant();
                }
            }
            Op::Grant => self.grant(),
            Op::Finish(at, how) => {
                if let Some(id) = self.id(at) {
                    rig.finished(id, ended(how));
                }
            }
            Op::Log(at, left) => {
                let end = RecordEnd { aborted: true, ..RecordEnd::default() };
                let entry = if left { LogEntry { end, ..LogEntry::default() } } else { answered() };
                if let Some(id) = self.id(at) {
                    rig.log_entry(id, &entry);
                }
            }
            Op::Tick(ns) => {
                rig.sleep(ns);
                rig.engine.tick(rig.now());
            }
        }
        for record in records_in(self.outbox) {
            self.records.insert(record.id.clone(), record);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn nothing_stays_reserved_and_nothing_is_charged_twice(ops in proptest::collection::vec(op(), 1..100)) {
        let rig = Rig::new(&governed());
        let outbox = rig.engine.keep_records(1 << 24);
        let mut world = World { rig: &rig, outbox: &outbox, ids: Vec::new(), records: HashMap::new() };
        for op in &ops {
            world.step(op);
            prop_assert!(used(&rig, "money", "acme") <= NANOUSD, "a hard budget is overspent");
        }
        // The first turn expires what is open, the second what waits for a late entry.
        for _ in 0..3 {
            world.step(&Op::Tick(700 * SECOND));
        }
        rig.is_quiet();
        let spent: u64 = world.records.values().map(|r| r.prompt_tokens).sum();
        let paid: u64 = world.records.values().map(|r| r.cost_nanousd).sum();
        prop_assert_eq!(paid, 3 * spent);
        prop_assert_eq!(rig.left("tokens", "acme"), TOKENS - spent);
        prop_assert_eq!((rig.left("model", "tensor"), rig.left("key", "acme")), (3, 5));
        prop_assert_eq!((used(&rig, "money", "acme"), used(&rig, "month-tokens", "acme")), (paid, spent));
        let charged = |name: &str| -> u64 {
            let all = world.records.values().flat_map(|r| &r.charges);
            all.filter(|c| c.budget == name).map(|c| c.amount).sum()
        };
        prop_assert_eq!((charged("money"), charged("month-tokens")), (paid, spent));
    }
}
