//! Owns: outputs over all rows cut into the rows of each request.
//! Must not know: requests, waiters.
//! On failure: closed; if one output does not have the batch's rows, nothing is cut.

use std::sync::Arc;

use super::{BatchError, Tensor};

/// For every count in `member_rows`, in order, its part of every output.
pub(super) fn split_outputs(
    outputs: &[Tensor],
    member_rows: impl Iterator<Item = u64>,
) -> Result<Vec<Vec<Tensor>>, BatchError> {
    let row_ends: Vec<u64> = member_rows
        .scan(0, |end, rows| {
            *end += rows;
            Some(*end)
        })
        .collect();
    let mut answers: Vec<Vec<Tensor>> = row_ends.iter().map(|_| Vec::with_capacity(outputs.len())).collect();
    for output in outputs {
        let Some(parts) = output.cut(&row_ends) else {
            return Err(BatchError::OutputRows {
                tensor: Arc::clone(output.name()),
                shape: output.shape().to_vec(),
                rows: row_ends.last().copied().unwrap_or_default(),
            });
        };
        for (answer, part) in answers.iter_mut().zip(parts) {
            answer.push(part);
        }
    }
    Ok(answers)
}
