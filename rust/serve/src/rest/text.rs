//! Owns: JSON text written piece by piece.
//! Must not know: what it says.
//! On failure: not applicable.

/// A string with its quotes. Only what JSON asks for is escaped.
pub(super) fn string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let mut rest = value.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let escaped: &[u8] = match rest[at] {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            control => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let (high, low) = (usize::from(control >> 4), usize::from(control & 15));
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[high], HEX[low]]);
                &[]
            }
        };
        out.extend_from_slice(escaped);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// A field's name and colon, with a comma in front unless it is the first of its object.
pub(super) fn key(out: &mut Vec<u8>, name: &str) {
    comma(out);
    string(out, name);
    out.push(b':');
}

/// A comma unless an object or array just opened.
pub(super) fn comma(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{' | b'[') | None) {
        out.push(b',');
    }
}

/// A comma unless an array just opened. Only for arrays whose items never end in `[`; a string ends in a quote.
pub(super) fn comma_in_array(out: &mut Vec<u8>) {
    if out.last() != Some(&b'[') {
        out.push(b',');
    }
}

/// A whole number.
pub(super) fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A number of either precision in the fewest digits that read back to it. What JSON cannot say is written as Triton
/// writes it and its clients read it: `NaN`, `Infinity`, `-Infinity`.
pub(super) fn float<F: zmij::Float + Copy + Into<f64>>(out: &mut Vec<u8>, value: F) {
    let wide: f64 = value.into();
    if wide.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(if wide.is_nan() {
            b"NaN"
        } else if wide > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use forebay_core::json::{Bounds, Document};
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_are_short_and_exact() {
        assert_eq!(written(|out| float(out, 0.1_f32)), "0.1");
        assert_eq!(written(|out| float(out, 1.0_f64)), "1.0");
        assert_eq!(written(|out| float(out, -0.0_f32)), "-0.0");
        assert_eq!(written(|out| float(out, f32::NAN)), "NaN");
        assert_eq!(written(|out| float(out, f64::NEG_INFINITY)), "-Infinity");
        assert_eq!(written(|out| integer(out, i64::MIN)), "-9223372036854775808");
    }

    proptest! {
        #[test]
        fn strings_read_back(value in any::<String>()) {
            let text = written(|out| {
                out.push(b'{');
                key(out, "a");
                string(out, &value);
                out.push(b'}');
            });
            let read = Document::parse(text.as_bytes(), Bounds::default()).unwrap();
            prop_assert_eq!(read.get("a").unwrap().as_str(), Some(value.as_str()));
        }

        #[test]
        fn floats_read_back(single in any::<f32>(), double in any::<f64>()) {
            if single.is_finite() {
                prop_assert_eq!(written(|out| float(out, single)).parse::<f32>().unwrap().to_bits(), single.to_bits());
            }
            if double.is_finite() {
                prop_assert_eq!(written(|out| float(out, double)).parse::<f64>().unwrap().to_bits(), double.to_bits());
            }
        }
    }
}
