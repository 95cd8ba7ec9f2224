//! Owns: what a model takes and gives (names, datatypes, dimensions, rows of one batch) and the check against it.
//! Must not know: where a shape was learned, queues.
//! On failure: closed; a request that does not fit is refused with the model's expectation in the message.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::padding::{Padding, padded_bytes};
use super::{BatchError, Datatype, Tensor};

/// A dimension that may have any size.
pub const ANY: i64 = -1;

/// Most batches that one request may be cut into.
const MAX_PARTS: u64 = 1024;

/// Most bytes of a mask that is made: a request of empty rows must not make a huge one.
const MAX_MASK_BYTES: usize = 64 << 20;

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
    /// Its dimension that is padded; `None`: requests share a batch only where all dimensions are equal
    pub ragged: Option<Ragged>,
}

/// A dimension that differs between the requests of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ragged {
    /// Behind the rows: 0 is the first one there
    pub dim: usize,
    /// One element of padding, in raw little-endian form; for BYTES the 4 bytes of an empty text's length
    pub pad: Bytes,
}

/// One output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// Its name
    pub name: Arc<str>,
    /// Its dimension behind the rows that has the padded length, and is cut back to the request's own
    pub ragged_dim: Option<usize>,
}

/// What a model takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelShape {
    /// Inputs in the model's order
    pub inputs: Vec<TensorSpec>,
    /// Outputs in the model's order
    pub outputs: Vec<OutputSpec>,
    /// Index of the input that says what is real (1) and what is padding (0); made for requests that leave it out
    pub mask: Option<usize>,
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
    /// When its own inputs are as long as its longest one
    pub(super) bytes: u64,
    pub(super) length: u64,
    pub(super) max_rows: Option<u64>,
    pub(super) shares: Shares,
    /// Outputs that are cut back, with the dimension behind the rows
    pub(super) ragged_outputs: Vec<(Arc<str>, usize)>,
}

