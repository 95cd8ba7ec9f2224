//! Owns: the ends of a forwarded request: its slot is freed by the first, its reservation settled by the access log,
//! by expiry, or by an entry that comes even later; each exactly once.
//! Must not know: who reports an end, or how.
//! On failure: an end for an unknown reservation is counted and changes nothing; what nobody ends is charged its bound.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::batch::AtBatch;
use super::recall::Fill;
use super::session::BudgetNote;
use super::{Engine, Live};
use crate::account::{Ending, Expected, Outcome, Settlement, Told, settle};
use crate::limit::Reservation;
use crate::policy::pb::route::Operation;
use crate::pool::{Lease, PoolState};
use crate::record::{Record, RecordEnd, Spent};
use crate::request::CacheControl;
use crate::trace::TraceContext;
use crate::usage::{UsageFault, read_start, read_usage};

/// How often expired reservations and followers are looked for, at most.
const TICK_NS: u64 = 250_000_000;
/// Reservations that expire in one turn.
const EXPIRE_MAX: usize = 4_096;

/// A forwarded request that has not ended.
#[derive(Debug)]
pub struct Open {
    pub(super) lease: Option<Lease>,
    pub(super) pool: Arc<PoolState>,
    pub(super) fill: Option<Fill>,
    pub(super) buffered: bool,
    pub(super) record: Box<Record>,
    pub(super) live: Arc<Live>,
    pub(super) route: u32,
    pub(super) key: u32,
    pub(super) feature: u32,
    pub(super) named: Option<u32>,
    pub(super) model: Option<u32>,
    pub(super) charges: Vec<BudgetNote>,
    pub(super) tracing: Option<TraceContext>,
    pub(super) envoy_id: u128,
    pub(super) address: Box<str>,
    pub(super) cache_control: CacheControl,
    /// What it did at the batch service; `None`: nothing yet, or it went elsewhere
    pub(super) batch: Option<Box<AtBatch>>,
}

/// What the access log says about one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogEntry<'a> {
    /// How it ended
    pub end: RecordEnd,
    /// The upstream could not be reached, or its connection failed
    pub unreachable: bool,
    /// A bound on time ended it while an upstream had it
    pub timed_out: bool,
    /// The upstream broke off
    pub reset: bool,
    /// Bytes of the answer's body that went to the client
    pub answer_bytes: u64,
    /// When it began, nanoseconds since 1970, by Envoy's clock
    pub started_unix_ns: u64,
    /// From then to the first event of a stream; 0: there was none
    pub first_token_ns: u64,
    /// From then to the last byte of the upstream
    pub last_byte_ns: u64,
    /// Who answered
    pub endpoint: Endpoint<'a>,
    /// What was found of its use
    pub usage: UsageText<'a>,
}

/// An upstream's socket. Empty: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// Address
    pub host: &'a str,
    /// Port
    pub port: u16,
}

/// Usage as text, as Envoy found it in an answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct UsageText<'a> {
    /// Of the beginning of a stream
    pub start: Option<&'a [u8]>,
    /// That of the whole answer
    pub last: Option<&'a [u8]>,
    /// The most recent one of an answer that goes on
    pub so_far: Option<&'a [u8]>,
    /// There was one that could not be passed on
    pub is_bad: bool,
}

/// What an entry met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    /// Its reservation, which is settled now
    Settled,
    /// No reservation of this process
    Unknown,
}

// === impl Open ===

impl Open {
    /// A fill that capture never took is over; followers are freed.
    fn end_fill(&mut self, now_ns: u64) {
        if let Some(mut fill) = self.fill.take() {
            fill.ends_at(now_ns);
        }
    }

    /// What was asked for, as its route says.
    pub(super) fn operation(&self) -> Operation {
        let route = self.live.snapshot.routes.get(self.route as usize);
        route.map_or(Operation::Unspecified, |route| route.operation)
    }

    fn expected(&self) -> Expected {
        Expected {
            prompt_tokens: self.record.prompt_tokens,
            exact: self.record.exact,
            output_cap_tokens: self.record.output_cap_tokens,
            stream: self.record.stream,
        }
    }
}

// === impl LogEntry ===

impl LogEntry<'_> {
    pub(super) fn ending(&self) -> Ending {
        Ending {
            status: self.end.status,
            local_reply: self.end.local_reply,
            aborted: self.end.aborted,
            timed_out: self.timed_out,
            reset: self.reset,
            answer_bytes: self.answer_bytes,
            duration_ns: self.end.duration_ns,
            first_byte_ns: self.end.first_byte_ns,
        }
    }
}

