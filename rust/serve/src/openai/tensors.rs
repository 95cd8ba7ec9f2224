//! Owns: values as one request's tensors, in the dimensions and datatypes that a model was learned with.
//! Must not know: what the values mean.
//! On failure: closed; a name or a datatype that does not fit is the policy's fault and says so.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use forebay_core::batch::{Batching, Datatype, ModelShape, Tensor, TensorSpec};

use super::fault::Fault;

/// A dimension that may have any size.
const ANY: i64 = -1;

/// The model's input of this name.
pub(super) fn input<'m>(shape: &'m ModelShape, name: &str) -> Result<&'m TensorSpec, Fault> {
    shape.inputs.iter().find(|spec| *spec.name == *name).ok_or_else(|| {
        let known: Vec<_> = shape.inputs.iter().map(|spec| format!("`{}`", spec.name)).collect();
        Fault::mapping(format!("the model has no input `{name}`; it has {}", known.join(", ")))
    })
}

/// One row of `elements` elements.
pub(super) fn tensor(
    shape: &ModelShape,
    spec: &TensorSpec,
    elements: usize,
    data: Bytes,
) -> Result<Tensor, Fault> {
    let dims = dims(shape, spec, elements);
    Tensor::new(Arc::clone(&spec.name), spec.datatype, &dims, data)
        .map_err(|error| Fault::mapping(format!("the input `{}` cannot hold it: {error}", spec.name)))
}

/// A row of texts.
pub(super) fn texts(shape: &ModelShape, name: &str, values: &[&[u8]]) -> Result<Tensor, Fault> {
    let spec = input(shape, name)?;
    if spec.datatype != Datatype::Bytes {
        return Err(Fault::mapping(format!("the input `{name}` is {}; a text needs BYTES", spec.datatype)));
    }
    let bytes = values.iter().map(|value| 4 + value.len()).sum();
    let mut data = BytesMut::with_capacity(bytes);
    for value in values {
        let Ok(length) = u32::try_from(value.len()) else {
            return Err(Fault::field("input", "a text has more than 4 GiB; make it smaller".to_owned()));
        };
        data.put_u32_le(length);
        data.put_slice(value);
    }
    tensor(shape, spec, values.len(), data.freeze())
}

/// The dimensions of one row: the last one that is free takes all elements, the others are 1.
fn dims(shape: &ModelShape, spec: &TensorSpec, elements: usize) -> Vec<i64> {
    let mut dims = Vec::with_capacity(1 + spec.dims.len());
    if matches!(shape.batching, Batching::Rows { .. }) {
        dims.push(1);
    }
    let free = spec.dims.iter().rposition(|&dim| dim == ANY);
    for (at, &dim) in spec.dims.iter().enumerate() {
        dims.push(match dim {
            ANY if Some(at) == free => elements as i64,
            ANY => 1,
            fixed => fixed,
        });
    }
    dims
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::openai::testing::shape_of;

    #[test]
    fn a_row_has_the_models_dimensions() {
        type Case = (Option<u64>, &'static [i64], usize, &'static [u64]);
        let cases: [Case; 6] = [
            (Some(8), &[ANY], 3, &[1, 3]),
            (Some(8), &[1], 1, &[1, 1]),
            (Some(8), &[], 1, &[1]),
            (None, &[1], 1, &[1]),
            (None, &[ANY, 1], 1, &[1, 1]),
            (None, &[ANY, ANY], 3, &[1, 3]),
        ];
        for (rows, dims, elements, expected) in cases {
            let shape = shape_of(rows, &[("x", Datatype::Bytes, dims)], &[]);
            let values = vec![&b"ab"[..]; elements];
            assert_eq!(texts(&shape, "x", &values).unwrap().shape(), expected, "{rows:?} {dims:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_the_mappings_fault() {
        let shape = shape_of(Some(8), &[("x", Datatype::Bytes, &[2]), ("n", Datatype::Int32, &[1])], &[]);
        for (name, expected) in [
            ("y", "no input `y`; it has `x`, `n`"),
            ("n", "the input `n` is INT32"),
            ("x", "the input `x` cannot hold it"),
        ] {
            let body = String::from_utf8(texts(&shape, name, &[b"a"]).unwrap_err().body()).unwrap();
            assert!(body.contains(expected), "{body}");
        }
    }
}
