//! Owns: the queues in front of every model, their bounds, and which requests leave together, first come first served.
//! Must not know: clocks (`now_ns` is an argument), sockets, who waits.
//! On failure: closed; above a bound a request is refused at once and nothing that waits is disturbed.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ahash::AHashMap;

use super::joined::CutBy;
use super::window::{Capacity, Due, QueueView, due};
use super::{Batch, BatchError, Checked, Member};

/// What may wait, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most rows that may wait for one pool, such as 16,384
    pub max_rows: u64,
    /// Most bytes that may wait for one pool, such as 268,435,456
    pub max_bytes: u64,
    /// Longest that a request waits for company while a slot is free, such as 2,000,000
    pub max_delay_ns: u64,
}

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

/// A request that may be queued.
#[derive(Debug)]
pub struct PendingRequest<W> {
    /// Its inputs, proven against the model
    pub checked: Checked,
    /// Past it nobody waits for the answer
    pub deadline_ns: u64,
    /// Who waits
    pub waiter: W,
}

/// Where a queued request stands, for taking it back.
#[derive(Debug, Clone)]
pub struct Ticket {
    lane: LaneKey,
    signature: Arc<[u8]>,
    number: u64,
}

/// Queues by pool, model, version and signature.
#[derive(Debug)]
pub struct Assembler<W> {
    bounds: Bounds,
    lanes: AHashMap<LaneKey, Lane<W>>,
    loads: AHashMap<Arc<str>, Load>,
    next_number: u64,
}

/// What waits for one pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    rows: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Lane<W> {
    capacity: Capacity,
    in_flight: u32,
    queues: AHashMap<Arc<[u8]>, Queue<W>>,
    /// The oldest request of every queue, in the order of arrival
    heads: BTreeMap<u64, Arc<[u8]>>,
    /// Heads of the queues that hold a full batch
    full: BTreeSet<u64>,
}

/// Requests that may share a batch, in the order of arrival.
#[derive(Debug)]
struct Queue<W> {
    requests: VecDeque<Queued<W>>,
    rows: u64,
    /// Rows of a full batch; `None` where requests pass one by one
    max_rows: Option<u64>,
}

#[derive(Debug)]
struct Queued<W> {
    number: u64,
    since_ns: u64,
    request: PendingRequest<W>,
}

// === impl Assembler ===

