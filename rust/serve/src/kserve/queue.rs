//! Owns: the meeting point: requests come from async handlers, work goes to one blocking sender, answers come back.
//! Must not know: HTTP, Python; what may leave when is the assembler's.
//! On failure: closed; when it closes, everything that waits is answered UNAVAILABLE and nothing new is taken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use bytes::Bytes;
use forebay_core::batch::{
    Assembler, BatchError, Bounds, Capacity, Checked, LaneKey, ModelShape, PendingRequest, Ticket,
};
use parking_lot::{Condvar, Mutex, MutexGuard};
use prost::Message;
use tokio::sync::oneshot;

use super::deliver::{deliver, tell_all};
use super::work::{InFlight, Learner, PendingCall, Reply, Waiter};
use super::{Failure, Work, WorkKind, pb, wire};

/// What may wait, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct QueueSettings {
    /// Bounds of every pool's queue of tensors
    pub bounds: Bounds,
    /// Most calls, other than inferences, that may wait for the sender, such as 256
    pub max_calls: usize,
    /// Longest that learning a model's shape may take, such as 5 s
    pub learn_timeout: Duration,
    /// A request that does not fit a shape older than this makes the queue learn it anew, such as 5 s
    pub relearn_after: Duration,
}

/// Plain counters since the start, and what waits now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Batches that left
    pub batches: u64,
    /// Requests in them
    pub requests: u64,
    /// Rows in them
    pub rows: u64,
    /// Requests refused because a queue was full
    pub refused: u64,
    /// Requests taken back before they left
    pub cancelled: u64,
    /// Work that the sender has
    pub in_flight: u64,
}

/// What a wait for work brought.
#[derive(Debug)]
pub enum Next {
    /// Something to send
    Work(Work),
    /// Nothing within the time
    Idle,
    /// The queue is closed, and nothing will come
    Closed,
}

/// Requests on their way into batches, and batches on their way out and back.
#[derive(Debug)]
pub struct BatchQueue {
    settings: QueueSettings,
    origin: Instant,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug)]
struct State {
    assembler: Assembler<Waiter>,
    models: AHashMap<LaneKey, Known>,
    learning: AHashMap<LaneKey, Vec<Learner>>,
    learning_bytes: u64,
    to_learn: VecDeque<LaneKey>,
    calls: VecDeque<PendingCall>,
    in_flight: AHashMap<u64, InFlight>,
    next_id: u64,
    stats: QueueStats,
    /// When the sender wakes by itself; 0 while it is awake, so that nobody wakes it for what it will see anyway
    sleeps_until_ns: u64,
    closed: bool,
}

#[derive(Debug)]
struct Known {
    shape: Arc<ModelShape>,
    learned_ns: u64,
}

// === impl BatchQueue ===

impl BatchQueue {
    /// An open queue that knows no model.
    pub fn new(settings: QueueSettings) -> Self {
        let state = State {
            assembler: Assembler::new(settings.bounds),
            models: AHashMap::new(),
            learning: AHashMap::new(),
            learning_bytes: 0,
            to_learn: VecDeque::new(),
            calls: VecDeque::new(),
            in_flight: AHashMap::new(),
            next_id: 0,
            stats: QueueStats::default(),
            sleeps_until_ns: 0,
            closed: false,
        };
        Self { settings, origin: Instant::now(), state: Mutex::new(state), wake: Condvar::new() }
    }

    /// Nanoseconds on the queue's own clock.
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Waits for work, at most `timeout`. Meant for one thread; it sleeps until there is something to do.
    pub fn next_blocking(&self, timeout: Duration) -> Next {
        let until = Instant::now() + timeout;
        let mut state = self.state.lock();
        loop {
            let now_ns = self.now_ns();
            if let Some(work) = self.take_call(&mut state, now_ns) {
                return Next::Work(work);
            }
            if let Some(batch) = state.assembler.next(now_ns) {
                let message = MutexGuard::unlocked(&mut state, || wire::write_batch(&batch));
                state.stats.batches += 1;
                state.stats.requests += batch.members.len() as u64;
                state.stats.rows += batch.rows;
                let work = Work {
                    id: state.take_id(),
                    kind: WorkKind::Infer,
                    method: "ModelInfer",
                    pool: Arc::clone(&batch.lane.pool),
                    model: Arc::clone(&batch.lane.model),
                    version: Arc::clone(&batch.lane.version),
                    rows: batch.rows,
                    requests: batch.members.len(),
                    timeout: Duration::from_nanos(batch.deadline_ns.saturating_sub(now_ns)),
                    request: message.into(),
                };
                state.in_flight.insert(work.id, InFlight::Infer { batch, left_ns: now_ns });
                return Next::Work(work);
            }
            if state.closed {
                return Next::Closed;
            }
            let due = state.assembler.wake_at().map(|at_ns| self.origin + Duration::from_nanos(at_ns));
            let sleeps_until = due.map_or(until, |due| due.min(until));
            if sleeps_until <= Instant::now() {
                return Next::Idle;
            }
            let since = sleeps_until.saturating_duration_since(self.origin);
            state.sleeps_until_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
            self.wake.wait_until(&mut state, sleeps_until);
            state.sleeps_until_ns = 0;
        }
    }

