//! Owns: everything that waits for one lane, what it has in flight, and which requests leave it together.
//! Must not know: pools and their bounds, other lanes, who waits.
//! On failure: not applicable; a request that was queued leaves, or is taken back.
//!
//! Which priority: the most urgent that waits, except that one which was passed over by `MAX_PASSED` batches of more
//! urgent ones leads the next: so each gets at least one batch in `MAX_PASSED + 2`. Which request of it leads, see
//! [`FairQueue`]. Which lengths go with it, see [`together`]. A less urgent request fills what is left only while it
//! makes the batch neither longer nor slower than `FILL_GROWTH`.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use ahash::AHashMap;

use super::bill::{Bill, Limits};
use super::classes::Classes;
use super::compose::together;
use super::fair::{FairQueue, Place};
use super::fit::Fit;
use super::group::{Group, Spot};
use super::running::Running;
use super::window::{Due, LaneState, due, lead_ns};
use super::{Departed, LaneKey, LaneSettings, LaneView, PendingRequest, Waiting};

/// Batches of more urgent requests that a priority lets pass before it leads one.
const MAX_PASSED: u32 = 16;
/// How much slower a batch may become by less urgent requests that fill it.
const FILL_GROWTH: f64 = 1.25;
/// How much of a batch's fixed cost is left out when lengths are parted: what stays behind will be joined by what still
/// comes, so that another batch costs less than it seems. Found by the simulation beside this file.
const FIXED_SAVED: f64 = 0.5;
/// How much the last batch counts in what is usual.
const USUAL_WEIGHT: f64 = 0.1;

/// A lane.
#[derive(Debug)]
pub(super) struct LaneQueue<W> {
    settings: LaneSettings,
    requests: AHashMap<u64, Queued<W>>,
    arrivals: BTreeSet<u64>,
    groups: AHashMap<Arc<[u8]>, Group>,
    levels: [FairQueue; 3],
    waiting: [Waiting; 3],
    passed: [u32; 3],
    classes: Classes,
    fit: Fit,
    running: Running,
    usual: Usual,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Queued<W> {
    pub since_ns: u64,
    pub request: PendingRequest<W>,
    spot: Spot,
}

/// Requests that leave together, and the length that they are padded to.
pub(super) struct Taken<W> {
    pub requests: Vec<Queued<W>>,
    pub length: u64,
}

/// What batches of the lane usually are.
#[derive(Debug, Default)]
struct Usual {
    rows: f64,
    /// Padded tokens for one that is not padding
    padding: f64,
    batch_ns: f64,
}

// === impl LaneQueue ===

impl<W> LaneQueue<W> {
    pub(super) fn new(settings: &LaneSettings) -> Self {
        Self {
            settings: settings.clone(),
            requests: AHashMap::new(),
            arrivals: BTreeSet::new(),
            groups: AHashMap::new(),
            levels: Default::default(),
            waiting: Default::default(),
            passed: [0; 3],
            classes: Classes::new(settings.classes.clone()),
            fit: Fit::new(),
            running: Running::default(),
            usual: Usual::default(),
        }
    }

    /// Changes how batches are made. What waits stays. Cost: linear in what waits, if the classes changed.
    pub(super) fn set(&mut self, settings: &LaneSettings) {
        self.settings = settings.clone();
        if self.classes.choose(&settings.classes) {
            self.groups.clear();
            for queued in self.requests.values_mut() {
                queued.spot.rung = self.classes.rung(queued.spot.length);
                let group = self.groups.entry(Arc::clone(&queued.request.checked.signature)).or_default();
                let served = self.levels[queued.spot.level].served(&queued.spot.tenant);
                group.add(&queued.spot, served);
            }
        }
    }

