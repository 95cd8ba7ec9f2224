//! Owns: what a model takes and gives (names, datatypes, dimensions, rows of one batch) and the check against it.
//! Must not know: where a shape was learned, queues.
//! On failure: closed; a request that does not fit is refused with the model's expectation in the message.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{BatchError, Datatype, Tensor};

/// A dimension that may have any size.
pub const ANY: i64 = -1;

/// Whether a request may leave an input out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Every request carries it
    Required,
    /// A request may leave it out
    Optional,
}

/// Whether requests share a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batching {
    /// The first dimension of every tensor counts rows, and one batch has at most `max_rows`
    Rows {
        /// Most rows of one batch
        max_rows: u64,
    },
    /// Requests pass one by one, and the first dimension means nothing here
    Whole,
}

/// One input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name
    pub name: Arc<str>,
    /// Its element type
    pub datatype: Datatype,
    /// Its dimensions behind the rows (all of them where requests pass whole); -1 is any size
    pub dims: Vec<i64>,
    /// Whether it may be left out
    pub presence: Presence,
}

/// What a model takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelShape {
    /// Inputs in the model's order
    pub inputs: Vec<TensorSpec>,
    /// Names of the outputs in the model's order
    pub outputs: Vec<Arc<str>>,
    /// Whether and how far requests share a batch
    pub batching: Batching,
}

/// The inputs of one request, proven to fit a model, in the model's order.
#[derive(Debug, Clone)]
pub struct Checked {
    pub(super) inputs: Vec<Tensor>,
    pub(super) signature: Arc<[u8]>,
    pub(super) options: Bytes,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) max_rows: Option<u64>,
}

// === impl TensorSpec ===

impl TensorSpec {
    /// The dimensions behind the rows, if `shape` fits.
    fn tail<'a>(&self, shape: &'a [u64], batching: Batching) -> Option<&'a [u64]> {
        let tail = match batching {
            Batching::Rows { .. } => shape.split_first()?.1,
            Batching::Whole => shape,
        };
        let fits = tail.len() == self.dims.len()
            && tail
                .iter()
                .zip(&self.dims)
                .all(|(&given, &dim)| dim == ANY || u64::try_from(dim) == Ok(given));
        fits.then_some(tail)
    }

    fn describe(&self, batching: Batching) -> String {
        Described { spec: self, batching }.to_string()
    }
}

/// A spec as messages show it: `` `ids` INT64 [1 to 64 rows, any] ``.
struct Described<'a> {
    spec: &'a TensorSpec,
    batching: Batching,
}

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {} [", self.spec.name, self.spec.datatype)?;
        let mut comma = "";
        if let Batching::Rows { max_rows } = self.batching {
            write!(f, "1 to {max_rows} rows")?;
            comma = ", ";
        }
        for &dim in &self.spec.dims {
            f.write_str(comma)?;
            comma = ", ";
            if dim == ANY { f.write_str("any") } else { write!(f, "{dim}") }?;
        }
        f.write_str("]")?;
        if self.spec.presence == Presence::Optional { f.write_str(" (optional)") } else { Ok(()) }
    }
}

// === impl ModelShape ===

