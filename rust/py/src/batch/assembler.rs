//! Owns: the batch assembler as a Python class of its own: tensors in, batches out, answers cut.
//! Must not know: servers, clocks (`now_ns` is an argument).
//! On failure: `BatchRefused` with the reason; what was queued before stays.

use std::sync::Arc;

use ahash::AHashMap;
use bytes::Bytes;
use forebay_core::batch::{
    self, Assembler, Batch, Bounds, LaneKey, PendingRequest, Priority, Tenant, Tensor, Ticket,
};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::model::{GivenTensor, LaneSettings, ModelShape, TakenTensor, lane, refused, taken, tensor_of};

/// Joins requests for one model into batches along the first dimension, padded where the model says so.
///
/// Which batch leaves when: the most urgent priority leads, inside it the tenant that was served least for its weight,
/// of that the earliest deadline; with it goes what is of about its length, so that all that waits costs least by the
/// latency learned so far. At once when an instance is idle, otherwise just before one is expected to be.
///
/// Shape: tensors are tuples of name, datatype, shape and bytes (any buffer; row-major, little-endian; an element
/// of `BYTES` stands behind its length in 4 bytes).
///
/// Units: `now_ns` and `deadline_ns` any monotonic count of ns; the bounds are rows, tokens (rows times length,
/// unpadded) and bytes that may wait.
///
/// Cost: pushing `bytes` copies nothing; GIL held. Any number of threads may call it.
///
/// Example:
///
/// >>> import struct
/// >>> from forebay._core import BatchAssembler, LaneSettings, ModelShape
/// >>> inputs = [("ids", "INT64", [-1], "required")]
/// >>> ragged = {"ragged_inputs": [("ids", 0, 0)], "ragged_outputs": [("ids", 0)]}
/// >>> shape = ModelShape(inputs, ["ids"], max_batch_rows=8, **ragged)
/// >>> assembler = BatchAssembler(shape, LaneSettings())
/// >>> one = assembler.push([("ids", "INT64", [1, 1], struct.pack("<q", 7))], now_ns=0)
/// >>> two = assembler.push([("ids", "INT64", [2, 2], struct.pack("<4q", 1, 2, 3, 4))], now_ns=0)
/// >>> batch = assembler.take(now_ns=0)
/// >>> batch.rows, batch.length, struct.unpack("<6q", batch.inputs()[0][3])
/// (3, 2, (7, 0, 1, 2, 3, 4))
/// >>> answers = batch.split(batch.inputs(), now_ns=5_000_000)
/// >>> [(ticket == one, tensors[0][2]) for ticket, tensors in answers]
/// [(True, [1, 1]), (False, [2, 2])]
#[pyclass(frozen, module = "forebay._core")]
pub struct BatchAssembler {
    shape: batch::ModelShape,
    lane: LaneKey,
    queues: Arc<Mutex<Queues>>,
}

/// The queues, and where each request stands that has not left.
struct Queues {
    assembler: Assembler<u64>,
    tickets: AHashMap<u64, Ticket>,
    next_ticket: u64,
}

// === impl BatchAssembler ===

#[pymethods]
impl BatchAssembler {
    #[new]
    #[pyo3(signature = (shape, settings, *, max_rows = 16_384, max_tokens = 4_194_304, max_bytes = 268_435_456))]
    fn new(
        shape: &ModelShape,
        settings: &LaneSettings,
        max_rows: u64,
        max_tokens: u64,
        max_bytes: u64,
    ) -> Self {
        let lane = lane("", "", "");
        let mut assembler = Assembler::new(Bounds { max_rows, max_tokens, max_bytes });
        assembler.open(lane.clone(), &settings.settings);
        let queues = Queues { assembler, tickets: AHashMap::new(), next_ticket: 0 };
        Self { shape: shape.shape.clone(), lane, queues: Arc::new(Mutex::new(queues)) }
    }

    /// Queues one request.
    ///
    /// Returns: a ticket, which names it in the answer.
    ///
    /// Raises: `BatchRefused` when it does not fit the model or the queue, or has more rows than a batch; `slug` tells
    /// which. `ValueError` for an unknown datatype or priority.
    #[pyo3(signature = (inputs, now_ns, *, tenant = "", weight = 1, priority = "P1", deadline_ns = u64::MAX))]
    fn push(
        &self,
        inputs: Vec<GivenTensor<'_>>,
        now_ns: u64,
        tenant: &str,
        weight: u32,
        priority: &str,
        deadline_ns: u64,
    ) -> PyResult<u64> {
        let priority = Priority::from_name(priority)
            .ok_or_else(|| PyValueError::new_err(format!("`{priority}` is no priority; say P0, P1 or P2")))?;
        let tenant = Tenant { name: tenant.into(), weight };
        let inputs: Vec<Tensor> = inputs.into_iter().map(tensor_of).collect::<PyResult<_>>()?;
        let checked = self.shape.check(inputs, [], Bytes::new()).map_err(refused)?;
        if let batch::Batching::Rows { max_rows } = self.shape.batching
            && checked.rows() > max_rows
        {
            // One ticket is one answer: cutting a request into parts is up to the caller here.
            return Err(refused(batch::BatchError::TooManyRows { rows: checked.rows(), max_rows }));
        }
        let mut queues = self.queues.lock();
        let ticket = queues.next_ticket;
        let request = PendingRequest { checked, tenant, priority, deadline_ns, waiter: ticket };
        let place = queues.assembler.push(&self.lane, request, now_ns).map_err(refused)?;
        queues.tickets.insert(ticket, place);
        queues.next_ticket += 1;
        Ok(ticket)
    }

