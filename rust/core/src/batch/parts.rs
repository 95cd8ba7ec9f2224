//! Owns: a request with more rows than one batch takes, cut into parts, and the parts' answers put together again.
//! Must not know: queues, which batch a part went with.
//! On failure: closed; answers that do not belong together are an error, never a tensor with a hole.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{BatchError, Checked, Tensor};

// === impl Checked ===

impl Checked {
    /// The request in parts of at most the rows of one batch, in the order of its rows; one part where it fits. The
    /// parts share the request's bytes. Cost: the parts, for BYTES also the elements.
    pub fn parts(self) -> Vec<Self> {
        let Some(max_rows) = self.max_rows.filter(|&max_rows| max_rows > 0 && self.rows > max_rows) else {
            return vec![self];
        };
        let mut row_ends: Vec<u64> = (1..=self.rows / max_rows).map(|part| part * max_rows).collect();
        if row_ends.last() != Some(&self.rows) {
            row_ends.push(self.rows);
        }
        let cut: Option<Vec<Vec<Tensor>>> = self.inputs.iter().map(|tensor| tensor.cut(&row_ends)).collect();
        let Some(cut) = cut else {
            return vec![self]; // all inputs were proven to have these rows
        };
        let mut first_row = 0;
        let mut columns: Vec<_> = cut.into_iter().map(Vec::into_iter).collect();
        let part = |row_end: &u64| {
            let inputs: Vec<Tensor> = columns.iter_mut().filter_map(Iterator::next).collect();
            let rows = row_end - std::mem::replace(&mut first_row, *row_end);
            let tensor_bytes: u64 = inputs.iter().map(|tensor| tensor.data().len() as u64).sum();
            let bytes = tensor_bytes.saturating_add(self.options.len() as u64);
            Self { inputs, rows, bytes, ..self.clone_head() }
        };
        row_ends.iter().map(part).collect()
    }

    /// Everything but the tensors.
    fn clone_head(&self) -> Self {
        Self {
            inputs: Vec::new(),
            signature: Arc::clone(&self.signature),
            options: self.options.clone(),
            ragged_outputs: self.ragged_outputs.clone(),
            ..*self
        }
    }
}

/// The answers of a request's parts, in the order of [`Checked::parts`], as one answer. One part alone is not copied.
/// Cost: one copy of the tensors for more than one part.
pub fn join_answers(parts: Vec<Vec<Tensor>>) -> Result<Vec<Tensor>, BatchError> {
    let count = parts.len();
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else { return Ok(Vec::new()) };
    if count == 1 {
        return Ok(first);
    }
    let others: Vec<Vec<Tensor>> = parts.collect();
    first
        .iter()
        .enumerate()
        .map(|(at, tensor)| join(tensor, others.iter().map(|part| part.get(at))))
        .collect()
}

fn join<'a>(
    first: &'a Tensor,
    others: impl Iterator<Item = Option<&'a Tensor>>,
) -> Result<Tensor, BatchError> {
    let differs = |shape: &[u64]| BatchError::PartsDiffer {
        tensor: Arc::clone(first.name()),
        first_shape: first.shape().to_vec(),
        shape: shape.to_vec(),
    };
    let Some((&first_rows, dims)) = first.shape().split_first() else { return Err(differs(&[])) };
    let mut rows = first_rows;
    let mut datas: Vec<&Bytes> = vec![first.data()];
    for other in others {
        let Some(other) = other else { return Err(differs(&[])) };
        let same = other.name() == first.name() && other.datatype() == first.datatype();
        match other.shape().split_first() {
            Some((&more, other_dims)) if same && other_dims == dims => rows = rows.saturating_add(more),
            _ => return Err(differs(other.shape())),
        }
        datas.push(other.data());
    }
    let mut joined = BytesMut::with_capacity(datas.iter().map(|data| data.len()).sum());
    for data in datas {
        joined.extend_from_slice(data);
    }
    Ok(first.with_rows(rows, joined.freeze()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::batch::{Batching, Datatype, ModelShape, Presence, TensorSpec};

    fn checked(rows: u8) -> Checked {
        let spec = TensorSpec {
            name: "x".into(),
            datatype: Datatype::Uint8,
            dims: vec![-1],
            presence: Presence::Required,
            ragged: None,
        };
        let batching = Batching::Rows { max_rows: 4 };
        let shape = ModelShape { inputs: vec![spec], outputs: Vec::new(), mask: None, batching };
        let data: Vec<u8> = (0..rows * 2).collect();
        let x = Tensor::new("x".into(), Datatype::Uint8, &[rows.into(), 2], data.into()).unwrap();
        shape.check(vec![x], [], Bytes::new()).unwrap()
    }

    #[test]
    fn parts_have_at_most_the_rows_of_one_batch_and_join_to_the_whole() {
        for rows in 1..=13 {
            let whole = checked(rows).inputs;
            let parts = checked(rows).parts();
            assert_eq!(parts.len(), usize::from(rows).div_ceil(4));
            assert!(parts.iter().all(|part| part.rows() <= 4 && part.bytes() == part.rows() * 2));
            assert_eq!(parts.iter().map(Checked::rows).sum::<u64>(), u64::from(rows));
            let answers = parts.into_iter().map(|part| part.inputs).collect();
            assert_eq!(join_answers(answers).unwrap(), whole);
        }
    }

    #[test]
    fn parts_of_other_outputs_do_not_join() {
        let of = |name: &str, width: i64| {
            vec![Tensor::new(name.into(), Datatype::Uint8, &[0, width], Bytes::new()).unwrap()]
        };
        assert!(join_answers(Vec::new()).unwrap().is_empty());
        for wrong in [vec![of("x", 1), of("x", 2)], vec![of("x", 1), of("y", 1)], vec![of("x", 1), vec![]]] {
            assert_eq!(join_answers(wrong).unwrap_err().slug(), "batch_parts_differ");
        }
    }
}