impl ModelShape {
    /// Proves the inputs of one request against the model and puts them into the model's order.
    /// `outputs` are the names that the request asks for; `options` are opaque transport options: requests whose
    /// options differ never share a batch.
    pub fn check<'a>(
        &self,
        inputs: Vec<Tensor>,
        outputs: impl IntoIterator<Item = &'a str>,
        options: Bytes,
    ) -> Result<Checked, BatchError> {
        for name in outputs {
            if !self.outputs.iter().any(|output| **output == *name) {
                return Err(BatchError::UnknownOutput {
                    tensor: name.to_owned(),
                    expected: self.describe_outputs(),
                });
            }
        }
        let mut placed: Vec<Option<Tensor>> = vec![None; self.inputs.len()];
        let mut rows = None;
        let mut bytes = options.len() as u64;
        for tensor in inputs {
            let Some(at) = self.inputs.iter().position(|spec| spec.name == *tensor.name()) else {
                let tensor = Arc::clone(tensor.name());
                return Err(BatchError::UnknownInput { tensor, expected: self.describe_inputs() });
            };
            if placed[at].is_some() {
                return Err(BatchError::DuplicateInput { tensor: Arc::clone(tensor.name()) });
            }
            let tensor_rows = self.check_input(&self.inputs[at], &tensor)?;
            match (rows, tensor_rows) {
                (Some(first_rows), rows) if first_rows != rows => {
                    return Err(BatchError::RowsDiffer {
                        tensor: Arc::clone(tensor.name()),
                        rows,
                        first_rows,
                    });
                }
                _ => rows = Some(tensor_rows),
            }
            bytes = bytes.saturating_add(tensor.data().len() as u64);
            placed[at] = Some(tensor.with_name(Arc::clone(&self.inputs[at].name)));
        }
        for (spec, tensor) in self.inputs.iter().zip(&placed) {
            if tensor.is_none() && spec.presence == Presence::Required {
                let tensor = Arc::clone(&spec.name);
                return Err(BatchError::MissingInput { tensor, expected: self.describe_inputs() });
            }
        }
        if rows.is_none() && self.batching != Batching::Whole {
            return Err(BatchError::NoInputs { expected: self.describe_inputs() });
        }
        let signature = self.signature(&placed, &options);
        let max_rows = match self.batching {
            Batching::Rows { max_rows } => Some(max_rows),
            Batching::Whole => None,
        };
        Ok(Checked {
            inputs: placed.into_iter().flatten().collect(),
            signature,
            options,
            rows: rows.unwrap_or(1),
            bytes,
            max_rows,
        })
    }

    /// Rows of one input that fits, or why it does not.
    fn check_input(&self, spec: &TensorSpec, tensor: &Tensor) -> Result<u64, BatchError> {
        let name = || Arc::clone(&spec.name);
        if tensor.datatype() != spec.datatype {
            return Err(BatchError::Datatype {
                tensor: name(),
                given: tensor.datatype(),
                expected: spec.datatype,
            });
        }
        if spec.tail(tensor.shape(), self.batching).is_none() {
            let (given, expected) = (tensor.shape().to_vec(), spec.describe(self.batching));
            return Err(BatchError::Shape { tensor: name(), given, expected });
        }
        match (self.batching, tensor.shape().first()) {
            (Batching::Rows { .. }, Some(0)) => Err(BatchError::ZeroRows { tensor: name() }),
            (Batching::Rows { max_rows }, Some(&rows)) if rows > max_rows => {
                Err(BatchError::TooManyRows { rows, max_rows })
            }
            (Batching::Rows { .. }, Some(&rows)) => Ok(rows),
            _ => Ok(1),
        }
    }

    /// An injective form of everything but the rows. Requests with equal signatures may share a batch,
    /// also when the model's shape was learned anew between them.
    fn signature(&self, placed: &[Option<Tensor>], options: &Bytes) -> Arc<[u8]> {
        let mut form = Vec::with_capacity(64);
        let number = |form: &mut Vec<u8>, n: u64| form.extend_from_slice(&n.to_le_bytes());
        number(&mut form, placed.iter().flatten().count() as u64);
        for (spec, tensor) in self.inputs.iter().zip(placed) {
            let Some(tensor) = tensor else { continue };
            number(&mut form, spec.name.len() as u64);
            form.extend_from_slice(spec.name.as_bytes());
            form.push(spec.datatype as u8);
            let tail = spec.tail(tensor.shape(), self.batching).unwrap_or_default();
            number(&mut form, tail.len() as u64);
            for &dim in tail {
                number(&mut form, dim);
            }
            number(&mut form, tensor.options().len() as u64);
            form.extend_from_slice(tensor.options());
        }
        form.extend_from_slice(options);
        form.into()
    }

    fn describe_inputs(&self) -> String {
        let all: Vec<String> = self.inputs.iter().map(|spec| spec.describe(self.batching)).collect();
        all.join(", ")
    }

    fn describe_outputs(&self) -> String {
        let all: Vec<String> = self.outputs.iter().map(|name| format!("`{name}`")).collect();
        all.join(", ")
    }
}

// === impl Checked ===

