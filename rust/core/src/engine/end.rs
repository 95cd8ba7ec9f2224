//! Owns: the ends of a forwarded request: its slot is freed by the first, its reservation settled by the access log
//! or by expiry, each exactly once.
//! Must not know: who reports an end, or how.
//! On failure: an end for an unknown reservation is counted and changes nothing; what nobody ends expires.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::recall::Fill;
use super::{Engine, Live};
use crate::limit::Reservation;
use crate::pool::{Lease, PoolState};
use crate::record::{Record, RecordEnd};

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
    pub(super) key: u32,
    pub(super) feature: u32,
}

/// What the access log says about one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogEntry {
    /// How it ended
    pub end: RecordEnd,
    /// The upstream could not be reached, or its connection failed
    pub unreachable: bool,
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

    /// A batch answered: the slot is free.
    pub fn batch_finished(&self, id: u128, now_ns: u64) {
        let lease = self.open.amend(id, |reservation| self.free_slot(reservation, now_ns));
        drop(lease);
    }

    /// The access log reported a request: everything about it is over.
    pub fn logged(&self, id: u128, entry: &LogEntry, now_ns: u64) {
        self.metrics.counters.log_entries.fetch_add(1, Relaxed);
        let Some(mut reservation) = self.open.take(id) else {
            self.metrics.counters.log_unknown.fetch_add(1, Relaxed);
            return;
        };
        drop(self.free_slot(&mut reservation, now_ns));
        if entry.unreachable {
            reservation.owner.pool.failed(now_ns);
        } else if !entry.end.local_reply && !entry.end.aborted {
            // A client that left says nothing about the pool.
            reservation.owner.pool.succeeded();
        }
        if entry.end.local_reply {
            // Nothing reached a model: the tokens come back.
            self.limiter.settle(&reservation.held, 0, now_ns);
        }
        self.close(reservation.owner, Some(entry.end), now_ns);
    }

    /// Looks for what nobody ended. Called often; does something a few times a second.
    pub fn tick(&self, now_ns: u64) {
        let last = self.last_tick_ns.load(Relaxed);
        if now_ns.saturating_sub(last) < TICK_NS
            || self.last_tick_ns.compare_exchange(last, now_ns, Relaxed, Relaxed).is_err()
        {
            return;
        }
        for (_, mut reservation) in self.open.expire(now_ns, EXPIRE_MAX) {
            self.metrics.counters.expired.fetch_add(1, Relaxed);
            drop(self.free_slot(&mut reservation, now_ns));
            self.close(reservation.owner, None, now_ns);
        }
        if let Some(cache) = &self.live.load().cache {
            for wake in cache.flights.expire(now_ns) {
                (wake.waiter)(wake.outcome);
            }
        }
    }

    /// Frees concurrency once; the place in the pool comes back to be dropped outside the table's lock.
    fn free_slot(&self, reservation: &mut Reservation<Open>, now_ns: u64) -> Option<Lease> {
        let lease = reservation.owner.lease.take()?;
        self.limiter.release(&reservation.held, now_ns);
        Some(lease)
    }

    fn close(&self, open: Open, end: Option<RecordEnd>, now_ns: u64) {
        // A fill that capture never took is over; followers are freed.
        if let Some(mut fill) = open.fill {
            fill.ends_at(now_ns);
        }
        let mut record = *open.record;
        record.end = end;
        self.records.push(record);
    }
}