impl<W> Assembler<W> {
    /// No queues yet.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, lanes: AHashMap::new(), loads: AHashMap::new(), next_number: 0 }
    }

    /// Opens a lane, or changes what an open one may have in flight. What waits stays.
    pub fn open(&mut self, key: LaneKey, capacity: Capacity) {
        match self.lanes.entry(key) {
            Entry::Occupied(mut lane) => lane.get_mut().capacity = capacity,
            Entry::Vacant(slot) => {
                slot.insert(Lane::new(capacity));
            }
        }
    }

    /// Queues a request. Cost: constant, and logarithmic in the lane's queues. A lane that is not open is opened
    /// with one instance, so that no request is lost.
    pub fn push(
        &mut self,
        key: &LaneKey,
        request: PendingRequest<W>,
        now_ns: u64,
    ) -> Result<Ticket, BatchError> {
        let Bounds { max_rows, max_bytes, .. } = self.bounds;
        let (rows, bytes) = (request.checked.rows, request.checked.bytes);
        if bytes > max_bytes {
            return Err(BatchError::LargerThanQueue { bytes, max_bytes });
        }
        let load = self.loads.entry(Arc::clone(&key.pool)).or_default();
        if load.rows + rows > max_rows || load.bytes + bytes > max_bytes {
            let (pool, rows, bytes) = (Arc::clone(&key.pool), load.rows, load.bytes);
            return Err(BatchError::QueueFull { pool, rows, max_rows, bytes, max_bytes });
        }
        load.rows += rows;
        load.bytes += bytes;
        let number = self.next_number;
        self.next_number += 1;
        let signature = Arc::clone(&request.checked.signature);
        let lane =
            self.lanes.entry(key.clone()).or_insert_with(|| Lane::new(Capacity { instances: 1, slots: 1 }));
        lane.push(Queued { number, since_ns: now_ns, request });
        Ok(Ticket { lane: key.clone(), signature, number })
    }

    /// The oldest batch that may leave now. Its lane counts it as in flight until [`Assembler::done`].
    #[allow(clippy::should_implement_trait)] // an iterator has no `now`
    pub fn next(&mut self, now_ns: u64) -> Option<Batch<W>> {
        let max_delay_ns = self.bounds.max_delay_ns;
        let (_, key) = self
            .lanes
            .iter()
            .filter_map(|(key, lane)| Some((lane.ready(max_delay_ns, now_ns)?, key)))
            .min_by_key(|(number, _)| *number)?;
        let key = key.clone();
        let lane = self.lanes.get_mut(&key)?;
        let head = lane.ready(max_delay_ns, now_ns)?;
        let (taken, max_rows) = lane.take(head)?;
        lane.in_flight += 1;
        let mut batch = Batch {
            lane: key,
            options: taken.first().map(|queued| queued.request.checked.options.clone()).unwrap_or_default(),
            members: Vec::with_capacity(taken.len()),
            rows: 0,
            deadline_ns: 0,
            cut_by_rows: if max_rows.is_some() { CutBy::Rows } else { CutBy::Nothing },
        };
        for Queued {
            since_ns: queued_ns, request: PendingRequest { checked, deadline_ns, waiter }, ..
        } in taken
        {
            self.unload(&batch.lane.pool, checked.rows, checked.bytes);
            batch.rows += checked.rows;
            batch.deadline_ns = batch.deadline_ns.max(deadline_ns);
            batch.members.push(Member { inputs: checked.inputs, rows: checked.rows, queued_ns, waiter });
        }
        Some(batch)
    }

    /// When [`Assembler::next`] may have something without another push or completion; 0 is at once.
    pub fn wake_at(&self) -> Option<u64> {
        let max_delay_ns = self.bounds.max_delay_ns;
        let at = |due: Due| match due {
            Due::At(at_ns) => Some(at_ns),
            Due::Now => Some(0),
            Due::OnCompletion => None,
        };
        let dues = self
            .lanes
            .values()
            .flat_map(|lane| lane.candidates().filter_map(move |head| lane.due_at(head, max_delay_ns, 0)));
        dues.filter_map(at).min()
    }

    /// A batch of the lane ended, however it ended.
    pub fn done(&mut self, key: &LaneKey) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.in_flight = lane.in_flight.saturating_sub(1);
        }
    }

    /// Takes a request back, if it has not left. The waiter comes back with it.
    pub fn cancel(&mut self, ticket: &Ticket) -> Option<W> {
        let queued = self.lanes.get_mut(&ticket.lane)?.remove(ticket)?;
        let checked = &queued.request.checked;
        self.unload(&ticket.lane.pool, checked.rows, checked.bytes);
        Some(queued.request.waiter)
    }

    /// Takes everything that waits, in no order: for a shutdown.
    pub fn drain(&mut self) -> Vec<W> {
        self.loads.clear();
        let mut waiters = Vec::new();
        for lane in self.lanes.values_mut() {
            lane.heads.clear();
            lane.full.clear();
            let queues = lane.queues.drain();
            waiters.extend(queues.flat_map(|(_, queue)| queue.requests).map(|queued| queued.request.waiter));
        }
        waiters
    }

    /// Rows and bytes that wait for a pool.
    pub fn waiting(&self, pool: &str) -> (u64, u64) {
        self.loads.get(pool).map_or((0, 0), |load| (load.rows, load.bytes))
    }

    fn unload(&mut self, pool: &str, rows: u64, bytes: u64) {
        if let Some(load) = self.loads.get_mut(pool) {
            load.rows = load.rows.saturating_sub(rows);
            load.bytes = load.bytes.saturating_sub(bytes);
        }
    }
}

