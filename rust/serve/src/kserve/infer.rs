//! Owns: one `ModelInfer` from message to message: permission, shape, queue, wait.
//! Must not know: HTTP; which batch it goes with.
//! On failure: closed; a client that leaves or whose time is over takes its rows out of the queue.

use std::sync::Arc;
use std::time::Duration;

use forebay_core::batch::{BatchError, Checked, LaneKey, Ticket};
use tokio::time::timeout;

use super::pb::{ModelInferRequest, ModelInferResponse};
use super::wire::{self, ReadRequest};
use super::work::Reply;
use super::{Admission, Admitted, BatchEnd, BatchQueue, Failure};

/// What a handler needs of its surroundings.
#[derive(Clone)]
pub(super) struct Asked {
    pub queue: Arc<BatchQueue>,
    pub admission: Arc<dyn Admission>,
    pub admitted: Admitted,
    pub id: u128,
    /// What is left for this request
    pub time_left: Duration,
}

/// Answers one inference.
pub(super) async fn infer(
    asked: &Asked,
    request: ModelInferRequest,
) -> (Result<ModelInferResponse, Failure>, BatchEnd) {
    let outcome = match timeout(asked.time_left, answer(asked, request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::deadline(asked.time_left)),
    };
    match outcome {
        Ok((response, end)) => (Ok(response), end),
        Err(failure) => {
            let end = BatchEnd::Failed { code: failure.code, slug: failure.slug };
            (Err(failure), end)
        }
    }
}

async fn answer(
    asked: &Asked,
    mut request: ModelInferRequest,
) -> Result<(ModelInferResponse, BatchEnd), Failure> {
    let Asked { queue, admission, admitted, id, time_left } = asked;
    let left_ns = u64::try_from(time_left.as_nanos()).unwrap_or(u64::MAX);
    let deadline_ns = queue.now_ns().saturating_add(left_ns);
    let model = admission.model(*id, &request.model_name, wire::claimed_rows(&request))?;
    let version = std::mem::take(&mut request.model_version).into();
    let key = LaneKey { pool: Arc::clone(&admitted.pool), model, version };
    let (model_name, request_id) = (std::mem::take(&mut request.model_name), std::mem::take(&mut request.id));

    let checked = check(queue, &key, wire::read_request(request)?).await?;
    let rows = checked.rows();
    let (ticket, reply) = queue.push(&key, checked, deadline_ns)?;
    let mut place = Place { queue, ticket: Some(ticket) };
    let reply = reply.await.unwrap_or_else(|_| Err(Failure::closing()));
    place.ticket = None;
    let Reply { tensors, head, batch_rows, queue_ns, service_ns } = reply?;
    let response = wire::write_answer(model_name, request_id, &head, &tensors);
    Ok((response, BatchEnd::Answered { rows, batch_rows, queue_ns, service_ns }))
}

/// Proves a request against its model. A request that does not fit an old shape is tried once against a fresh one,
/// so that a model that was changed under us is not refused for ever.
async fn check(queue: &BatchQueue, key: &LaneKey, request: ReadRequest) -> Result<Checked, Failure> {
    let held_bytes = request.inputs.iter().map(|tensor| tensor.data().len() as u64).sum();
    let prove = |shape: &forebay_core::batch::ModelShape| -> Result<Checked, BatchError> {
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

/// A place in the queue; given up when the request ends before its answer, however it ends.
struct Place<'a> {
    queue: &'a BatchQueue,
    ticket: Option<Ticket>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = &self.ticket {
            self.queue.cancel(ticket);
        }
    }
}
