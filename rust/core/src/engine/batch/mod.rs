//! Owns: what the batch service asks and tells about a request that decide let through to it; a table of contents.
//! Must not know: tensors, batches, sockets.
//! On failure: closed; an unknown id is refused, and what was taken for it is given back.

mod caller;
mod end;
mod recall;
mod take;

pub use caller::{BatchCaller, BatchPlaced};
pub use end::{BatchEnded, Ran};
pub use recall::BatchRecall;
pub use take::{BatchTake, TensorsUsed};

pub(super) use take::TensorPart;

use crate::cache::FillTicket;

/// A request at the batch service, as its reservation knows it.
#[derive(Debug, Default)]
pub(super) struct AtBatch {
    /// What was taken, one for each inference
    pub parts: Vec<TensorPart>,
    /// When it stops waiting for leases; 0: it does not wait
    pub lease_until_ns: u64,
    /// Of the first look into the cache: an answer is kept only if nothing was invalidated since
    pub ticket: Option<FillTicket>,
    /// What the answer from the cache would have cost
    pub saved_nanousd: u64,
    /// How it ended there
    pub end: Option<BatchEnded>,
}