// === impl Lane ===

impl<W> Lane<W> {
    fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            in_flight: 0,
            queues: AHashMap::new(),
            heads: BTreeMap::new(),
            full: BTreeSet::new(),
        }
    }

    fn push(&mut self, queued: Queued<W>) {
        let checked = &queued.request.checked;
        let signature = Arc::clone(&checked.signature);
        let queue = self.queues.entry(Arc::clone(&signature)).or_insert_with(|| Queue {
            requests: VecDeque::new(),
            rows: 0,
            max_rows: checked.max_rows,
        });
        queue.max_rows = checked.max_rows; // the latest shape that was learned holds
        queue.rows += checked.rows;
        queue.requests.push_back(queued);
        self.mark(&signature);
    }

    /// Brings `heads` and `full` up to date with one queue, and forgets the queue if it is empty.
    fn mark(&mut self, signature: &Arc<[u8]>) {
        let Some(queue) = self.queues.get(signature) else { return };
        let Some(head) = queue.requests.front() else {
            self.queues.remove(signature);
            return;
        };
        self.heads.insert(head.number, Arc::clone(signature));
        if queue.is_full() {
            self.full.insert(head.number);
        } else {
            self.full.remove(&head.number);
        }
    }

    /// Heads that may leave before all others: the oldest, and the oldest of a full batch.
    fn candidates(&self) -> impl Iterator<Item = u64> {
        let oldest = self.heads.first_key_value().map(|(&number, _)| number);
        [oldest, self.full.first().copied()].into_iter().flatten()
    }

    /// The head of the oldest queue that may leave now.
    fn ready(&self, max_delay_ns: u64, now_ns: u64) -> Option<u64> {
        self.candidates().find(|&head| self.due_at(head, max_delay_ns, now_ns) == Some(Due::Now))
    }

    fn due_at(&self, head: u64, max_delay_ns: u64, now_ns: u64) -> Option<Due> {
        let queue = self.queues.get(self.heads.get(&head)?)?;
        let view = QueueView {
            oldest_ns: queue.requests.front()?.since_ns,
            rows: queue.rows,
            max_rows: queue.max_rows.unwrap_or(1),
            in_flight: self.in_flight,
            capacity: self.capacity,
        };
        Some(due(view, max_delay_ns, now_ns))
    }

    /// Takes the requests of one batch from the queue with this head.
    #[allow(clippy::type_complexity)] // the queue's bound travels with what was taken
    fn take(&mut self, head: u64) -> Option<(Vec<Queued<W>>, Option<u64>)> {
        let signature = self.heads.remove(&head)?;
        self.full.remove(&head);
        let queue = self.queues.get_mut(&signature)?;
        let taken = queue.take();
        let max_rows = queue.max_rows;
        self.mark(&signature);
        Some((taken, max_rows))
    }

    fn remove(&mut self, ticket: &Ticket) -> Option<Queued<W>> {
        let queue = self.queues.get_mut(&ticket.signature)?;
        let at = queue.requests.binary_search_by_key(&ticket.number, |queued| queued.number).ok()?;
        let queued = queue.requests.remove(at)?;
        queue.rows -= queued.request.checked.rows;
        if at == 0 {
            self.heads.remove(&ticket.number);
            self.full.remove(&ticket.number);
        }
        self.mark(&ticket.signature);
        Some(queued)
    }
}

// === impl Queue ===

impl<W> Queue<W> {
    fn is_full(&self) -> bool {
        self.rows >= self.max_rows.unwrap_or(1)
    }

    /// As many requests from the front as fit one batch; always at least one.
    fn take(&mut self) -> Vec<Queued<W>> {
        let (mut rows, mut count) = (0, 0);
        for queued in &self.requests {
            let with = rows + queued.request.checked.rows;
            if count > 0 && self.max_rows.is_none_or(|max_rows| with > max_rows) {
                break;
            }
            (rows, count) = (with, count + 1);
        }
        self.rows -= rows;
        self.requests.drain(..count).collect()
    }
}
