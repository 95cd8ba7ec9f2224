//! Limits: how much one scope value may take, checked all or nothing; taken first, settled at the end.
//! Must not know: HTTP, policy files, what a token is, what time it is (`now_ns` is an argument).
//! On failure: closed. A full table makes newcomers share a bucket; no path ever refills one.
//!
//! ```text
//! reserve  every claim fits, or nothing is charged        -> Held | Refused
//! settle   tokens, money: the bound is replaced by the real use   (give back, or charge the rest)
//! release  concurrency: the slots are free again
//! ```
//! `ReservationTable` holds what is between `reserve` and the end of a request, and hands it out
//! exactly once, to whichever end comes first.
//!
//! What must not change: a bucket is found by the limit's identity (name, kind, scope), never by
//! its place in a policy, so that a policy swap keeps its count; and every bucket of a shard sees
//! one clock that never steps back.
//!
//! A budget is a limit too: its buckets count against what a durable store leased to this process,
//! one bucket for each period. `Refused::leases` says what would have to be leased, `grant` leases
//! it. A leased bucket is never shared and never forgotten within its period.

mod cell;
mod claim;
mod concurrency;
mod fixed;
mod lease;
mod leased;
mod limiter;
mod refused;
mod reservation;
mod reset;
mod scope;
mod shard;
mod shard_leases;
mod sliding;
mod spec;
mod token_bucket;
mod wheel;

#[cfg(test)]
mod lease_properties;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod races;

pub use claim::{Charge, Claim, ClaimPeriod, Held, Remaining};
pub use lease::{Granted, LeaseNeed, LeaseStanding};
pub use limiter::{Limiter, LimiterConfig, LimiterStats};
pub use refused::{CONCURRENCY_RETRY_NS, Refused, UNKNOWN_RETRY_NS};
pub use reservation::{InsertRefused, InsertRefusedReason, Reservation, ReservationConfig, ReservationTable};
pub use scope::{HashKey, Scope, ScopeValue, SharedScope};
pub use spec::{Algorithm, DefinitionError, Enforcement, Kind, LimitDefinition, LimitId, LimitSpec};
