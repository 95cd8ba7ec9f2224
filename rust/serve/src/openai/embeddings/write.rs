//! Owns: the JSON of an answer to `/v1/embeddings`. `usage` comes last, where the gateway's filter looks for it.
//! Must not know: how the vectors were made.
//! On failure: closed; vectors that are not of the wanted size are an error.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use forebay_core::batch::Tensor;
use forebay_core::refusal::push_json_string;

use super::input::{EmbeddingAsk, VectorEncoding};
use super::vector;
use crate::openai::fault::Fault;

/// Bytes of one number as text, about.
const NUMBER_BYTES: usize = 14;

/// The whole answer.
pub(super) fn answer(
    model: &str,
    ask: &EmbeddingAsk,
    outputs: &[Tensor],
    prompt_tokens: u64,
) -> Result<Vec<u8>, Fault> {
    let numbers: usize = outputs.iter().map(|output| output.data().len() / 2).sum();
    let mut out = String::with_capacity(128 + outputs.len() * 64 + numbers * NUMBER_BYTES / 2);
    out.push_str(r#"{"object":"list","data":["#);
    for (index, output) in outputs.iter().enumerate() {
        let vector = vector::read(output).map_err(Fault::answer)?;
        let size = vector.len() as u64;
        if let Some(wanted) = ask.dimensions.filter(|&wanted| wanted != size) {
            let message =
                format!("`dimensions` is {wanted}, but the model's vectors have {size}, and none is cut");
            return Err(Fault::field("dimensions", message));
        }
        if index > 0 {
            out.push(',');
        }
        let _ = write!(out, r#"{{"object":"embedding","index":{index},"embedding":"#);
        push_vector(&mut out, ask.encoding, &vector);
        out.push('}');
    }
    out.push_str(r#"],"model":"#);
    push_json_string(&mut out, model);
    let _ = write!(out, r#","usage":{{"prompt_tokens":{prompt_tokens},"total_tokens":{prompt_tokens}}}}}"#);
    Ok(out.into_bytes())
}

fn push_vector(out: &mut String, encoding: VectorEncoding, vector: &[f32]) {
    match encoding {
        VectorEncoding::Float => {
            out.push('[');
            for (at, value) in vector.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                // The shortest text that reads back as the same number.
                let _ = write!(out, "{value:?}");
            }
            out.push(']');
        }
        VectorEncoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
            out.push('"');
            STANDARD.encode_string(bytes, out);
            out.push('"');
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;
    use forebay_core::answer::Usage;
    use forebay_core::batch::Datatype;
    use forebay_core::json::{Bounds, Document, Json};
    use proptest::prelude::*;

    fn output(values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::new("v".into(), Datatype::Fp32, &[1, values.len() as i64], Bytes::from(data)).unwrap()
    }

    fn ask(encoding: VectorEncoding) -> EmbeddingAsk {
        EmbeddingAsk { encoding, dimensions: None }
    }

    #[test]
    fn the_answer_is_openais() {
        let outputs = [output(&[0.5, -1.0]), output(&[1e-10, 2.0])];
        let body = answer("m\"1", &ask(VectorEncoding::Float), &outputs, 7).unwrap();
        assert_eq!(
            String::from_utf8(body.clone()).unwrap(),
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,-1.0]},{"object":"embedding","index":1,"embedding":[1e-10,2.0]}],"model":"m\"1","usage":{"prompt_tokens":7,"total_tokens":7}}"#
        );
        let usage = Usage::of_body(&body).unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (7, 0));
    }

    #[test]
    fn another_size_is_refused() {
        let ask = EmbeddingAsk { encoding: VectorEncoding::Float, dimensions: Some(3) };
        let fault = answer("m", &ask, &[output(&[0.5, -1.0])], 7).unwrap_err();
        assert!(
            String::from_utf8(fault.body())
                .unwrap()
                .contains("`dimensions` is 3, but the model's vectors have 2")
        );
        assert!(answer("m", &ask, &[output(&[0.5, -1.0, 0.0])], 7).is_ok());
    }

    proptest! {
        #[test]
        fn both_forms_read_back_as_the_same_numbers(values in prop::collection::vec(-1e30_f32..1e30, 1..40)) {
            let outputs = [output(&values)];
            let body = answer("m", &ask(VectorEncoding::Float), &outputs, 1).unwrap();
            let document = Document::parse(&body, Bounds::default()).unwrap();
            let numbers = document.get("data").unwrap().as_array().unwrap()[0].get("embedding").unwrap();
            let read: Vec<f32> = numbers.as_array().unwrap().iter()
                .map(|number| if let Json::Number(text) = number { text.parse().unwrap() } else { f32::NAN })
                .collect();
            prop_assert_eq!(&read, &values);
            let body = answer("m", &ask(VectorEncoding::Base64), &outputs, 1).unwrap();
            let document = Document::parse(&body, Bounds::default()).unwrap();
            let text = document.get("data").unwrap().as_array().unwrap()[0].get("embedding").unwrap();
            let bytes = STANDARD.decode(text.as_str().unwrap()).unwrap();
            let read: Vec<f32> = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
            prop_assert_eq!(&read, &values);
        }
    }
}
