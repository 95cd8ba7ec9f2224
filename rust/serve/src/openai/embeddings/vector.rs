//! Owns: one vector read from a model's output, as single floats.
//! Must not know: JSON, requests.
//! On failure: closed; an output that is not one vector of floating-point numbers is an error of the answer.

use forebay_core::batch::{Datatype, Tensor};

/// The vector in an output of one row.
pub(super) fn read(output: &Tensor) -> Result<Vec<f32>, String> {
    let name = output.name();
    let Some((_, others)) = output.shape().split_last() else {
        return Err(format!("`{name}` is one number; a vector is needed"));
    };
    if others.iter().any(|&dim| dim != 1) {
        return Err(format!("`{name}` has the shape {:?}; one vector a row is needed", output.shape()));
    }
    let data = output.data().as_ref();
    let vector: Vec<f32> = match output.datatype() {
        Datatype::Fp32 => chunks(data).map(f32::from_le_bytes).collect(),
        Datatype::Fp64 => chunks(data).map(|bytes| f64::from_le_bytes(bytes) as f32).collect(),
        Datatype::Bf16 => {
            chunks(data).map(|bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)).collect()
        }
        Datatype::Fp16 => chunks(data).map(|bytes| half(u16::from_le_bytes(bytes))).collect(),
        other => return Err(format!("`{name}` is {other}; a vector of floating-point numbers is needed")),
    };
    match vector.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(format!("`{name}` holds {value}, which is no number")),
        None => Ok(vector),
    }
}

fn chunks<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.as_chunks::<N>().0.iter().copied()
}

/// IEEE 754 half to single; every half has an equal single.
fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (u32::from(bits >> 15), bits >> 10 & 31, u32::from(bits & 1023));
    let size = match exponent {
        // Smaller than the smallest exponent says: the fraction counts in steps of 2^-24.
        0 => return if sign == 1 { -1.0 } else { 1.0 } * fraction as f32 / 16_777_216.0,
        31 => 0xff << 23 | fraction << 13,
        _ => (u32::from(exponent) + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign << 31 | size)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;

    fn tensor(datatype: Datatype, shape: &[i64], data: Vec<u8>) -> Tensor {
        Tensor::new("v".into(), datatype, shape, Bytes::from(data)).unwrap()
    }

    #[test]
    fn every_floating_point_type_is_read() {
        let values = [0.5_f32, -2.0, 0.0, 1024.0];
        let single = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let double = values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect();
        let brain = values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect();
        let half = [0x3800_u16, 0xc000, 0, 0x6400].iter().flat_map(|bits| bits.to_le_bytes()).collect();
        for (datatype, data) in [
            (Datatype::Fp32, single),
            (Datatype::Fp64, double),
            (Datatype::Bf16, brain),
            (Datatype::Fp16, half),
        ] {
            assert_eq!(read(&tensor(datatype, &[1, 4], data)).unwrap(), values, "{datatype}");
        }
    }

    #[test]
    fn halves_keep_their_value() {
        for (bits, expected) in [
            (0x0001_u16, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x7bff, 65504.0),
        ] {
            assert!((half(bits) - expected).abs() <= expected * 1e-6, "{bits:#x} {}", half(bits));
            assert!((half(bits | 0x8000) + expected).abs() <= expected * 1e-6);
        }
        assert!(half(0x7c00).is_infinite() && half(0x7e00).is_nan());
    }

    #[test]
    fn what_is_no_vector_is_refused() {
        let number = |value: f32| value.to_le_bytes().to_vec();
        for (output, expected) in [
            (tensor(Datatype::Fp32, &[], number(1.0)), "is one number"),
            (tensor(Datatype::Fp32, &[1, 2, 1], number(1.0).repeat(2)), "has the shape [1, 2, 1]"),
            (tensor(Datatype::Int32, &[1, 1], number(1.0)), "is INT32"),
            (tensor(Datatype::Fp32, &[1, 1], number(f32::NAN)), "holds NaN"),
        ] {
            assert!(read(&output).unwrap_err().contains(expected), "{expected}");
        }
        assert_eq!(read(&tensor(Datatype::Fp32, &[1, 1, 2], number(1.5).repeat(2))).unwrap(), [1.5, 1.5]);
    }
}
