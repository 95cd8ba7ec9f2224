//! Owns: a batch on its way: joined inputs, whose rows are whose, and the answer cut back into them.
//! Must not know: queues, sockets; the waiters are carried, never woken.
//! On failure: closed; an answer whose rows do not fit reaches nobody, and every waiter is handed back with the reason.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::padding::{PadRun, padded_bytes, write_padded};
use super::split::{Cut, split_outputs};
use super::{BatchError, Datatype, LaneKey, Priority, Tensor};

/// One request inside a batch.
#[derive(Debug)]
pub struct Member<W> {
    /// Its inputs in the model's order; kept, so that a batch can be sent again or in halves
    pub inputs: Vec<Tensor>,
    /// Its rows
    pub rows: u64,
    /// Its own length, unpadded; 1 where the model has no ragged input
    pub length: u64,
    /// Whose it is
    pub tenant: Arc<str>,
    /// In which class it waited
    pub priority: Priority,
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
    /// The length that all of them are padded to
    pub length: u64,
    /// Rows times length of each, unpadded
    pub tokens: u64,
    /// When it left
    pub left_ns: u64,
    /// The latest deadline among them: past it nobody waits
    pub deadline_ns: u64,
    /// Whether the first dimension counts rows; a batch that does not has one member
    pub(super) cut_by_rows: CutBy,
    /// Outputs that are cut back, with the dimension behind the rows
    pub(super) ragged_outputs: Vec<(Arc<str>, usize)>,
}

/// What a lane has to know of a batch when it ends.
#[derive(Debug, Clone)]
pub struct Departed {
    /// Where it went
    pub lane: LaneKey,
    /// Its rows
    pub rows: u64,
    /// Rows times the length that they were padded to
    pub padded_tokens: u64,
    /// When it left
    pub left_ns: u64,
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
    /// Its shape over all rows, padded
    pub shape: Vec<u64>,
    /// Its transport options
    pub options: &'a Bytes,
    /// Bytes of all parts, padded
    pub bytes: usize,
    length: u64,
    parts: Vec<&'a Tensor>,
}

// === impl Batch ===

impl<W> Batch<W> {
    /// Rows times the length that they are padded to.
    pub fn padded_tokens(&self) -> u64 {
        self.rows.saturating_mul(self.length)
    }

    /// What its lane has to know when it ends.
    pub fn departed(&self) -> Departed {
        let (lane, padded_tokens) = (self.lane.clone(), self.padded_tokens());
        Departed { lane, rows: self.rows, padded_tokens, left_ns: self.left_ns }
    }

    /// Two batches of half the members each, to find out which of them a model server refuses; a batch of one member
    /// comes back as it is.
    pub fn halves(mut self) -> (Self, Option<Self>) {
        if self.members.len() < 2 {
            return (self, None);
        }
        let second = self.members.split_off(self.members.len() / 2);
        let sums = |members: &[Member<W>]| {
            let rows = members.iter().map(|member| member.rows).sum();
            let tokens = members.iter().map(|member| member.rows.saturating_mul(member.length)).sum();
            (rows, tokens)
        };
        let (rows, tokens) = sums(&second);
        let half = Self {
            lane: self.lane.clone(),
            members: second,
            options: self.options.clone(),
            ragged_outputs: self.ragged_outputs.clone(),
            rows,
            tokens,
            ..self
        };
        (self.rows, self.tokens) = sums(&self.members);
        (self, Some(half))
    }

    /// The inputs over all rows. No element is copied.
    pub fn inputs(&self) -> impl Iterator<Item = BatchInput<'_>> {
        let first: &[Tensor] = self.members.first().map_or(&[], |member| &member.inputs);
        first.iter().enumerate().map(|(at, tensor)| {
            let parts: Vec<&Tensor> =
                self.members.iter().filter_map(|member| member.inputs.get(at)).collect();
            let mut shape = tensor.shape().to_vec();
            if let (CutBy::Rows, Some(rows)) = (self.cut_by_rows, shape.first_mut()) {
                *rows = self.rows;
            }
            if let Some(padding) = tensor.padding() {
                shape[padding.dim] = self.length;
            }
            let bytes: u64 = parts.iter().filter_map(|part| padded_bytes(part, self.length)).sum();
            BatchInput {
                name: tensor.name(),
                datatype: tensor.datatype(),
                shape,
                options: tensor.options(),
                bytes: bytes as usize,
                length: self.length,
                parts,
            }
        })
    }

    /// Cuts the answer: every member with its rows of every output, ragged outputs at its own length. The parts share
    /// the outputs' bytes, unless several rows are cut back. On failure the members come back, so that each can be
    /// told.
    pub fn split(self, outputs: Vec<Tensor>) -> Result<Parted<W>, (BatchError, Vec<Member<W>>)> {
        let answers = match self.cut_by_rows {
            CutBy::Nothing => Ok(vec![outputs]),
            CutBy::Rows => {
                let cuts: Vec<Cut> = self.members.iter().map(|member| (member.rows, member.length)).collect();
                split_outputs(outputs, &cuts, self.length, &self.ragged_outputs)
            }
        };
        match answers {
            Ok(answers) => Ok(self.members.into_iter().zip(answers).collect()),
            Err(error) => Err((error, self.members)),
        }
    }
}

// === impl BatchInput ===

impl BatchInput<'_> {
    /// Writes the parts in the order of the rows, each padded: [`BatchInput::bytes`] in all. Cost: one copy.
    pub fn write_into(&self, out: &mut impl BufMut) {
        let run = self.parts.first().and_then(|part| part.padding()).map(|padding| PadRun::of(&padding.pad));
        match run {
            Some(run) => self.parts.iter().for_each(|part| write_padded(part, self.length, &run, out)),
            None => self.parts.iter().for_each(|part| out.put_slice(part.data())),
        }
    }

    /// The parts as one buffer: one allocation and one copy, none of either for a batch of one that is not padded.
    pub fn concat(&self) -> Bytes {
        if let [only] = self.parts[..]
            && only.data().len() == self.bytes
        {
            return only.data().clone();
        }
        let mut joined = BytesMut::with_capacity(self.bytes);
        self.write_into(&mut joined);
        joined.freeze()
    }
}
