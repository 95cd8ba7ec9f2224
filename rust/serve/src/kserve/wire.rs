//! Owns: the protocol's inference messages turned into tensors, and batches and answers turned into messages.
//! Must not know: queues, who asks.
//! On failure: closed; a message that is not consistent in itself becomes an error and no tensor.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use forebay_core::batch::{Batch, BatchError, Contents, Datatype, Priority, Tensor};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::infer::{Ask, Wishes};
use super::pb::infer_parameter::ParameterChoice;
use super::pb::model_infer_request::InferInputTensor;
use super::pb::model_infer_response::InferOutputTensor;
use super::pb::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use crate::protobuf::{Value, fields, text};

/// The field number of `raw_input_contents`.
const RAW_INPUTS: u32 = 7;
/// The field number of a request's `id`.
const ID: u32 = 3;

type Parameters = BTreeMap<String, InferParameter>;

/// What an answer says beside its tensors; the same for every request of the batch.
#[derive(Debug, Default)]
pub(crate) struct AnswerHead {
    pub model_version: String,
    pub parameters: Parameters,
    /// In the order of the outputs
    pub output_parameters: Vec<Parameters>,
}

/// Reads a request's tensors. No raw byte is copied.
pub(crate) fn read_request(request: ModelInferRequest) -> Result<Ask, BatchError> {
    let ModelInferRequest {
        model_name: model,
        model_version: version,
        mut parameters,
        inputs,
        outputs,
        raw_input_contents: raw,
        ..
    } = request;
    for output in &outputs {
        refuse_shared_memory(&output.name, &output.parameters)?;
    }
    if !raw.is_empty() && raw.len() != inputs.len() {
        return Err(BatchError::RawCount { tensors: inputs.len(), raw: raw.len() });
    }
    let tensors = inputs.len();
    let mut raw = raw.into_iter();
    let mut read = Vec::with_capacity(tensors);
    for InferInputTensor { name, datatype, shape, parameters, contents } in inputs {
        refuse_shared_memory(&name, &parameters)?;
        let name: Arc<str> = name.into();
        let datatype = known_datatype(&name, &datatype)?;
        let data = match (raw.next(), contents) {
            (Some(raw), None) => raw,
            (Some(_), Some(_)) => return Err(BatchError::RawCount { tensors, raw: tensors }),
            (None, contents) => typed(&contents.unwrap_or_default(), &name, datatype)?,
        };
        let options = InferInputTensor { parameters, ..InferInputTensor::default() }.encode_to_vec();
        read.push(Tensor::new(name, datatype, &shape, data)?.with_options(options.into()));
    }
    let wishes = take_wishes(&mut parameters);
    let names = outputs.iter().map(|output| output.name.clone()).collect();
    let options = ModelInferRequest { parameters, outputs, ..ModelInferRequest::default() }.encode_to_vec();
    Ok(Ask { model, version, inputs: read, outputs: names, options: options.into(), wishes })
}

/// The request message of a whole batch: one allocation, and every tensor byte copied once.
pub(super) fn write_batch<W>(batch: &Batch<W>) -> Vec<u8> {
    let inputs: Vec<_> = batch.inputs().collect();
    let head = ModelInferRequest {
        model_name: batch.lane.model.to_string(),
        model_version: batch.lane.version.to_string(),
        inputs: inputs
            .iter()
            .map(|input| InferInputTensor {
                name: input.name.to_string(),
                datatype: input.datatype.name().to_owned(),
                shape: signed(&input.shape),
                // What was encoded here comes back; an error is as impossible as it is harmless.
                ..InferInputTensor::decode(input.options.as_ref()).unwrap_or_default()
            })
            .collect(),
        ..ModelInferRequest::default()
    };
    let raw_len = |bytes: usize| key_len(RAW_INPUTS) + encoded_len_varint(bytes as u64) + bytes;
    let total = head.encoded_len()
        + batch.options.len()
        + inputs.iter().map(|input| raw_len(input.bytes)).sum::<usize>();
    let mut message = Vec::with_capacity(total);
    head.encode_raw(&mut message);
    message.put_slice(&batch.options);
    for input in &inputs {
        encode_key(RAW_INPUTS, WireType::LengthDelimited, &mut message);
        encode_varint(input.bytes as u64, &mut message);
        input.write_into(&mut message);
    }
    message
}

