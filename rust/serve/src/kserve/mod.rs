//! Owns: the batch service: `KServe` v2 gRPC in, whole batches out to model servers; a table of contents.
//! Must not know: how a request was decided (it asks [`Admission`]), and who finds out which servers are ready.
//! On failure: closed; a request without a decision's mark is refused before its tensors are read.

mod admission;
mod alarm;
mod choice;
mod counters;
mod deadline;
mod deliver;
mod doubts;
mod endpoint;
mod failure;
mod flights;
mod forward;
mod grpc;
mod infer;
mod learning;
mod method;
mod metrics;
mod places;
mod queue;
mod send;
mod server;
mod service;
mod stream;
mod upstream;
mod wire;
mod work;

/// The protocol's messages.
#[allow(missing_docs, clippy::pedantic)] // generated; the proto file carries the words
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/inference.rs"));
}

pub use admission::{Admission, Admitted, BatchEnd, Denied, FixedAdmission, Placed, Recall, Take, TensorUse};
pub use alarm::Alarm;
pub use choice::Route;
pub use counters::SentCounters;
pub use doubts::Doubt;
pub use endpoint::{AddressError, ServerAddress, ServerTls};
pub use failure::Failure;
pub use queue::{BatchQueue, Next, QueueSettings, QueueStats};
pub use send::send;
pub use server::{ServerSettings, serve};
pub use service::KserveService;
pub use upstream::Upstreams;
pub use work::{Work, WorkKind};

pub(crate) use forward::forward;
pub(crate) use infer::{Answered, Ask, Asked, Wishes, infer};
pub(crate) use method::Treatment;
pub(crate) use service::Ending;
pub(crate) use upstream::UpstreamStream;
#[cfg(test)]
pub(crate) use wire::AnswerHead;
pub(crate) use wire::read_request;
