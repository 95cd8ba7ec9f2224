//! Owns: what metrics and a person may see of a lane.
//! Must not know: how a lane works, the names of metrics.
//! On failure: not applicable.

use super::{Capacity, LaneKey};

/// One lane as it stands.
#[derive(Debug, Clone)]
pub struct LaneView<'a> {
    /// Which one
    pub key: &'a LaneKey,
    /// What waits, by [`super::Priority::ALL`]
    pub waiting: [Waiting; 3],
    /// When the oldest of them came; `None`: nothing waits
    pub oldest_ns: Option<u64>,
    /// Batches in flight
    pub in_flight: u32,
    /// How many may be
    pub capacity: Capacity,
    /// Its latency as far as it is known
    pub fit: FitView,
    /// Lengths that requests are padded to now; empty: each batch to its longest request
    pub classes: Vec<u64>,
    /// How long before an instance is expected to be idle the next batch leaves for it
    pub lead_ns: u64,
}

/// What waits in one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Requests
    pub requests: u64,
    /// Their rows
    pub rows: u64,
    /// Their tokens, unpadded
    pub tokens: u64,
}

/// The latency of a batch: a fixed part, and a part for every padded token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FitView {
    /// Of any batch
    pub fixed_ns: f64,
    /// Of one padded token
    pub ns_per_token: f64,
    /// More for a batch that found an idle instance: its way there is not hidden behind another one
    pub idle_ns: f64,
    /// Batches that it was learned from
    pub samples: u64,
}
