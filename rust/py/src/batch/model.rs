//! Owns: a model's shape and single tensors, from Python's words to the core's.
//! Must not know: queues, where a shape was learned.
//! On failure: `BatchRefused` for bytes that do not fit, `ValueError` for a word that the protocol does not have.

use std::sync::Arc;

use bytes::Bytes;
use forebay_core::batch::{self, BatchError, Batching, Datatype, LaneKey, Presence, Tensor, TensorSpec};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

use crate::error::BatchRefused;

/// What a model takes and gives, as requests are held against it.
///
/// Shape: `inputs: list[tuple[str, str, list[int], str]]` are name, datatype (`FP32`, `INT64`, `BYTES`, ...),
/// dimensions without the batch dimension (-1: any size) and `required` or `optional`; `outputs` are names.
///
/// Units: `max_batch_rows` in rows, for example 64; 0 is a model without a batch dimension: requests pass one by
/// one and `dims` are whole shapes.
///
/// Raises: `ValueError` for an unknown datatype or presence.
///
/// Example:
///
/// >>> from forebay._core import ModelShape
/// >>> inputs = [("ids", "INT64", [-1], "required"), ("mask", "INT64", [-1], "optional")]
/// >>> ModelShape(inputs, ("embedding",), max_batch_rows=64)
/// ModelShape(inputs='ids, mask', outputs='embedding', max_batch_rows=64)
#[pyclass(frozen, module = "forebay._core")]
pub struct ModelShape {
    pub(super) shape: batch::ModelShape,
}

// === impl ModelShape ===

#[pymethods]
impl ModelShape {
    #[new]
    #[pyo3(signature = (inputs, outputs, *, max_batch_rows))]
    fn new(
        inputs: Vec<(String, String, Vec<i64>, String)>,
        outputs: Vec<String>,
        max_batch_rows: u64,
    ) -> PyResult<Self> {
        let inputs = inputs.into_iter().map(|(name, datatype, dims, presence)| {
            let presence = match presence.as_str() {
                "required" => Presence::Required,
                "optional" => Presence::Optional,
                _ => {
                    return Err(PyValueError::new_err(format!(
                        "input `{name}` is `{presence}`; say `required` or `optional`"
                    )));
                }
            };
            let name = name.into();
            let datatype = known_datatype(&name, &datatype)?;
            Ok(TensorSpec { name, datatype, dims, presence })
        });
        let shape = batch::ModelShape {
            inputs: inputs.collect::<PyResult<_>>()?,
            outputs: outputs.into_iter().map(Arc::from).collect(),
            batching: match max_batch_rows {
                0 => Batching::Whole,
                max_rows => Batching::Rows { max_rows },
            },
        };
        Ok(Self { shape })
    }

    fn __repr__(&self) -> String {
        let inputs: Vec<&str> = self.shape.inputs.iter().map(|spec| &*spec.name).collect();
        let outputs: Vec<&str> = self.shape.outputs.iter().map(AsRef::as_ref).collect();
        let rows = match self.shape.batching {
            Batching::Rows { max_rows } => max_rows,
            Batching::Whole => 0,
        };
        let (inputs, outputs) = (inputs.join(", "), outputs.join(", "));
        format!("ModelShape(inputs='{inputs}', outputs='{outputs}', max_batch_rows={rows})")
    }
}

/// Name, datatype, shape and bytes: a tensor as Python hands it over.
pub(super) type GivenTensor<'py> = (String, String, Vec<i64>, Bound<'py, PyAny>);

/// The same on the way back.
pub(super) type TakenTensor<'py> = (String, &'static str, Vec<u64>, Bound<'py, PyBytes>);

/// Proves a tensor. `bytes` are borrowed for as long as the tensor lives, any other buffer is copied.
pub(super) fn tensor_of((name, datatype, shape, data): GivenTensor<'_>) -> PyResult<Tensor> {
    let data = if let Ok(bytes) = data.cast::<PyBytes>() {
        Bytes::from_owner(PyBackedBytes::from(bytes.clone()))
    } else if let Ok(array) = data.cast::<PyByteArray>() {
        Bytes::from_owner(PyBackedBytes::from(array.clone()))
    } else {
        let copy = PyMemoryView::from(&data)?.call_method0("tobytes")?;
        Bytes::from_owner(PyBackedBytes::from(copy.cast_into::<PyBytes>()?))
    };
    let name: Arc<str> = name.into();
    let datatype = known_datatype(&name, &datatype)?;
    Tensor::new(name, datatype, &shape, data).map_err(refused)
}

/// A tensor as Python takes it. Its bytes are copied.
pub(super) fn taken<'py>(py: Python<'py>, tensor: &Tensor) -> TakenTensor<'py> {
    let data = PyBytes::new(py, tensor.data());
    (tensor.name().to_string(), tensor.datatype().name(), tensor.shape().to_vec(), data)
}

pub(super) fn lane(pool: &str, model: &str, version: &str) -> LaneKey {
    LaneKey { pool: pool.into(), model: model.into(), version: version.into() }
}

#[expect(clippy::needless_pass_by_value, reason = "fits `map_err`")]
pub(super) fn refused(error: BatchError) -> PyErr {
    Python::attach(|py| {
        let raised = BatchRefused::new_err(error.to_string());
        // The message alone says it all.
        let _ = raised.value(py).setattr("slug", error.slug());
        raised
    })
}

fn known_datatype(tensor: &Arc<str>, name: &str) -> PyResult<Datatype> {
    let (tensor, datatype) = (Arc::clone(tensor), name.to_owned());
    let unknown = BatchError::UnknownDatatype { tensor, datatype };
    Datatype::from_name(name).ok_or_else(|| PyValueError::new_err(unknown.to_string()))
}
