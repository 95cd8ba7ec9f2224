//! Owns: `OpenAI`'s operations on tensors as a client sees them: a real listener, a real gRPC server behind it.
//! Must not know: the front's insides.
//! On failure: the test fails; every wait has a bound.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_wrap)]

#[path = "../shared/by_hand.rs"]
mod by_hand;
mod embeddings;
mod rig;
mod server;
mod streams;
mod whole;
