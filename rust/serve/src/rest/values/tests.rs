#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn raw(json: &str, datatype: Datatype, elements: u64) -> Result<Vec<u8>, String> {
    read(json.as_bytes(), "x", datatype, elements)
        .map(|raw| raw.to_vec())
        .map_err(|fault| fault.failure.message)
}

fn tensor(datatype: Datatype, elements: i64, data: impl Into<Bytes>) -> Tensor {
    Tensor::new("x".into(), datatype, &[elements], data.into()).unwrap()
}

fn written(tensor: &Tensor) -> Result<String, String> {
    let mut out = Vec::new();
    write(&mut out, tensor).map_err(|fault| fault.failure.message)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn nesting_is_flattened_whatever_it_is() {
    for json in ["[1,2,3,4]", "[[1,2],[3,4]]", "[[[1, 2, 3, 4]]]", "[1,[2,[3,[4]]],[]]", " [ 1 , 2,3,4 ] "] {
        assert_eq!(raw(json, Datatype::Uint8, 4), Ok(vec![1, 2, 3, 4]), "{json}");
    }
    assert_eq!(raw("[[],[]]", Datatype::Fp32, 0), Ok(vec![]));
}

#[test]
fn values_are_exact_or_refused() {
    let exact = 9_007_199_254_740_993_i64.to_le_bytes().to_vec();
    assert_eq!(raw("[9007199254740993]", Datatype::Int64, 1), Ok(exact));
    assert_eq!(raw("[-9223372036854775808]", Datatype::Int64, 1), Ok(i64::MIN.to_le_bytes().to_vec()));
    assert_eq!(raw("[18446744073709551615]", Datatype::Uint64, 1), Ok(vec![255; 8]));
    assert_eq!(raw("[true,false]", Datatype::Bool, 2), Ok(vec![1, 0]));
    assert_eq!(raw("[1, 1e0, -0.0]", Datatype::Fp32, 3).unwrap()[8..], (-0.0_f32).to_le_bytes());
    assert_eq!(raw("[NaN]", Datatype::Fp64, 1), Ok(f64::NAN.to_le_bytes().to_vec()));
    assert_eq!(raw("[-Infinity]", Datatype::Fp32, 1), Ok(f32::NEG_INFINITY.to_le_bytes().to_vec()));
    assert_eq!(
        raw(r#"["a","\u00e9",""]"#, Datatype::Bytes, 3),
        Ok(b"\x01\0\0\0a\x02\0\0\0\xc3\xa9\0\0\0\0".to_vec())
    );
    let refused =
        |json: &str, datatype, words: &str| assert_eq!(raw(json, datatype, 1), Err(words.to_owned()));
    refused("[256]", Datatype::Uint8, "tensor `x` carries 256, which UINT8 cannot hold");
    refused("[-1]", Datatype::Uint64, "tensor `x` carries -1, which UINT64 cannot hold");
    refused("[1.0]", Datatype::Int64, "tensor `x` carries 1.0, which INT64 cannot hold");
    refused(
        "[9223372036854775808]",
        Datatype::Int64,
        "tensor `x` carries 9223372036854775808, which INT64 cannot hold",
    );
    refused("[NaN]", Datatype::Int8, "tensor `x` carries NaN, which INT8 cannot hold");
    refused("[1e39]", Datatype::Fp32, "tensor `x` carries 1e39, which FP32 cannot hold");
    refused("[1e309]", Datatype::Fp64, "tensor `x` carries 1e309, which FP64 cannot hold");
    refused("[1]", Datatype::Bool, "tensor `x` of BOOL must hold `true` or `false`, not a number");
    refused("[true]", Datatype::Fp32, "tensor `x` of FP32 must hold a number, not a boolean");
    refused("[1]", Datatype::Bytes, "tensor `x` of BYTES must hold a string, not a number");
    refused("[{}]", Datatype::Int8, "tensor `x` of INT8 must hold a number, not an object");
    refused("1", Datatype::Int8, "the `data` of tensor `x` must be an array, not a number");
    refused("[1]", Datatype::Fp16, "tensor `x` is FP16, which JSON does not carry; send it as binary data");
}

#[test]
fn the_count_is_the_shapes() {
    let refused = |json: &str, elements| raw(json, Datatype::Int8, elements).unwrap_err();
    assert_eq!(refused("[1]", 2), "the shape of tensor `x` asks for 2 values, but 1 came");
    assert_eq!(refused("[1,2,3]", 2), "the shape of tensor `x` asks for 2 values, but more came");
    assert_eq!(
        refused("[]", u64::MAX),
        "the shape of tensor `x` asks for 18446744073709551615 values, but 0 came"
    );
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert!(raw(&nested(MAX_DEPTH), Datatype::Int8, 1).is_ok());
    assert!(raw(&nested(MAX_DEPTH + 1), Datatype::Int8, 1).unwrap_err().contains("nested deeper than 64"));
}

#[test]
fn what_json_does_not_carry_is_refused_with_a_way_out() {
    let half = tensor(Datatype::Fp16, 1, vec![0, 0]);
    assert!(written(&half).unwrap_err().contains("ask for it with `binary_data` true"));
    let bytes = tensor(Datatype::Bytes, 1, vec![1, 0, 0, 0, 0xff]);
    assert!(written(&bytes).unwrap_err().contains("no UTF-8 text"));
}

#[test]
fn texts_stay_apart() {
    let texts = tensor(Datatype::Bytes, 3, b"\x01\0\0\0[\0\0\0\0\x02\0\0\0\",".to_vec());
    assert_eq!(written(&texts).unwrap(), r#"["[","","\","]"#);
}

const IN_JSON: [Datatype; 12] = [
    Datatype::Bool,
    Datatype::Uint8,
    Datatype::Uint16,
    Datatype::Uint32,
    Datatype::Uint64,
    Datatype::Int8,
    Datatype::Int16,
    Datatype::Int32,
    Datatype::Int64,
    Datatype::Fp32,
    Datatype::Fp64,
    Datatype::Bytes,
];

/// Raw bytes that are one canonical form of their values, so that they must come back as they are.
fn canonical(datatype: Datatype, seed: &[u64]) -> Vec<u8> {
    let mut raw = Vec::new();
    for &value in seed {
        match datatype {
            Datatype::Bool => raw.push((value & 1) as u8),
            Datatype::Fp32 => {
                let float = f32::from_bits(value as u32);
                raw.extend(if float.is_nan() { f32::NAN } else { float }.to_le_bytes());
            }
            Datatype::Fp64 => {
                let float = f64::from_bits(value);
                raw.extend(if float.is_nan() { f64::NAN } else { float }.to_le_bytes());
            }
            Datatype::Bytes => {
                let text: String = char::from_u32((value >> 8) as u32 % 0x11_0000).into_iter().collect();
                raw.extend((text.len() as u32).to_le_bytes());
                raw.extend(text.as_bytes());
            }
            _ => {
                let size = datatype.element_bytes().unwrap() as usize;
                raw.extend(&value.to_le_bytes()[..size]);
            }
        }
    }
    raw
}

proptest! {
    #[test]
    fn every_datatype_comes_back(seed in proptest::collection::vec(any::<u64>(), 0..20)) {
        for datatype in IN_JSON {
            let data = canonical(datatype, &seed);
            let json = written(&tensor(datatype, seed.len() as i64, data.clone())).unwrap();
            prop_assert_eq!(raw(&json, datatype, seed.len() as u64), Ok(data), "{} {}", datatype, json);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in r#"[\[\]{},:"0-9.eEaINn+\-\\u ]{0,60}"#, elements in 0_u64..5) {
        for datatype in IN_JSON {
            let _ = raw(&text, datatype, elements);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        for datatype in IN_JSON {
            let _ = read(&bytes, "x", datatype, 2);
        }
    }
}
