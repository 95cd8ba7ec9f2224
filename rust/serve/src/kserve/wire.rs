//! Owns: the protocol's inference messages turned into tensors, and batches and answers turned into messages.
//! Must not know: queues, who asks.
//! On failure: closed; a message that is not consistent in itself becomes an error and no tensor.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use forebay_core::batch::{Batch, BatchError, Contents, Datatype, Tensor};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::pb::model_infer_request::InferInputTensor;
use super::pb::model_infer_response::InferOutputTensor;
use super::pb::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};

/// The field number of `raw_input_contents`.
const RAW_INPUTS: u32 = 7;

type Parameters = BTreeMap<String, InferParameter>;

/// A client's request, read.
#[derive(Debug)]
pub(super) struct ReadRequest {
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<String>,
    /// Parameters and requested outputs in encoded form: equal for all requests of a batch, and sent once
    pub options: Bytes,
}

/// What an answer says beside its tensors; the same for every request of the batch.
#[derive(Debug, Default)]
pub(super) struct AnswerHead {
    pub model_version: String,
    pub parameters: Parameters,
    /// In the order of the outputs
    pub output_parameters: Vec<Parameters>,
}

/// Rows as the first dimension of the first input says, before anything is proven.
pub(super) fn claimed_rows(request: &ModelInferRequest) -> u64 {
    let rows = request.inputs.first().and_then(|input| input.shape.first().copied());
    rows.and_then(|rows| u64::try_from(rows).ok()).unwrap_or(1)
}

/// Reads a request's tensors. No raw byte is copied.
pub(super) fn read_request(request: ModelInferRequest) -> Result<ReadRequest, BatchError> {
    let ModelInferRequest { parameters, inputs, outputs, raw_input_contents: raw, .. } = request;
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
    let names = outputs.iter().map(|output| output.name.clone()).collect();
    let options = ModelInferRequest { parameters, outputs, ..ModelInferRequest::default() }.encode_to_vec();
    Ok(ReadRequest { inputs: read, outputs: names, options: options.into() })
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
        input.parts().for_each(|part| message.put_slice(part));
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
