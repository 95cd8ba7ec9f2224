//! Owns: one answer of a decoupled model, read: its piece of text, its tokens, why it ends, whether it is the last.
//! Must not know: what was said before.
//! On failure: closed; an answer that says an error, or cannot be read, ends the generation with an error.

use bytes::Bytes;
use forebay_core::batch::Datatype;
use forebay_core::policy::pb::GenerationTensors;
use prost::Message;
use tonic::Code;

use super::request::Names;
use crate::kserve::Failure;
use crate::kserve::pb::infer_parameter::ParameterChoice;
use crate::kserve::pb::{InferTensorContents, ModelStreamInferResponse};
use crate::openai::fault::Fault;

/// The outputs that are read.
#[derive(Debug)]
pub(super) struct Outputs {
    text: String,
    finish_reason: String,
    tokens: String,
}

/// One answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub text: Option<Bytes>,
    pub tokens: Option<u64>,
    pub finish_reason: Option<String>,
    pub is_last: bool,
}

// === impl Outputs ===

impl Outputs {
    pub(super) fn of(mapping: &GenerationTensors) -> Self {
        Self {
            text: Names::of(mapping).text_output.to_owned(),
            finish_reason: mapping.finish_reason_output.clone(),
            tokens: mapping.output_tokens_output.clone(),
        }
    }

    /// Whether the model says how many tokens an answer has.
    pub(super) fn has_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Reads an encoded `ModelStreamInferResponse`. The text is not copied.
    pub(super) fn read(&self, message: Bytes) -> Result<Answer, Fault> {
        let message = ModelStreamInferResponse::decode(message).map_err(Fault::answer)?;
        if !message.error_message.is_empty() {
            return Err(Failure::upstream(Code::Unknown, message.error_message).into());
        }
        let response = message.infer_response.unwrap_or_default();
        let is_last = response.parameters.get("triton_final_response");
        let is_last = is_last.and_then(|parameter| parameter.parameter_choice.as_ref());
        let mut answer =
            Answer { is_last: is_last == Some(&ParameterChoice::BoolParam(true)), ..Answer::default() };
        let mut raw = response.raw_output_contents.into_iter();
        for output in response.outputs {
            let contents = output.contents.unwrap_or_default();
            let data = raw.next();
            let broken = || Fault::answer(format!("its output `{}` cannot be read", output.name));
            if output.name == self.text {
                answer.text = text(data, contents).map_err(|()| broken())?;
            } else if output.name == self.finish_reason {
                let reason = text(data, contents).map_err(|()| broken())?;
                answer.finish_reason = reason.and_then(|reason| named(&reason));
            } else if output.name == self.tokens {
                answer.tokens = Some(number(&output.datatype, data, &contents).ok_or_else(broken)?);
            }
        }
        Ok(answer)
    }
}

/// The first element; `None`: there is none.
fn text(raw: Option<Bytes>, contents: InferTensorContents) -> Result<Option<Bytes>, ()> {
    let Some(raw) = raw else { return Ok(contents.bytes_contents.into_iter().next()) };
    if raw.is_empty() {
        return Ok(None);
    }
    let length = raw.first_chunk().ok_or(())?;
    let end = 4_usize.checked_add(u32::from_le_bytes(*length) as usize).ok_or(())?;
    if end <= raw.len() { Ok(Some(raw.slice(4..end))) } else { Err(()) }
}

/// The first element as a count.
fn number(datatype: &str, raw: Option<Bytes>, contents: &InferTensorContents) -> Option<u64> {
    let Some(raw) = raw else {
        let unsigned = contents.uint_contents.first().copied().map(u64::from);
        let long = contents.uint64_contents.first().copied();
        let signed = contents.int_contents.first().copied().map(i64::from);
        let signed = signed.or(contents.int64_contents.first().copied());
        return unsigned.or(long).or(signed.and_then(|value| u64::try_from(value).ok()));
    };
    if raw.is_empty() {
        return Some(0);
    }
    match Datatype::from_name(datatype)? {
        Datatype::Uint8 => raw.first().copied().map(u64::from),
        Datatype::Uint16 => raw.first_chunk().map(|bytes| u64::from(u16::from_le_bytes(*bytes))),
        Datatype::Uint32 => raw.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes))),
        Datatype::Uint64 => raw.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
        Datatype::Int32 => raw.first_chunk().and_then(|bytes| u64::try_from(i32::from_le_bytes(*bytes)).ok()),
        Datatype::Int64 => raw.first_chunk().and_then(|bytes| u64::try_from(i64::from_le_bytes(*bytes)).ok()),
        _ => None,
    }
}

