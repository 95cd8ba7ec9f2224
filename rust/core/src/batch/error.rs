//! Owns: every reason for which a tensor request, or a model's answer, is refused.
//! Must not know: the transport; [`Class`] is what a transport maps to its own status.
//! On failure: not applicable.

use std::fmt;
use std::sync::Arc;

use super::Datatype;

/// Who has to change something before the same request can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The client: the request itself is wrong (gRPC `INVALID_ARGUMENT`)
    Request,
    /// Nobody: later it may succeed as it is (gRPC `UNAVAILABLE`)
    Load,
    /// The model: its answer does not fit what it was asked (gRPC `INTERNAL`)
    Answer,
}

/// Why a tensor, a request or an answer was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchError {
    /// A datatype that the protocol does not have
    UnknownDatatype {
        /// The tensor
        tensor: Arc<str>,
        /// What it said
        datatype: String,
    },
    /// A negative dimension
    NegativeDimension {
        /// The tensor
        tensor: Arc<str>,
        /// Its whole shape
        shape: Vec<i64>,
    },
    /// A shape whose element count or size does not fit 64 bits
    ShapeOverflow {
        /// The tensor
        tensor: Arc<str>,
        /// Its whole shape
        shape: Vec<u64>,
    },
    /// The bytes are not as many as shape and datatype ask for
    Length {
        /// The tensor
        tensor: Arc<str>,
        /// Its datatype
        datatype: Datatype,
        /// Its shape
        shape: Vec<u64>,
        /// Bytes that the shape asks for
        expected_bytes: u64,
        /// Bytes that came
        given_bytes: u64,
    },
    /// A `BYTES` tensor whose length prefixes do not add up
    Strings {
        /// The tensor
        tensor: Arc<str>,
        /// Elements that the shape asks for
        expected: u64,
        /// Whole elements that were found
        found: u64,
        /// Bytes behind the last whole element
        left_bytes: u64,
    },
    /// Typed contents in a field that does not belong to the datatype
    WrongContents {
        /// The tensor
        tensor: Arc<str>,
        /// Its datatype
        datatype: Datatype,
        /// The field that carried values
        field: &'static str,
    },
    /// A typed value that the datatype cannot hold
    ValueRange {
        /// The tensor
        tensor: Arc<str>,
        /// Its datatype
        datatype: Datatype,
        /// The value
        value: i64,
    },
    /// Raw and typed contents are mixed, or the raw list is not as long as the tensor list
    RawCount {
        /// Tensors in the message
        tensors: usize,
        /// Raw buffers in the message
        raw: usize,
    },
    /// A tensor that lies in shared memory
    SharedMemory {
        /// The tensor
        tensor: Arc<str>,
    },
    /// A datatype that the model does not take
    Datatype {
        /// The input
        tensor: Arc<str>,
        /// What came
        given: Datatype,
        /// What the model takes
        expected: Datatype,
    },
    /// A shape that the model does not take
    Shape {
        /// The input
        tensor: Arc<str>,
        /// What came
        given: Vec<u64>,
        /// What the model takes, as [`super::TensorSpec`] writes it
        expected: String,
    },
    /// An input that the model needs is absent
    MissingInput {
        /// The input
        tensor: Arc<str>,
        /// All inputs of the model
        expected: String,
    },
    /// No input at all, to a model whose inputs are all optional: nothing tells how many rows it is
    NoInputs {
        /// All inputs of the model
        expected: String,
    },
    /// An input that the model does not have
    UnknownInput {
        /// The input
        tensor: Arc<str>,
        /// All inputs of the model
        expected: String,
    },
    /// An input that came twice
    DuplicateInput {
        /// The input
        tensor: Arc<str>,
    },
    /// An output that the model does not have
    UnknownOutput {
        /// The output
        tensor: String,
        /// All outputs of the model
        expected: String,
    },
    /// No rows
    ZeroRows {
        /// The input
        tensor: Arc<str>,
    },
    /// Two inputs of one request disagree on the rows
    RowsDiffer {
        /// The input
        tensor: Arc<str>,
        /// Its rows
        rows: u64,
        /// Rows of the request's first input
        first_rows: u64,
    },
    /// More rows than the batches of one request may have together
    TooManyRows {
        /// Rows that came
        rows: u64,
        /// The bound
        max_rows: u64,
    },
    /// The pool's queue has no room now
    QueueFull {
        /// The pool
        pool: Arc<str>,
        /// What there is no room for
        unit: QueueUnit,
        /// How much of it waits
        waiting: u64,
        /// How much may wait
        max: u64,
    },
    /// One request is larger than the whole queue may be
    LargerThanQueue {
        /// What it has too much of
        unit: QueueUnit,
        /// How much it has
        given: u64,
        /// How much may wait
        max: u64,
    },
    /// The model's answer has another number of rows than the batch
    OutputRows {
        /// The output
        tensor: Arc<str>,
        /// Its shape
        shape: Vec<u64>,
        /// Rows of the batch
        rows: u64,
    },
    /// An output that must have the padded length has another one
    OutputLength {
        /// The output
        tensor: Arc<str>,
        /// Its shape
        shape: Vec<u64>,
        /// The dimension that must have it, behind the rows
        dim: usize,
        /// The padded length
        length: u64,
    },
    /// The answers to the parts of one request do not belong together
    PartsDiffer {
        /// The output
        tensor: Arc<str>,
        /// Its shape in the first part
        first_shape: Vec<u64>,
        /// Its shape in another part; empty if it is not there or has no rows
        shape: Vec<u64>,
    },
}

