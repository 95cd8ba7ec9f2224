//! Owns: the batch assembler as a Python class of its own: tensors in, batches out, answers cut.
//! Must not know: servers, clocks (`now_ns` is an argument).
//! On failure: `BatchRefused` with the reason; what was queued before stays.

use std::sync::Arc;

use ahash::AHashMap;
use bytes::Bytes;
use forebay_core::batch::{
    self, Assembler, Batch, Bounds, Capacity, LaneKey, PendingRequest, Tensor, Ticket,
};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::model::{GivenTensor, ModelShape, TakenTensor, lane, refused, taken, tensor_of};

/// Joins requests for one model into batches along the first dimension, first come, first served.
///
/// Shape: tensors are tuples of name, datatype, shape and bytes (any buffer; row-major, little-endian; an element
/// of `BYTES` stands behind its length in 4 bytes).
///
/// Units: `instances` are batches that run at once, `slots` batches that may be in flight; `max_delay_ns` is how long
/// a request waits for company while a slot but no instance is free; `now_ns` any monotonic count of ns.
///
/// Cost: pushing `bytes` copies nothing; GIL held. Any number of threads may call it.
///
/// Example:
///
/// >>> import struct
/// >>> from forebay._core import BatchAssembler, ModelShape
/// >>> shape = ModelShape([("x", "FP32", [-1], "required")], ["y"], max_batch_rows=8)
/// >>> assembler = BatchAssembler(shape)
/// >>> one = assembler.push([("x", "FP32", [1, 2], struct.pack("<2f", 1, 2))], now_ns=0)
/// >>> two = assembler.push([("x", "FP32", [2, 2], struct.pack("<4f", 3, 4, 5, 6))], now_ns=0)
/// >>> batch = assembler.take(now_ns=0)
/// >>> batch.rows, [(name, shape) for name, _, shape, _ in batch.inputs()]
/// (3, [('x', [3, 2])])
/// >>> answers = batch.split([("y", "INT8", [3], b"abc")])
/// >>> [(ticket == one, tensors[0][3]) for ticket, tensors in answers]
/// [(True, b'a'), (False, b'bc')]
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
    #[pyo3(signature = (shape, *, instances = 1, slots = 2, max_delay_ns = 2_000_000, max_rows = 16_384, max_bytes = 268_435_456))]
    fn new(
        shape: &ModelShape,
        instances: u32,
        slots: u32,
        max_delay_ns: u64,
        max_rows: u64,
        max_bytes: u64,
    ) -> Self {
        let lane = lane("", "", "");
        let mut assembler = Assembler::new(Bounds { max_rows, max_bytes, max_delay_ns });
        assembler.open(lane.clone(), Capacity { instances, slots });
        let queues = Queues { assembler, tickets: AHashMap::new(), next_ticket: 0 };
        Self { shape: shape.shape.clone(), lane, queues: Arc::new(Mutex::new(queues)) }
    }

    /// Queues one request.
    ///
    /// Returns: a ticket, which names it in the answer.
    ///
    /// Raises: `BatchRefused` when it does not fit the model or the queue is full; `slug` tells which.
    #[pyo3(signature = (inputs, now_ns))]
    fn push(&self, inputs: Vec<GivenTensor<'_>>, now_ns: u64) -> PyResult<u64> {
        let inputs: Vec<Tensor> = inputs.into_iter().map(tensor_of).collect::<PyResult<_>>()?;
        let checked = self.shape.check(inputs, [], Bytes::new()).map_err(refused)?;
        let mut queues = self.queues.lock();
        let ticket = queues.next_ticket;
        let request = PendingRequest { checked, deadline_ns: u64::MAX, waiter: ticket };
        let place = queues.assembler.push(&self.lane, request, now_ns).map_err(refused)?;
        queues.tickets.insert(ticket, place);
        queues.next_ticket += 1;
        Ok(ticket)
    }

    /// The oldest batch that may leave now, if one may.
    #[pyo3(signature = (now_ns))]
    fn take(&self, now_ns: u64) -> Option<AssembledBatch> {
        let mut queues = self.queues.lock();
        let batch = queues.assembler.next(now_ns)?;
        for member in &batch.members {
            queues.tickets.remove(&member.waiter);
        }
        let tickets = batch.members.iter().map(|member| member.waiter).collect();
        let (rows, queues) = (batch.rows, Arc::clone(&self.queues));
        Some(AssembledBatch { rows, tickets, queues, batch: Mutex::new(Some(batch)) })
    }

    /// When `take` may have something without another `push` or end of a batch; `None`: not before that.
    fn wake_at_ns(&self) -> Option<u64> {
        self.queues.lock().assembler.wake_at()
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

    /// Rows and bytes that wait.
    fn waiting(&self) -> (u64, u64) {
        self.queues.lock().assembler.waiting("")
    }
}

