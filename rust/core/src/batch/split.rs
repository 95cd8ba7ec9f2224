//! Owns: outputs over all rows cut into the rows of each request, each at the request's own length.
//! Must not know: requests, waiters.
//! On failure: closed; if one output does not have the batch's rows or length, nothing is cut.

use std::sync::Arc;

use super::padding::trimmed;
use super::{BatchError, Tensor};

/// Rows and length of one request.
pub(super) type Cut = (u64, u64);

/// For every one of `cuts`, in order, its part of every output. The outputs in `ragged` must have the `padded` length
/// in the dimension behind the rows that is named with them.
pub(super) fn split_outputs(
    outputs: Vec<Tensor>,
    cuts: &[Cut],
    padded: u64,
    ragged: &[(Arc<str>, usize)],
) -> Result<Vec<Vec<Tensor>>, BatchError> {
    let ends = cuts.iter().scan(0, |end, (rows, _)| {
        *end += rows;
        Some(*end)
    });
    let row_ends: Vec<u64> = ends.collect();
    let mut answers: Vec<Vec<Tensor>> = cuts.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for output in outputs {
        let dim = ragged.iter().find(|(name, _)| name == output.name()).map(|&(_, dim)| dim);
        if let Some(dim) = dim.filter(|dim| output.shape().get(dim + 1) != Some(&padded)) {
            let (tensor, shape) = (Arc::clone(output.name()), output.shape().to_vec());
            return Err(BatchError::OutputLength { tensor, shape, dim, length: padded });
        }
        let Some(parts) = output.cut(&row_ends) else {
            return Err(BatchError::OutputRows {
                tensor: Arc::clone(output.name()),
                shape: output.shape().to_vec(),
                rows: row_ends.last().copied().unwrap_or_default(),
            });
        };
        for ((answer, part), &(_, length)) in answers.iter_mut().zip(parts).zip(cuts) {
            answer.push(match dim {
                Some(dim) => trimmed(part, dim + 1, length),
                None => part,
            });
        }
    }
    Ok(answers)
}