// === impl Engine ===

impl Engine {
    /// Envoy closed a request's stream. For a buffered request the response is over: its slot is free, and the log's
    /// entry is waited for only as long as it may take. (None comes where the client left before Envoy had our answer.)
    pub fn stream_closed(&self, id: u128, now_ns: u64) {
        let lease = self.open.amend(id, |reservation| {
            if !reservation.owner.buffered {
                return None;
            }
            let wait_ns = reservation.owner.live.snapshot.timing.log_wait_ns;
            reservation.expires_ns = reservation.expires_ns.min(now_ns.saturating_add(wait_ns));
            self.free_slot(reservation, now_ns)
        });
        drop(lease);
    }

    /// The access log reported a request: everything about it is over.
    pub fn logged(&self, id: u128, entry: &LogEntry<'_>, now_ns: u64) -> Logged {
        self.metrics.counters.log_entries.fetch_add(1, Relaxed);
        let mut reservation = if let Some(open) = self.open.take(id) {
            open
        } else if let Some(late) = self.late.take(id) {
            self.metrics.counters.settled_late.fetch_add(1, Relaxed);
            late
        } else {
            self.metrics.counters.log_unknown.fetch_add(1, Relaxed);
            return Logged::Unknown;
        };
        drop(self.free_slot(&mut reservation, now_ns));
        self.unread.remove(reservation.owner.envoy_id);
        if entry.unreachable {
            reservation.owner.pool.failed(now_ns);
        } else if !entry.end.local_reply && !entry.end.aborted && !entry.timed_out {
            // A client that left says nothing about the pool, and a wait that was too long nothing good.
            reservation.owner.pool.succeeded();
        }
        let settlement = self.judge(&reservation.owner, entry);
        self.settle(reservation, entry, settlement, now_ns);
        Logged::Settled
    }

    /// Envoy reported a request without our decision, which its client had left: if we decided on it, no upstream had it.
    pub fn left_undecided(&self, envoy_id: u128, now_ns: u64) {
        let keep_ns = self.live.load().snapshot.timing.log_wait_ns.saturating_mul(2);
        self.left.insert(envoy_id, now_ns.saturating_add(keep_ns), now_ns);
        // A buffered request's stream has ended too; of one that was decided by its headers nothing else will tell.
        if let Some(id) = self.unread.remove(envoy_id) {
            let lease = self.open.amend(id, |reservation| {
                reservation.expires_ns = now_ns;
                self.free_slot(reservation, now_ns)
            });
            drop(lease);
        }
    }

    fn settle(
        &self,
        mut reservation: Reservation<Open>,
        entry: &LogEntry<'_>,
        settlement: Settlement,
        now_ns: u64,
    ) {
        let (tokens, nanousd) = match reservation.owner.taken_for_tensors() {
            Some(taken) => {
                taken.settle(&self.limiter, &settlement, now_ns);
                // What the decision took holds no token.
                (0, taken.nanousd(&settlement))
            }
            None => (settlement.used.total(), reservation.owner.cost(&settlement.used)),
        };
        self.limiter.settle(&reservation.held, tokens, now_ns);
        // Without a price nothing was reserved, and nothing is spent that could be counted.
        self.limiter.settle_money(&reservation.held, nanousd.unwrap_or_default(), now_ns);
        self.count_settled(&reservation.owner, entry, &settlement, nanousd);
        self.write_record(&reservation.owner, entry, &settlement, nanousd);
        reservation.owner.end_fill(now_ns);
        let mut record = *reservation.owner.record;
        record.end = Some(entry.end);
        record.spent = Some(Spent { settlement, nanousd });
        self.records.push(record);
    }

    fn judge(&self, open: &Open, entry: &LogEntry<'_>) -> Settlement {
        let operation = open.operation();
        if operation == Operation::Kserve {
            return open.judge_tensors(entry);
        }
        let told = self.told(operation, entry);
        let mut settlement =
            settle(&open.expected(), &entry.ending(), told, &self.calibrations.of(&open.record.model));
        if open.model.is_some() {
            if let Some(end) = open.record.batch
                && settlement.outcome == Outcome::UpstreamError
                && end.outcome.is_wasted()
            {
                // It knows whether it refused, or its model server failed.
                settlement.outcome = end.outcome;
            }
            return settlement;
        }
        // What was decided by headers alone was not counted, so nothing of it can be estimated.
        Settlement { outcome: settlement.outcome, ..Settlement::default() }
    }

