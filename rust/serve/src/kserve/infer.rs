//! Owns: one inference from tensors to tensors: permission, shape, queue, wait. Every front ends here.
//! Must not know: HTTP, gRPC, JSON; which batch it goes with.
//! On failure: closed; a client that leaves or whose time is over takes its rows out of the queue.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_core::batch::{BatchError, Checked, LaneKey, ModelShape, Priority, Tensor};
use forebay_core::cache::CacheKey;
use prost::Message;
use tokio::time::timeout;
use tonic::Code;

use super::flights::Role;
use super::places::Places;
use super::queue::Request;
use super::wire::{self, AnswerHead};
use super::work::Reply;
use super::{Admission, Admitted, BatchEnd, BatchQueue, Failure, Recall, Take, TensorUse, Upstreams};
use crate::openai::Loaded;

/// What a handler needs of its surroundings.
#[derive(Clone)]
pub(crate) struct Asked {
    pub queue: Arc<BatchQueue>,
    /// Streams to model servers
    pub upstreams: Arc<Upstreams>,
    pub admission: Arc<dyn Admission>,
    pub admitted: Admitted,
    pub id: u128,
    /// What is left for this request
    pub time_left: Duration,
    /// Largest body of a request
    pub max_message_bytes: usize,
    /// Tokenizers and templates that the policy names
    pub loaded: Arc<Loaded>,
}

/// One inference, whichever protocol brought it.
#[derive(Debug)]
pub(crate) struct Ask {
    /// The model as the client names it
    pub model: String,
    /// Empty lets the server choose
    pub version: String,
    pub inputs: Vec<Tensor>,
    /// Names of the outputs that it wants; empty: all
    pub outputs: Vec<String>,
    /// Parameters and requested outputs in encoded form: equal for all requests of a batch, and sent once
    pub options: Bytes,
    pub wishes: Wishes,
}

/// What a client says about how its request is served; taken out of the options, so that requests that differ in it
/// may share a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// Less than it would have anyway
    pub timeout: Option<Duration>,
    /// Counts where it is less urgent than what the policy gives
    pub priority: Option<Priority>,
}

/// The answer to one inference.
#[derive(Debug)]
pub(crate) struct Answered {
    pub head: Arc<AnswerHead>,
    pub tensors: Vec<Tensor>,
}

// === impl Asked ===

impl Asked {
    /// Takes what limits and budgets count, after the leases that they need.
    pub(crate) async fn take(&self, used: &TensorUse<'_>) -> Result<(), Failure> {
        loop {
            match self.admission.take(self.id, used)? {
                Take::Taken => return Ok(()),
                // However it resolves, the next asking tells.
                Take::Wait(lease) => drop(lease.await),
            }
        }
    }
}

/// Answers one inference within its time.
pub(crate) async fn infer(asked: &Asked, ask: Ask) -> (Result<Answered, Failure>, BatchEnd) {
    let time_left = ask.wishes.timeout.map_or(asked.time_left, |wished| wished.min(asked.time_left));
    let mut counted = Counted { queue: &asked.queue, lane: None, end: BatchEnd::Cancelled };
    let outcome = if time_left.is_zero() {
        Err(Failure::past())
    } else {
        let answering = answer(asked, ask, time_left, &mut counted.lane);
        timeout(time_left, answering).await.unwrap_or_else(|_| Err(Failure::deadline(time_left)))
    };
    let (answered, end) = match outcome {
        Ok((answered, end)) => (Ok(answered), end),
        Err(failure) => {
            let end = failure.end();
            (Err(failure), end)
        }
    };
    counted.end = end.clone();
    (answered, end)
}

async fn answer(
    asked: &Asked,
    ask: Ask,
    time_left: Duration,
    lane: &mut Option<LaneKey>,
) -> Result<(Answered, BatchEnd), Failure> {
    let Asked { queue, admission, admitted, id, .. } = asked;
    let left_ns = u64::try_from(time_left.as_nanos()).unwrap_or(u64::MAX);
    let deadline_ns = queue.now_ns().saturating_add(left_ns);
    let (model, upstream) = match &admitted.placed {
        Some(placed) => (&*placed.model, Arc::clone(&placed.upstream)),
        None => (&*ask.model, admission.model(*id, &ask.model)?),
    };
    let key =
        LaneKey { pool: Arc::clone(&admitted.pool), model: upstream, version: ask.version.as_str().into() };
    let key = &*lane.insert(key);

    let checked = check(queue, key, &ask).await?;
    queue.can_hold(&key.pool, &checked)?;
    let (rows, tokens) = (checked.rows(), checked.tokens());
    let recall = admission.recall(*id, model, &Sameness::of(&ask).parts());
    if let Recall::Hit(kept) = recall {
        let (head, tensors) = wire::read_answer(kept).map_err(|reason| Failure::answer(&reason))?;
        return Ok((Answered { head: Arc::new(head), tensors }, BatchEnd::Recalled { rows }));
    }
    // What a body was read for was counted then.
    if admitted.placed.is_none() {
        asked.take(&TensorUse { model, rows, tokens }).await?;
    }
    let priority = ask.wishes.priority.map_or(admitted.priority, |wished| wished.max(admitted.priority));
    let request = Request { checked, tenant: admitted.tenant.clone(), priority, deadline_ns };
    if let Recall::Miss { key: same, keeps } = recall {
        let (ride, role) = fly(asked, key, same, keeps, request).await?;
        let answered = Answered { head: Arc::clone(&ride.head), tensors: ride.tensors.clone() };
        let end = match role {
            Role::Leads => end_of(&ride, rows, tokens),
            Role::Follows => BatchEnd::Followed { rows },
        };
        return Ok((answered, end));
    }
    let (places, replies) = Places::take(queue, key, request)?;
    let ride = places.answer(replies).await?;
    let end = end_of(&ride, rows, tokens);
    Ok((Answered { head: ride.head, tensors: ride.tensors }, end))
}