/// What a queue is bounded in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueUnit {
    /// Rows of tensors
    Rows,
    /// Rows times length
    Tokens,
    /// Bytes of tensors
    Bytes,
}

// === impl QueueUnit ===

impl QueueUnit {
    /// Its name in messages and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Tokens => "tokens",
            Self::Bytes => "bytes",
        }
    }
}

// === impl BatchError ===

impl BatchError {
    /// A stable name for metrics and records.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::UnknownDatatype { .. } => "tensor_unknown_datatype",
            Self::NegativeDimension { .. } => "tensor_negative_dimension",
            Self::ShapeOverflow { .. } => "tensor_shape_overflow",
            Self::Length { .. } => "tensor_length",
            Self::Strings { .. } => "tensor_strings",
            Self::WrongContents { .. } => "tensor_contents",
            Self::ValueRange { .. } => "tensor_value_range",
            Self::RawCount { .. } => "tensor_raw_count",
            Self::SharedMemory { .. } => "tensor_shared_memory",
            Self::Datatype { .. } => "model_datatype",
            Self::Shape { .. } => "model_shape",
            Self::MissingInput { .. } => "model_missing_input",
            Self::NoInputs { .. } => "model_no_inputs",
            Self::UnknownInput { .. } => "model_unknown_input",
            Self::DuplicateInput { .. } => "model_duplicate_input",
            Self::UnknownOutput { .. } => "model_unknown_output",
            Self::ZeroRows { .. } => "batch_zero_rows",
            Self::RowsDiffer { .. } => "batch_rows_differ",
            Self::TooManyRows { .. } => "batch_too_many_rows",
            Self::QueueFull { .. } => "batch_queue_full",
            Self::LargerThanQueue { .. } => "batch_larger_than_queue",
            Self::OutputRows { .. } => "batch_output_rows",
            Self::OutputLength { .. } => "batch_output_length",
            Self::PartsDiffer { .. } => "batch_parts_differ",
        }
    }

    /// Who has to change something.
    pub fn class(&self) -> Class {
        match self {
            Self::QueueFull { .. } => Class::Load,
            Self::OutputRows { .. } | Self::OutputLength { .. } | Self::PartsDiffer { .. } => Class::Answer,
            _ => Class::Request,
        }
    }

    /// Whether only another model shape could make the request valid: the learned shape may then be out of date.
    pub fn blames_the_shape(&self) -> bool {
        matches!(
            self,
            Self::Datatype { .. }
                | Self::Shape { .. }
                | Self::MissingInput { .. }
                | Self::UnknownInput { .. }
                | Self::UnknownOutput { .. }
        )
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownDatatype { tensor, datatype } => write!(
                f,
                "tensor `{tensor}` has the datatype `{datatype}`, which KServe v2 does not have; use one such as `FP32`, `INT64` or `BYTES`"
            ),
            Self::NegativeDimension { tensor, shape } => {
                write!(f, "tensor `{tensor}` has the shape {shape:?}; send real dimensions, none below 0")
            }
            Self::ShapeOverflow { tensor, shape } => {
                write!(f, "tensor `{tensor}` has the shape {shape:?}, whose size does not fit 64 bits")
            }
            Self::Length { tensor, datatype, shape, expected_bytes, given_bytes } => write!(
                f,
                "tensor `{tensor}` of {datatype} {shape:?} needs {expected_bytes} bytes, but {given_bytes} came"
            ),
            Self::Strings { tensor, expected, found, left_bytes } => write!(
                f,
                "tensor `{tensor}` of BYTES needs {expected} elements, each behind its length in 4 little-endian bytes; {found} whole ones came and {left_bytes} bytes are left"
            ),
            Self::WrongContents { tensor, datatype, field } => write!(
                f,
                "tensor `{tensor}` of {datatype} carries values in `{field}`, which is not that datatype's field; send raw contents instead"
            ),
            Self::ValueRange { tensor, datatype, value } => {
                write!(f, "tensor `{tensor}` carries {value}, which {datatype} cannot hold")
            }
            Self::RawCount { tensors, raw } => write!(
                f,
                "the message has {tensors} tensors and {raw} raw buffers; send one raw buffer for every tensor, or none and typed contents for all"
            ),
            Self::SharedMemory { tensor } => write!(
                f,
                "tensor `{tensor}` lies in shared memory, which a gateway cannot reach; send its bytes in the request"
            ),
            Self::Datatype { tensor, given, expected } => {
                write!(f, "input `{tensor}` is {given}, but the model takes {expected}")
            }
            Self::Shape { tensor, given, expected } => {
                write!(f, "input `{tensor}` has the shape {given:?}, but the model takes {expected}")
            }
            Self::MissingInput { tensor, expected } => {
                write!(f, "input `{tensor}` is missing; the model takes {expected}")
            }
            Self::NoInputs { expected } => write!(f, "the request has no input; the model takes {expected}"),
            Self::UnknownInput { tensor, expected } => {
                write!(f, "the model has no input `{tensor}`; it takes {expected}")
            }
            Self::DuplicateInput { tensor } => write!(f, "input `{tensor}` came twice; send it once"),
            Self::UnknownOutput { tensor, expected } => {
                write!(f, "the model has no output `{tensor}`; it has {expected}")
            }
            Self::ZeroRows { tensor } => write!(f, "input `{tensor}` has no rows; send at least one"),
            Self::RowsDiffer { tensor, rows, first_rows } => write!(
                f,
                "input `{tensor}` has {rows} rows, but the first input has {first_rows}; all inputs of a request need the same"
            ),
            Self::TooManyRows { rows, max_rows } => write!(
                f,
                "the request has {rows} rows, but one request may have at most {max_rows}; send it in parts"
            ),
            Self::QueueFull { pool, unit, waiting, max } => write!(
                f,
                "the queue of pool `{pool}` is full: {waiting} of {max} {} wait; try again later",
                unit.name()
            ),
            Self::LargerThanQueue { unit, given, max } => write!(
                f,
                "the request has {given} {unit}, but a whole queue has at most {max}; send it in parts",
                unit = unit.name()
            ),
            Self::OutputLength { tensor, shape, dim, length } => write!(
                f,
                "the model answered `{tensor}` with the shape {shape:?}, but dimension {dim} behind the rows must be the padded length {length}; take it out of `ragged_outputs` if it is not cut back"
            ),
            Self::PartsDiffer { tensor, first_shape, shape } => write!(
                f,
                "the model answered `{tensor}` with the shape {first_shape:?} to one part of a request and {shape:?} to another; they must be equal but for the rows"
            ),
            Self::OutputRows { tensor, shape, rows } => write!(
                f,
                "the model answered `{tensor}` with the shape {shape:?} to a batch of {rows} rows; its first dimension must be the rows"
            ),
        }
    }
}

impl std::error::Error for BatchError {}