    /// Queues a request. Cost: logarithmic in what waits.
    pub(super) fn push(&mut self, number: u64, request: PendingRequest<W>, now_ns: u64) {
        let checked = &request.checked;
        let level = request.priority as usize;
        self.classes.saw(checked.length);
        let spot = Spot {
            level,
            rung: self.classes.rung(checked.length),
            tenant: Arc::clone(&request.tenant.name),
            place: Place::new(request.deadline_ns, now_ns, number),
            rows: checked.rows,
            length: checked.length,
        };
        let fair = &mut self.levels[level];
        fair.push(&spot.tenant, request.tenant.weight, spot.place);
        let group = self.groups.entry(Arc::clone(&checked.signature)).or_default();
        group.add(&spot, fair.served(&spot.tenant));
        let waiting = &mut self.waiting[level];
        waiting.requests += 1;
        waiting.rows += checked.rows;
        waiting.tokens += checked.tokens();
        self.arrivals.insert(number);
        self.requests.insert(number, Queued { since_ns: now_ns, request, spot });
    }

    /// Takes one request back.
    pub(super) fn remove(&mut self, number: u64) -> Option<Queued<W>> {
        let signature = Arc::clone(&self.requests.get(&number)?.request.checked.signature);
        let mut group = self.groups.remove(&signature)?;
        let queued = self.lift(number, &mut group);
        if !group.is_empty() {
            self.groups.insert(signature, group);
        }
        queued
    }

    /// Takes everything, in no order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Queued<W>> {
        self.arrivals.clear();
        self.groups.clear();
        self.levels = Default::default();
        self.waiting = Default::default();
        self.requests.drain().map(|(_, queued)| queued)
    }

    /// When a batch may leave: 0 is at once, `None` not before something else happens.
    pub(super) fn due_ns(&self) -> Option<u64> {
        if self.requests.is_empty() {
            return None;
        }
        let predicted = |tokens, length, from_idle| self.fit.predicted_ns(tokens, length, from_idle);
        let lane = LaneState {
            in_flight: self.running.count(),
            capacity: self.settings.capacity,
            idle_at_ns: self.running.next_idle_ns(predicted),
            lead_ns: self.lead_ns(),
        };
        match due(lane) {
            Due::Now => Some(0),
            Due::At(at_ns) => Some(at_ns),
            Due::OnCompletion => None,
        }
    }

    /// Which goes first when several lanes may send: the most urgent, then the oldest.
    pub(super) fn urgency(&self) -> (usize, u64) {
        let oldest = self.arrivals.first().copied().unwrap_or(u64::MAX);
        (self.leader().unwrap_or(self.levels.len()), oldest)
    }

    /// Takes the next batch, whether or not it is due. Cost: the requests taken, and the square of the classes.
    pub(super) fn take(&mut self, now_ns: u64) -> Option<Taken<W>> {
        let level = self.leader()?;
        let number = self.levels[level].head(self.late(now_ns))?.number;
        let head = &self.requests.get(&number)?.request.checked;
        let signature = Arc::clone(&head.signature);
        let max_tokens = self.settings.max_padded_tokens;
        let mut limits = Limits {
            rows: head.max_rows.unwrap_or(1),
            padded_tokens: if max_tokens == 0 { u64::MAX } else { max_tokens },
        };
        let mut bill = Bill::of(head, &self.classes);
        let mut group = self.groups.remove(&signature)?;
        let rungs = self.rungs(&group, level, self.requests.get(&number)?.spot.rung, &limits);
        let rows: u64 = (0..=level).map(|level| group.rows(level, &rungs)).sum();
        limits.rows = self.preferred(rows, limits.rows_of(bill.length)).unwrap_or(limits.rows);

        self.turn(level);
        let mut requests: Vec<Queued<W>> = self.serve(number, &mut group).into_iter().collect();
        for level in 0..=level {
            self.fill(&mut group, level, &rungs, &limits, &mut bill, &mut requests);
        }
        if level + 1 < self.levels.len() && bill.rows < limits.rows {
            let most = self.fit.cost_ns(bill.rows * bill.length, bill.length) * FILL_GROWTH;
            let line = self.fit.cost_ns(0, bill.length);
            let token = (self.fit.cost_ns(1024, bill.length) - line) / 1024.0;
            limits.padded_tokens = limits.padded_tokens.min(((most - line) / token.max(1e-9)) as u64);
            let not_longer = 0..=bill.length;
            for level in level + 1..self.levels.len() {
                self.fill(&mut group, level, &not_longer, &limits, &mut bill, &mut requests);
            }
        }
        if !group.is_empty() {
            self.groups.insert(signature, group);
        }
        self.settle(&requests, &bill, now_ns);
        Some(Taken { requests, length: bill.length })
    }

