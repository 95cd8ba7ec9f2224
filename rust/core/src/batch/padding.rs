//! Owns: one dimension of a tensor made longer with padding, or cut back to its own length, on raw bytes.
//! Must not know: batches, models, which length is right.
//! On failure: not applicable; the tensors were proven, and a length below a tensor's own adds nothing.

use bytes::{BufMut, Bytes, BytesMut};

use super::tensor::walk;
use super::{Datatype, Tensor};

/// Padding is written in runs of at most this many bytes.
const RUN_BYTES: usize = 4096;

/// How a tensor is padded: the whole tensor's dimension (0 counts rows), and one element of padding in raw form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Padding {
    pub dim: usize,
    pub pad: Bytes,
}

/// A tensor seen as blocks that stand in a row: each holds the padded dimension and all behind it.
struct Blocks {
    /// How many
    count: u64,
    /// Elements of one step of the padded dimension
    step: u64,
    /// Steps of one block
    length: u64,
}

/// Padding elements, many in a row, so that they are written in few copies.
#[derive(Debug)]
pub(super) struct PadRun {
    run: Bytes,
    /// The byte that all of it is made of, if it is one
    byte: Option<u8>,
}

// === impl Blocks ===

impl Blocks {
    fn of(shape: &[u64], dim: usize) -> Self {
        let product = |dims: &[u64]| dims.iter().product();
        Self { count: product(&shape[..dim]), step: product(&shape[dim + 1..]), length: shape[dim] }
    }
}

// === impl PadRun ===

impl PadRun {
    pub(super) fn of(pad: &[u8]) -> Self {
        let byte = pad.first().copied().filter(|first| pad.iter().all(|byte| byte == first));
        let run = if byte.is_some() || pad.is_empty() {
            Bytes::new()
        } else {
            pad.repeat((RUN_BYTES / pad.len()).max(1)).into()
        };
        Self { run, byte }
    }

    fn write(&self, bytes: usize, out: &mut impl BufMut) {
        if let Some(byte) = self.byte {
            return out.put_bytes(byte, bytes);
        }
        let mut left = bytes;
        while left > 0 && !self.run.is_empty() {
            let now = left.min(self.run.len());
            out.put_slice(&self.run[..now]);
            left -= now;
        }
    }
}

/// Bytes of `tensor` when its padded dimension is `length`; `None` if they do not fit 64 bits.
pub(super) fn padded_bytes(tensor: &Tensor, length: u64) -> Option<u64> {
    let own = tensor.data().len() as u64;
    let Some(Padding { dim, pad }) = tensor.padding() else { return Some(own) };
    let blocks = Blocks::of(tensor.shape(), *dim);
    let more = blocks.count.checked_mul(blocks.step)?.checked_mul(length.saturating_sub(blocks.length))?;
    own.checked_add(more.checked_mul(pad.len() as u64)?)
}

/// Writes `tensor` with its padded dimension `length` long. Cost: one copy, for BYTES also a walk.
pub(super) fn write_padded(tensor: &Tensor, length: u64, run: &PadRun, out: &mut impl BufMut) {
    let data = tensor.data();
    let Some(Padding { dim, pad }) = tensor.padding() else { return out.put_slice(data) };
    let blocks = Blocks::of(tensor.shape(), *dim);
    if length <= blocks.length {
        return out.put_slice(data);
    }
    let pad_bytes = ((length - blocks.length) * blocks.step) as usize * pad.len();
    let mut at = 0;
    for _ in 0..blocks.count {
        let end = at + part_bytes(tensor.datatype(), &data[at..], blocks.length * blocks.step);
        out.put_slice(&data[at..end]);
        run.write(pad_bytes, out);
        at = end;
    }
}

