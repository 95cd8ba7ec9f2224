//! Owns: the batch service as a client sees it: real listeners, real gRPC clients, real gRPC servers behind it.
//! Must not know: the queue's insides.
//! On failure: the test fails; every wait has a bound.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_wrap)]

#[path = "../shared/by_hand.rs"]
mod by_hand;
mod calls;
mod equal;
mod held_server;
mod metrics;
mod queueing;
mod refusal;
mod rig;
mod sending;
mod server;
mod streams;
mod unary;
mod urgency;