/// With which requests of its signature a request may share a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shares {
    /// Those of any length: all are padded to one
    AnyLength,
    /// Those of the same shapes, which the signature says
    SameShape,
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
            if !self.outputs.iter().any(|output| *output.name == *name) {
                return Err(BatchError::UnknownOutput {
                    tensor: name.to_owned(),
                    expected: self.describe_outputs(),
                });
            }
        }
        let mut placed: Vec<Option<Tensor>> = vec![None; self.inputs.len()];
        let mut rows = None;
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
            placed[at] = Some(tensor.with_name(Arc::clone(&self.inputs[at].name)));
        }
        let longest = self.lengths(&placed).max();
        if let (Some(at), Some(rows), Some(length)) = (self.mask, rows, longest)
            && placed[at].is_none()
        {
            placed[at] = self.mask_of(at, rows, length);
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
        self.proven(placed, options, rows.unwrap_or(1), longest)
    }

    /// The request as it is queued.
    fn proven(
        &self,
        mut placed: Vec<Option<Tensor>>,
        options: Bytes,
        rows: u64,
        longest: Option<u64>,
    ) -> Result<Checked, BatchError> {
        let max_rows = match self.batching {
            Batching::Rows { max_rows } => Some(max_rows),
            Batching::Whole => None,
        };
        let most_rows = max_rows.map_or(u64::MAX, |max_rows| max_rows.saturating_mul(MAX_PARTS));
        if rows > most_rows {
            return Err(BatchError::TooManyRows { rows, max_rows: most_rows });
        }
        let length = longest.unwrap_or(1);
        // An empty dimension made longer could make something huge of nothing: such a request is taken as it is.
        let shares = match max_rows {
            Some(_) if longest.is_some() && self.lengths(&placed).all(|length| length > 0) => {
                Shares::AnyLength
            }
            _ => Shares::SameShape,
        };
        let signature = self.signature(&placed, &options, shares);
        let mut ragged_outputs = Vec::new();
        if shares == Shares::AnyLength {
            let ragged = |output: &OutputSpec| Some((Arc::clone(&output.name), output.ragged_dim?));
            ragged_outputs.extend(self.outputs.iter().filter_map(ragged));
            for (at, slot) in placed.iter_mut().enumerate() {
                if let Some(padding) = self.padding(at) {
                    *slot = slot.take().map(|tensor| tensor.with_padding(padding));
                }
            }
        }
        let inputs: Vec<Tensor> = placed.into_iter().flatten().collect();
        let padded = inputs.iter().map(|tensor| padded_bytes(tensor, length).unwrap_or(u64::MAX));
        let bytes = padded.fold(options.len() as u64, u64::saturating_add);
        Ok(Checked { inputs, signature, options, rows, bytes, length, max_rows, shares, ragged_outputs })
    }

    /// The ragged dimension of an input, behind the rows. The mask has one by being the mask.
    fn ragged_dim(&self, at: usize) -> Option<usize> {
        let spec = &self.inputs[at];
        let dims = spec.dims.len();
        let masks = || (self.mask == Some(at)).then(|| dims.checked_sub(1)).flatten();
        spec.ragged.as_ref().map(|ragged| ragged.dim).filter(|&dim| dim < dims).or_else(masks)
    }

    /// The ragged dimensions of what came.
    fn lengths(&self, placed: &[Option<Tensor>]) -> impl Iterator<Item = u64> {
        placed.iter().enumerate().filter_map(|(at, tensor)| {
            let tail = self.inputs[at].tail(tensor.as_ref()?.shape(), self.batching)?;
            tail.get(self.ragged_dim(at)?).copied()
        })
    }

    /// How an input is padded. Padding that is no element of the datatype is taken as zeros.
    fn padding(&self, at: usize) -> Option<Padding> {
        let dim = self.ragged_dim(at)? + 1;
        let spec = &self.inputs[at];
        let size = spec.datatype.element_bytes();
        let given = spec.ragged.as_ref().map(|ragged| ragged.pad.clone());
        let fits = |pad: &Bytes| size.is_none_or(|size| pad.len() as u64 == size) && !pad.is_empty();
        let pad = given.filter(fits).or_else(|| spec.datatype.element_of(0.0))?;
        Some(Padding { dim, pad })
    }

    /// The mask of a request that has none: ones over its whole length. `None` where the model's dimensions do not
    /// tell the mask's shape.
    fn mask_of(&self, at: usize, rows: u64, length: u64) -> Option<Tensor> {
        let spec = &self.inputs[at];
        let ragged_dim = self.ragged_dim(at)?;
        let mut shape = Vec::with_capacity(spec.dims.len() + 1);
        if self.batching != Batching::Whole {
            shape.push(i64::try_from(rows).ok()?);
        }
        for (dim, &size) in spec.dims.iter().enumerate() {
            shape.push(if dim == ragged_dim { i64::try_from(length).ok()? } else { size });
        }
        let one = spec.datatype.element_of(1.0)?;
        let bytes =
            shape.iter().try_fold(one.len(), |all, &size| all.checked_mul(usize::try_from(size).ok()?))?;
        if bytes > MAX_MASK_BYTES {
            return None;
        }
        let ones = Bytes::from(one.repeat(bytes / one.len()));
        Tensor::new(Arc::clone(&spec.name), spec.datatype, &shape, ones).ok()
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
            (Batching::Rows { .. }, Some(&rows)) => Ok(rows),
            _ => Ok(1),
        }
    }

    /// An injective form of everything but the rows and what is padded. Requests with equal signatures may share a
    /// batch, also when the model's shape was learned anew between them.
    fn signature(&self, placed: &[Option<Tensor>], options: &Bytes, shares: Shares) -> Arc<[u8]> {
        let mut form = Vec::with_capacity(64);
        form.push(u8::from(shares == Shares::AnyLength));
        let number = |form: &mut Vec<u8>, n: u64| form.extend_from_slice(&n.to_le_bytes());
        number(&mut form, placed.iter().flatten().count() as u64);
        for (at, (spec, tensor)) in self.inputs.iter().zip(placed).enumerate() {
            let Some(tensor) = tensor else { continue };
            let padded = self.ragged_dim(at).filter(|_| shares == Shares::AnyLength);
            number(&mut form, spec.name.len() as u64);
            form.extend_from_slice(spec.name.as_bytes());
            form.push(spec.datatype as u8);
            let tail = spec.tail(tensor.shape(), self.batching).unwrap_or_default();
            number(&mut form, tail.len() as u64);
            for (dim, &size) in tail.iter().enumerate() {
                number(&mut form, if padded == Some(dim) { u64::MAX } else { size });
            }
            if let (Some(_), Some(ragged)) = (padded, &spec.ragged) {
                form.extend_from_slice(&ragged.pad);
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
        let all: Vec<String> = self.outputs.iter().map(|output| format!("`{}`", output.name)).collect();
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

    /// Its longest ragged dimension; 1 where the model has none.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Rows times length: what it is without padding.
    pub fn tokens(&self) -> u64 {
        self.rows.saturating_mul(self.length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn spec(name: &str, datatype: Datatype, dims: &[i64]) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            datatype,
            dims: dims.to_vec(),
            presence: Presence::Required,
            ragged: None,
        }
    }

    fn encoder() -> ModelShape {
        ModelShape {
            inputs: vec![spec("ids", Datatype::Int64, &[ANY]), spec("mask", Datatype::Int64, &[ANY])],
            outputs: vec![OutputSpec { name: "vector".into(), ragged_dim: None }],
            mask: None,
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
            refusal(vec![ints("ids", 4097, 0), ints("mask", 4097, 0)]),
            "the request has 4097 rows, but one request may have at most 4096; send it in parts"
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

    fn ragged() -> ModelShape {
        let mut shape = encoder();
        shape.inputs[0].ragged = Some(Ragged { dim: 0, pad: Bytes::from_static(&[7; 8]) });
        shape.mask = Some(1);
        shape
    }

    #[test]
    fn a_request_of_any_length_has_one_signature_and_a_mask() {
        let of = |inputs| ragged().check(inputs, [], Bytes::new()).unwrap();
        let (short, long) = (of(vec![ints("ids", 2, 3)]), of(vec![ints("ids", 1, 9), ints("mask", 1, 9)]));
        assert_eq!(short.signature, long.signature);
        assert_eq!((short.length(), short.tokens(), long.length()), (3, 6, 9));
        assert_eq!(short.inputs[1].shape(), [2, 3]);
        assert_eq!(short.inputs[1].data().as_ref(), 1_i64.to_le_bytes().repeat(6));
        assert_eq!(short.bytes(), 2 * 3 * 16);
    }

    #[test]
    fn an_empty_request_shares_only_with_its_like() {
        let of = |length| ragged().check(vec![ints("ids", 2, length)], [], Bytes::new()).unwrap();
        assert_ne!(of(0).signature, of(1).signature);
        assert!(of(0).inputs.iter().all(|tensor| tensor.padding().is_none()));
    }

    #[test]
    fn bytes_count_what_padding_inside_a_request_adds() {
        let mut shape = ragged();
        shape.inputs[1].dims = vec![ANY, ANY];
        let side = Tensor::new("mask".into(), Datatype::Int64, &[1, 4, 1], vec![0; 32].into()).unwrap();
        let checked = shape.check(vec![ints("ids", 1, 10), side], [], Bytes::new()).unwrap();
        assert_eq!(checked.bytes(), 80 + 320);
    }
}
