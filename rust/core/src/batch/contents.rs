//! Owns: typed tensor values turned into raw bytes.
//! Must not know: the messages that carried them.
//! On failure: closed; a value that the datatype cannot hold is refused, never wrapped or rounded.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::{BatchError, Datatype};

/// Values as the protocol's typed fields carry them; the field is chosen by the datatype.
#[derive(Debug, Clone, Copy)]
pub enum Contents<'a> {
    /// `bool_contents`: BOOL
    Bool(&'a [bool]),
    /// `int_contents`: INT8, INT16, INT32
    Int(&'a [i32]),
    /// `int64_contents`: INT64
    Int64(&'a [i64]),
    /// `uint_contents`: UINT8, UINT16, UINT32
    Uint(&'a [u32]),
    /// `uint64_contents`: UINT64
    Uint64(&'a [u64]),
    /// `fp32_contents`: FP32
    Fp32(&'a [f32]),
    /// `fp64_contents`: FP64
    Fp64(&'a [f64]),
    /// `bytes_contents`: BYTES
    Strings(&'a [Bytes]),
}

// === impl Contents ===

impl Contents<'_> {
    /// The protocol's name of the field.
    pub fn field(self) -> &'static str {
        match self {
            Self::Bool(_) => "bool_contents",
            Self::Int(_) => "int_contents",
            Self::Int64(_) => "int64_contents",
            Self::Uint(_) => "uint_contents",
            Self::Uint64(_) => "uint64_contents",
            Self::Fp32(_) => "fp32_contents",
            Self::Fp64(_) => "fp64_contents",
            Self::Strings(_) => "bytes_contents",
        }
    }

    /// The raw little-endian form of `tensor`'s values. FP16 and BF16 have no typed field.
    pub fn to_raw(self, tensor: &Arc<str>, datatype: Datatype) -> Result<Bytes, BatchError> {
        let outside = |value: i64| BatchError::ValueRange { tensor: Arc::clone(tensor), datatype, value };
        let mut raw = BytesMut::new();
        match (self, datatype) {
            (Self::Bool(values), Datatype::Bool) => raw.extend(values.iter().map(|&v| u8::from(v))),
            (Self::Int(values), Datatype::Int8) => {
                for &v in values {
                    raw.put_i8(i8::try_from(v).map_err(|_| outside(v.into()))?);
                }
            }
            (Self::Int(values), Datatype::Int16) => {
                for &v in values {
                    raw.put_i16_le(i16::try_from(v).map_err(|_| outside(v.into()))?);
                }
            }
            (Self::Int(values), Datatype::Int32) => values.iter().for_each(|&v| raw.put_i32_le(v)),
            (Self::Int64(values), Datatype::Int64) => values.iter().for_each(|&v| raw.put_i64_le(v)),
            (Self::Uint(values), Datatype::Uint8) => {
                for &v in values {
                    raw.put_u8(u8::try_from(v).map_err(|_| outside(v.into()))?);
                }
            }
            (Self::Uint(values), Datatype::Uint16) => {
                for &v in values {
                    raw.put_u16_le(u16::try_from(v).map_err(|_| outside(v.into()))?);
                }
            }
            (Self::Uint(values), Datatype::Uint32) => values.iter().for_each(|&v| raw.put_u32_le(v)),
            (Self::Uint64(values), Datatype::Uint64) => values.iter().for_each(|&v| raw.put_u64_le(v)),
            (Self::Fp32(values), Datatype::Fp32) => values.iter().for_each(|&v| raw.put_f32_le(v)),
            (Self::Fp64(values), Datatype::Fp64) => values.iter().for_each(|&v| raw.put_f64_le(v)),
            (Self::Strings(values), Datatype::Bytes) => {
                for value in values {
                    let length = u32::try_from(value.len()).map_err(|_| outside(i64::MAX))?;
                    raw.put_u32_le(length);
                    raw.put_slice(value);
                }
            }
            _ => {
                let tensor = Arc::clone(tensor);
                return Err(BatchError::WrongContents { tensor, datatype, field: self.field() });
            }
        }
        Ok(raw.freeze())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn values_become_little_endian_bytes() {
        let x = "x".into();
        assert_eq!(Contents::Int(&[-2]).to_raw(&x, Datatype::Int16).unwrap().as_ref(), [0xfe, 0xff]);
        assert_eq!(Contents::Fp32(&[1.0]).to_raw(&x, Datatype::Fp32).unwrap().as_ref(), [0, 0, 128, 63]);
        let strings = [Bytes::from_static(b"ab"), Bytes::new()];
        let raw = Contents::Strings(&strings).to_raw(&x, Datatype::Bytes).unwrap();
        assert_eq!(raw.as_ref(), [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]);
    }

    #[test]
    fn values_outside_the_datatype_and_foreign_fields_are_refused() {
        let x = "x".into();
        let outside = Contents::Uint(&[256]).to_raw(&x, Datatype::Uint8).unwrap_err();
        assert_eq!(outside.to_string(), "tensor `x` carries 256, which UINT8 cannot hold");
        assert_eq!(Contents::Fp32(&[1.0]).to_raw(&x, Datatype::Fp16).unwrap_err().slug(), "tensor_contents");
    }
}