    /// A batch ended.
    pub(super) fn ended(&mut self, departed: &Departed, done_ns: Option<u64>) {
        if let Some(sample) = self.running.ended(departed, done_ns, self.fit.way_ns()) {
            self.fit.learn(sample);
        }
        if done_ns.is_some() {
            self.classes.answered(departed.padded_tokens / departed.rows.max(1));
        }
    }

    /// A batch leaves once more.
    pub(super) fn again(&mut self) {
        self.running.again();
    }

    /// When the oldest that waits came.
    pub(super) fn oldest_ns(&self) -> Option<u64> {
        self.requests.get(self.arrivals.first()?).map(|queued| queued.since_ns)
    }

    /// How long until all that waits would have run; 0: unknown.
    pub(super) fn drain_ns(&self) -> u64 {
        let rows: u64 = self.waiting.iter().map(|waiting| waiting.rows).sum();
        let tokens: u64 = self.waiting.iter().map(|waiting| waiting.tokens).sum();
        let Some(fixed_ns) = self.fit.predicted_ns(0, 1, false).filter(|_| rows > 0) else { return 0 };
        // A long queue makes fuller batches than the usual ones.
        let oldest = self.arrivals.first().and_then(|number| self.requests.get(number));
        let full = oldest.and_then(|queued| queued.request.checked.max_rows).unwrap_or(1);
        let batch_rows = self.usual.rows.max(rows.min(full) as f64 / 4.0).max(1.0);
        let padded = (tokens as f64 * self.usual.padding.max(1.0)) as u64;
        let run_ns =
            self.fit.cost_ns(padded, 1) + fixed_ns as f64 * (rows as f64 / batch_rows - 1.0).max(0.0);
        let before_ns = if self.running.count() > 0 { self.usual.batch_ns / 2.0 } else { 0.0 };
        (run_ns / f64::from(self.settings.capacity.instances.max(1)) + before_ns) as u64
    }

    pub(super) fn view<'a>(&'a self, key: &'a LaneKey) -> LaneView<'a> {
        LaneView {
            key,
            waiting: self.waiting,
            oldest_ns: self.oldest_ns(),
            in_flight: self.running.count(),
            capacity: self.settings.capacity,
            fit: self.fit.view(),
            classes: self.classes.bounds().to_vec(),
            lead_ns: self.lead_ns(),
        }
    }

    fn lead_ns(&self) -> u64 {
        lead_ns(self.fit.way_ns(), self.fit.error_ns(), self.usual.batch_ns as u64)
    }

    /// The priority whose request leads the next batch.
    fn leader(&self) -> Option<usize> {
        let waits = |&level: &usize| !self.levels[level].is_empty();
        let first = (0..self.levels.len()).find(waits)?;
        let passed =
            (first + 1..self.levels.len()).filter(waits).filter(|&level| self.passed[level] >= MAX_PASSED);
        Some(passed.max_by_key(|&level| self.passed[level]).unwrap_or(first))
    }

    /// One of this priority leads a batch.
    fn turn(&mut self, level: usize) {
        self.passed[level] = 0;
        for behind in level + 1..self.levels.len() {
            let waits = !self.levels[behind].is_empty();
            self.passed[behind] = if waits { self.passed[behind] + 1 } else { 0 };
        }
    }

    /// Due times of requests that are in time if they leave now, and late if another batch goes first.
    fn late(&self, now_ns: u64) -> std::ops::Range<u64> {
        let Some(least_ns) = self.fit.predicted_ns(0, 1, false) else { return 0..0 };
        let from = now_ns.saturating_add(least_ns);
        from..from.saturating_add(self.usual.batch_ns as u64)
    }

