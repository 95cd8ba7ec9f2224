//! Owns: the engine as the batch service sees it.
//! Must not know: tensors, batches.
//! On failure: closed; an id without an open reservation is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_core::account::Outcome;
use forebay_core::batch::Tenant;
use forebay_core::cache::CacheKey;
use forebay_core::engine::{
    BatchEnded, BatchPlaced, BatchRecall, BatchTake, Clock, Engine, Ran, TensorsUsed, Waiter,
};
use forebay_core::refusal::Refusal;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::Code;

use crate::clock::SystemClock;
use crate::kserve::{Admission, Admitted, BatchEnd, Denied, Placed, Recall, Take, TensorUse};

/// Admission by open reservations.
pub struct EngineAdmission {
    engine: Arc<Engine>,
    clock: SystemClock,
}

// === impl EngineAdmission ===

impl EngineAdmission {
    /// Over an engine.
    pub fn new(engine: Arc<Engine>, clock: SystemClock) -> Self {
        Self { engine, clock }
    }
}

impl Admission for EngineAdmission {
    fn admitted(&self, id: u128) -> Option<Admitted> {
        let caller = self.engine.batch_caller(id)?;
        Some(Admitted {
            pool: caller.pool.clone(),
            tenant: Tenant { name: caller.tenant.clone(), weight: caller.weight },
            key: caller.key.clone(),
            priority: caller.priority,
            placed: caller.placed.clone().map(placed),
            models: Arc::new(move |model| caller.may_see(model)),
        })
    }

    fn model(&self, id: u128, model: &str) -> Result<Arc<str>, Denied> {
        self.engine.batch_model(id, model).map_err(|refusal| denied(&refusal))
    }

    fn take(&self, id: u128, used: &TensorUse<'_>) -> Result<Take, Denied> {
        let mut told = None;
        let mut waiter = || -> Waiter {
            let (tell, wait) = oneshot::channel();
            told = Some(wait);
            // Who waits may have left.
            Box::new(move |_| _ = tell.send(()))
        };
        let used = TensorsUsed { model: used.model, tokens: used.tokens };
        let taken = self.engine.batch_take(id, used, &mut waiter, &self.clock);
        match taken.map_err(|refusal| denied(&refusal))? {
            BatchTake::Taken => Ok(Take::Taken),
            BatchTake::Lease { until_ns } => {
                let left = Duration::from_nanos(until_ns.saturating_sub(self.clock.now_ns()));
                Ok(Take::Wait(within(left, told)))
            }
        }
    }

    fn recall(&self, id: u128, model: &str, parts: &[&[u8]]) -> Recall {
        match self.engine.batch_recall(id, model, parts, self.clock.now_ns()) {
            BatchRecall::Off => Recall::Off,
            BatchRecall::Miss { key, keeps } => Recall::Miss { key, keeps },
            BatchRecall::Hit(answer) => Recall::Hit(answer),
        }
    }

    fn keep(&self, id: u128, key: CacheKey, answer: Bytes) {
        self.engine.batch_keep(id, key, answer, self.clock.now_ns());
    }

    fn finished(&self, id: u128, end: BatchEnd) {
        self.engine.batch_finished(id, ended(&end), self.clock.now_ns());
    }
}

fn placed(placed: BatchPlaced) -> Placed {
    Placed {
        operation: placed.operation,
        model: placed.model,
        upstream: placed.upstream,
        tensors: placed.tensors,
        tokenizer: placed.tokenizer.into(),
        context_window_tokens: placed.context_window_tokens,
    }
}

fn denied(refusal: &Refusal) -> Denied {
    let wire = refusal.wire();
    Denied {
        code: Code::from_i32(wire.grpc.cast_signed()),
        slug: wire.code,
        message: wire.message,
        retry_after_ns: refusal.retry_after_ns(),
    }
}

