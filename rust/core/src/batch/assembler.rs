//! Owns: the queues in front of every model: their bounds, and which lane sends next.
//! Must not know: clocks (`now_ns` is an argument), sockets, who waits; which requests of a lane leave together is the
//! lane's own affair.
//! On failure: closed; above a bound a request is refused at once and nothing that waits is disturbed.

use std::collections::BTreeSet;
use std::sync::Arc;

use ahash::AHashMap;

use super::joined::CutBy;
use super::lane_queue::{LaneQueue, Queued, Taken};
use super::pool::Pool;
use super::{
    Batch, BatchError, Bounds, Capacity, Checked, Departed, LaneKey, LaneSettings, LaneView, Member,
    PoolLoad, Priority,
};

/// A request that may be queued.
#[derive(Debug)]
pub struct PendingRequest<W> {
    /// Its inputs, proven against the model
    pub checked: Checked,
    /// Who shares the lane by weight with others that wait
    pub tenant: Tenant,
    /// In which class it waits
    pub priority: Priority,
    /// Past it nobody waits for the answer
    pub deadline_ns: u64,
    /// Who waits
    pub waiter: W,
}

/// On whose account a request waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its name
    pub name: Arc<str>,
    /// Its share beside others, at least 1
    pub weight: u32,
}

/// Where a queued request stands, for taking it back.
#[derive(Debug, Clone)]
pub struct Ticket {
    lane: usize,
    number: u64,
}

/// Queues by pool, model and version.
#[derive(Debug)]
pub struct Assembler<W> {
    bounds: Bounds,
    pool_bounds: AHashMap<Arc<str>, Bounds>,
    keys: AHashMap<LaneKey, usize>,
    lanes: Vec<Lane<W>>,
    /// Lanes that may send without anything else happening, by when: 0 is at once
    dues: BTreeSet<(u64, usize)>,
    pools: AHashMap<Arc<str>, Pool>,
    next_number: u64,
}

#[derive(Debug)]
struct Lane<W> {
    key: LaneKey,
    queue: LaneQueue<W>,
    /// As it stands in `dues`
    due_ns: Option<u64>,
}

// === impl Assembler ===