/// Reads the answer to a batch. No raw byte is copied.
pub(super) fn read_answer(answer: Bytes) -> Result<(AnswerHead, Vec<Tensor>), String> {
    let answer = ModelInferResponse::decode(answer).map_err(|error| error.to_string())?;
    let ModelInferResponse { model_version, parameters, outputs, raw_output_contents: raw, .. } = answer;
    if !raw.is_empty() && raw.len() != outputs.len() {
        return Err(format!("it has {} outputs and {} raw buffers", outputs.len(), raw.len()));
    }
    let mut head =
        AnswerHead { model_version, parameters, output_parameters: Vec::with_capacity(outputs.len()) };
    let mut tensors = Vec::with_capacity(outputs.len());
    let mut raw = raw.into_iter();
    for InferOutputTensor { name, datatype, shape, parameters, contents } in outputs {
        let name: Arc<str> = name.into();
        let tensor = known_datatype(&name, &datatype).and_then(|datatype| {
            let data = match raw.next() {
                Some(raw) => raw,
                None => typed(&contents.unwrap_or_default(), &name, datatype)?,
            };
            Tensor::new(name, datatype, &shape, data)
        });
        tensors.push(tensor.map_err(|error| error.to_string())?);
        head.output_parameters.push(parameters);
    }
    Ok((head, tensors))
}

/// The answer to one request of a batch, under the names that the client used.
pub(super) fn write_answer(
    model_name: String,
    id: String,
    head: &AnswerHead,
    tensors: &[Tensor],
) -> ModelInferResponse {
    let outputs = tensors.iter().zip(&head.output_parameters).map(|(tensor, parameters)| InferOutputTensor {
        name: tensor.name().to_string(),
        datatype: tensor.datatype().name().to_owned(),
        shape: signed(tensor.shape()),
        parameters: parameters.clone(),
        contents: None,
    });
    ModelInferResponse {
        model_name,
        model_version: head.model_version.clone(),
        id,
        parameters: head.parameters.clone(),
        outputs: outputs.collect(),
        raw_output_contents: tensors.iter().map(|tensor| tensor.data().clone()).collect(),
    }
}

/// Refuses a request that names regions of shared memory.
pub(super) fn refuse_regions(request: &ModelInferRequest) -> Result<(), BatchError> {
    request.inputs.iter().try_for_each(|input| refuse_shared_memory(&input.name, &input.parameters))?;
    request.outputs.iter().try_for_each(|output| refuse_shared_memory(&output.name, &output.parameters))
}

/// The first dimension of a request's first input, which are its rows wherever a model has rows; at least 1.
pub(super) fn first_dim(request: &ModelInferRequest) -> u64 {
    let first = request.inputs.first().and_then(|input| input.shape.first());
    first.and_then(|&dim| u64::try_from(dim).ok()).unwrap_or(1).max(1)
}

/// The id that a client gave a request, also where the rest of it cannot be read.
pub(super) fn id_of(request: &[u8]) -> String {
    let mut id = String::new();
    // What was found before the message broke is the answer.
    let _ = fields(request, |number, value| {
        if let (ID, Value::Bytes(bytes)) = (number, value) {
            text(bytes)?.clone_into(&mut id);
        }
        Ok(())
    });
    id
}

/// Takes the parameters `timeout` (in µs) and `priority` (1 is the most urgent, 0 the default) out of a request's.
/// A value that is no such number is taken out and means nothing, as a model server without these settings does it.
pub(crate) fn take_wishes(parameters: &mut Parameters) -> Wishes {
    let mut number = |name: &str| match parameters.remove(name)?.parameter_choice? {
        ParameterChoice::Int64Param(number) => u64::try_from(number).ok(),
        ParameterChoice::Uint64Param(number) => Some(number),
        _ => None,
    };
    let timeout = number("timeout").filter(|&micros| micros > 0).map(Duration::from_micros);
    let priority = match number("priority") {
        None | Some(0) => None,
        Some(1) => Some(Priority::P0),
        Some(2) => Some(Priority::P1),
        Some(_) => Some(Priority::P2),
    };
    Wishes { timeout, priority }
}

fn signed(shape: &[u64]) -> Vec<i64> {
    shape.iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect()
}

fn known_datatype(tensor: &Arc<str>, name: &str) -> Result<Datatype, BatchError> {
    Datatype::from_name(name)
        .ok_or_else(|| BatchError::UnknownDatatype { tensor: Arc::clone(tensor), datatype: name.to_owned() })
}

fn refuse_shared_memory(tensor: &str, parameters: &Parameters) -> Result<(), BatchError> {
    if parameters.keys().any(|key| key.starts_with("shared_memory_")) {
        return Err(BatchError::SharedMemory { tensor: tensor.into() });
    }
    Ok(())
}

