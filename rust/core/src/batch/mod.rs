//! Owns: small tensor requests joined into batches along their first dimension, and answers cut back into rows.
//! Must not know: sockets, protobuf, clocks, who waits for a row (a waiter is an opaque `W`).
//! On failure: closed; a request that does not fit its model is refused before it can share a batch with another.
//!
//! The way of a request: [`Tensor::new`] proves bytes against shape, [`ModelShape::check`] proves tensors against the
//! model, [`Assembler::push`] queues, [`Assembler::next`] takes a batch, [`Batch::split`] gives each waiter its rows.

mod assembler;
mod contents;
mod datatype;
mod error;
mod joined;
mod model;
#[cfg(test)]
mod property;
mod split;
mod tensor;
mod window;

pub use assembler::{Assembler, Bounds, LaneKey, PendingRequest, Ticket};
pub use contents::Contents;
pub use datatype::Datatype;
pub use error::{BatchError, Class};
pub use joined::{Batch, BatchInput, Member, Parted};
pub use model::{Batching, Checked, ModelShape, Presence, TensorSpec};
pub use tensor::Tensor;
pub use window::{Capacity, Due, QueueView, due};
