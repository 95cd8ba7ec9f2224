//! Owns: the assembler as a policy, and those that it is held against.
//! Must not know: time beyond what it is told.
//! On failure: not applicable.

use super::*;

/// Which requests leave together, and when.
pub(super) trait Policy {
    fn push(&mut self, request: Request, now_ns: u64);
    fn next(&mut self, now_ns: u64) -> Option<Sent>;
    fn ended(&mut self, sent: &Sent, now_ns: u64);
    fn wake_at(&self, now_ns: u64) -> Option<u64>;
}

/// The assembler itself. It is told nothing of what a batch costs.
pub(super) struct Ours {
    assembler: Assembler<Request>,
    shape: ModelShape,
    key: LaneKey,
}

/// The oldest requests, padded to the longest of them, as soon as an instance is idle.
pub(super) struct Fifo {
    pub instances: usize,
    pub waiting: Vec<Request>,
    pub running: usize,
}

/// Knows every length and cost: everything that waits is parted so that it costs least, and the part with the oldest
/// request goes as soon as an instance is idle.
pub(super) struct Clairvoyant {
    pub instances: usize,
    pub waiting: Vec<Request>,
    pub running: usize,
}

// === impl Ours ===

impl Ours {
    pub(super) fn new(server: Server) -> Self {
        let capacity = Capacity { instances: server.instances, slots: server.slots };
        Self::with(&LaneSettings::of(capacity))
    }

    pub(super) fn with(settings: &LaneSettings) -> Self {
        let ids = TensorSpec {
            name: "ids".into(),
            datatype: Datatype::Uint8,
            dims: vec![-1],
            presence: Presence::Required,
            ragged: Some(Ragged { dim: 0, pad: Bytes::from_static(&[0]) }),
        };
        let batching = Batching::Rows { max_rows: MAX_ROWS };
        let shape = ModelShape { inputs: vec![ids], outputs: Vec::new(), mask: None, batching };
        let key = LaneKey { pool: "pool".into(), model: "cost".into(), version: "".into() };
        let bounds = Bounds { max_rows: u64::MAX, max_tokens: u64::MAX, max_bytes: u64::MAX };
        let mut assembler = Assembler::new(bounds);
        assembler.open(key.clone(), settings);
        Self { assembler, shape, key }
    }
}

impl Policy for Ours {
    fn push(&mut self, request: Request, now_ns: u64) {
        let data = Bytes::from(vec![1; request.length as usize]);
        let ids = Tensor::new("ids".into(), Datatype::Uint8, &[1, request.length as i64], data).unwrap();
        let checked = self.shape.check(vec![ids], [], Bytes::new()).unwrap();
        let tenant = Tenant { name: request.tenant.into(), weight: request.weight };
        let (priority, deadline_ns) = (request.priority, now_ns + 60_000 * MS);
        let pending = PendingRequest { checked, tenant, priority, deadline_ns, waiter: request };
        self.assembler.push(&self.key, pending, now_ns).unwrap();
    }

    fn next(&mut self, now_ns: u64) -> Option<Sent> {
        let batch = self.assembler.next(now_ns)?;
        let (length, departed) = (batch.length, batch.departed());
        assert!(batch.rows <= MAX_ROWS);
        let requests = batch.members.into_iter().map(|member| member.waiter).collect();
        Some(Sent { requests, length, departed })
    }

    fn ended(&mut self, sent: &Sent, now_ns: u64) {
        self.assembler.ended(&sent.departed, Some(now_ns));
    }

    fn wake_at(&self, now_ns: u64) -> Option<u64> {
        self.assembler.wake_at(now_ns)
    }
}

fn sent(requests: Vec<Request>, left_ns: u64) -> Sent {
    let length = requests.iter().map(|request| request.length).max().unwrap_or(1);
    let rows = requests.len() as u64;
    let lane = LaneKey { pool: "".into(), model: "".into(), version: "".into() };
    Sent { requests, length, departed: Departed { lane, rows, padded_tokens: rows * length, left_ns } }
}

// === impl Fifo ===

impl Policy for Fifo {
    fn push(&mut self, request: Request, _: u64) {
        self.waiting.push(request);
    }

    fn next(&mut self, now_ns: u64) -> Option<Sent> {
        if self.waiting.is_empty() || self.running >= self.instances {
            return None;
        }
        self.running += 1;
        let count = self.waiting.len().min(MAX_ROWS as usize);
        Some(sent(self.waiting.drain(..count).collect(), now_ns))
    }

    fn ended(&mut self, _: &Sent, _: u64) {
        self.running -= 1;
    }

    fn wake_at(&self, _: u64) -> Option<u64> {
        None
    }
}

// === impl Clairvoyant ===

impl Policy for Clairvoyant {
    fn push(&mut self, request: Request, _: u64) {
        self.waiting.push(request);
    }

    fn next(&mut self, now_ns: u64) -> Option<Sent> {
        if self.waiting.is_empty() || self.running >= self.instances {
            return None;
        }
        self.running += 1;
        let head = self.waiting[0].id;
        self.waiting.sort_by_key(|request| (request.length, request.id));
        let lengths: Vec<u64> = self.waiting.iter().map(|request| request.length).collect();
        let mut best = vec![(0_u64, 0_usize)];
        for end in 1..=lengths.len() {
            let from = end.saturating_sub(MAX_ROWS as usize);
            let of = |from: usize| best[from].0 + cost_ns((end - from) as u64 * lengths[end - 1]);
            best.push((from..end).map(|from| (of(from), from)).min().unwrap());
        }
        let at = self.waiting.iter().position(|request| request.id == head).unwrap();
        let mut end = lengths.len();
        while best[end].1 > at {
            end = best[end].1;
        }
        let taken: Vec<Request> = self.waiting.drain(best[end].1..end).collect();
        self.waiting.sort_by_key(|request| request.id);
        Some(sent(taken, now_ns))
    }

    fn ended(&mut self, _: &Sent, _: u64) {
        self.running -= 1;
    }

    fn wake_at(&self, _: u64) -> Option<u64> {
        None
    }
}
