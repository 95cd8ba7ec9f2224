//! Owns: what must hold for any requests in any order: rows come back to whom they belong, budgets, order, nobody lost.
//! Must not know: one fixed case; those stand beside the code.
//! On failure: a smaller failing case, by proptest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_wrap)]

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const MAX_ROWS: u64 = 8;
const BOUNDS: Bounds = Bounds { max_rows: 40, max_bytes: 4096, max_delay_ns: 10 };
const CAPACITY: Capacity = Capacity { instances: 1, slots: 2 };

/// One request: a matrix of floats and a matrix of strings over the same rows.
#[derive(Debug, Clone)]
struct Rows {
    floats: Vec<Vec<f32>>,
    texts: Vec<Vec<Vec<u8>>>,
}

impl Rows {
    fn tensors(&self) -> Vec<Tensor> {
        let rows = self.floats.len() as i64;
        let floats: Vec<f32> = self.floats.concat();
        let texts: Vec<Bytes> = self.texts.concat().into_iter().map(Bytes::from).collect();
        let (values, words) = ("values".into(), "words".into());
        let floats = Contents::Fp32(&floats).to_raw(&values, Datatype::Fp32).unwrap();
        let texts = Contents::Strings(&texts).to_raw(&words, Datatype::Bytes).unwrap();
        vec![
            Tensor::new(values, Datatype::Fp32, &[rows, self.floats[0].len() as i64], floats).unwrap(),
            Tensor::new(words, Datatype::Bytes, &[rows, self.texts[0].len() as i64], texts).unwrap(),
        ]
    }
}

fn model() -> ModelShape {
    let spec = |name: &str, datatype| TensorSpec {
        name: name.into(),
        datatype,
        dims: vec![-1],
        presence: Presence::Required,
    };
    ModelShape {
        inputs: vec![spec("values", Datatype::Fp32), spec("words", Datatype::Bytes)],
        outputs: vec!["values".into(), "words".into()],
        batching: Batching::Rows { max_rows: MAX_ROWS },
    }
}

fn rows() -> impl Strategy<Value = Rows> {
    (1..=5_usize, 1..=3_usize, 0..=2_usize).prop_flat_map(|(rows, width, words)| {
        let word = vec(any::<u8>(), 0..6);
        (vec(vec(-1e6_f32..1e6, width), rows), vec(vec(word, words), rows))
            .prop_map(|(floats, texts)| Rows { floats, texts })
    })
}

fn lane(name: &str) -> LaneKey {
    LaneKey { pool: "pool".into(), model: name.into(), version: "".into() }
}

#[derive(Debug, Clone)]
enum Step {
    Push(Rows, bool),
    Next,
    Done(bool),
    Cancel(usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (rows(), any::<bool>()).prop_map(|(rows, first)| Step::Push(rows, first)),
        2 => Just(Step::Next),
        1 => any::<bool>().prop_map(Step::Done),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => (0..12_u64).prop_map(Step::Pass),
    ]
}

/// The tensors of a batch as a model that returns its inputs would answer them.
fn echo<W>(batch: &Batch<W>) -> Vec<Tensor> {
    let answer = |input: BatchInput<'_>| {
        let shape: Vec<i64> = input.shape.iter().map(|&dim| dim as i64).collect();
        Tensor::new(input.name.clone(), input.datatype, &shape, input.concat()).unwrap()
    };
    batch.inputs().map(answer).collect()
}