    /// What the upstream said, as far as it can be believed.
    pub(super) fn told(&self, operation: Operation, entry: &LogEntry<'_>) -> Told {
        let UsageText { start, last, so_far, is_bad } = entry.usage;
        let read = || -> Result<Told, UsageFault> {
            if let Some(used) = read_usage(operation, start, last)? {
                return Ok(Told::Whole(used));
            }
            if operation == Operation::Messages
                && let Some(used) = read_start(start)?
            {
                return Ok(Told::Beginning(used));
            }
            if let Some(used) = read_usage(operation, None, so_far)? {
                return Ok(Told::SoFar(used));
            }
            Ok(Told::Nothing)
        };
        match read() {
            Ok(told) if !is_bad || told != Told::Nothing => told,
            _ => {
                self.metrics.counters.usage_invalid.fetch_add(1, Relaxed);
                Told::Nothing
            }
        }
    }

    /// Looks for what nobody ended. Called often; does something a few times a second.
    pub fn tick(&self, now_ns: u64) {
        let last = self.last_tick_ns.load(Relaxed);
        if now_ns.saturating_sub(last) < TICK_NS
            || self.last_tick_ns.compare_exchange(last, now_ns, Relaxed, Relaxed).is_err()
        {
            return;
        }
        for (id, reservation) in self.open.expire(now_ns, EXPIRE_MAX) {
            self.metrics.counters.expired.fetch_add(1, Relaxed);
            self.expired(id, reservation, now_ns);
        }
        for (_, reservation) in self.late.expire(now_ns, EXPIRE_MAX) {
            // Nobody will correct it any more: what was reserved stays spent.
            self.count_expired(&reservation.owner);
        }
        self.leases.forget_failed(&self.limiter);
        self.leases.forget_ended(now_ns);
        if let Some(cache) = &self.live.load().cache {
            for wake in cache.flights.expire(now_ns) {
                (wake.waiter)(wake.outcome);
            }
        }
    }

    /// Charges the bound, which is what is reserved, and waits on for an entry that corrects it.
    fn expired(&self, id: u128, mut reservation: Reservation<Open>, now_ns: u64) {
        drop(self.free_slot(&mut reservation, now_ns));
        let open = &mut reservation.owner;
        open.end_fill(now_ns);
        self.unread.remove(open.envoy_id);
        if self.left.has(open.envoy_id) {
            let end = RecordEnd { local_reply: true, aborted: true, ..RecordEnd::default() };
            let entry = LogEntry { end, ..LogEntry::default() };
            let settlement = Settlement { outcome: Outcome::Aborted, ..Settlement::default() };
            self.settle(reservation, &entry, settlement, now_ns);
            return;
        }
        if open.has_ended_at_batch() {
            let settlement = open.judge_tensors(&LogEntry::default());
            self.settle(reservation, &LogEntry::default(), settlement, now_ns);
            return;
        }
        let (settlement, nanousd) = bound_of(open);
        self.write_record(open, &LogEntry::default(), &settlement, nanousd);
        self.records.push((*open.record).clone());
        reservation.expires_ns = now_ns.saturating_add(open.live.snapshot.timing.reservation_ns);
        if let Err(refused) = self.late.insert(id, reservation) {
            // No room to wait for its entry: the bound stays.
            self.count_expired(&refused.reservation.owner);
        }
    }

    fn count_expired(&self, open: &Open) {
        let (settlement, nanousd) = bound_of(open);
        self.count_settled(open, &LogEntry::default(), &settlement, nanousd);
    }

    /// Frees concurrency once; the place in the pool comes back to be dropped outside the table's lock.
    pub(super) fn free_slot(&self, reservation: &mut Reservation<Open>, now_ns: u64) -> Option<Lease> {
        let lease = reservation.owner.lease.take()?;
        self.limiter.release(&reservation.held, now_ns);
        for part in reservation.owner.batch.iter().flat_map(|batch| &batch.parts) {
            self.limiter.release(&part.held, now_ns);
        }
        Some(lease)
    }
}

/// What is charged where no end was ever told: what is reserved, the count's margin included.
fn bound_of(open: &Open) -> (Settlement, Option<u64>) {
    let mut settlement = Settlement::expired(&open.expected());
    settlement.used.prompt = open.record.bound_tokens.saturating_sub(settlement.used.output);
    // A model whose prices are all 0 reserves nothing, and its cost is known.
    (settlement, open.has_prices().then_some(open.record.reserved_nanousd))
}
