//! Owns: one tensor whose bytes are proven to fit its shape and datatype.
//! Must not know: models, batches.
//! On failure: closed; a tensor whose bytes do not fit cannot be constructed.

use std::sync::Arc;

use bytes::Bytes;

use super::padding::Padding;
use super::{BatchError, Datatype};

/// Bytes of the length in front of every element of a `BYTES` tensor.
const PREFIX_BYTES: usize = 4;

/// A tensor in raw row-major little-endian form. Cloning it copies no element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    name: Arc<str>,
    datatype: Datatype,
    shape: Vec<u64>,
    data: Bytes,
    options: Bytes,
    padding: Option<Padding>,
}

// === impl Tensor ===

impl Tensor {
    /// Proves `data` against `shape` and `datatype`. Cost: constant, for `BYTES` linear in the elements.
    pub fn new(name: Arc<str>, datatype: Datatype, shape: &[i64], data: Bytes) -> Result<Self, BatchError> {
        let mut dims = Vec::with_capacity(shape.len());
        for &dim in shape {
            let Ok(dim) = u64::try_from(dim) else {
                return Err(BatchError::NegativeDimension { tensor: name, shape: shape.to_vec() });
            };
            dims.push(dim);
        }
        let Some(elements) = product(&dims) else {
            return Err(BatchError::ShapeOverflow { tensor: name, shape: dims });
        };
        let given_bytes = data.len() as u64;
        if let Some(size) = datatype.element_bytes() {
            let Some(expected_bytes) = elements.checked_mul(size) else {
                return Err(BatchError::ShapeOverflow { tensor: name, shape: dims });
            };
            if expected_bytes != given_bytes {
                let tensor = name;
                return Err(BatchError::Length {
                    tensor,
                    datatype,
                    shape: dims,
                    expected_bytes,
                    given_bytes,
                });
            }
        } else {
            let (found, end) = walk(&data, elements);
            if found != elements || end != data.len() {
                let left_bytes = (data.len() - end) as u64;
                return Err(BatchError::Strings { tensor: name, expected: elements, found, left_bytes });
            }
        }
        Ok(Self { name, datatype, shape: dims, data, options: Bytes::new(), padding: None })
    }

    /// The same tensor with transport options: opaque bytes that must be equal for two requests to share a batch.
    #[must_use]
    pub fn with_options(mut self, options: Bytes) -> Self {
        self.options = options;
        self
    }

    /// The same tensor under an equal name that others hold too.
    #[must_use]
    pub(super) fn with_name(mut self, name: Arc<str>) -> Self {
        self.name = name;
        self
    }

    /// The same tensor, which may be padded. Its shape has the padding's dimension.
    #[must_use]
    pub(super) fn with_padding(mut self, padding: Padding) -> Self {
        self.padding = Some(padding);
        self
    }

    /// The same tensor with one dimension changed, and the bytes that fit it.
    pub(super) fn with_dim(mut self, dim: usize, size: u64, data: Bytes) -> Self {
        self.shape[dim] = size;
        self.data = data;
        self
    }

    /// A tensor like this one with other rows, and the bytes that fit them.
    pub(super) fn with_rows(&self, rows: u64, data: Bytes) -> Self {
        self.clone().with_dim(0, rows, data)
    }

