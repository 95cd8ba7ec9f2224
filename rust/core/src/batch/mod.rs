//! Owns: small tensor requests joined into batches along their first dimension, and answers cut back into rows.
//! Must not know: sockets, protobuf, clocks, who waits for a row (a waiter is an opaque `W`).
//! On failure: closed; a request that does not fit its model is refused before it can share a batch with another.
//!
//! The way of a request: [`Tensor::new`] proves bytes against shape, [`ModelShape::check`] proves tensors against the
//! model, [`Assembler::push`] queues, [`Assembler::next`] takes a batch, [`Batch::split`] gives each waiter its rows.

mod assembler;
mod bill;
mod classes;
mod compose;
mod contents;
mod datatype;
mod error;
mod fair;
mod fit;
mod group;
mod joined;
mod lane;
mod lane_queue;
mod model;
mod padding;
mod parts;
mod pool;
mod priority;
#[cfg(test)]
mod property;
mod running;
#[cfg(test)]
mod simulation;
mod split;
mod tensor;
mod view;
mod window;

pub use assembler::{Assembler, PendingRequest, Tenant, Ticket};
pub use contents::Contents;
pub use datatype::Datatype;
pub use error::{BatchError, Class, QueueUnit};
pub use joined::{Batch, BatchInput, Departed, Member, Parted};
pub use lane::{Capacity, LaneKey, LaneSettings, LengthClasses};
pub use model::{Batching, Checked, ModelShape, OutputSpec, Presence, Ragged, TensorSpec};
pub use parts::join_answers;
pub use pool::{Bounds, PoolLoad};
pub use priority::Priority;
pub use tensor::Tensor;
pub use view::{FitView, LaneView, Waiting};
