//! Owns: the way back: an answer read, cut, and handed to those who wait for its rows.
//! Must not know: queues, who sent the batch.
//! On failure: closed; an answer that cannot be cut is an error for every member, and rows reach nobody.

use std::sync::Arc;

use bytes::Bytes;
use forebay_core::batch::Batch;
use tokio::sync::oneshot::Sender;

use super::work::{Reply, Waiter};
use super::{Failure, wire};

/// Hands the answer of a batch to its members.
pub(super) fn deliver(batch: Batch<Waiter>, answer: Bytes, now_ns: u64) {
    let (batch_rows, length, left_ns) = (batch.rows, batch.length, batch.left_ns);
    let (head, tensors) = match wire::read_answer(answer) {
        Ok((head, tensors)) => (Arc::new(head), tensors),
        Err(reason) => {
            return tell_waiters(
                batch.members.into_iter().map(|member| member.waiter),
                &Failure::answer(&reason),
            );
        }
    };
    let parts = match batch.split(tensors) {
        Ok(parts) => parts,
        Err((error, members)) => {
            return tell_waiters(members.into_iter().map(|member| member.waiter), &Failure::answer(&error));
        }
    };
    for (member, tensors) in parts {
        let reply = Reply {
            tensors,
            head: Arc::clone(&head),
            batch_rows,
            padded_tokens: member.rows.saturating_mul(length),
            queue_ns: left_ns.saturating_sub(member.queued_ns),
            service_ns: now_ns.saturating_sub(left_ns),
        };
        // A closed channel is a client that left; its rows go nowhere.
        let _ = member.waiter.reply.send(Ok(reply));
    }
}

/// Gives the requests of a batch the same failure.
pub(super) fn tell_waiters(waiters: impl IntoIterator<Item = Waiter>, failure: &Failure) {
    tell_all(waiters.into_iter().map(|waiter| waiter.reply), failure);
}

/// Gives everyone the same failure. A closed channel is a client that left.
pub(super) fn tell_all<T>(waiters: impl IntoIterator<Item = Sender<Result<T, Failure>>>, failure: &Failure) {
    for waiter in waiters {
        let _ = waiter.send(Err(failure.clone()));
    }
}
