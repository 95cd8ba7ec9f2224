//! Owns: a batch on its way: joined inputs, whose rows are whose, and the answer cut back into them.
//! Must not know: queues, sockets; the waiters are carried, never woken.
//! On failure: closed; an answer whose rows do not fit reaches nobody, and every waiter is handed back with the reason.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::split::split_outputs;
use super::{BatchError, Datatype, LaneKey, Tensor};

/// One request inside a batch.
#[derive(Debug)]
pub struct Member<W> {
    /// Its inputs in the model's order; kept, so that a batch can be sent again or in halves
    pub inputs: Vec<Tensor>,
    /// Its rows
    pub rows: u64,
    /// When it came
    pub queued_ns: u64,
    /// Who waits for it
    pub waiter: W,
}

/// Requests that leave together.
#[derive(Debug)]
pub struct Batch<W> {
    /// Where to
    pub lane: LaneKey,
    /// The requests in the order of their rows
    pub members: Vec<Member<W>>,
    /// Transport options, equal for all of them
    pub options: Bytes,
    /// Rows of all of them
    pub rows: u64,
    /// The latest deadline among them: past it nobody waits
    pub deadline_ns: u64,
    /// Whether the first dimension counts rows; a batch that does not has one member
    pub(super) cut_by_rows: CutBy,
}

/// How the answer goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutBy {
    /// By rows
    Rows,
    /// Not at all: the one member gets it whole
    Nothing,
}

/// The members of a batch, each with its part of the answer.
pub type Parted<W> = Vec<(Member<W>, Vec<Tensor>)>;

/// One input of a batch, still in the parts that its members sent.
#[derive(Debug)]
pub struct BatchInput<'a> {
    /// Its name
    pub name: &'a Arc<str>,
    /// Its element type
    pub datatype: Datatype,
    /// Its shape over all rows
    pub shape: Vec<u64>,
    /// Its transport options
    pub options: &'a Bytes,
    /// Bytes of all parts
    pub bytes: usize,
    parts: Parts<'a>,
}

/// The same input of every member.
#[derive(Debug)]
struct Parts<'a>(Vec<&'a Bytes>);

// === impl Batch ===

impl<W> Batch<W> {
    /// The inputs over all rows. No element is copied.
    pub fn inputs(&self) -> impl Iterator<Item = BatchInput<'_>> {
        let first: &[Tensor] = self.members.first().map_or(&[], |member| &member.inputs);
        first.iter().enumerate().map(|(at, tensor)| {
            let parts: Vec<&Bytes> = self.members.iter().map(|member| member.inputs[at].data()).collect();
            let mut shape = tensor.shape().to_vec();
            if let (CutBy::Rows, Some(rows)) = (self.cut_by_rows, shape.first_mut()) {
                *rows = self.rows;
            }
            BatchInput {
                name: tensor.name(),
                datatype: tensor.datatype(),
                shape,
                options: tensor.options(),
                bytes: parts.iter().map(|part| part.len()).sum(),
                parts: Parts(parts),
            }
        })
    }

    /// Cuts the answer: every member with its rows of every output. The parts share the outputs' bytes.
    /// On failure the members come back, so that each can be told.
    pub fn split(self, outputs: Vec<Tensor>) -> Result<Parted<W>, (BatchError, Vec<Member<W>>)> {
        let answers = match self.cut_by_rows {
            CutBy::Nothing => Ok(vec![outputs]),
            CutBy::Rows => split_outputs(&outputs, self.members.iter().map(|member| member.rows)),
        };
        match answers {
            Ok(answers) => Ok(self.members.into_iter().zip(answers).collect()),
            Err(error) => Err((error, self.members)),
        }
    }
}

// === impl BatchInput ===

impl BatchInput<'_> {
    /// The parts in the order of the rows.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.0.iter().map(AsRef::as_ref)
    }

    /// The parts as one buffer: one allocation and one copy, none of either for a batch of one.
    pub fn concat(&self) -> Bytes {
        if let [only] = self.parts.0[..] {
            return only.clone();
        }
        let mut joined = BytesMut::with_capacity(self.bytes);
        for part in self.parts() {
            joined.extend_from_slice(part);
        }
        joined.freeze()
    }
}
