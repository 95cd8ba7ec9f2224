//! The gateway as Envoy sees it: real sockets on the loopback interface, a real gRPC client.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accounts;
mod endings;
mod exchange;
mod rig;
mod sockets;
mod waits;
