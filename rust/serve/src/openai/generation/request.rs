//! Owns: the message that asks a decoupled model for a generation, by the policy's mapping and the model's own shape.
//! Must not know: HTTP, how parameters were read.
//! On failure: closed; a parameter without a place is refused, unless leaving it out means the same.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use forebay_core::batch::{Datatype, ModelShape, Tensor};
use forebay_core::policy::pb::GenerationTensors;
use forebay_core::refusal::push_json_string;
use prost::Message;

use super::sampling::Value;
use crate::kserve::pb::infer_parameter::ParameterChoice;
use crate::kserve::pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::kserve::pb::{InferParameter, ModelInferRequest};
use crate::openai::fault::Fault;
use crate::openai::tensors;

/// What the model reads.
pub(super) struct Generate<'a> {
    /// The model as the pool knows it
    pub model: &'a str,
    /// Names the request in the server's log
    pub id: String,
    pub prompt: &'a str,
    /// By `OpenAI`'s names, `max_tokens` among them
    pub parameters: &'a [(&'static str, Value<'a>)],
}

/// The names of a mapping, with the defaults of Triton's vLLM backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names<'m> {
    pub text_input: &'m str,
    /// `None`: the model has none
    pub stream_input: Option<&'m str>,
    /// `None`: every parameter has an input of its own
    pub parameters_input: Option<&'m str>,
    pub text_output: &'m str,
}

// === impl Names ===

impl<'m> Names<'m> {
    pub(super) fn of(mapping: &'m GenerationTensors) -> Self {
        let or = |name: &'m str, default| if name.is_empty() { default } else { name };
        Self {
            text_input: or(&mapping.text_input, "text_input"),
            stream_input: Some(or(&mapping.stream_input, "stream")).filter(|name| *name != "none"),
            parameters_input: match (mapping.parameters_input.as_str(), mapping.parameter_inputs.is_empty()) {
                ("", false) | ("none", _) => None,
                ("", true) => Some("sampling_parameters"),
                (name, _) => Some(name),
            },
            text_output: or(&mapping.text_output, "text_output"),
        }
    }
}

/// The encoded request. The server is told to say which answer is its last.
pub(super) fn encode(
    generate: &Generate<'_>,
    mapping: &GenerationTensors,
    shape: &ModelShape,
) -> Result<Bytes, Fault> {
    let names = Names::of(mapping);
    let mut made = vec![tensors::texts(shape, names.text_input, &[generate.prompt.as_bytes()])?];
    let has = |name: &str| shape.inputs.iter().any(|spec| *spec.name == *name);
    if let Some(stream) = names.stream_input.filter(|name| has(name)) {
        made.push(scalar(shape, "stream", stream, &Value::Flag(true))?);
    }
    // What a model of the vLLM backend gives only to those who ask for it.
    for output in [&mapping.finish_reason_output, &mapping.output_tokens_output] {
        let wish = format!("return_{output}");
        if !output.is_empty() && has(&wish) {
            made.push(scalar(shape, &wish, &wish, &Value::Flag(true))?);
        }
    }
    let mut rest = Vec::new();
    for (name, value) in generate.parameters {
        match mapping.parameter_inputs.get(*name) {
            Some(input) => made.push(scalar(shape, name, input, value)?),
            None if names.parameters_input.is_some() => rest.push((*name, value)),
            None if value.is_default(name) => {}
            None => return Err(Fault::not_offered(name)),
        }
    }
    if let Some(input) = names.parameters_input.filter(|_| !rest.is_empty()) {
        made.push(tensors::texts(shape, input, &[json(&rest).as_bytes()])?);
    }
    let outputs = [names.text_output, &mapping.finish_reason_output, &mapping.output_tokens_output];
    let requested =
        |name: &&str| InferRequestedOutputTensor { name: (*name).to_owned(), ..Default::default() };
    let told_the_end = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    let request = ModelInferRequest {
        model_name: generate.model.to_owned(),
        id: generate.id.clone(),
        parameters: [("triton_enable_empty_final_response".to_owned(), told_the_end)].into(),
        inputs: made.iter().map(described).collect(),
        outputs: outputs.iter().filter(|name| !name.is_empty()).map(requested).collect(),
        raw_input_contents: made.iter().map(|tensor| tensor.data().clone()).collect(),
        ..ModelInferRequest::default()
    };
    Ok(request.encode_to_vec().into())
}

