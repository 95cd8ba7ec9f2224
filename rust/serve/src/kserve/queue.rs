//! Owns: the meeting point: requests come from async handlers, batches go to a sender, models to learn to a
//! thread that asks for them, answers come back.
//! Must not know: HTTP, Python; what may leave when is the assembler's.
//! On failure: closed; when it closes, everything that waits is answered UNAVAILABLE and nothing new is taken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use bytes::Bytes;
use forebay_core::batch::{
    Assembler, Batch, Bounds, Checked, LaneKey, LaneSettings, ModelShape, PendingRequest, PoolLoad, Priority,
    Tenant, Ticket,
};
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use prost::Message;
use tokio::sync::Notify;
use tonic::Code;

use super::counters::{Counters, SentCounters};
use super::deliver::{deliver, tell_all, tell_waiters};
use super::doubts::{Doubt, Doubts};
use super::flights::Flights;
use super::learning::{Learning, Shape};
use super::metrics::{self, Standing};
use super::work::{InFlight, PendingCall, Waiter};
use super::{Alarm, Failure, Upstreams, Work, WorkKind, pb, wire};

/// An inference that is ready to be queued.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub checked: Checked,
    pub tenant: Tenant,
    pub priority: Priority,
    pub deadline_ns: u64,
}

/// What may wait, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct QueueSettings {
    /// Bounds of every pool's queue of tensors
    pub bounds: Bounds,
    /// Most calls, other than inferences, that may wait or be on their way, such as 256
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
    /// Requests that ended with an error, whatever it was
    pub refused: u64,
    /// Requests whose client left or whose time was over
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
    /// Taken behind the state, never before it
    learning: Mutex<Learning>,
    pools: RwLock<AHashMap<Arc<str>, PoolSettings>>,
    /// Told when a model has to be learned; goes with `learning`
    unknown: Condvar,
    wake: Notify,
    /// Whose turn it is to wait for batches and calls
    turn: tokio::sync::Mutex<()>,
    /// Told when nothing is in flight; goes with `state`
    idle: Condvar,
    given_up: Notify,
    doubts: Doubts,
    upstreams: Arc<Upstreams>,
    flights: Arc<Flights>,
    counters: Counters,
}

#[derive(Debug)]
struct State {
    assembler: Assembler<Waiter>,
    calls: VecDeque<PendingCall>,
    /// Halves of batches that were refused; they have left the assembler already, and go before all others
    halves: VecDeque<Batch<Waiter>>,
    in_flight: AHashMap<u64, InFlight>,
    calls_in_flight: usize,
    next_id: u64,
    /// When the sender wakes by itself, never being `u64::MAX`; 0 while it is awake, so that nobody wakes it for what it will see anyway
    sleeps_until_ns: u64,
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct PoolSettings {
    bounds: Bounds,
    timeout: Duration,
}

// === impl BatchQueue ===

impl BatchQueue {
    /// An open queue that knows no model.
    pub fn new(settings: QueueSettings) -> Self {
        let state = State {
            assembler: Assembler::new(settings.bounds),
            calls: VecDeque::new(),
            halves: VecDeque::new(),
            in_flight: AHashMap::new(),
            calls_in_flight: 0,
            next_id: 0,
            sleeps_until_ns: 0,
            closed: false,
        };
        Self {
            settings,
            origin: Instant::now(),
            state: Mutex::new(state),
            learning: Mutex::default(),
            pools: RwLock::default(),
            unknown: Condvar::new(),
            wake: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
            idle: Condvar::new(),
            given_up: Notify::new(),
            doubts: Doubts::default(),
            upstreams: Arc::default(),
            flights: Arc::default(),
            counters: Counters::default(),
        }
    }

    /// The servers of all pools.
    pub fn upstreams(&self) -> &Arc<Upstreams> {
        &self.upstreams
    }

    /// Equal requests in flight.
    pub(super) fn flights(&self) -> &Arc<Flights> {
        &self.flights
    }

