//! forebay-serve: the sockets. tonic servers for Envoy (`ext_proc`, access log) and for tensors (`KServe` v2).

mod accesslog;
mod admission;
mod clock;
mod codec;
mod envoy;
mod extproc;
mod journal;
pub mod kserve;
mod leases;
mod openai;
mod protobuf;
mod report;
mod rest;
mod server;
mod stage;

pub use clock::SystemClock;
pub use journal::JournalSettings;
pub use leases::Leases;
pub use server::{Gateway, Listen};
pub use stage::{StagePending, StageRequest, Stages};