impl Checked {
    /// Rows of the request; 1 where requests pass whole.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn spec(name: &str, datatype: Datatype, dims: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, dims: dims.to_vec(), presence: Presence::Required }
    }

    fn encoder() -> ModelShape {
        ModelShape {
            inputs: vec![spec("ids", Datatype::Int64, &[ANY]), spec("mask", Datatype::Int64, &[ANY])],
            outputs: vec!["vector".into()],
            batching: Batching::Rows { max_rows: 4 },
        }
    }

    fn ints(name: &str, rows: i64, length: i64) -> Tensor {
        let data = Bytes::from(vec![0; usize::try_from(rows * length * 8).unwrap()]);
        Tensor::new(name.into(), Datatype::Int64, &[rows, length], data).unwrap()
    }

    fn refusal(inputs: Vec<Tensor>) -> String {
        encoder().check(inputs, [], Bytes::new()).unwrap_err().to_string()
    }

    #[test]
    fn every_refusal_tells_what_the_model_takes() {
        let all = "`ids` INT64 [1 to 4 rows, any], `mask` INT64 [1 to 4 rows, any]";
        assert_eq!(
            refusal(vec![ints("ids", 1, 3)]),
            format!("input `mask` is missing; the model takes {all}")
        );
        assert_eq!(
            refusal(vec![ints("ids", 1, 3), ints("mask", 1, 3), ints("kind", 1, 3)]),
            format!("the model has no input `kind`; it takes {all}")
        );
        assert_eq!(
            refusal(vec![ints("ids", 1, 3), ints("ids", 1, 3)]),
            "input `ids` came twice; send it once"
        );
        assert_eq!(refusal(vec![ints("ids", 0, 3)]), "input `ids` has no rows; send at least one");
        assert_eq!(
            refusal(vec![ints("ids", 5, 3)]),
            "the request has 5 rows, but one batch of the model has at most 4; send it in parts"
        );
        assert_eq!(
            refusal(vec![ints("ids", 2, 3), ints("mask", 1, 3)]),
            "input `mask` has 1 rows, but the first input has 2; all inputs of a request need the same"
        );
        let mut optional = encoder();
        optional.inputs.truncate(1);
        optional.inputs[0].presence = Presence::Optional;
        assert_eq!(
            optional.check(Vec::new(), [], Bytes::new()).unwrap_err().to_string(),
            "the request has no input; the model takes `ids` INT64 [1 to 4 rows, any] (optional)"
        );
        let flat = Tensor::new("ids".into(), Datatype::Int64, &[1], Bytes::from_static(&[0; 8])).unwrap();
        assert_eq!(
            refusal(vec![flat]),
            "input `ids` has the shape [1], but the model takes `ids` INT64 [1 to 4 rows, any]"
        );
        let narrow =
            Tensor::new("ids".into(), Datatype::Int32, &[1, 1], Bytes::from_static(&[0; 4])).unwrap();
        assert_eq!(refusal(vec![narrow]), "input `ids` is INT32, but the model takes INT64");
        let outputs = encoder().check(vec![ints("ids", 1, 1), ints("mask", 1, 1)], ["logits"], Bytes::new());
        assert_eq!(outputs.unwrap_err().to_string(), "the model has no output `logits`; it has `vector`");
    }

    #[test]
    fn the_signature_ignores_rows_and_order_and_nothing_else() {
        let of = |inputs: Vec<Tensor>, options: &'static [u8]| {
            encoder().check(inputs, [], Bytes::from_static(options)).unwrap().signature
        };
        let base = of(vec![ints("ids", 1, 3), ints("mask", 1, 3)], b"");
        assert_eq!(base, of(vec![ints("mask", 2, 3), ints("ids", 2, 3)], b""));
        assert_ne!(base, of(vec![ints("ids", 1, 4), ints("mask", 1, 3)], b""));
        assert_ne!(base, of(vec![ints("ids", 1, 3), ints("mask", 1, 4)], b""));
        assert_ne!(base, of(vec![ints("ids", 1, 3), ints("mask", 1, 3)], b"o"));
        let marked = ints("ids", 1, 3).with_options(Bytes::from_static(b"o"));
        assert_ne!(base, of(vec![marked, ints("mask", 1, 3)], b""));
    }
}