    /// How it is padded; `None`: not at all.
    pub(super) fn padding(&self) -> Option<&Padding> {
        self.padding.as_ref()
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its element type.
    pub fn datatype(&self) -> Datatype {
        self.datatype
    }

    /// Its dimensions.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Its bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Its transport options.
    pub fn options(&self) -> &Bytes {
        &self.options
    }

    /// Cuts the tensor along its first dimension at the ends in `row_ends`, which rise to the number of rows.
    /// The parts share this tensor's bytes. `None` if the ends do not fit. Cost: the parts, for `BYTES` also the elements.
    pub(super) fn cut(&self, row_ends: &[u64]) -> Option<Vec<Tensor>> {
        let (&rows, dims) = self.shape.split_first()?;
        if row_ends.last() != Some(&rows) {
            return None;
        }
        let row_elements = product(dims)?;
        let mut parts = Vec::with_capacity(row_ends.len());
        let (mut row, mut at) = (0, 0);
        for &end in row_ends {
            let part_rows = end.checked_sub(row)?;
            let elements = part_rows.checked_mul(row_elements)?;
            let length = match self.datatype.element_bytes() {
                Some(size) => usize::try_from(elements.checked_mul(size)?).ok()?,
                None => walk(&self.data[at..], elements).1,
            };
            let mut shape = Vec::with_capacity(self.shape.len());
            shape.push(part_rows);
            shape.extend_from_slice(dims);
            parts.push(Tensor {
                name: Arc::clone(&self.name),
                datatype: self.datatype,
                shape,
                data: self.data.slice(at..at + length),
                options: self.options.clone(),
                padding: self.padding.clone(),
            });
            (row, at) = (end, at + length);
        }
        Some(parts)
    }
}

/// The product of all dimensions; `None` if it does not fit. A zero anywhere makes it zero, whatever the others are.
fn product(dims: &[u64]) -> Option<u64> {
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().try_fold(1_u64, |all, &dim| all.checked_mul(dim))
}

/// Walks up to `elements` length-prefixed elements: how many were whole, and where the last of them ended.
pub(super) fn walk(data: &[u8], elements: u64) -> (u64, usize) {
    let (mut found, mut at) = (0, 0);
    while found < elements {
        let Some(prefix) = data[at..].first_chunk::<PREFIX_BYTES>() else { break };
        let length = u32::from_le_bytes(*prefix) as usize;
        let Some(end) = at.checked_add(PREFIX_BYTES + length).filter(|&end| end <= data.len()) else { break };
        (found, at) = (found + 1, end);
    }
    (found, at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn tensor(datatype: Datatype, shape: &[i64], data: &[u8]) -> Result<Tensor, BatchError> {
        Tensor::new("x".into(), datatype, shape, Bytes::copy_from_slice(data))
    }

    #[test]
    fn bytes_must_fit_the_shape() {
        assert!(tensor(Datatype::Fp32, &[2, 3], &[0; 24]).is_ok());
        let short = tensor(Datatype::Fp32, &[2, 3], &[0; 23]).unwrap_err();
        assert_eq!(short.to_string(), "tensor `x` of FP32 [2, 3] needs 24 bytes, but 23 came");
        assert_eq!(tensor(Datatype::Fp32, &[2, -1], &[]).unwrap_err().slug(), "tensor_negative_dimension");
    }

    #[test]
    fn sizes_beyond_64_bits_are_refused_and_a_zero_dimension_is_empty() {
        let huge = [i64::MAX, i64::MAX];
        assert_eq!(tensor(Datatype::Int8, &huge, &[]).unwrap_err().slug(), "tensor_shape_overflow");
        assert_eq!(tensor(Datatype::Int64, &[i64::MAX], &[]).unwrap_err().slug(), "tensor_shape_overflow");
        assert_eq!(tensor(Datatype::Bytes, &[i64::MAX], &[]).unwrap_err().slug(), "tensor_strings");
        assert!(tensor(Datatype::Int64, &[1, i64::MAX, 0, i64::MAX], &[]).is_ok());
    }

    #[test]
    fn strings_are_walked_to_the_last_byte() {
        let two = [1, 0, 0, 0, b'a', 0, 0, 0, 0];
        assert!(tensor(Datatype::Bytes, &[2], &two).is_ok());
        for wrong in [&two[..8], &[&two[..], &[0]].concat(), &[255, 255, 255, 255, 0]] {
            assert_eq!(tensor(Datatype::Bytes, &[2], wrong).unwrap_err().slug(), "tensor_strings");
        }
    }

    #[test]
    fn a_cut_needs_ends_that_reach_the_last_row() {
        let whole = tensor(Datatype::Uint8, &[3, 2], &[1, 2, 3, 4, 5, 6]).unwrap();
        let parts = whole.cut(&[1, 3]).unwrap();
        assert_eq!(parts[0].data().as_ref(), [1, 2]);
        assert_eq!(parts[1].shape(), [2, 2]);
        assert!(whole.cut(&[1, 2]).is_none());
        assert!(whole.cut(&[2, 1, 3]).is_none());
    }
}
