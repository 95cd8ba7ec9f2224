//! Owns: the other side of the accounts: a store that leases, and the ledger's records as they leave the engine.
//! Must not know: what a test is about.
//! On failure: it panics, as a test does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prost::Message as _;

use super::rig::{Rig, Told};
use crate::account::Outbox;
use crate::engine::{LeaseAsk, LeaseBalance};
use crate::policy::pb::LedgerRecord;

/// Budget, whose, and the period's start.
pub type Bucket = (String, String, i64);

/// Keeps what a real store and a real ledger keep.
pub struct Books {
    outbox: Arc<Outbox>,
    pub drawn: HashMap<Bucket, u64>,
    /// The latest record of each request
    pub records: BTreeMap<Vec<u8>, LedgerRecord>,
    /// Every record as it came
    pub written: Vec<LedgerRecord>,
}

pub fn bucket_of(ask: &LeaseAsk) -> Bucket {
    (ask.budget.to_string(), ask.value.to_string(), ask.period_start_s)
}

// === impl Books ===

impl Books {
    pub fn of(rig: &Rig) -> Self {
        Self {
            outbox: rig.engine.keep_records(1 << 26),
            drawn: HashMap::new(),
            records: BTreeMap::new(),
            written: Vec::new(),
        }
    }

    /// Draws for one ask: all that is wanted, as far as the budget has it.
    pub fn serve(&mut self, rig: &Rig, ask: &LeaseAsk) -> u64 {
        let drawn = self.drawn.entry(bucket_of(ask)).or_default();
        let granted = ask.want.min(ask.amount.saturating_sub(*drawn));
        *drawn += granted;
        let left = ask.amount.saturating_sub(*drawn);
        rig.engine.grant_lease(ask.token, granted, left, rig.now());
        granted
    }

    /// Draws for all asks that there are.
    pub fn serve_all(&mut self, rig: &Rig) -> Vec<LeaseAsk> {
        let asks = rig.engine.take_lease_asks(usize::MAX);
        for ask in &asks {
            self.serve(rig, ask);
        }
        asks
    }

    /// Asks, and draws as often as the request waits for a lease.
    pub fn ask(&mut self, rig: &Rig, ask: &super::rig::Ask) -> Told {
        let told = rig.ask(ask);
        self.until_done(rig, told)
    }

    fn until_done(&mut self, rig: &Rig, mut told: Told) -> Told {
        for _ in 0..20 {
            let Told::Lease(waiting) = told else { return told };
            self.serve_all(rig);
            assert!(waiting.told.lock().is_some(), "its lease came, and it was not told");
            told = rig.resume_lease(waiting);
        }
        panic!("it waits for leases without end")
    }

    /// Takes in what the engine has written since.
    pub fn read(&mut self) -> &mut Self {
        for record in records_in(&self.outbox) {
            self.records.insert(record.id.clone(), record.clone());
            self.written.push(record);
        }
        self
    }

    /// The latest record of a request.
    pub fn record(&mut self, id: u128) -> LedgerRecord {
        self.read().records.get(&id.to_be_bytes()[..]).cloned().expect("a record")
    }

    /// What all records together charge each bucket.
    pub fn charged(&self) -> BTreeMap<Bucket, u64> {
        let mut charged = BTreeMap::new();
        for charge in self.records.values().flat_map(|r| &r.charges) {
            let bucket = (charge.budget.clone(), charge.value.clone(), charge.period_start_s);
            *charged.entry(bucket).or_default() += charge.amount;
        }
        charged
    }

    pub fn cost_nanousd(&self) -> u64 {
        self.records.values().map(|r| r.cost_nanousd).sum()
    }
}

/// What was written since, in order.
pub fn records_in(outbox: &Outbox) -> Vec<LedgerRecord> {
    let frames = outbox.take(Vec::new());
    let (mut rest, mut records) = (&frames[..], Vec::new());
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        let crc = u32::from_le_bytes(rest[4..8].try_into().unwrap());
        let payload = &rest[8..8 + len];
        assert_eq!(crc32fast::hash(payload), crc);
        let record = LedgerRecord::decode(payload).unwrap();
        assert_eq!(record.id.len(), 16);
        records.push(record);
        rest = &rest[8 + len..];
    }
    records
}

/// How one bucket stands; `None`: it has no lease.
pub fn standing(rig: &Rig, budget: &str, value: &str) -> Option<LeaseBalance> {
    let all = rig.engine.lease_balances(rig.now());
    all.into_iter()
        .rev()
        .filter(|b| &*b.budget == budget && &*b.value == value)
        .max_by_key(|b| b.period_start_s)
}

/// What is spent and reserved of one bucket.
pub fn used(rig: &Rig, budget: &str, value: &str) -> u64 {
    standing(rig, budget, value).map_or(0, |s| s.used)
}

/// The sum of a counter over its label sets, out of the Prometheus text.
pub fn sum_of(rig: &Rig, name: &str) -> u64 {
    let text = rig.engine.metrics_text(rig.now());
    let mine = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    text.lines().filter(mine).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}
