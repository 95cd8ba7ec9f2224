//! Owns: the places of one request in the queue: its parts, given up together, and its answer put together again.
//! Must not know: permission, who waits for the answer.
//! On failure: closed; one part that fails fails the request and takes the others out of the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_core::batch::{Checked, LaneKey, Priority, Tenant, Ticket, join_answers};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::queue::Request;
use super::work::{Reply, Waiter};
use super::{BatchQueue, Failure};

/// Places in the queue; given up when dropped, unless the answer has come.
#[derive(Debug)]
pub(super) struct Places {
    queue: Arc<BatchQueue>,
    lane: LaneKey,
    tenant: Tenant,
    expires_ns: Arc<AtomicU64>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    tickets: Vec<Ticket>,
    /// What was queued under each ticket; empty: its place cannot be bettered
    copies: Vec<Checked>,
    priority: Priority,
    deadline_ns: u64,
}

/// What the parts of a request wait for.
pub(super) type Replies = Vec<oneshot::Receiver<Result<Reply, Failure>>>;

// === impl Places ===

impl Places {
    /// Queues a request in as many parts as its rows need.
    pub(super) fn take(
        queue: &Arc<BatchQueue>,
        lane: &LaneKey,
        request: Request,
    ) -> Result<(Self, Replies), Failure> {
        let Request { checked, tenant, priority, deadline_ns } = request;
        let held = Held { tickets: Vec::new(), copies: Vec::new(), priority, deadline_ns };
        let places = Self {
            queue: Arc::clone(queue),
            lane: lane.clone(),
            tenant,
            expires_ns: Arc::new(AtomicU64::new(deadline_ns)),
            held: Mutex::new(held),
        };
        let mut replies = Vec::with_capacity(1);
        for checked in checked.parts() {
            let (reply, receiver) = oneshot::channel();
            let waiter = Waiter { reply, expires_ns: Arc::clone(&places.expires_ns) };
            let request = Request { checked, tenant: places.tenant.clone(), priority, deadline_ns };
            let ticket = queue.push(lane, request, waiter)?;
            places.held.lock().tickets.push(ticket);
            replies.push(receiver);
        }
        Ok((places, replies))
    }

    /// As [`Places::take`]; the places may be bettered later.
    pub(super) fn take_betterable(
        queue: &Arc<BatchQueue>,
        lane: &LaneKey,
        request: Request,
    ) -> Result<(Self, Replies), Failure> {
        let copies = request.checked.clone().parts();
        let (places, replies) = Self::take(queue, lane, request)?;
        places.held.lock().copies = copies;
        Ok((places, replies))
    }

    /// Somebody else waits too: what has not left takes the more urgent place of both, and lives as long as either.
    pub(super) fn better(&self, priority: Priority, deadline_ns: u64) {
        self.expires_ns.fetch_max(deadline_ns, Ordering::Relaxed);
        let mut held = self.held.lock();
        if priority >= held.priority && deadline_ns >= held.deadline_ns {
            return;
        }
        held.priority = held.priority.min(priority);
        held.deadline_ns = held.deadline_ns.min(deadline_ns);
        let Held { tickets, copies, priority, deadline_ns } = &mut *held;
        for (ticket, checked) in tickets.iter_mut().zip(copies) {
            let (checked, tenant) = (checked.clone(), self.tenant.clone());
            let request = Request { checked, tenant, priority: *priority, deadline_ns: *deadline_ns };
            if let Some(better) = self.queue.replace(&self.lane, ticket, request) {
                *ticket = better;
            }
        }
    }

    /// Waits for the whole answer. The places are no longer needed then.
    pub(super) async fn answer(&self, replies: Replies) -> Result<Reply, Failure> {
        let mut parts = Vec::with_capacity(replies.len());
        for reply in replies {
            parts.push(reply.await.unwrap_or_else(|_| Err(Failure::closing()))?);
        }
        self.held.lock().tickets.clear();
        join(parts)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        for ticket in &self.held.get_mut().tickets {
            self.queue.cancel(ticket);
        }
    }
}

fn join(parts: Vec<Reply>) -> Result<Reply, Failure> {
    let mut answers = Vec::with_capacity(parts.len());
    let mut whole: Option<Reply> = None;
    for Reply { tensors, head, batch_rows, padded_tokens, queue_ns, service_ns } in parts {
        answers.push(tensors);
        let ride = whole.get_or_insert(Reply {
            tensors: Vec::new(),
            head,
            batch_rows: 0,
            padded_tokens: 0,
            queue_ns: 0,
            service_ns: 0,
        });
        ride.batch_rows = ride.batch_rows.max(batch_rows);
        ride.padded_tokens = ride.padded_tokens.saturating_add(padded_tokens);
        ride.queue_ns = ride.queue_ns.max(queue_ns);
        ride.service_ns = ride.service_ns.max(service_ns);
    }
    let whole = whole.ok_or_else(Failure::closing)?;
    Ok(Reply { tensors: join_answers(answers)?, ..whole })
}