    /// The sender has the answer of a piece of work. Returns whether anyone waited for it.
    pub fn complete(&self, id: u64, answer: Bytes) -> bool {
        match self.end(id) {
            Some(InFlight::Infer { batch, left_ns }) => {
                deliver(batch, answer, left_ns, self.now_ns());
                true
            }
            Some(InFlight::Call(caller)) => caller.send(Ok(answer)).is_ok(),
            Some(InFlight::Learn(key)) => {
                self.teach(&key, Err(&Failure::answer(&"the sender brought no shape")));
                false
            }
            None => false,
        }
    }

    /// A piece of work failed. Returns whether anyone waited for it.
    pub fn fail(&self, id: u64, failure: &Failure) -> bool {
        match self.end(id) {
            Some(InFlight::Infer { batch, .. }) => {
                tell_all(batch.members.into_iter().map(|member| member.waiter), failure);
                true
            }
            Some(InFlight::Call(caller)) => caller.send(Err(failure.clone())).is_ok(),
            Some(InFlight::Learn(key)) => {
                self.teach(&key, Err(failure));
                true
            }
            None => false,
        }
    }

    /// The sender learned a model's shape, as a piece of work asked.
    pub fn learned(&self, id: u64, shape: ModelShape, capacity: Capacity) -> bool {
        let Some(InFlight::Learn(key)) = self.end(id) else { return false };
        self.set_model(&key, shape, capacity);
        true
    }

    /// Makes a model's shape and capacity known. Requests that wait for it go on.
    pub fn set_model(&self, key: &LaneKey, shape: ModelShape, capacity: Capacity) {
        let shape = Arc::new(shape);
        let mut state = self.state.lock();
        state.assembler.open(key.clone(), capacity);
        state.models.insert(key.clone(), Known { shape: Arc::clone(&shape), learned_ns: self.now_ns() });
        drop(state);
        self.teach(key, Ok(&shape));
    }

    /// Forgets a model's shape, so that the next request has it learned anew. What waits goes on as it was.
    pub fn forget(&self, key: &LaneKey) {
        self.state.lock().models.remove(key);
    }

    /// Refuses everything from now on and answers everything that waits. What the sender has may still end.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let waiters = state.assembler.drain();
        let calls = std::mem::take(&mut state.calls);
        let learning = std::mem::take(&mut state.learning);
        state.to_learn.clear();
        state.learning_bytes = 0;
        drop(state);
        self.wake.notify_all();
        let failure = Failure::closing();
        tell_all(waiters, &failure);
        tell_all(calls.into_iter().map(|call| call.caller), &failure);
        tell_all(learning.into_values().flatten(), &failure);
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Plain counters.
    pub fn stats(&self) -> QueueStats {
        let state = self.state.lock();
        QueueStats { in_flight: state.in_flight.len() as u64, ..state.stats }
    }

    /// Rows and bytes that wait for a pool.
    pub fn waiting(&self, pool: &str) -> (u64, u64) {
        self.state.lock().assembler.waiting(pool)
    }