/// The raw form of typed contents. Values in a field that is not the datatype's are refused, not ignored.
fn typed(contents: &InferTensorContents, tensor: &Arc<str>, datatype: Datatype) -> Result<Bytes, BatchError> {
    let fields = [
        (contents.bool_contents.is_empty(), Contents::Bool(&contents.bool_contents)),
        (contents.int_contents.is_empty(), Contents::Int(&contents.int_contents)),
        (contents.int64_contents.is_empty(), Contents::Int64(&contents.int64_contents)),
        (contents.uint_contents.is_empty(), Contents::Uint(&contents.uint_contents)),
        (contents.uint64_contents.is_empty(), Contents::Uint64(&contents.uint64_contents)),
        (contents.fp32_contents.is_empty(), Contents::Fp32(&contents.fp32_contents)),
        (contents.fp64_contents.is_empty(), Contents::Fp64(&contents.fp64_contents)),
        (contents.bytes_contents.is_empty(), Contents::Strings(&contents.bytes_contents)),
    ];
    let mut raw = Bytes::new();
    for (empty, values) in fields {
        if !empty {
            raw = values.to_raw(tensor, datatype)?;
        }
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::kserve::pb::model_infer_request::InferRequestedOutputTensor;

    fn tensor() -> impl Strategy<Value = InferInputTensor> {
        let datatype =
            prop_oneof![Just("INT32"), Just("FP32"), Just("BYTES"), Just("BOOL"), Just("x"), Just("")];
        let dim = prop_oneof![0..4_i64, Just(-1), Just(i64::MIN), Just(i64::MAX)];
        let contents = prop_oneof![
            Just(None),
            vec(any::<i32>(), 0..4).prop_map(|int_contents| {
                Some(InferTensorContents { int_contents, ..InferTensorContents::default() })
            }),
            vec(vec(any::<u8>(), 0..3).prop_map(Bytes::from), 0..4).prop_map(|bytes_contents| {
                Some(InferTensorContents { bytes_contents, ..InferTensorContents::default() })
            }),
        ];
        ("[xy]?", datatype, vec(dim, 0..3), contents).prop_map(|(name, datatype, shape, contents)| {
            let datatype = datatype.to_owned();
            InferInputTensor { name, datatype, shape, contents, ..InferInputTensor::default() }
        })
    }

    fn parameters() -> impl Strategy<Value = Parameters> {
        let choice = prop_oneof![
            any::<i64>().prop_map(ParameterChoice::Int64Param),
            any::<u64>().prop_map(ParameterChoice::Uint64Param),
            any::<bool>().prop_map(ParameterChoice::BoolParam),
        ];
        let value = choice.prop_map(|choice| InferParameter { parameter_choice: Some(choice) });
        proptest::collection::btree_map("timeout|priority|other|shared_memory_region", value, 0..3)
    }

    fn request() -> impl Strategy<Value = ModelInferRequest> {
        let raw = vec(vec(any::<u8>(), 0..20).prop_map(Bytes::from), 0..4);
        (vec(tensor(), 0..4), raw, parameters(), "[a-z]{0,3}").prop_map(|(inputs, raw, parameters, id)| {
            let outputs = vec![InferRequestedOutputTensor { name: "y".to_owned(), ..Default::default() }];
            let raw_input_contents = raw;
            ModelInferRequest { inputs, raw_input_contents, parameters, id, outputs, ..Default::default() }
        })
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            let _ = id_of(&bytes);
            let bytes = Bytes::from(bytes);
            let _ = read_answer(bytes.clone());
            if let Ok(request) = ModelInferRequest::decode(bytes) {
                let _ = (refuse_regions(&request).is_ok(), first_dim(&request));
                let _ = read_request(request);
            }
        }

        #[test]
        fn any_request_is_read_or_refused_and_cut_anywhere_too(request in request(), cut in any::<usize>()) {
            let encoded = Bytes::from(request.encode_to_vec());
            prop_assert_eq!(id_of(&encoded), request.id.clone());
            if let Ok(part) = ModelInferRequest::decode(encoded.slice(..cut % (encoded.len() + 1))) {
                let _ = read_request(part);
            }
            if let Ok(ask) = read_request(request) {
                let options = ModelInferRequest::decode(ask.options).unwrap();
                prop_assert!(!options.parameters.contains_key("timeout"));
                prop_assert!(!options.parameters.contains_key("priority"));
                prop_assert_eq!(ask.outputs, ["y"]);
            }
        }
    }

    #[test]
    fn wishes_are_what_a_client_may_say() {
        let of = |name: &str, choice| {
            let value = InferParameter { parameter_choice: Some(choice) };
            take_wishes(&mut Parameters::from([(name.to_owned(), value)]))
        };
        let (int, unsigned) = (ParameterChoice::Int64Param, ParameterChoice::Uint64Param);
        assert_eq!(of("timeout", int(1_500)).timeout, Some(Duration::from_micros(1_500)));
        assert_eq!(of("priority", unsigned(1)).priority, Some(Priority::P0));
        assert_eq!(of("priority", int(2)).priority, Some(Priority::P1));
        assert_eq!(of("priority", int(9)).priority, Some(Priority::P2));
        for (name, choice) in [
            ("timeout", int(0)),
            ("timeout", int(-5)),
            ("timeout", ParameterChoice::StringParam("5".to_owned())),
            ("priority", int(0)),
            ("other", int(1)),
        ] {
            assert_eq!(of(name, choice), Wishes::default(), "{name}");
        }
    }
}
