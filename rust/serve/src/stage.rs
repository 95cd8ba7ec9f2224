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
        let now = Instant::now();
        if queue.closed || !queue.has_room(&call, now) {
            return StagePending::Full;
        }
        let deadline = now + Duration::from_nanos(call.deadline_ns);
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
            queue.waiting.retain(|r| r.is_alive(now));
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

// === impl Queue ===

impl Queue {
    /// Whether one more may wait for the stage. Only those count that wait for it and are still waited for.
    fn has_room(&mut self, call: &StageCall, now: Instant) -> bool {
        if self.waiting.len() < call.max_waiting {
            return true;
        }
        self.waiting.retain(|r| r.is_alive(now));
        self.waiting.iter().filter(|r| r.call.target == call.target).count() < call.max_waiting
    }
}

// === impl StageRequest ===

impl StageRequest {
    fn is_alive(&self, now: Instant) -> bool {
        self.deadline > now && !self.answer.is_closed()
    }

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::Arc;

    use forebay_core::engine::StageView;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn call(target: &str, deadline: Duration) -> StageCall {
        let none = || Arc::<str>::from("");
        let view = StageView {
            model: "auto".into(),
            route: none(),
            tenant: none(),
            user: none(),
            feature: none(),
            tier: none(),
            tools: false,
            vision: false,
            json: false,
            stream: false,
        };
        StageCall {
            target: target.into(),
            deadline_ns: deadline.as_nanos() as u64,
            max_batch: 2,
            max_waiting: 3,
            view,
        }
    }

    fn ask(stages: &Stages, target: &str, deadline: Duration, body: &'static str) -> StagePending {
        stages.ask(call(target, deadline), Bytes::from_static(body.as_bytes()))
    }

    fn wait(pending: StagePending, deadline: Duration) -> String {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        match tokio.block_on(pending.wait(deadline)) {
            Resolution::Model { model, .. } => model,
            Resolution::Failed(why) => why.to_owned(),
        }
    }

    fn bodies(batch: &[StageRequest]) -> Vec<&[u8]> {
        batch.iter().map(|r| &r.body[..]).collect()
    }

    #[test]
    fn batches_are_of_one_stage_in_order() {
        let stages = Stages::default();
        let _pending: Vec<_> = [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")]
            .map(|(target, body)| ask(&stages, target, LONG, body))
            .into();
        assert_eq!(bodies(&stages.next(LONG).unwrap()), [b"1", b"3"]);
        assert_eq!(bodies(&stages.next(LONG).unwrap()), [b"2"]);
        assert_eq!(bodies(&stages.next(LONG).unwrap()), [b"4"]);
        assert!(stages.next(Duration::ZERO).unwrap().is_empty());
    }

    #[test]
    fn each_stage_has_a_bound_of_its_own() {
        let stages = Stages::default();
        let mut pending: Vec<_> = (0..3).map(|_| ask(&stages, "slow", LONG, "x")).collect();
        assert!(matches!(ask(&stages, "slow", LONG, "x"), StagePending::Full));
        let other = ask(&stages, "other", LONG, "x");
        assert!(matches!(other, StagePending::Waiting(_)), "one slow stage is no other one's matter");
        // Whoever left makes room, though the stage never came to look.
        pending.pop();
        let fourth = ask(&stages, "slow", LONG, "x");
        assert!(matches!(fourth, StagePending::Waiting(_)));
        let full = ask(&stages, "slow", LONG, "x");
        assert_eq!(wait(full, LONG), "too many requests wait for the stage");
    }

    #[test]
    fn nobody_is_asked_about_what_is_past_its_deadline() {
        let stages = Stages::default();
        let late = ask(&stages, "a", Duration::ZERO, "late");
        let left = ask(&stages, "a", LONG, "left");
        let _waits = ask(&stages, "a", LONG, "waits");
        drop(left);
        assert_eq!(bodies(&stages.next(LONG).unwrap()), [b"waits"]);
        assert_eq!(wait(late, LONG), "the stage gave no answer");
        let slow = ask(&stages, "a", LONG, "slow");
        assert_eq!(wait(slow, Duration::ZERO), "the stage was too slow");
    }

    #[test]
    fn an_answer_reaches_who_asked_and_a_lost_one_fails() {
        let stages = Arc::new(Stages::default());
        let worker = std::thread::spawn({
            let stages = stages.clone();
            move || {
                let mut batch = stages.next(LONG).unwrap();
                batch.remove(0).answer(Resolution::Model { model: "small".into(), reason: String::new() });
                // A stage that breaks drops what it was asked.
                drop(stages.next(LONG).unwrap());
                stages.next(LONG).is_none()
            }
        });
        assert_eq!(wait(ask(&stages, "a", LONG, "x"), LONG), "small");
        assert_eq!(wait(ask(&stages, "a", LONG, "x"), LONG), "the stage gave no answer");
        stages.close();
        assert!(worker.join().unwrap(), "closed while it waited");
        assert!(matches!(ask(&stages, "a", LONG, "x"), StagePending::Full));
    }

    #[test]
    fn closing_answers_those_who_wait() {
        let stages = Stages::default();
        let pending = ask(&stages, "a", LONG, "x");
        stages.close();
        assert_eq!(wait(pending, LONG), "the stage gave no answer");
        assert!(stages.next(LONG).is_none());
    }
}