/// A reason in `OpenAI`'s words; `None`: it goes on.
fn named(reason: &[u8]) -> Option<String> {
    let reason = String::from_utf8_lossy(reason);
    match reason.as_ref() {
        "" | "None" | "null" | "none" => None,
        "eos" | "eos_token" | "end_id" | "stop_words" | "stop_sequence" => Some("stop".to_owned()),
        "max_tokens" => Some("length".to_owned()),
        other => Some(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::kserve::pb::model_infer_response::InferOutputTensor;
    use crate::kserve::pb::{InferParameter, ModelInferResponse};
    use proptest::prelude::*;

    fn outputs() -> Outputs {
        Outputs::of(&GenerationTensors {
            finish_reason_output: "why".to_owned(),
            output_tokens_output: "count".to_owned(),
            ..GenerationTensors::default()
        })
    }

    fn message(tensors: &[(&str, &str, &[u8])], is_last: bool) -> Bytes {
        let last = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(is_last)) };
        let response = ModelInferResponse {
            parameters: [("triton_final_response".to_owned(), last)].into(),
            outputs: tensors
                .iter()
                .map(|(name, datatype, _)| InferOutputTensor {
                    name: (*name).to_owned(),
                    datatype: (*datatype).to_owned(),
                    shape: vec![1],
                    ..InferOutputTensor::default()
                })
                .collect(),
            raw_output_contents: tensors.iter().map(|(_, _, raw)| Bytes::copy_from_slice(raw)).collect(),
            ..ModelInferResponse::default()
        };
        ModelStreamInferResponse { infer_response: Some(response), ..ModelStreamInferResponse::default() }
            .encode_to_vec()
            .into()
    }

    #[test]
    fn an_answer_is_read_by_its_outputs() {
        let whole = message(
            &[
                ("text_output", "BYTES", b"\x02\0\0\0ab\x01\0\0\0c"),
                ("why", "BYTES", b"\x06\0\0\0length"),
                ("count", "UINT32", &[3, 0, 0, 0]),
                ("other", "FP32", &[0; 4]),
            ],
            true,
        );
        let expected = Answer {
            text: Some(Bytes::from_static(b"ab")),
            tokens: Some(3),
            finish_reason: Some("length".to_owned()),
            is_last: true,
        };
        assert_eq!(outputs().read(whole).unwrap(), expected);
        assert_eq!(
            outputs().read(message(&[], true)).unwrap(),
            Answer { is_last: true, ..Answer::default() }
        );
        let going = message(
            &[("why", "BYTES", b"\x04\0\0\0None"), ("count", "INT64", &[1, 0, 0, 0, 0, 0, 0, 0])],
            false,
        );
        assert_eq!(outputs().read(going).unwrap(), Answer { tokens: Some(1), ..Answer::default() });
    }

    #[test]
    fn errors_end_the_generation() {
        let said =
            ModelStreamInferResponse { error_message: "no such model".to_owned(), infer_response: None };
        let fault = outputs().read(said.encode_to_vec().into()).unwrap_err();
        assert!(String::from_utf8(fault.body()).unwrap().contains("no such model"));
        for broken in [
            Bytes::from_static(b"\xff"),
            message(&[("text_output", "BYTES", b"\x09\0\0\0ab")], false),
            message(&[("count", "FP32", &[0; 4])], false),
        ] {
            assert!(outputs().read(broken).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = outputs().read(bytes.clone().into());
            let _ = outputs().read(message(&[("text_output", "BYTES", &bytes), ("count", "INT64", &bytes)], false));
        }
    }
}
