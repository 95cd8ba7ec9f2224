//! Owns the words that a flight and its passengers exchange.
//! Must not know the table.
//! On failure: nothing here fails.

use std::sync::Arc;

use crate::cache::Entry;

/// What a request is told that wants to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// It leads: it asks upstream, and ends the flight by `complete`, `abandon` or `leave`.
    Lead,
    /// It follows: its handle is kept, and will come back with exactly one outcome.
    Follow,
    /// No room: it asks upstream for itself and has nothing to end. Its handle was not made.
    Full,
}

/// What becomes of a follower.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The leader's complete answer.
    Answered(Arc<Entry>),
    /// It leads now: it asks upstream under a new fill ticket, and ends the flight as any leader does.
    Lead,
    /// It waited as long as it may, and asks upstream for itself.
    GoAlone,
}

/// A follower's handle on its way back, to be resolved outside any lock.
///
/// Where the one who waited is gone already, an outcome of `Lead` must be handed on: call `leave` for it.
#[derive(Debug)]
#[must_use = "a handle that is dropped leaves a follower behind"]
pub struct Wake<W> {
    /// The follower.
    pub request_id: u128,
    /// What it left when it joined.
    pub waiter: W,
    /// What to tell it.
    pub outcome: Outcome,
}

/// What the one was that left.
#[derive(Debug)]
#[must_use = "a promoted follower that is not told leaves a flight without a leader"]
pub enum Left<W> {
    /// A follower that was still waiting; its handle.
    Follower(W),
    /// The leader; the follower that leads now, if there was one.
    Leader(Option<Wake<W>>),
    /// Not aboard: never was, or had its outcome already.
    Absent,
}

// === impl Left ===

impl<W> Left<W> {
    /// The follower that was promoted by this.
    pub fn promoted(self) -> Option<Wake<W>> {
        match self {
            Self::Leader(promoted) => promoted,
            Self::Follower(_) | Self::Absent => None,
        }
    }
}