/// Goes with an equal request, or for all that come.
async fn fly(
    asked: &Asked,
    lane: &LaneKey,
    same: CacheKey,
    keeps: bool,
    request: Request,
) -> Result<(Arc<Reply>, Role), Failure> {
    let flights = asked.queue.flights();
    loop {
        let mut aboard = flights.join(same, &asked.queue, lane, request.clone())?;
        match aboard.landed().await {
            Ok(ride) => {
                if keeps && aboard.keeps() {
                    let kept = wire::write_answer(String::new(), String::new(), &ride.head, &ride.tensors);
                    asked.admission.keep(asked.id, same, kept.encode_to_vec().into());
                }
                return Ok((ride, aboard.role));
            }
            // The time of those who had come by its leaving was over; ours is not, or this would not be polled.
            Err(failure) if failure.code == Code::DeadlineExceeded && aboard.role == Role::Follows => {}
            Err(failure) => return Err(failure),
        }
    }
}

fn end_of(ride: &Reply, rows: u64, tokens: u64) -> BatchEnd {
    let Reply { batch_rows, padded_tokens, queue_ns, service_ns, .. } = *ride;
    BatchEnd::Answered { rows, tokens, batch_rows, padded_tokens, queue_ns, service_ns }
}

/// Everything that two requests must have in common to get the same answer, but tenant and model.
struct Sameness<'a> {
    ask: &'a Ask,
    /// By name: the order in which they came means nothing
    inputs: Vec<&'a Tensor>,
    /// Datatype and shape of each
    forms: Vec<Vec<u8>>,
}

// === impl Sameness ===

impl<'a> Sameness<'a> {
    fn of(ask: &'a Ask) -> Self {
        let mut inputs: Vec<&Tensor> = ask.inputs.iter().collect();
        inputs.sort_by(|a, b| a.name().cmp(b.name()));
        let form = |tensor: &&Tensor| {
            let mut form = vec![tensor.datatype() as u8];
            tensor.shape().iter().for_each(|dim| form.extend_from_slice(&dim.to_le_bytes()));
            form
        };
        let forms = inputs.iter().map(form).collect();
        Self { ask, inputs, forms }
    }

    fn parts(&self) -> Vec<&[u8]> {
        let mut parts: Vec<&[u8]> = vec![self.ask.version.as_bytes(), &self.ask.options];
        for (tensor, form) in self.inputs.iter().zip(&self.forms) {
            parts.extend([tensor.name().as_bytes(), form, tensor.options(), tensor.data()]);
        }
        parts
    }
}

/// Proves a request against its model. A request that does not fit an old shape is tried once against a fresh one,
/// so that a model that was changed under us is not refused for ever.
async fn check(queue: &BatchQueue, key: &LaneKey, request: &Ask) -> Result<Checked, Failure> {
    let held_bytes = request.inputs.iter().map(|tensor| tensor.data().len() as u64).sum();
    let prove = |shape: &ModelShape| -> Result<Checked, BatchError> {
        let outputs = request.outputs.iter().map(String::as_str);
        shape.check(request.inputs.clone(), outputs, request.options.clone())
    };
    match prove(&*queue.shape(key, held_bytes).await?) {
        Err(error) if error.blames_the_shape() && queue.doubt(key) => {
            Ok(prove(&*queue.shape(key, held_bytes).await?)?)
        }
        proven => Ok(proven?),
    }
}

/// Counts the end of a request, also where the client's leaving drops it.
struct Counted<'a> {
    queue: &'a BatchQueue,
    /// Known once its model may be used
    lane: Option<LaneKey>,
    end: BatchEnd,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(lane) = &self.lane {
            self.queue.counters().ended(lane, &self.end);
        }
    }
}