/// Resolves when somebody is told, and in time in any case: whoever draws leases may be stuck.
fn within(left: Duration, told: Option<oneshot::Receiver<()>>) -> oneshot::Receiver<()> {
    let (done, wait) = oneshot::channel();
    if let (Some(told), Ok(runtime)) = (told, Handle::try_current()) {
        runtime.spawn(async move {
            // Whether it was told or not, one asks again.
            let _ = timeout(left, told).await;
            drop(done);
        });
    }
    wait
}

/// The end in the words of the books.
fn ended(end: &BatchEnd) -> BatchEnded {
    match *end {
        BatchEnd::Answered { rows, tokens, batch_rows, padded_tokens, queue_ns, service_ns } => BatchEnded {
            ran: Ran::Whole,
            rows,
            batch_rows,
            tokens,
            padded_tokens,
            queue_ns,
            service_ns,
            ..BatchEnded::default()
        },
        BatchEnd::Recalled { rows } => BatchEnded { outcome: Outcome::Hit, rows, ..BatchEnded::default() },
        BatchEnd::Followed { rows } => BatchEnded { outcome: Outcome::Follow, rows, ..BatchEnded::default() },
        BatchEnd::Forwarded => BatchEnded { ran: Ran::Whole, ..BatchEnded::default() },
        BatchEnd::Failed { code, slug } => {
            let outcome = outcome_of(code, slug);
            // It may have run when its time was over. An error of a model server costs nothing, as elsewhere.
            let ran = if outcome == Outcome::Timeout { Ran::Unknown } else { Ran::Nothing };
            BatchEnded { outcome, code: slug, ran, ..BatchEnded::default() }
        }
        BatchEnd::Cancelled => {
            BatchEnded { outcome: Outcome::Aborted, ran: Ran::Unknown, ..BatchEnded::default() }
        }
    }
}

/// Whose fault it was: a model server's words and answers are told by their slugs, all else was refused here.
fn outcome_of(code: Code, slug: &str) -> Outcome {
    match (code, slug) {
        (Code::DeadlineExceeded, _) => Outcome::Timeout,
        (Code::Cancelled, _) => Outcome::Aborted,
        (_, "batch_upstream" | "batch_answer") | (Code::Internal | Code::Unknown | Code::DataLoss, _) => {
            Outcome::UpstreamError
        }
        _ => Outcome::Refused,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_failure_costs_nothing_unless_nobody_knows_whether_it_ran() {
        let of = |code, slug| ended(&BatchEnd::Failed { code, slug });
        let cases = [
            (Code::Unavailable, "batch_queue_full", Outcome::Refused, Ran::Nothing),
            (Code::InvalidArgument, "batch_shape", Outcome::Refused, Ran::Nothing),
            (Code::ResourceExhausted, "rate_limit_exceeded", Outcome::Refused, Ran::Nothing),
            (Code::Unavailable, "batch_upstream", Outcome::UpstreamError, Ran::Nothing),
            (Code::Internal, "batch_answer", Outcome::UpstreamError, Ran::Nothing),
            (Code::DeadlineExceeded, "batch_deadline", Outcome::Timeout, Ran::Unknown),
        ];
        for (code, slug, outcome, ran) in cases {
            let end = of(code, slug);
            assert_eq!((end.outcome, end.ran, end.code), (outcome, ran, slug));
        }
        let left = ended(&BatchEnd::Cancelled);
        assert_eq!((left.outcome, left.ran), (Outcome::Aborted, Ran::Unknown));
    }

    #[tokio::test]
    async fn a_wait_for_a_lease_ends_whoever_draws_it() {
        let (tell, told) = oneshot::channel();
        let wait = within(Duration::from_secs(3_600), Some(told));
        tell.send(()).unwrap();
        assert!(wait.await.is_err());
        let (stuck, told) = oneshot::channel::<()>();
        assert!(within(Duration::from_millis(5), Some(told)).await.is_err());
        drop(stuck);
        assert!(within(Duration::from_secs(3_600), None).await.is_err());
    }
}
