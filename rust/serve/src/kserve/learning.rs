//! Owns: which models are known, and the requests that wait until one is.
//! Must not know: how a shape is learned, clocks (`now_ns` is an argument).
//! On failure: closed; requests whose model cannot be learned are told so, and above a bound in bytes nobody more waits.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;
use forebay_core::batch::{BatchError, LaneKey, ModelShape, QueueUnit};
use tokio::sync::oneshot;

use super::Failure;
use super::work::Learner;

/// Models and those who wait for them.
#[derive(Debug, Default)]
pub(super) struct Learning {
    models: AHashMap<LaneKey, Known>,
    learners: AHashMap<LaneKey, Vec<Learner>>,
    held_bytes: u64,
    asked: VecDeque<LaneKey>,
    closed: bool,
}

#[derive(Debug)]
struct Known {
    shape: Arc<ModelShape>,
    learned_ns: u64,
}

/// What somebody who needs a shape gets.
#[derive(Debug)]
pub(super) enum Shape {
    Known(Arc<ModelShape>),
    /// Somebody has asked for it
    Awaited(oneshot::Receiver<Result<Arc<ModelShape>, Failure>>),
}

// === impl Learning ===

impl Learning {
    /// The shape of a model, or a place among those who wait for it while they hold `bytes`.
    pub(super) fn shape(&mut self, key: &LaneKey, bytes: u64, max_bytes: u64) -> Result<Shape, Failure> {
        if self.closed {
            return Err(Failure::closing());
        }
        if let Some(known) = self.models.get(key) {
            return Ok(Shape::Known(Arc::clone(&known.shape)));
        }
        if self.held_bytes.saturating_add(bytes) > max_bytes {
            let (pool, unit) = (Arc::clone(&key.pool), QueueUnit::Bytes);
            return Err(BatchError::QueueFull { pool, unit, waiting: self.held_bytes, max: max_bytes }.into());
        }
        self.held_bytes += bytes;
        let (learner, receiver) = oneshot::channel();
        let learners = self.learners.entry(key.clone()).or_default();
        learners.push(learner);
        if learners.len() == 1 {
            self.asked.push_back(key.clone());
        }
        Ok(Shape::Awaited(receiver))
    }

    /// Somebody who waited waits no more.
    pub(super) fn release(&mut self, bytes: u64) {
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
    }

    /// The next model that has to be learned.
    pub(super) fn next(&mut self) -> Option<LaneKey> {
        self.asked.pop_front()
    }

    /// Whether nobody waits any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// A model is known from now on.
    pub(super) fn know(&mut self, key: LaneKey, shape: Arc<ModelShape>, now_ns: u64) {
        self.models.insert(key, Known { shape, learned_ns: now_ns });
    }

    /// A model is not known any more.
    pub(super) fn forget(&mut self, key: &LaneKey) {
        self.models.remove(key);
    }

    /// Forgets a model that was learned before `oldest_ns`; whether it did.
    pub(super) fn doubt(&mut self, key: &LaneKey, oldest_ns: u64) -> bool {
        let old = self.models.get(key).is_some_and(|known| known.learned_ns <= oldest_ns);
        if old {
            self.models.remove(key);
        }
        old
    }

    /// Those who wait for a model.
    pub(super) fn learners(&mut self, key: &LaneKey) -> Vec<Learner> {
        self.learners.remove(key).unwrap_or_default()
    }

    /// Everyone who waits; nobody waits any more from now on.
    pub(super) fn drain(&mut self) -> Vec<Learner> {
        self.closed = true;
        self.asked.clear();
        std::mem::take(&mut self.learners).into_values().flatten().collect()
    }
}