    /// The most urgent batch that may leave now, if one may.
    #[pyo3(signature = (now_ns))]
    fn take(&self, now_ns: u64) -> Option<AssembledBatch> {
        let mut queues = self.queues.lock();
        let batch = queues.assembler.next(now_ns)?;
        for member in &batch.members {
            queues.tickets.remove(&member.waiter);
        }
        let tickets = batch.members.iter().map(|member| member.waiter).collect();
        let (rows, length, queues) = (batch.rows, batch.length, Arc::clone(&self.queues));
        Some(AssembledBatch { rows, length, tickets, queues, batch: Mutex::new(Some(batch)) })
    }

    /// When `take` has something without another `push` or end of a batch; 0 is at once, `None` not before that.
    #[pyo3(signature = (now_ns))]
    fn wake_at_ns(&self, now_ns: u64) -> Option<u64> {
        self.queues.lock().assembler.wake_at(now_ns)
    }

    /// Takes a request back.
    ///
    /// Returns: whether it had not left yet.
    #[pyo3(signature = (ticket))]
    fn cancel(&self, ticket: u64) -> bool {
        let mut queues = self.queues.lock();
        let place = queues.tickets.remove(&ticket);
        place.is_some_and(|place| queues.assembler.cancel(&place).is_some())
    }

    /// What waits: requests, rows, tokens and bytes.
    fn waiting(&self) -> (u64, u64, u64, u64) {
        let load = self.queues.lock().assembler.load("");
        (load.requests, load.rows, load.tokens, load.bytes)
    }
}

/// Requests that leave together. Its slot is free again after `split`, `fail`, or when it is dropped.
#[pyclass(frozen, module = "forebay._core")]
pub struct AssembledBatch {
    /// Rows of all requests.
    #[pyo3(get)]
    rows: u64,
    /// The length that all of them are padded to; 1 where the model has no ragged input.
    #[pyo3(get)]
    length: u64,
    /// The requests in the order of their rows.
    #[pyo3(get)]
    tickets: Vec<u64>,
    queues: Arc<Mutex<Queues>>,
    batch: Mutex<Option<Batch<u64>>>,
}

// === impl AssembledBatch ===

#[pymethods]
impl AssembledBatch {
    /// The inputs over all rows, padded.
    ///
    /// Returns: tuples of name, datatype, shape and bytes.
    ///
    /// Raises: `ValueError` after the batch has ended.
    ///
    /// Cost: one copy of the tensors, two for more than one request or padding; GIL held.
    fn inputs<'py>(&self, py: Python<'py>) -> PyResult<Vec<TakenTensor<'py>>> {
        let batch = self.batch.lock();
        let batch = batch.as_ref().ok_or_else(ended)?;
        let joined = |input: batch::BatchInput<'_>| {
            let data = pyo3::types::PyBytes::new(py, &input.concat());
            (input.name.to_string(), input.datatype.name(), input.shape, data)
        };
        Ok(batch.inputs().map(joined).collect())
    }

    /// Cuts the model's outputs into the rows of each request, without padding, and ends the batch.
    ///
    /// `now_ns`: latency is learned from it; without it the batch teaches nothing.
    ///
    /// Returns: tuples of ticket and that request's tensors.
    ///
    /// Raises: `BatchRefused` when an output does not have the batch's rows or length; `ValueError` after the batch has
    /// ended.
    ///
    /// Cost: one copy of the outputs; GIL held.
    #[pyo3(signature = (outputs, now_ns = None))]
    fn split<'py>(
        &self,
        py: Python<'py>,
        outputs: Vec<GivenTensor<'py>>,
        now_ns: Option<u64>,
    ) -> PyResult<Vec<(u64, Vec<TakenTensor<'py>>)>> {
        let outputs = outputs.into_iter().map(tensor_of).collect::<PyResult<_>>()?;
        let batch = self.end(now_ns).ok_or_else(ended)?;
        let parts = batch.split(outputs).map_err(|(error, _)| refused(error))?;
        let taken_by = |(member, tensors): (batch::Member<u64>, Vec<Tensor>)| {
            (member.waiter, tensors.iter().map(|tensor| taken(py, tensor)).collect())
        };
        Ok(parts.into_iter().map(taken_by).collect())
    }

    /// Ends the batch without an answer.
    fn fail(&self) {
        self.end(None);
    }
}

impl AssembledBatch {
    /// Frees the slot, once.
    fn end(&self, done_ns: Option<u64>) -> Option<Batch<u64>> {
        let batch = self.batch.lock().take()?;
        self.queues.lock().assembler.ended(&batch.departed(), done_ns);
        Some(batch)
    }
}

impl Drop for AssembledBatch {
    fn drop(&mut self) {
        self.end(None);
    }
}

fn ended() -> PyErr {
    PyValueError::new_err("the batch has ended; take another one")
}