    /// The shape of a model, learned if nobody knows it. `held_bytes` is what the request holds meanwhile.
    pub(super) async fn shape(&self, key: &LaneKey, held_bytes: u64) -> Result<Arc<ModelShape>, Failure> {
        let receiver = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Failure::closing());
            }
            if let Some(known) = state.models.get(key) {
                return Ok(Arc::clone(&known.shape));
            }
            let (bytes, max_bytes) = (state.learning_bytes, self.settings.bounds.max_bytes);
            if bytes.saturating_add(held_bytes) > max_bytes {
                let (pool, max_rows) = (Arc::clone(&key.pool), self.settings.bounds.max_rows);
                state.stats.refused += 1;
                return Err(BatchError::QueueFull { pool, rows: 0, max_rows, bytes, max_bytes }.into());
            }
            state.learning_bytes += held_bytes;
            let (learner, receiver) = oneshot::channel();
            let learners = state.learning.entry(key.clone()).or_default();
            learners.push(learner);
            if learners.len() == 1 {
                state.to_learn.push_back(key.clone());
                self.wake_sender(&state, 0);
            }
            receiver
        };
        let _held = Held { queue: self, bytes: held_bytes };
        receiver.await.unwrap_or_else(|_| Err(Failure::closing()))
    }

    /// Forgets a shape that is old enough to be wrong; whether it did.
    pub(super) fn doubt(&self, key: &LaneKey) -> bool {
        let oldest_ns = self.now_ns().saturating_sub(nanos(self.settings.relearn_after));
        let mut state = self.state.lock();
        let old = state.models.get(key).is_some_and(|known| known.learned_ns <= oldest_ns);
        if old {
            state.models.remove(key);
        }
        old
    }

    /// Queues a request. The ticket takes it back; the receiver brings its part of a batch's answer.
    pub(super) fn push(
        &self,
        key: &LaneKey,
        checked: Checked,
        deadline_ns: u64,
    ) -> Result<(Ticket, oneshot::Receiver<Result<Reply, Failure>>), Failure> {
        let (waiter, receiver) = oneshot::channel();
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        if state.closed {
            return Err(Failure::closing());
        }
        match state.assembler.push(key, PendingRequest { checked, deadline_ns, waiter }, now_ns) {
            Ok(ticket) => {
                if let Some(at_ns) = state.assembler.wake_at() {
                    self.wake_sender(&state, at_ns);
                }
                Ok((ticket, receiver))
            }
            Err(error) => {
                state.stats.refused += 1;
                Err(error.into())
            }
        }
    }

    /// Takes a request back, if it has not left.
    pub(super) fn cancel(&self, ticket: &Ticket) {
        let mut state = self.state.lock();
        if state.assembler.cancel(ticket).is_some() {
            state.stats.cancelled += 1;
        }
    }

    /// Queues a call that is no inference.
    pub(super) fn call(&self, call: PendingCall) -> Result<(), Failure> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Failure::closing());
        }
        state.calls.retain(|call| !call.caller.is_closed());
        if state.calls.len() >= self.settings.max_calls {
            state.stats.refused += 1;
            return Err(Failure::busy(state.calls.len()));
        }
        state.calls.push_back(call);
        self.wake_sender(&state, 0);
        Ok(())
    }

    /// The next call or learning, which go before batches: they are rare, and batches may wait for them.
    fn take_call(&self, state: &mut State, now_ns: u64) -> Option<Work> {
        if let Some(key) = state.to_learn.pop_front() {
            let id = state.take_id();
            let request =
                pb::ModelConfigRequest { name: key.model.to_string(), version: key.version.to_string() };
            let work = Work {
                id,
                kind: WorkKind::Learn,
                method: "ModelConfig",
                pool: Arc::clone(&key.pool),
                model: Arc::clone(&key.model),
                version: Arc::clone(&key.version),
                rows: 0,
                requests: 0,
                timeout: self.settings.learn_timeout,
                request: request.encode_to_vec().into(),
            };
            state.in_flight.insert(id, InFlight::Learn(key));
            return Some(work);
        }
        while let Some(call) = state.calls.pop_front() {
            if call.caller.is_closed() {
                continue;
            }
            let id = state.take_id();
            state.in_flight.insert(id, InFlight::Call(call.caller));
            return Some(Work {
                id,
                kind: WorkKind::Call,
                method: call.method,
                pool: call.pool,
                model: call.model,
                version: "".into(),
                rows: 0,
                requests: 1,
                timeout: Duration::from_nanos(call.deadline_ns.saturating_sub(now_ns)),
                request: call.request,
            });
        }
        None
    }

    /// Removes work that ended and frees its slot at once, before its answer is cut.
    fn end(&self, id: u64) -> Option<InFlight> {
        let mut state = self.state.lock();
        let ended = state.in_flight.remove(&id)?;
        if let InFlight::Infer { batch, .. } = &ended {
            state.assembler.done(&batch.lane);
            if let Some(at_ns) = state.assembler.wake_at() {
                self.wake_sender(&state, at_ns);
            }
        }
        Some(ended)
    }

    fn teach(&self, key: &LaneKey, outcome: Result<&Arc<ModelShape>, &Failure>) {
        let learners = self.state.lock().learning.remove(key).unwrap_or_default();
        for learner in learners {
            // A closed channel is a client that left while the model was learned.
            let _ = learner.send(outcome.map(Arc::clone).map_err(Failure::clone));
        }
    }

    /// Wakes the sender if it would sleep past `at_ns`.
    fn wake_sender(&self, state: &State, at_ns: u64) {
        if at_ns < state.sleeps_until_ns {
            self.wake.notify_all();
        }
    }
}

/// Bytes of a request that waits for a model to be learned.
struct Held<'a> {
    queue: &'a BatchQueue,
    bytes: u64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.learning_bytes = state.learning_bytes.saturating_sub(self.bytes);
    }
}

// === impl State ===

impl State {
    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