    /// The rungs that go with the head's.
    fn rungs(&self, group: &Group, level: usize, head: u64, limits: &Limits) -> RangeInclusive<u64> {
        let (steps, spans) = group.steps(level, |length| self.classes.padded(length));
        let Some(at) = spans.iter().position(|span| span.contains(&head)) else { return head..=head };
        let cost = |rows: u64, length: u64| {
            let whole = self.fit.cost_ns(rows.saturating_mul(length), length);
            whole - FIXED_SAVED * self.fit.cost_ns(0, length)
        };
        let run = together(&steps, at, cost, |length| limits.rows_of(length));
        *spans[*run.start()].start()..=*spans[*run.end()].end()
    }

    /// The largest preferred number of rows that is there and fits.
    fn preferred(&self, rows: u64, most: u64) -> Option<u64> {
        let there = rows.min(most);
        self.settings.preferred_rows.iter().rev().copied().find(|&preferred| preferred <= there)
    }

    /// Adds requests of some rungs in their turn. One that does not fit closes its rung, so that no later one of its
    /// tenant goes before it.
    fn fill(
        &mut self,
        group: &mut Group,
        level: usize,
        rungs: &RangeInclusive<u64>,
        limits: &Limits,
        bill: &mut Bill,
        taken: &mut Vec<Queued<W>>,
    ) {
        let turns = group.turns(level, rungs, &self.levels[level]);
        let mut turns: BinaryHeap<_> = turns.into_iter().map(Reverse).collect();
        while let Some(Reverse(turn)) = turns.pop() {
            let rung = turn.2;
            let now = group.turn(level, rung, &self.levels[level]);
            if now.as_ref() != Some(&turn) {
                turns.extend(now.map(Reverse)); // its tenant was served since
                continue;
            }
            let number = turn.1.number;
            let Some(queued) = self.requests.get(&number) else { continue };
            if bill.rows >= limits.rows {
                break;
            }
            if bill.add(&queued.request.checked, &self.classes, limits) {
                taken.extend(self.serve(number, group));
                turns.extend(group.turn(level, rung, &self.levels[level]).map(Reverse));
            }
        }
    }

    /// Takes a request that leaves, and counts what it is without padding as service.
    fn serve(&mut self, number: u64, group: &mut Group) -> Option<Queued<W>> {
        let Queued { request, spot, .. } = self.requests.get(&number)?;
        self.levels[spot.level].charge(&spot.tenant, request.checked.tokens());
        self.lift(number, group)
    }

    /// Takes a request out of everything that knows it.
    fn lift(&mut self, number: u64, group: &mut Group) -> Option<Queued<W>> {
        let queued = self.requests.remove(&number)?;
        let Spot { level, tenant, place, .. } = &queued.spot;
        group.remove(&queued.spot);
        self.levels[*level].remove(tenant, *place);
        self.arrivals.remove(&number);
        let waiting = &mut self.waiting[*level];
        waiting.requests = waiting.requests.saturating_sub(1);
        waiting.rows = waiting.rows.saturating_sub(queued.request.checked.rows);
        waiting.tokens = waiting.tokens.saturating_sub(queued.request.checked.tokens());
        Some(queued)
    }

    /// Counts a batch that leaves.
    fn settle(&mut self, requests: &[Queued<W>], bill: &Bill, now_ns: u64) {
        let padded = bill.rows.saturating_mul(bill.length);
        let (mut tokens, mut padded_of) = (0, [0; 3]);
        for queued in requests {
            let checked = &queued.request.checked;
            tokens += checked.tokens();
            padded_of[queued.spot.level] += checked.rows.saturating_mul(bill.length);
            let more = checked.rows.saturating_mul(bill.length.saturating_sub(checked.length));
            self.levels[queued.spot.level].charge(&queued.spot.tenant, more);
        }
        for (fair, padded) in self.levels.iter_mut().zip(padded_of) {
            fair.pass(padded);
        }
        self.running.leave(now_ns, padded, bill.length, self.settings.capacity);
        let batch_ns = self.fit.cost_ns(padded, bill.length);
        let usual = &mut self.usual;
        let weight = if usual.rows == 0.0 { 1.0 } else { USUAL_WEIGHT };
        usual.rows += weight * (bill.rows as f64 - usual.rows);
        usual.padding += weight * (padded as f64 / tokens.max(1) as f64 - usual.padding);
        usual.batch_ns += weight * (batch_ns - usual.batch_ns);
    }
}