/// The first `length` steps of dimension `dim` of every block. Cost: nothing is copied where they stand together, as
/// for one row; otherwise one copy.
pub(super) fn trimmed(tensor: Tensor, dim: usize, length: u64) -> Tensor {
    let blocks = Blocks::of(tensor.shape(), dim);
    if length >= blocks.length {
        return tensor;
    }
    let (data, datatype) = (tensor.data(), tensor.datatype());
    let (kept, whole) = (length * blocks.step, blocks.length * blocks.step);
    if blocks.count == 1 {
        let end = part_bytes(datatype, data, kept);
        let kept = data.slice(..end);
        return tensor.with_dim(dim, length, kept);
    }
    let share = data.len() as u64 * length / blocks.length;
    let mut trimmed = BytesMut::with_capacity(share as usize);
    let mut at = 0;
    for _ in 0..blocks.count {
        let end = at + part_bytes(datatype, &data[at..], kept);
        trimmed.extend_from_slice(&data[at..end]);
        at = match datatype.element_bytes() {
            Some(size) => at + (whole * size) as usize,
            None => end + walk(&data[end..], whole - kept).1,
        };
    }
    tensor.with_dim(dim, length, trimmed.freeze())
}

/// Bytes of the first `elements` of `data`, which has at least as many.
fn part_bytes(datatype: Datatype, data: &[u8], elements: u64) -> usize {
    match datatype.element_bytes() {
        Some(size) => (elements * size) as usize,
        None => walk(data, elements).1,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn padded(tensor: &Tensor, length: u64) -> Vec<u8> {
        let mut out = Vec::new();
        write_padded(tensor, length, &PadRun::of(&tensor.padding().unwrap().pad), &mut out);
        assert_eq!(padded_bytes(tensor, length), Some(out.len() as u64));
        out
    }

    fn ragged(shape: &[i64], data: &[u8], dim: usize, pad: &[u8]) -> Tensor {
        let datatype = if pad.len() == 4 { Datatype::Bytes } else { Datatype::Uint8 };
        let tensor = Tensor::new("x".into(), datatype, shape, Bytes::copy_from_slice(data)).unwrap();
        tensor.with_padding(Padding { dim, pad: Bytes::copy_from_slice(pad) })
    }

    #[test]
    fn padding_stands_behind_every_block_and_comes_off_again() {
        let last = ragged(&[2, 3], &[1, 2, 3, 4, 5, 6], 1, &[9]);
        assert_eq!(padded(&last, 4), [1, 2, 3, 9, 4, 5, 6, 9]);
        let middle = ragged(&[2, 1, 2], &[1, 2, 3, 4], 1, &[9]);
        assert_eq!(padded(&middle, 2), [1, 2, 9, 9, 3, 4, 9, 9]);
        assert_eq!(padded(&middle, 1), [1, 2, 3, 4]);
        let wide = ragged(&[2, 4], &[1, 2, 3, 9, 4, 5, 6, 9], 1, &[9]);
        let back = trimmed(wide, 1, 3);
        assert_eq!((back.shape(), back.data().as_ref()), (&[2, 3][..], &[1, 2, 3, 4, 5, 6][..]));
    }

    #[test]
    fn one_row_is_cut_back_without_a_copy() {
        let one = ragged(&[1, 4], &[1, 2, 3, 9], 1, &[9]);
        let at = one.data().as_ptr();
        let back = trimmed(one, 1, 3);
        assert_eq!((back.data().as_ptr(), back.data().as_ref()), (at, &[1, 2, 3][..]));
    }

    #[test]
    fn texts_are_padded_with_empty_ones() {
        let one = ragged(&[2, 1], &[1, 0, 0, 0, b'a', 2, 0, 0, 0, b'b', b'c'], 1, &[0; 4]);
        let wide = padded(&one, 2);
        assert_eq!(wide, [1, 0, 0, 0, b'a', 0, 0, 0, 0, 2, 0, 0, 0, b'b', b'c', 0, 0, 0, 0]);
        assert_eq!(trimmed(ragged(&[2, 2], &wide, 1, &[0; 4]), 1, 1).data(), one.data());
    }

    #[test]
    fn an_element_of_different_bytes_is_repeated_whole() {
        let mut out = Vec::new();
        PadRun::of(&[1, 2]).write(RUN_BYTES * 2 + 6, &mut out);
        assert_eq!(out, [1, 2].repeat(RUN_BYTES + 3));
    }
}