    /// What is counted of every model.
    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The metrics of all models as Prometheus text.
    pub fn metrics_text(&self) -> String {
        let now_ns = self.now_ns();
        let standing = Standing::of_lanes(self.state.lock().assembler.lanes(), now_ns);
        let mut text = metrics::text(&standing, &self.counters.models());
        metrics::write_sent(&mut text, &self.counters.sent(), &self.upstreams.outstanding());
        text
    }

    /// Nanoseconds on the queue's own clock.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// How long a request without a deadline of its own waits in a pool, where the pool says so.
    pub(super) fn timeout_of(&self, pool: &str) -> Option<Duration> {
        self.pools.read().get(pool).map(|pool| pool.timeout)
    }

    /// Gives a pool bounds and a timeout of its own. What waits stays.
    pub fn set_bounds(&self, pool: &str, bounds: Bounds, timeout: Duration) {
        self.pools.write().insert(pool.into(), PoolSettings { bounds, timeout });
        self.state.lock().assembler.bound(pool.into(), bounds);
    }

    /// The next batch or call; `None`: the queue is closed. Any number of tasks may call it: one of them sleeps until
    /// there is something to do, and the next one takes its place when it leaves.
    pub async fn next(&self, alarm: &Alarm) -> Option<Work> {
        // `wake` and `sleeps_until_ns` know one sleeper; other tasks wait for its place.
        let _turn = self.turn.lock().await;
        loop {
            let due_ns = {
                let mut state = self.state.lock();
                state.sleeps_until_ns = 0;
                let now_ns = self.now_ns();
                if let Some(work) = Self::take_call(&mut state, now_ns) {
                    return Some(work);
                }
                if let Some(batch) = self.take_batch(&mut state, now_ns) {
                    return Some(self.send_off(&mut state, batch, now_ns));
                }
                if state.closed {
                    return None;
                }
                let due_ns = state.assembler.wake_at(self.now_ns());
                state.sleeps_until_ns = due_ns.unwrap_or(u64::MAX);
                due_ns
            };
            match due_ns.map(|due_ns| self.origin + Duration::from_nanos(due_ns)) {
                Some(due) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = alarm.at(due) => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// Waits for a model that has to be learned, at most `timeout`. Any number of threads may call it.
    pub fn next_unknown_blocking(&self, timeout: Duration) -> Next {
        let until = Instant::now() + timeout;
        let mut learning = self.learning.lock();
        loop {
            if let Some(key) = learning.next() {
                drop(learning);
                return Next::Work(self.learn(key));
            }
            if learning.is_closed() {
                return Next::Closed;
            }
            if self.unknown.wait_until(&mut learning, until).timed_out() {
                return Next::Idle;
            }
        }
    }

    /// Servers to which calls failed since the last time, or within `timeout`.
    pub fn doubted_blocking(&self, timeout: Duration) -> Vec<Doubt> {
        self.doubts.take_blocking(timeout)
    }

    /// A call to a server failed, so that it has to be looked at.
    pub(super) fn doubt_server(&self, doubt: Doubt) {
        self.doubts.add(doubt);
    }

    /// Work goes to a second server.
    pub(super) fn count_resend(&self) {
        self.counters.resent();
    }

    /// The sender has the answer of a piece of work. Returns whether anyone waited for it.
    pub fn complete(&self, id: u64, answer: Bytes) -> bool {
        let now_ns = self.now_ns();
        match self.end(id, Some(now_ns)) {
            Some(InFlight::Infer { batch }) => {
                self.counters.answered(&batch.lane, now_ns.saturating_sub(batch.left_ns));
                deliver(batch, answer, now_ns);
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

    /// A piece of work failed. A batch that a server found invalid leaves again in halves, until the request that is
    /// meant is alone. Returns whether anyone waited for it.
    pub fn fail(&self, id: u64, failure: &Failure) -> bool {
        let ended = self.end(id, None);
        if ended.is_some() {
            self.counters.failed(failure.code);
        }
        match ended {
            Some(InFlight::Infer { batch }) => {
                if failure.code == Code::InvalidArgument && batch.members.len() > 1 {
                    self.halve(batch);
                } else {
                    tell_waiters(batch.members.into_iter().map(|member| member.waiter), failure);
                }
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
    pub fn learned(&self, id: u64, shape: ModelShape, settings: &LaneSettings) -> bool {
        let Some(InFlight::Learn(key)) = self.end(id, None) else { return false };
        self.set_model(&key, shape, settings);
        true
    }

    /// The lane that a piece of work wants learned; `None`: it does not, or has ended.
    pub fn unknown_lane(&self, id: u64) -> Option<LaneKey> {
        match self.state.lock().in_flight.get(&id) {
            Some(InFlight::Learn(key)) => Some(key.clone()),
            _ => None,
        }
    }

    /// Makes a model's shape and capacity known. Requests that wait for it go on.
    pub fn set_model(&self, key: &LaneKey, shape: ModelShape, settings: &LaneSettings) {
        let shape = Arc::new(shape);
        self.state.lock().assembler.open(key.clone(), settings);
        self.learning.lock().know(key.clone(), Arc::clone(&shape), self.now_ns());
        self.teach(key, Ok(&shape));
    }

    /// Forgets a model's shape, so that the next request has it learned anew. What waits goes on as it was.
    pub fn forget(&self, key: &LaneKey) {
        self.learning.lock().forget(key);
    }

    /// Refuses everything from now on and answers everything that waits. What the sender has may still end.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let mut waiters = state.assembler.drain();
        let halves = state.halves.drain(..).flat_map(|batch| batch.members);
        waiters.extend(halves.map(|member| member.waiter));
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        let learners = self.learning.lock().drain();
        self.wake.notify_one();
        self.unknown.notify_all();
        self.doubts.close();
        let failure = Failure::closing();
        tell_waiters(waiters, &failure);
        tell_all(calls.into_iter().map(|call| call.caller), &failure);
        tell_all(learners, &failure);
    }

    /// Closes, waits at most `wait` for what was sent, and gives up the rest. Returns whether all had ended.
    pub fn drain_blocking(&self, wait: Duration) -> bool {
        self.close();
        let until = Instant::now() + wait;
        let mut state = self.state.lock();
        while !state.in_flight.is_empty() && !self.idle.wait_until(&mut state, until).timed_out() {}
        let left: Vec<u64> = state.in_flight.keys().copied().collect();
        drop(state);
        self.given_up.notify_one();
        for id in &left {
            self.drop_sent(*id);
        }
        left.is_empty()
    }

    /// Resolves when what was sent is given up.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }

    /// Nobody sends this any more; if it has not ended, whoever waits is told that the gateway closes.
    pub(super) fn drop_sent(&self, id: u64) {
        match self.end(id, None) {
            Some(InFlight::Infer { batch }) => {
                tell_waiters(batch.members.into_iter().map(|member| member.waiter), &Failure::closing());
            }
            // A closed channel is a client that left.
            Some(InFlight::Call(caller)) => drop(caller.send(Err(Failure::closing()))),
            Some(InFlight::Learn(key)) => self.teach(&key, Err(&Failure::closing())),
            None => {}
        }
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Plain counters, over all models.
    pub fn stats(&self) -> QueueStats {
        let in_flight = self.state.lock().in_flight.len() as u64;
        QueueStats { in_flight, ..self.counters.sums() }
    }

    /// What was sent to servers.
    pub fn sent(&self) -> SentCounters {
        self.counters.sent()
    }

    /// What waits for a pool.
    pub fn load(&self, pool: &str) -> PoolLoad {
        self.state.lock().assembler.load(pool)
    }

    /// The shape of a model, learned if nobody knows it. `held_bytes` is what the request holds meanwhile.
    pub(crate) async fn shape(&self, key: &LaneKey, held_bytes: u64) -> Result<Arc<ModelShape>, Failure> {
        let max_bytes = self.bounds_of(&key.pool).max_bytes;
        let found = self.learning.lock().shape(key, held_bytes, max_bytes)?;
        let receiver = match found {
            Shape::Known(shape) => return Ok(shape),
            Shape::Awaited(receiver) => receiver,
        };
        self.unknown.notify_one();
        let _held = Held { queue: self, bytes: held_bytes };
        receiver.await.unwrap_or_else(|_| Err(Failure::closing()))
    }

    /// Forgets a shape that is old enough to be wrong; whether it did.
    pub(super) fn doubt(&self, key: &LaneKey) -> bool {
        let oldest_ns = self.now_ns().saturating_sub(nanos(self.settings.relearn_after));
        self.learning.lock().doubt(key, oldest_ns)
    }

    fn bounds_of(&self, pool: &str) -> Bounds {
        self.pools.read().get(pool).map_or(self.settings.bounds, |pool| pool.bounds)
    }

    /// Refuses what a pool's queue could not hold if it were empty: its parts would wait for each other.
    pub(super) fn can_hold(&self, pool: &str, checked: &Checked) -> Result<(), Failure> {
        Ok(self.bounds_of(pool).hold(checked)?)
    }

    /// Queues a request. The ticket takes it back; the waiter is told its part of a batch's answer.
    pub(super) fn push(&self, key: &LaneKey, request: Request, waiter: Waiter) -> Result<Ticket, Failure> {
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        if state.closed {
            return Err(Failure::closing());
        }
        let ticket = state.push(key, request, waiter, now_ns)?;
        if let Some(at_ns) = state.assembler.wake_at(self.now_ns()) {
            self.wake_sender(&state, at_ns);
        }
        Ok(ticket)
    }

    /// Puts another request in the place of one that waits; `None`: that one has left.
    pub(super) fn replace(&self, key: &LaneKey, ticket: &Ticket, request: Request) -> Option<Ticket> {
        let now_ns = self.now_ns();
        let mut state = self.state.lock();
        let waiter = state.assembler.cancel(ticket)?;
        let ticket = state.push(key, request, waiter, now_ns).ok()?;
        if let Some(at_ns) = state.assembler.wake_at(self.now_ns()) {
            self.wake_sender(&state, at_ns);
        }
        Some(ticket)
    }

    /// Takes a request back, if it has not left.
    pub(super) fn cancel(&self, ticket: &Ticket) {
        let _ = self.state.lock().assembler.cancel(ticket);
    }

    /// Queues a call that is no inference.
    pub(super) fn call(&self, call: PendingCall) -> Result<(), Failure> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Failure::closing());
        }
        state.calls.retain(|call| !call.caller.is_closed());
        let open = state.calls.len() + state.calls_in_flight;
        if open >= self.settings.max_calls {
            return Err(Failure::busy(open));
        }
        state.calls.push_back(call);
        self.wake_sender(&state, 0);
        Ok(())
    }

    /// A model to learn as work.
    fn learn(&self, key: LaneKey) -> Work {
        let request =
            pb::ModelConfigRequest { name: key.model.to_string(), version: key.version.to_string() };
        let mut state = self.state.lock();
        let work = Work {
            id: state.take_id(),
            kind: WorkKind::Learn,
            method: "ModelConfig",
            pool: Arc::clone(&key.pool),
            model: Arc::clone(&key.model),
            version: Arc::clone(&key.version),
            rows: 0,
            padded_tokens: 0,
            requests: 0,
            timeout: self.settings.learn_timeout,
            request: request.encode_to_vec().into(),
        };
        state.in_flight.insert(work.id, InFlight::Learn(key));
        work
    }

    /// The next call, which goes before batches: calls are rare.
    fn take_call(state: &mut State, now_ns: u64) -> Option<Work> {
        while let Some(call) = state.calls.pop_front() {
            if call.caller.is_closed() {
                continue;
            }
            let id = state.take_id();
            state.in_flight.insert(id, InFlight::Call(call.caller));
            state.calls_in_flight += 1;
            return Some(Work {
                id,
                kind: WorkKind::Call,
                method: call.method,
                pool: call.pool,
                model: call.model,
                version: "".into(),
                rows: 0,
                padded_tokens: 0,
                requests: 1,
                timeout: Duration::from_nanos(call.deadline_ns.saturating_sub(now_ns)),
                request: call.request,
            });
        }
        None
    }

    /// The next batch: halves of refused ones, then what the assembler lets go.
    fn take_batch(&self, state: &mut State, now_ns: u64) -> Option<Batch<Waiter>> {
        if let Some(mut half) = state.halves.pop_front() {
            half.left_ns = now_ns;
            return Some(half);
        }
        let batch = state.assembler.next(now_ns)?;
        self.counters.members_leave(&batch);
        Some(batch)
    }

    /// A batch as work. The lock is let go while its message is written.
    fn send_off(&self, state: &mut MutexGuard<'_, State>, batch: Batch<Waiter>, now_ns: u64) -> Work {
        self.counters.leaves(&batch);
        let message = MutexGuard::unlocked(state, || wire::write_batch(&batch));
        let expires = batch.members.iter().map(|member| member.waiter.expires_ns.load(Ordering::Relaxed));
        let expires_ns = expires.max().unwrap_or(now_ns);
        let work = Work {
            id: state.take_id(),
            kind: WorkKind::Infer,
            method: "ModelInfer",
            pool: Arc::clone(&batch.lane.pool),
            model: Arc::clone(&batch.lane.model),
            version: Arc::clone(&batch.lane.version),
            rows: batch.rows,
            padded_tokens: batch.padded_tokens(),
            requests: batch.members.len(),
            timeout: Duration::from_nanos(expires_ns.saturating_sub(now_ns)),
            request: message.into(),
        };
        state.in_flight.insert(work.id, InFlight::Infer { batch });
        work
    }

    /// Sends a refused batch again in halves.
    fn halve(&self, batch: Batch<Waiter>) {
        self.counters.bisected(&batch.lane);
        let (first, second) = batch.halves();
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            let members = first.members.into_iter().chain(second.into_iter().flat_map(|half| half.members));
            return tell_waiters(members.map(|member| member.waiter), &Failure::closing());
        }
        for half in std::iter::once(first).chain(second) {
            state.assembler.again(&half.lane);
            state.halves.push_back(half);
        }
        self.wake_sender(&state, 0);
    }

    /// Removes work that ended and frees its slot at once, before its answer is cut. Latency is learned from what was
    /// answered, at `answered_ns`.
    fn end(&self, id: u64, answered_ns: Option<u64>) -> Option<InFlight> {
        let mut state = self.state.lock();
        let ended = state.in_flight.remove(&id)?;
        if state.in_flight.is_empty() {
            self.idle.notify_all();
        }
        match &ended {
            InFlight::Infer { batch } => {
                state.assembler.ended(&batch.departed(), answered_ns);
                if let Some(at_ns) = state.assembler.wake_at(self.now_ns()) {
                    self.wake_sender(&state, at_ns);
                }
            }
            InFlight::Call(_) => state.calls_in_flight -= 1,
            InFlight::Learn(_) => {}
        }
        Some(ended)
    }

    fn teach(&self, key: &LaneKey, outcome: Result<&Arc<ModelShape>, &Failure>) {
        let learners = self.learning.lock().learners(key);
        for learner in learners {
            // A closed channel is a client that left while the model was learned.
            let _ = learner.send(outcome.map(Arc::clone).map_err(Failure::clone));
        }
    }

    /// Wakes the sender if it would sleep past `at_ns`.
    fn wake_sender(&self, state: &State, at_ns: u64) {
        if at_ns < state.sleeps_until_ns {
            self.wake.notify_one();
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
        self.queue.learning.lock().release(self.bytes);
    }
}

// === impl State ===

impl State {
    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn push(
        &mut self,
        key: &LaneKey,
        request: Request,
        waiter: Waiter,
        now_ns: u64,
    ) -> Result<Ticket, Failure> {
        let Request { checked, tenant, priority, deadline_ns } = request;
        let pending = PendingRequest { checked, tenant, priority, deadline_ns, waiter };
        self.assembler.push(key, pending, now_ns).map_err(|error| {
            let mut failure = Failure::from(error);
            if failure.code == Code::Unavailable {
                failure.retry_after_ns = Some(self.assembler.load(&key.pool).drain_ns);
            }
            failure
        })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
