//! Owns: the way out and back: every batch and call to a server of its pool, once more to another where that is allowed.
//! Must not know: tensors, when a batch leaves, what a doubted server is asked.
//! On failure: closed; work that was taken is ended exactly once, also when it is dropped in the middle.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code;

use super::choice::Wanted;
use super::doubts::Doubt;
use super::endpoint::Server;
use super::upstream::Unanswered;
use super::{Alarm, BatchQueue, Failure, Work};

/// After these a server or its model may not be what it was.
const DOUBTFUL: [Code; 3] = [Code::NotFound, Code::InvalidArgument, Code::Unavailable];

/// Sends what the queue lets go until it is closed and all has ended, or until the rest is given up.
pub async fn send(queue: Arc<BatchQueue>) {
    let (mut sent, alarm) = (JoinSet::new(), Alarm::new());
    while let Some(work) = queue.next(&alarm).await {
        while sent.try_join_next().is_some() {}
        sent.spawn(Sending { queue: Arc::clone(&queue), id: work.id }.run(work));
    }
    tokio::select! {
        () = async { while sent.join_next().await.is_some() {} } => {}
        () = queue.given_up() => {}
    }
}

/// A piece of work that the queue counts as sent. Dropped, it has failed, unless it was ended before.
struct Sending {
    queue: Arc<BatchQueue>,
    id: u64,
}

// === impl Sending ===

impl Sending {
    async fn run(self, work: Work) {
        match self.answer(&work).await {
            Ok(answer) => {
                self.queue.complete(self.id, answer);
            }
            Err(failure) => {
                self.queue.fail(self.id, &failure);
            }
        }
    }

    async fn answer(&self, work: &Work) -> Result<Bytes, Failure> {
        let upstreams = self.queue.upstreams();
        let until = Instant::now() + work.timeout;
        let wanted = Wanted::of(work);
        let mut resends_left = upstreams.resends(&wanted);
        let mut tried: Vec<Arc<Server>> = Vec::new();
        let mut why: Option<Failure> = None;
        loop {
            let taken = match upstreams.server_for(&wanted, &tried, until).await {
                Ok(taken) => taken,
                // What the first server said tells more than that there is no second one.
                Err(none) => return Err(why.unwrap_or(none)),
            };
            if !tried.is_empty() {
                self.queue.count_resend();
            }
            let Unanswered { failure, sent } = match upstreams
                .ask(&work.pool, taken.server(), work.method, work.request.clone(), until)
                .await
            {
                Ok(answer) => return Ok(answer),
                Err(unanswered) => unanswered,
            };
            if DOUBTFUL.contains(&failure.code) {
                let address = taken.server().address.address.clone();
                self.queue.doubt_server(Doubt { pool: Arc::clone(&work.pool), address, code: failure.code });
            }
            if failure.code != Code::Unavailable || Instant::now() >= until {
                return Err(failure);
            }
            if sent {
                match resends_left.checked_sub(1) {
                    Some(left) => resends_left = left,
                    None => return Err(failure),
                }
            }
            tried.push(Arc::clone(taken.server()));
            why = Some(failure);
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.queue.drop_sent(self.id);
    }
}
