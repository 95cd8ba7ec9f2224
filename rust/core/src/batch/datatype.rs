//! Owns: the element types of the `KServe` v2 protocol and their sizes.
//! Must not know: tensors, models.
//! On failure: closed; an unknown name is no datatype.

use std::fmt;

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
}