/// Requests that leave together. Its slot is free again after `split`, `fail`, or when it is dropped.
#[pyclass(frozen, module = "forebay._core")]
pub struct AssembledBatch {
    /// Rows of all requests.
    #[pyo3(get)]
    rows: u64,
    /// The requests in the order of their rows.
    #[pyo3(get)]
    tickets: Vec<u64>,
    queues: Arc<Mutex<Queues>>,
    batch: Mutex<Option<Batch<u64>>>,
}

// === impl AssembledBatch ===

#[pymethods]
impl AssembledBatch {
    /// The inputs over all rows.
    ///
    /// Returns: tuples of name, datatype, shape and bytes.
    ///
    /// Raises: `ValueError` after the batch has ended.
    ///
    /// Cost: one copy of the tensors, two for more than one request; GIL held.
    fn inputs<'py>(&self, py: Python<'py>) -> PyResult<Vec<TakenTensor<'py>>> {
        let batch = self.batch.lock();
        let batch = batch.as_ref().ok_or_else(ended)?;
        let joined = |input: batch::BatchInput<'_>| {
            let data = pyo3::types::PyBytes::new(py, &input.concat());
            (input.name.to_string(), input.datatype.name(), input.shape, data)
        };
        Ok(batch.inputs().map(joined).collect())
    }

    /// Cuts the model's outputs into the rows of each request, and ends the batch.
    ///
    /// Returns: tuples of ticket and that request's tensors.
    ///
    /// Raises: `BatchRefused` when an output does not have the batch's rows; `ValueError` after the batch has ended.
    ///
    /// Cost: one copy of the outputs; GIL held.
    #[pyo3(signature = (outputs))]
    fn split<'py>(
        &self,
        py: Python<'py>,
        outputs: Vec<GivenTensor<'py>>,
    ) -> PyResult<Vec<(u64, Vec<TakenTensor<'py>>)>> {
        let outputs = outputs.into_iter().map(tensor_of).collect::<PyResult<_>>()?;
        let batch = self.end().ok_or_else(ended)?;
        let parts = batch.split(outputs).map_err(|(error, _)| refused(error))?;
        let taken_by = |(member, tensors): (batch::Member<u64>, Vec<Tensor>)| {
            (member.waiter, tensors.iter().map(|tensor| taken(py, tensor)).collect())
        };
        Ok(parts.into_iter().map(taken_by).collect())
    }

    /// Ends the batch without an answer.
    fn fail(&self) {
        self.end();
    }
}

impl AssembledBatch {
    /// Frees the slot, once.
    fn end(&self) -> Option<Batch<u64>> {
        let batch = self.batch.lock().take()?;
        self.queues.lock().assembler.done(&batch.lane);
        Some(batch)
    }
}

impl Drop for AssembledBatch {
    fn drop(&mut self) {
        self.end();
    }
}

fn ended() -> PyErr {
    PyValueError::new_err("the batch has ended; take another one")
}
