//! Owns: a model's shape and single tensors, from Python's words to the core's.
//! Must not know: queues, where a shape was learned.
//! On failure: `BatchRefused` for bytes that do not fit, `ValueError` for a word that the protocol does not have.

use std::sync::Arc;

use bytes::Bytes;
use forebay_core::batch::{
    self, BatchError, Batching, Capacity, Datatype, LaneKey, LengthClasses, OutputSpec, Presence, Ragged,
    Tensor, TensorSpec,
};
use forebay_serve::kserve::Route;
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
/// `ragged_inputs: list[tuple[str, int, float]]` are name, dimension behind the rows and what padding is made of;
/// `ragged_outputs: list[tuple[str, int]]` name and dimension that is cut back; `mask` is the input of ones and zeros.
///
/// Raises: `ValueError` for an unknown datatype, presence or name, a dimension that is not there, or padding that the
/// datatype cannot hold.
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
    #[pyo3(signature = (inputs, outputs, *, max_batch_rows, ragged_inputs = vec![], ragged_outputs = vec![], mask = None))]
    fn new(
        inputs: Vec<(String, String, Vec<i64>, String)>,
        outputs: Vec<String>,
        max_batch_rows: u64,
        ragged_inputs: Vec<(String, usize, f64)>,
        ragged_outputs: Vec<(String, usize)>,
        mask: Option<String>,
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
            Ok(TensorSpec { name, datatype, dims, presence, ragged: None })
        });
        let mut inputs: Vec<TensorSpec> = inputs.collect::<PyResult<_>>()?;
        for (name, dim, pad) in ragged_inputs {
            let spec = inputs.iter_mut().find(|spec| *spec.name == *name);
            let spec = spec.ok_or_else(|| unknown("input", &name))?;
            if dim >= spec.dims.len() {
                return Err(no_dimension("input", &name, dim));
            }
            let pad = spec.datatype.element_of(pad).ok_or_else(|| {
                PyValueError::new_err(format!("input `{name}` cannot be padded with {pad}"))
            })?;
            spec.ragged = Some(Ragged { dim, pad });
        }
        let mut outputs: Vec<OutputSpec> =
            outputs.into_iter().map(|name| OutputSpec { name: name.into(), ragged_dim: None }).collect();
        for (name, dim) in ragged_outputs {
            let spec = outputs.iter_mut().find(|spec| *spec.name == *name);
            spec.ok_or_else(|| unknown("output", &name))?.ragged_dim = Some(dim);
        }
        let mask = match mask {
            None => None,
            Some(name) => {
                let at = inputs.iter().position(|spec| *spec.name == *name);
                Some(at.ok_or_else(|| unknown("input", &name))?)
            }
        };
        let batching = match max_batch_rows {
            0 => Batching::Whole,
            max_rows => Batching::Rows { max_rows },
        };
        Ok(Self { shape: batch::ModelShape { inputs, outputs, mask, batching } })
    }

    fn __repr__(&self) -> String {
        let inputs: Vec<&str> = self.shape.inputs.iter().map(|spec| &*spec.name).collect();
        let outputs: Vec<&str> = self.shape.outputs.iter().map(|spec| &*spec.name).collect();
        let rows = match self.shape.batching {
            Batching::Rows { max_rows } => max_rows,
            Batching::Whole => 0,
        };
        let (inputs, outputs) = (inputs.join(", "), outputs.join(", "));
        format!("ModelShape(inputs='{inputs}', outputs='{outputs}', max_batch_rows={rows})")
    }
}

/// How a model's batches are made.
///
/// Units: `instances` are batches that run at once over all endpoints, `slots` batches that may be in flight, so one
/// more for each endpoint; `max_padded_tokens` is rows times padded length of one batch, 0 for no bound;
/// `preferred_rows` and `length_classes` rise, and `length_classes` empty means that lengths are learned, at most
/// `max_length_classes` at a time. `servers: list[tuple[str, int]]` are the `host:port` that batches may go to, and how
/// many each may have at once; empty: any of the pool. `resends` is how often a batch may be sent again to another server
/// when the first had it and failed.
///
/// Raises: `ValueError` for a 0 where there must be something, or numbers that do not rise.
#[pyclass(frozen, module = "forebay._core")]
pub struct LaneSettings {
    pub(super) settings: batch::LaneSettings,
    pub(super) route: Route,
}

// === impl LaneSettings ===

#[pymethods]
impl LaneSettings {
    #[new]
    #[pyo3(signature = (*, instances = 1, slots = 2, max_padded_tokens = 0, preferred_rows = vec![],
        length_classes = vec![], max_length_classes = 32, servers = vec![], resends = 1))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn new(
        instances: u32,
        slots: u32,
        max_padded_tokens: u64,
        preferred_rows: Vec<u64>,
        length_classes: Vec<u64>,
        max_length_classes: usize,
        servers: Vec<(String, u32)>,
        resends: u32,
    ) -> PyResult<Self> {
        let rises =
            |numbers: &[u64]| numbers.first() != Some(&0) && numbers.windows(2).all(|pair| pair[0] < pair[1]);
        if instances == 0 || slots < instances || max_length_classes == 0 {
            return Err(PyValueError::new_err(
                "instances and max_length_classes must be at least 1, and slots at least the instances",
            ));
        }
        if !rises(&preferred_rows) || !rises(&length_classes) {
            return Err(PyValueError::new_err("preferred_rows and length_classes must rise from at least 1"));
        }
        let classes = if length_classes.is_empty() {
            LengthClasses::Learned { max_classes: max_length_classes }
        } else {
            LengthClasses::Fixed(length_classes.into())
        };
        if servers.iter().any(|&(_, most)| most == 0) {
            return Err(PyValueError::new_err("each of servers must be allowed at least 1 batch"));
        }
        let capacity = Capacity { instances, slots };
        let preferred_rows = preferred_rows.into();
        let servers = servers.into_iter().map(|(address, most)| (address.into(), most)).collect();
        Ok(Self {
            settings: batch::LaneSettings { capacity, max_padded_tokens, preferred_rows, classes },
            route: Route { servers, resends },
        })
    }
}

fn unknown(what: &str, name: &str) -> PyErr {
    PyValueError::new_err(format!("the model has no {what} `{name}`"))
}

fn no_dimension(what: &str, name: &str, dim: usize) -> PyErr {
    PyValueError::new_err(format!("{what} `{name}` has no dimension {dim} behind the rows"))
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
