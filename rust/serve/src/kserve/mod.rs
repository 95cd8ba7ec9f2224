//! Owns: the batch service: `KServe` v2 gRPC in, whole batches out to whoever sends them on; a table of contents.
//! Must not know: how batches reach a model server, and how a request was decided (it asks [`Admission`]).
//! On failure: closed; a request without a decision's mark is refused before its tensors are read.

mod admission;
mod deadline;
mod deliver;
mod failure;
mod forward;
mod infer;
mod method;
mod queue;
mod server;
mod service;
mod wire;
mod work;

/// The protocol's messages.
#[allow(missing_docs, clippy::pedantic)] // generated; the proto file carries the words
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/inference.rs"));
}

pub use admission::{Admission, Admitted, BatchEnd, Denied, FixedAdmission};
pub use failure::Failure;
pub use queue::{BatchQueue, Next, QueueSettings, QueueStats};
pub use server::{ServerSettings, serve};
pub use service::KserveService;
pub use work::{Work, WorkKind};