fn described(tensor: &Tensor) -> InferInputTensor {
    InferInputTensor {
        name: tensor.name().to_string(),
        datatype: tensor.datatype().name().to_owned(),
        shape: tensor.shape().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect(),
        ..InferInputTensor::default()
    }
}

/// The parameters as one JSON object.
fn json(parameters: &[(&str, &Value<'_>)]) -> String {
    let mut out = String::from("{");
    for (at, (name, value)) in parameters.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(out, "{comma}\"{name}\":");
        match value {
            Value::Number(text) => out.push_str(text),
            Value::Flag(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Value::Numbers(numbers) => {
                let _ = write!(out, "[{}]", numbers.join(","));
            }
            Value::Texts(texts) => {
                for (at, text) in texts.iter().enumerate() {
                    out.push(if at > 0 { ',' } else { '[' });
                    push_json_string(&mut out, text);
                }
                out.push(']');
            }
        }
    }
    out.push('}');
    out
}

/// One parameter in the datatype of its own input.
fn scalar(shape: &ModelShape, name: &str, input: &str, value: &Value<'_>) -> Result<Tensor, Fault> {
    let spec = tensors::input(shape, input)?;
    let single = |text: &str| {
        element(spec.datatype, text).ok_or_else(|| {
            let message = format!(
                "`{name}` is {text}, which the model's input `{input}` of {} cannot hold",
                spec.datatype
            );
            Fault::field(name, message)
        })
    };
    match value {
        Value::Texts(texts) => {
            let texts: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
            tensors::texts(shape, input, &texts)
        }
        Value::Number(text) if spec.datatype == Datatype::Bytes => {
            tensors::texts(shape, input, &[text.as_bytes()])
        }
        Value::Number(text) => tensors::tensor(shape, spec, 1, single(text)?),
        Value::Flag(flag) if spec.datatype == Datatype::Bytes => {
            tensors::texts(shape, input, &[if *flag { b"true" } else { b"false" }])
        }
        Value::Flag(flag) => tensors::tensor(shape, spec, 1, single(if *flag { "1" } else { "0" })?),
        Value::Numbers(numbers) => {
            let mut data = BytesMut::new();
            for number in numbers {
                data.put(single(number)?);
            }
            tensors::tensor(shape, spec, numbers.len(), data.freeze())
        }
    }
}

/// A number as one element; `None`: the datatype cannot hold it.
fn element(datatype: Datatype, text: &str) -> Option<Bytes> {
    let raw = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    match datatype {
        Datatype::Fp32 => {
            Some(raw(&text.parse::<f32>().ok().filter(|value| value.is_finite())?.to_le_bytes()))
        }
        Datatype::Fp64 => Some(raw(&text.parse::<f64>().ok()?.to_le_bytes())),
        // Whole numbers above 2^53 would not pass through a double.
        Datatype::Int64 if text.parse::<i64>().is_ok() => Some(raw(&text.parse::<i64>().ok()?.to_le_bytes())),
        Datatype::Uint64 if text.parse::<u64>().is_ok() => {
            Some(raw(&text.parse::<u64>().ok()?.to_le_bytes()))
        }
        other => other.element_of(text.parse().ok()?),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::openai::testing::shape_of;

    const VLLM: [(&str, Datatype, &[i64]); 5] = [
        ("text_input", Datatype::Bytes, &[1]),
        ("stream", Datatype::Bool, &[1]),
        ("sampling_parameters", Datatype::Bytes, &[1]),
        ("return_finish_reason", Datatype::Bool, &[1]),
        ("return_num_output_tokens", Datatype::Bool, &[1]),
    ];

    fn encoded(
        mapping: &GenerationTensors,
        inputs: &[(&str, Datatype, &[i64])],
        parameters: &[(&'static str, Value<'_>)],
    ) -> Result<ModelInferRequest, String> {
        let generate = Generate { model: "writer", id: "7".to_owned(), prompt: "say", parameters };
        let shape = shape_of(None, inputs, &["text_output"]);
        let encoded = encode(&generate, mapping, &shape);
        encoded
            .map(|bytes| ModelInferRequest::decode(bytes).unwrap())
            .map_err(|fault| String::from_utf8(fault.body()).unwrap())
    }

    fn named(request: &ModelInferRequest) -> Vec<(&str, Vec<i64>, Vec<u8>)> {
        let inputs = request.inputs.iter().zip(&request.raw_input_contents);
        inputs.map(|(input, raw)| (input.name.as_str(), input.shape.clone(), raw.to_vec())).collect()
    }

    fn text(value: &str) -> Vec<u8> {
        [&(value.len() as u32).to_le_bytes(), value.as_bytes()].concat()
    }

    #[test]
    fn the_default_is_the_vllm_backends() {
        let parameters = [
            ("max_tokens", Value::Number("5")),
            ("stop", Value::Texts(vec!["a\"", "b"])),
            ("ignore_eos", Value::Flag(true)),
        ];
        let request = encoded(&GenerationTensors::default(), &VLLM, &parameters).unwrap();
        assert_eq!(
            named(&request),
            [
                ("text_input", vec![1], text("say")),
                ("stream", vec![1], vec![1]),
                (
                    "sampling_parameters",
                    vec![1],
                    text(r#"{"max_tokens":5,"stop":["a\"","b"],"ignore_eos":true}"#)
                ),
            ]
        );
        assert_eq!((request.model_name.as_str(), request.id.as_str()), ("writer", "7"));
        assert!(request.parameters.contains_key("triton_enable_empty_final_response"));
        assert_eq!(request.outputs.iter().map(|output| &output.name).collect::<Vec<_>>(), ["text_output"]);
    }

    #[test]
    fn outputs_that_must_be_asked_for_are_asked_for() {
        let mapping = GenerationTensors {
            finish_reason_output: "finish_reason".to_owned(),
            output_tokens_output: "num_output_tokens".to_owned(),
            ..GenerationTensors::default()
        };
        let request = encoded(&mapping, &VLLM, &[]).unwrap();
        let names: Vec<&str> = request.inputs.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(names, ["text_input", "stream", "return_finish_reason", "return_num_output_tokens"]);
        assert_eq!(request.outputs.len(), 3);
        // A model that gives them always has no input for the wish.
        assert_eq!(encoded(&mapping, &VLLM[..2], &[]).unwrap().inputs.len(), 2);
    }

    #[test]
    fn parameters_have_inputs_of_their_own() {
        let inputs: [(&str, Datatype, &[i64]); 6] = [
            ("text_input", Datatype::Bytes, &[-1, 1]),
            ("max_tokens", Datatype::Int32, &[-1, 1]),
            ("temperature", Datatype::Fp32, &[-1, 1]),
            ("stop_words", Datatype::Bytes, &[1, -1]),
            ("random_seed", Datatype::Uint64, &[-1, 1]),
            ("end_ids", Datatype::Int32, &[1, -1]),
        ];
        let pairs = [
            ("max_tokens", "max_tokens"),
            ("temperature", "temperature"),
            ("stop", "stop_words"),
            ("seed", "random_seed"),
            ("stop_token_ids", "end_ids"),
        ];
        let mapping = GenerationTensors {
            stream_input: "none".to_owned(),
            parameter_inputs: pairs.map(|(name, input)| (name.to_owned(), input.to_owned())).into(),
            ..GenerationTensors::default()
        };
        let parameters = [
            ("max_tokens", Value::Number("5")),
            ("temperature", Value::Number("0.7")),
            ("stop", Value::Texts(vec!["a", "b"])),
            ("seed", Value::Number("18446744073709551615")),
            ("stop_token_ids", Value::Numbers(vec!["1", "2"])),
            ("top_p", Value::Number("1.0")),
        ];
        let request = encoded(&mapping, &inputs, &parameters).unwrap();
        assert_eq!(
            named(&request)[1..],
            [
                ("max_tokens", vec![1, 1], vec![5, 0, 0, 0]),
                ("temperature", vec![1, 1], 0.7_f32.to_le_bytes().to_vec()),
                ("stop_words", vec![1, 2], [text("a"), text("b")].concat()),
                ("random_seed", vec![1, 1], vec![255; 8]),
                ("end_ids", vec![1, 2], vec![1, 0, 0, 0, 2, 0, 0, 0]),
            ]
        );
        for (parameter, expected) in [
            (("top_p", Value::Number("0.5")), "`top_p` is not offered"),
            (
                ("seed", Value::Number("-1")),
                "`seed` is -1, which the model's input `random_seed` of UINT64 cannot hold",
            ),
            (("max_tokens", Value::Number("4294967296")), "of INT32 cannot hold"),
        ] {
            assert!(encoded(&mapping, &inputs, &[parameter]).unwrap_err().contains(expected), "{expected}");
        }
    }

    #[test]
    fn a_mapping_that_does_not_fit_says_so() {
        let mapping = GenerationTensors { text_input: "prompt".to_owned(), ..GenerationTensors::default() };
        assert!(encoded(&mapping, &VLLM, &[]).unwrap_err().contains("the model has no input `prompt`"));
    }
}
