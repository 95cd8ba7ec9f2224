//! Owns: the queue between requests that wait for a person's stage and the thread that runs it.
//! Must not know: Python, what a stage does.
//! On failure: a full queue, a lost stage or a passed deadline is a `Failed` resolution; the policy says what then.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_core::engine::{Resolution, StageCall};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

/// A request that waits for a stage.
#[derive(Debug)]
pub struct StageRequest {
    /// What is asked
    pub call: StageCall,
    /// The request's body
    pub body: Bytes,
    /// When the request gives up
    pub deadline: Instant,
    answer: oneshot::Sender<Resolution>,
}

/// The waiting side.
#[derive(Debug)]
pub enum StagePending {
    /// In the queue
    Waiting(oneshot::Receiver<Resolution>),
    /// The queue was full
    Full,
}

/// All requests that wait for stages.
#[derive(Debug, Default)]
pub struct Stages {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<StageRequest>,
    closed: bool,
}

// === impl Stages ===

impl Stages {
    /// Asks the stage of a call.
    pub fn ask(&self, call: StageCall, body: Bytes) -> StagePending {
        let (answer, receiver) = oneshot::channel();
        let mut queue = self.queue.lock();
        if queue.closed || queue.waiting.len() >= call.max_waiting {
            return StagePending::Full;
        }
        let deadline = Instant::now() + Duration::from_nanos(call.deadline_ns);
        queue.waiting.push_back(StageRequest { call, body, deadline, answer });
        drop(queue);
        self.arrived.notify_one();
        StagePending::Waiting(receiver)
    }

    /// The next requests of one stage, oldest first, as many as its batch holds. Blocks at most `timeout`; empty then.
    /// `None`: closed.
    pub fn next(&self, timeout: Duration) -> Option<Vec<StageRequest>> {
        let until = Instant::now() + timeout;
        let mut queue = self.queue.lock();
        loop {
            let now = Instant::now();
            // Nobody waits any more for what is past its deadline or was dropped.
            queue.waiting.retain(|r| r.deadline > now && !r.answer.is_closed());
            if let Some(first) = queue.waiting.front() {
                let (target, most) = (first.call.target.clone(), first.call.max_batch);
                let mut batch = Vec::new();
                let mut rest = VecDeque::with_capacity(queue.waiting.len());
                while let Some(request) = queue.waiting.pop_front() {
                    if batch.len() < most && request.call.target == target {
                        batch.push(request);
                    } else {
                        rest.push_back(request);
                    }
                }
                queue.waiting = rest;
                return Some(batch);
            }
            if queue.closed {
                return None;
            }
            if self.arrived.wait_until(&mut queue, until).timed_out() {
                return Some(Vec::new());
            }
        }
    }

    /// Takes nothing new; [`Stages::next`] returns `None` once the queue is empty.
    pub fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.waiting.clear();
        drop(queue);
        self.arrived.notify_all();
    }
}

// === impl StageRequest ===

impl StageRequest {
    /// Answers the request. It may have given up; then nothing happens.
    pub fn answer(self, resolution: Resolution) {
        let _ = self.answer.send(resolution);
    }
}

// === impl StagePending ===

impl StagePending {
    /// Waits for the stage, at most `deadline`.
    pub async fn wait(self, deadline: Duration) -> Resolution {
        match self {
            Self::Full => Resolution::Failed("too many requests wait for the stage"),
            Self::Waiting(receiver) => match tokio::time::timeout(deadline, receiver).await {
                Ok(Ok(resolution)) => resolution,
                Ok(Err(_)) => Resolution::Failed("the stage gave no answer"),
                Err(_) => Resolution::Failed("the stage was too slow"),
            },
        }
    }
}
