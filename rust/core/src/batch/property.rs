//! Owns: what must hold for any requests in any order: rows come back to whom they belong, budgets, order, nobody lost.
//! Must not know: one fixed case; those stand beside the code.
//! On failure: a smaller failing case, by proptest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_wrap)]

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

mod order;
mod tensors;

const ROOMY: Bounds = Bounds { max_rows: 100_000, max_tokens: 1 << 30, max_bytes: 1 << 30 };

fn lane(name: &str) -> LaneKey {
    LaneKey { pool: "pool".into(), model: name.into(), version: "".into() }
}

fn pending<W>(checked: Checked, waiter: W) -> PendingRequest<W> {
    let tenant = Tenant { name: "".into(), weight: 1 };
    PendingRequest { checked, tenant, priority: Priority::P1, deadline_ns: u64::MAX, waiter }
}

/// The tensors of a batch as a model that returns its inputs would answer them.
fn echo<W>(batch: &Batch<W>) -> Vec<Tensor> {
    let answer = |input: BatchInput<'_>| {
        let shape: Vec<i64> = input.shape.iter().map(|&dim| dim as i64).collect();
        let data = input.concat();
        assert_eq!(data.len(), input.bytes);
        Tensor::new(input.name.clone(), input.datatype, &shape, data).unwrap()
    };
    batch.inputs().map(answer).collect()
}

/// A tensor of bytes, one row of `length` for each of `rows`, whose length is padded.
pub(super) fn bytes_model(max_rows: u64) -> ModelShape {
    let ids = TensorSpec {
        name: "ids".into(),
        datatype: Datatype::Uint8,
        dims: vec![-1],
        presence: Presence::Required,
        ragged: Some(Ragged { dim: 0, pad: Bytes::from_static(&[0]) }),
    };
    let ids_back = OutputSpec { name: "ids".into(), ragged_dim: Some(0) };
    let batching = Batching::Rows { max_rows };
    ModelShape { inputs: vec![ids], outputs: vec![ids_back], mask: None, batching }
}

pub(super) fn bytes_request(model: &ModelShape, rows: u64, length: u64) -> Checked {
    let data = vec![1; (rows * length) as usize];
    let ids = Tensor::new("ids".into(), Datatype::Uint8, &[rows as i64, length as i64], data.into()).unwrap();
    model.check(vec![ids], [], Bytes::new()).unwrap()
}
