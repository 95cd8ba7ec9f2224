//! Owns: what a lane is, and everything about it that a person or the model server decides.
//! Must not know: queues, where any of it was learned.
//! On failure: not applicable.

use std::sync::Arc;

/// One model of one pool: what instances, and so batches in flight, are counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LaneKey {
    /// The pool
    pub pool: Arc<str>,
    /// The model as the pool knows it
    pub model: Arc<str>,
    /// The version; empty lets the server choose
    pub version: Arc<str>,
}

/// How much a lane may have in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Batches that run at the same time: the model's instances over all endpoints
    pub instances: u32,
    /// Batches that may be in flight: the instances and one for each endpoint, so that none waits for the wire
    pub slots: u32,
}

/// Where the lengths come from that requests are padded to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LengthClasses {
    /// A person's choice, rising; a longer request is a class of its own
    Fixed(Arc<[u64]>),
    /// Learned from the lengths that come
    Learned {
        /// Most classes at a time
        max_classes: usize,
    },
}

/// How a lane's batches are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSettings {
    /// How much it may have in flight
    pub capacity: Capacity,
    /// Rows times padded length of one batch, at most, unless one request alone is above it; 0: no bound
    pub max_padded_tokens: u64,
    /// Rows where a batch is cut when more wait, rising; empty: as many as fit
    pub preferred_rows: Arc<[u64]>,
    /// Lengths that requests are padded to
    pub classes: LengthClasses,
}

// === impl LaneSettings ===

impl LaneSettings {
    /// The most classes that are learned where nobody says a number.
    pub const MAX_CLASSES: usize = 32;

    /// Only a capacity: no bound on tokens, no preferred rows, lengths learned.
    pub fn of(capacity: Capacity) -> Self {
        Self {
            capacity,
            max_padded_tokens: 0,
            preferred_rows: Arc::default(),
            classes: LengthClasses::Learned { max_classes: Self::MAX_CLASSES },
        }
    }
}