proptest! {
    #[test]
    fn joined_and_split_is_what_was_sent(requests in vec(rows(), 1..30)) {
        let mut assembler = Assembler::new(Bounds { max_rows: 1000, max_bytes: 1 << 20, max_delay_ns: 0 });
        let key = lane("echo");
        assembler.open(key.clone(), Capacity { instances: 64, slots: 64 });
        for (at, request) in requests.iter().enumerate() {
            let checked = model().check(request.tensors(), ["words"], Bytes::new()).unwrap();
            assembler.push(&key, PendingRequest { checked, deadline_ns: 0, waiter: at }, 0).unwrap();
        }
        let mut answered = BTreeSet::new();
        while let Some(batch) = assembler.next(0) {
            let outputs = echo(&batch);
            for (member, tensors) in batch.split(outputs).unwrap() {
                prop_assert_eq!(&tensors, &requests[member.waiter].tensors());
                prop_assert!(answered.insert(member.waiter));
            }
        }
        prop_assert_eq!(answered.len(), requests.len());
        prop_assert_eq!(assembler.waiting("pool"), (0, 0));
    }

    #[test]
    fn budgets_and_order_hold_and_nobody_is_lost(steps in vec(step(), 1..80)) {
        let mut assembler = Assembler::new(BOUNDS);
        let lanes = [lane("a"), lane("b")];
        for key in &lanes {
            assembler.open(key.clone(), CAPACITY);
        }
        let mut now_ns = 0;
        let mut waiting: BTreeSet<usize> = BTreeSet::new();
        let mut tickets = Vec::new();
        let mut in_flight = [0_u32; 2];
        for step in steps {
            match step {
                Step::Push(rows, first) => {
                    let at = tickets.len();
                    let key = &lanes[usize::from(first)];
                    let checked = model().check(rows.tensors(), [], Bytes::new()).unwrap();
                    let fits = assembler.waiting("pool").0 + checked.rows() <= BOUNDS.max_rows
                        && assembler.waiting("pool").1 + checked.bytes() <= BOUNDS.max_bytes;
                    match assembler.push(key, PendingRequest { checked, deadline_ns: 0, waiter: at }, now_ns) {
                        Ok(ticket) => {
                            prop_assert!(fits);
                            tickets.push(ticket);
                            waiting.insert(at);
                        }
                        Err(error) => {
                            prop_assert!(!fits);
                            prop_assert_eq!(error.class(), Class::Load);
                        }
                    }
                }
                Step::Next => {
                    let Some(batch) = assembler.next(now_ns) else {
                        prop_assert_ne!(assembler.wake_at(), Some(0));
                        continue;
                    };
                    prop_assert!(batch.rows <= MAX_ROWS);
                    prop_assert_eq!(batch.rows, batch.members.iter().map(|member| member.rows).sum::<u64>());
                    let order: Vec<usize> = batch.members.iter().map(|member| member.waiter).collect();
                    prop_assert!(order.is_sorted());
                    prop_assert!(order.iter().all(|at| waiting.remove(at)));
                    let lane = usize::from(batch.lane == lanes[1]);
                    in_flight[lane] += 1;
                    prop_assert!(in_flight[lane] <= CAPACITY.slots);
                    prop_assert!(batch.split(Vec::new()).is_ok());
                }
                Step::Done(first) => {
                    let lane = usize::from(first);
                    in_flight[lane] = in_flight[lane].saturating_sub(1);
                    assembler.done(&lanes[lane]);
                }
                Step::Cancel(any) if !tickets.is_empty() => {
                    let at = any % tickets.len();
                    prop_assert_eq!(assembler.cancel(&tickets[at]), waiting.remove(&at).then_some(at));
                }
                Step::Cancel(_) => {}
                Step::Pass(ns) => now_ns += ns,
            }
        }
        let left: BTreeSet<usize> = assembler.drain().into_iter().collect();
        prop_assert_eq!(left, waiting);
        prop_assert_eq!(assembler.waiting("pool"), (0, 0));
    }

    #[test]
    fn the_oldest_request_leaves_first(requests in vec(rows(), 1..20)) {
        let mut assembler = Assembler::new(Bounds { max_rows: 1000, max_bytes: 1 << 20, max_delay_ns: 0 });
        let key = lane("echo");
        assembler.open(key.clone(), Capacity { instances: 64, slots: 64 });
        let mut waiting = BTreeSet::new();
        for (at, request) in requests.iter().enumerate() {
            let checked = model().check(request.tensors(), [], Bytes::new()).unwrap();
            assembler.push(&key, PendingRequest { checked, deadline_ns: 0, waiter: at }, 0).unwrap();
            waiting.insert(at);
        }
        while let Some(batch) = assembler.next(0) {
            prop_assert_eq!(Some(&batch.members[0].waiter), waiting.first());
            waiting.retain(|at| batch.members.iter().all(|member| member.waiter != *at));
        }
        prop_assert!(waiting.is_empty());
    }

    #[test]
    fn an_answer_of_other_rows_reaches_nobody(requests in vec(rows(), 1..4), more in 1..3_i64) {
        let mut assembler = Assembler::new(Bounds { max_rows: 1000, max_bytes: 1 << 20, max_delay_ns: 0 });
        let key = lane("echo");
        for (at, request) in requests.iter().enumerate() {
            let checked = model().check(request.tensors(), [], Bytes::new()).unwrap();
            assembler.push(&key, PendingRequest { checked, deadline_ns: 0, waiter: at }, 0).unwrap();
        }
        let batch = assembler.next(0).unwrap();
        let rows = batch.rows as i64 + more;
        let count = batch.members.len();
        let wrong = Tensor::new("values".into(), Datatype::Int8, &[rows], Bytes::from(vec![0; rows as usize])).unwrap();
        let (error, members) = batch.split(vec![wrong]).unwrap_err();
        prop_assert_eq!(error.slug(), "batch_output_rows");
        prop_assert_eq!(members.len(), count);
    }
}