impl<W> Assembler<W> {
    /// No queues yet. `bounds` hold for pools without bounds of their own.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            pool_bounds: AHashMap::new(),
            keys: AHashMap::new(),
            lanes: Vec::new(),
            dues: BTreeSet::new(),
            pools: AHashMap::new(),
            next_number: 0,
        }
    }

    /// Gives a pool bounds of its own. What waits stays.
    pub fn bound(&mut self, pool: Arc<str>, bounds: Bounds) {
        self.pool_bounds.insert(pool, bounds);
    }

    /// Opens a lane, or changes how an open one makes its batches. What waits stays.
    pub fn open(&mut self, key: LaneKey, settings: &LaneSettings) {
        let at = match self.keys.get(&key) {
            Some(&at) => at,
            None => self.add(key, settings),
        };
        self.lanes[at].queue.set(settings);
        self.mark(at);
    }

    /// Queues a request. Cost: logarithmic in what waits. A lane that is not open is opened with one instance, so that
    /// no request is lost.
    pub fn push(
        &mut self,
        key: &LaneKey,
        request: PendingRequest<W>,
        now_ns: u64,
    ) -> Result<Ticket, BatchError> {
        let bounds = *self.pool_bounds.get(&key.pool).unwrap_or(&self.bounds);
        let pool = match self.pools.get_mut(&key.pool) {
            Some(pool) => pool,
            None => self.pools.entry(Arc::clone(&key.pool)).or_default(),
        };
        pool.add(&key.pool, &request.checked, &request.tenant, bounds, request.priority)?;
        let number = self.next_number;
        self.next_number += 1;
        let at = match self.keys.get(key) {
            Some(&at) => at,
            None => self.add(key.clone(), &LaneSettings::of(Capacity { instances: 1, slots: 1 })),
        };
        self.lanes[at].queue.push(number, request, now_ns);
        self.mark(at);
        Ok(Ticket { lane: at, number })
    }

    /// The most urgent batch that may leave now. Its lane counts it as in flight until [`Assembler::ended`].
    /// Cost: the requests in it, the square of the lane's classes, and the lanes that may send.
    #[allow(clippy::should_implement_trait)] // an iterator has no `now`
    pub fn next(&mut self, now_ns: u64) -> Option<Batch<W>> {
        let due = self.dues.range(..=(now_ns, usize::MAX)).map(|&(_, at)| at);
        let at = due.min_by_key(|&at| self.lanes[at].queue.urgency())?;
        let taken = self.lanes[at].queue.take(now_ns)?;
        self.mark(at);
        let key = self.lanes[at].key.clone();
        if let Some(pool) = self.pools.get_mut(&key.pool) {
            for queued in &taken.requests {
                pool.take(&queued.request.checked, &queued.request.tenant.name);
            }
        }
        Some(batch(key, taken, now_ns))
    }

    /// When [`Assembler::next`] has something without another push or completion; 0 is at once. Cost: constant.
    pub fn wake_at(&self, _now_ns: u64) -> Option<u64> {
        self.dues.first().map(|&(due_ns, _)| due_ns)
    }

    /// A batch ended. Latency is learned from what was answered; `done_ns` is `None` for what failed.
    pub fn ended(&mut self, departed: &Departed, done_ns: Option<u64>) {
        if let Some(&at) = self.keys.get(&departed.lane) {
            self.lanes[at].queue.ended(departed, done_ns);
            self.mark(at);
        }
    }

    /// A batch that left before leaves again, whole or in part: one more is in flight.
    pub fn again(&mut self, key: &LaneKey) {
        if let Some(&at) = self.keys.get(key) {
            self.lanes[at].queue.again();
            self.mark(at);
        }
    }

    /// Takes a request back, if it has not left. The waiter comes back with it. Cost: logarithmic in what waits.
    pub fn cancel(&mut self, ticket: &Ticket) -> Option<W> {
        let lane = self.lanes.get_mut(ticket.lane)?;
        let queued = lane.queue.remove(ticket.number)?;
        if let Some(pool) = self.pools.get_mut(&lane.key.pool) {
            pool.take(&queued.request.checked, &queued.request.tenant.name);
        }
        self.mark(ticket.lane);
        Some(queued.request.waiter)
    }

    /// Takes everything that waits, in no order: for a shutdown.
    pub fn drain(&mut self) -> Vec<W> {
        self.pools.clear();
        let mut waiters = Vec::new();
        for at in 0..self.lanes.len() {
            waiters.extend(self.lanes[at].queue.drain().map(|queued| queued.request.waiter));
            self.mark(at);
        }
        waiters
    }

    /// What waits for a pool. Cost: the lanes.
    pub fn load(&self, pool: &str) -> PoolLoad {
        let mut load = self.pools.get(pool).map(Pool::load).unwrap_or_default();
        for lane in self.lanes.iter().filter(|lane| *lane.key.pool == *pool) {
            let older = lane.queue.oldest_ns().into_iter().chain(load.oldest_ns).min();
            (load.oldest_ns, load.drain_ns) = (older, load.drain_ns.max(lane.queue.drain_ns()));
        }
        load
    }

    /// Every lane as it stands.
    pub fn lanes(&self) -> impl Iterator<Item = LaneView<'_>> {
        self.lanes.iter().map(|lane| lane.queue.view(&lane.key))
    }

    fn add(&mut self, key: LaneKey, settings: &LaneSettings) -> usize {
        let at = self.lanes.len();
        self.keys.insert(key.clone(), at);
        self.lanes.push(Lane { key, queue: LaneQueue::new(settings), due_ns: None });
        at
    }

    /// Brings `dues` up to date with a lane.
    fn mark(&mut self, at: usize) {
        let lane = &mut self.lanes[at];
        let due_ns = lane.queue.due_ns();
        if due_ns == lane.due_ns {
            return;
        }
        if let Some(before_ns) = lane.due_ns {
            self.dues.remove(&(before_ns, at));
        }
        if let Some(due_ns) = due_ns {
            self.dues.insert((due_ns, at));
        }
        lane.due_ns = due_ns;
    }
}

fn batch<W>(lane: LaneKey, taken: Taken<W>, left_ns: u64) -> Batch<W> {
    let head = taken.requests.first().map(|queued| &queued.request.checked);
    let by_rows = head.is_some_and(|checked| checked.max_rows.is_some());
    let mut batch = Batch {
        lane,
        options: head.map(|checked| checked.options.clone()).unwrap_or_default(),
        ragged_outputs: head.map(|checked| checked.ragged_outputs.clone()).unwrap_or_default(),
        members: Vec::with_capacity(taken.requests.len()),
        rows: 0,
        length: taken.length,
        tokens: 0,
        left_ns,
        deadline_ns: 0,
        cut_by_rows: if by_rows { CutBy::Rows } else { CutBy::Nothing },
    };
    for Queued { since_ns: queued_ns, request, .. } in taken.requests {
        let PendingRequest { checked, tenant, priority, deadline_ns, waiter } = request;
        batch.rows += checked.rows;
        batch.tokens += checked.tokens();
        batch.deadline_ns = batch.deadline_ns.max(deadline_ns);
        batch.members.push(Member {
            inputs: checked.inputs,
            rows: checked.rows,
            length: checked.length,
            tenant: tenant.name,
            priority,
            queued_ns,
            waiter,
        });
    }
    batch
}
