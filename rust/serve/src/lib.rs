//! forebay-serve: the sockets. tonic servers for Envoy (`ext_proc`, access log) and for tensors (`KServe` v2).

mod accesslog;
mod admission;
mod clock;
mod codec;
mod envoy;
mod extproc;
pub mod kserve;
mod protobuf;
mod report;
mod server;
mod stage;

pub use clock::SystemClock;
pub use server::{Gateway, Listen};
pub use stage::{StagePending, StageRequest, Stages};
