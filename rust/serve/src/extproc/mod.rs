//! Owns: Envoy's `ext_proc` protocol: one stream a request (decide), one a copied response (capture).
//! Must not know: why a decision is what it is.
//! On failure: closed; a stream that cannot be answered ends with a gRPC error, never OK (Envoy would let it pass).

mod capture;
mod decide;
mod frames;
mod messages;
mod service;
mod wire;

pub use messages::Notes;
pub use service::{ExtProc, Runtime};
