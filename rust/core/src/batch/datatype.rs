//! Owns: the element types of the `KServe` v2 protocol and their sizes.
//! Must not know: tensors, models.
//! On failure: closed; an unknown name is no datatype.

use std::fmt;

use bytes::Bytes;

/// An element type, by its `KServe` v2 name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datatype {
    /// One byte, 0 or 1
    Bool,
    /// Unsigned, 1 byte
    Uint8,
    /// Unsigned, 2 bytes
    Uint16,
    /// Unsigned, 4 bytes
    Uint32,
    /// Unsigned, 8 bytes
    Uint64,
    /// Signed, 1 byte
    Int8,
    /// Signed, 2 bytes
    Int16,
    /// Signed, 4 bytes
    Int32,
    /// Signed, 8 bytes
    Int64,
    /// IEEE 754 half
    Fp16,
    /// IEEE 754 single
    Fp32,
    /// IEEE 754 double
    Fp64,
    /// bfloat16
    Bf16,
    /// Strings of bytes, each behind its length as 4 little-endian bytes
    Bytes,
}

/// Every datatype with its protocol name and element size; `None` is a variable size.
const TABLE: [(Datatype, &str, Option<u64>); 14] = [
    (Datatype::Bool, "BOOL", Some(1)),
    (Datatype::Uint8, "UINT8", Some(1)),
    (Datatype::Uint16, "UINT16", Some(2)),
    (Datatype::Uint32, "UINT32", Some(4)),
    (Datatype::Uint64, "UINT64", Some(8)),
    (Datatype::Int8, "INT8", Some(1)),
    (Datatype::Int16, "INT16", Some(2)),
    (Datatype::Int32, "INT32", Some(4)),
    (Datatype::Int64, "INT64", Some(8)),
    (Datatype::Fp16, "FP16", Some(2)),
    (Datatype::Fp32, "FP32", Some(4)),
    (Datatype::Fp64, "FP64", Some(8)),
    (Datatype::Bf16, "BF16", Some(2)),
    (Datatype::Bytes, "BYTES", None),
];

// === impl Datatype ===

impl Datatype {
    /// The datatype of a `KServe` v2 name, such as `FP32`.
    pub fn from_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Its `KServe` v2 name.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }

    /// Bytes of one element; `None` for `BYTES`, whose elements carry their own length.
    pub fn element_bytes(self) -> Option<u64> {
        TABLE[self as usize].2
    }

    /// One element of this value in raw form; `None` if the datatype cannot hold it exactly. `BYTES` holds 0 alone, as
    /// an empty text.
    #[expect(clippy::float_cmp, reason = "exactly this value, or none")]
    pub fn element_of(self, value: f64) -> Option<Bytes> {
        macro_rules! exactly {
            ($type:ty) => {{
                let element = value as $type;
                // Bit for bit, so that neither a fraction nor a sign is lost.
                (f64::from(element).to_bits() == (value + 0.0).to_bits()).then(|| raw(&element.to_le_bytes()))
            }};
        }
        match self {
            Self::Bool => (value == 0.0 || value == 1.0).then(|| raw(&[u8::from(value == 1.0)])),
            Self::Uint8 => exactly!(u8),
            Self::Uint16 => exactly!(u16),
            Self::Uint32 => exactly!(u32),
            Self::Int8 => exactly!(i8),
            Self::Int16 => exactly!(i16),
            Self::Int32 => exactly!(i32),
            Self::Uint64 => whole(value).and_then(|v| u64::try_from(v).ok()).map(|v| raw(&v.to_le_bytes())),
            Self::Int64 => whole(value).map(|v| raw(&v.to_le_bytes())),
            Self::Fp32 => exactly!(f32),
            Self::Fp64 => Some(raw(&value.to_le_bytes())),
            Self::Fp16 => {
                (0..=u16::MAX).find(|&bits| half(bits) == value).map(|bits| raw(&bits.to_le_bytes()))
            }
            Self::Bf16 => {
                let single = value as f32;
                let bits = single.to_bits();
                (f64::from(single) == value && bits.trailing_zeros() >= 16)
                    .then(|| raw(&((bits >> 16) as u16).to_le_bytes()))
            }
            Self::Bytes => (value == 0.0).then(|| raw(&[0; 4])),
        }
    }
}

fn raw(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A whole number that a double holds exactly.
#[expect(clippy::float_cmp, reason = "a fraction, however small, is one")]
fn whole(value: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    (value.trunc() == value && value.abs() <= EXACT).then_some(value as i64)
}

/// The value of a finite half; not a number for any other, which equals nothing.
fn half(bits: u16) -> f64 {
    let (sign, exponent, fraction) = (bits >> 15, i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let size = match exponent {
        31 => return f64::NAN,
        0 => fraction * 2_f64.powi(-24),
        _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
    };
    if sign == 1 { -size } else { size }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_stands_in_the_order_of_the_enum() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, at);
            assert_eq!(Datatype::from_name(row.1), Some(row.0));
        }
        assert_eq!(Datatype::from_name("fp32"), None);
    }

    #[test]
    fn an_element_is_exact_or_none() {
        let of = |datatype: Datatype, value| datatype.element_of(value).map(|raw| raw.to_vec());
        assert_eq!(of(Datatype::Int64, -100.0), Some((-100_i64).to_le_bytes().to_vec()));
        assert_eq!(of(Datatype::Int8, 200.0), None);
        assert_eq!(of(Datatype::Uint64, -1.0), None);
        assert_eq!(of(Datatype::Int32, 0.5), None);
        assert_eq!(of(Datatype::Fp32, -0.5), Some((-0.5_f32).to_le_bytes().to_vec()));
        assert_eq!(of(Datatype::Fp16, 1.0), Some(vec![0, 0x3c]));
        assert_eq!(of(Datatype::Fp16, 1e9), None);
        assert_eq!(of(Datatype::Bf16, 1.0), Some(vec![0x80, 0x3f]));
        assert_eq!(of(Datatype::Bool, 2.0), None);
        assert_eq!(of(Datatype::Bytes, 0.0), Some(vec![0; 4]));
    }
}
