//! Owns: an inference request of the HTTP protocol, with Triton's binary extension, turned into the gRPC message.
//! Must not know: models, queues, headers' names.
//! On failure: closed; a request that is not consistent in itself becomes an error and no message.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use bytes::Bytes;
use forebay_core::batch::Datatype;
use jiter::Peek;

use super::fault::Fault;
use super::fields::{Fields, Number, kind};
use super::route::Named;
use super::values;
use crate::kserve::pb::infer_parameter::ParameterChoice;
use crate::kserve::pb::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::kserve::pb::{InferParameter, ModelInferRequest};

type Parameters = BTreeMap<String, InferParameter>;

/// How an output is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Form {
    #[default]
    Json,
    Binary,
}

/// How the client wants its outputs written.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Forms {
    all: Form,
    named: HashMap<String, Form>,
}

/// A request as the other protocol has it, and what only this one says.
#[derive(Debug)]
pub(super) struct Parsed {
    pub message: ModelInferRequest,
    pub forms: Forms,
}

/// An input as the JSON describes it.
#[derive(Debug, Default)]
struct Input {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    parameters: Parameters,
    /// Where its `data` stands in the JSON
    data: Option<Range<usize>>,
    /// Its bytes behind the JSON
    binary_bytes: Option<u64>,
}

/// All that the JSON says.
#[derive(Debug, Default)]
struct Header {
    id: String,
    parameters: Parameters,
    inputs: Vec<Input>,
    outputs: Vec<InferRequestedOutputTensor>,
    forms: Forms,
}

// === impl Forms ===

impl Forms {
    /// The form of the output `name`. A listed output is JSON unless it says otherwise itself, as in Triton.
    pub(super) fn of(&self, name: &str) -> Form {
        self.named.get(name).copied().unwrap_or(self.all)
    }
}

/// Reads `body`, whose first `json_bytes` are JSON and whose rest is the inputs' binary data in their order; without
/// `json_bytes` all of it is JSON. No binary byte is copied. Cost: linear in the JSON.
pub(super) fn read(named: Named, json_bytes: Option<usize>, body: &Bytes) -> Result<Parsed, Fault> {
    let json_bytes = json_bytes.unwrap_or(body.len());
    if json_bytes > body.len() {
        return Err(Fault::unreadable(format!(
            "`inference-header-content-length` is {json_bytes}, but the body has {} bytes",
            body.len()
        )));
    }
    let (json, mut binary) = (&body[..json_bytes], body.slice(json_bytes..));
    let Header { id, parameters, inputs, outputs, forms } = header(json)?;
    let mut message = ModelInferRequest {
        model_name: named.model,
        model_version: named.version,
        id,
        parameters,
        outputs,
        inputs: Vec::with_capacity(inputs.len()),
        raw_input_contents: Vec::with_capacity(inputs.len()),
    };
    for input in inputs {
        message.raw_input_contents.push(contents(&input, json, &mut binary)?);
        let Input { name, datatype, shape, parameters, .. } = input;
        message.inputs.push(InferInputTensor { name, datatype, shape, parameters, contents: None });
    }
    if !binary.is_empty() {
        return Err(Fault::unreadable(format!(
            "{} bytes are left behind the inputs' binary data; `binary_data_size` of all inputs must add up to what \
             follows the JSON",
            binary.len()
        )));
    }
    Ok(Parsed { message, forms })
}

/// An input's raw bytes: from its `data`, or the next of `binary`.
fn contents(input: &Input, json: &[u8], binary: &mut Bytes) -> Result<Bytes, Fault> {
    let Input { name, datatype, shape, parameters, data, binary_bytes } = input;
    let given = match (data, binary_bytes) {
        (Some(_), Some(_)) => "both",
        // Refused by its name with the rest of the protocol's rules.
        (None, None) if parameters.keys().any(|key| key.starts_with("shared_memory_")) => {
            return Ok(Bytes::new());
        }
        (None, None) => "neither",
        (None, &Some(bytes)) => {
            let left = binary.len();
            return match usize::try_from(bytes).ok().filter(|&bytes| bytes <= left) {
                Some(bytes) => Ok(binary.split_to(bytes)),
                None => Err(Fault::unreadable(format!(
                    "input `{name}` has a `binary_data_size` of {bytes}, but {left} bytes are left for it behind the \
                     JSON; `inference-header-content-length` says where that ends"
                ))),
            };
        }
        (Some(span), None) => {
            let Some(known) = Datatype::from_name(datatype) else {
                return Err(Fault::tensor(format!("tensor `{name}` has the unknown datatype `{datatype}`")));
            };
            let elements = if shape.contains(&0) { Some(0) } else { product(shape) };
            let elements = elements
                .ok_or_else(|| Fault::tensor(format!("the shape of tensor `{name}` does not fit 64 bits")))?;
            return values::read(&json[span.clone()], name, known, elements);
        }
    };
    Err(Fault::unreadable(format!("input `{name}` has {given} of `data` and `binary_data_size`; give one")))
}

fn product(shape: &[i64]) -> Option<u64> {
    shape.iter().try_fold(1_u64, |all, &dim| all.checked_mul(u64::try_from(dim).ok()?))
}

fn header(json: &[u8]) -> Result<Header, Fault> {
    let mut header = Header::default();
    let (mut inputs, mut fields) = (None, Fields::of(json));
    fields.object("the request", |fields, key| {
        match key {
            "id" => header.id = fields.string("`id`")?,
            "parameters" => {
                fields.object("`parameters`", |fields, key| {
                    if key == "binary_data_output" {
                        header.forms.all = form(fields, "`parameters.binary_data_output`")?;
                        return Ok(());
                    }
                    header.parameters.insert(key.to_owned(), parameter(fields, key)?);
                    Ok(())
                })?;
            }
            "inputs" => {
                let mut read = Vec::new();
                fields.array("`inputs`", |fields, at| {
                    read.push(input(fields, at)?);
                    Ok(())
                })?;
                inputs = Some(read);
            }
            "outputs" => {
                fields.array("`outputs`", |fields, at| {
                    let (output, form) = output(fields, at)?;
                    header.forms.named.insert(output.name.clone(), form);
                    header.outputs.push(output);
                    Ok(())
                })?;
            }
            // Triton ignores what it does not know; so does an extension's client expect.
            _ => {
                fields.skip()?;
            }
        }
        Ok(())
    })?;
    fields.finish()?;
    header.inputs =
        inputs.ok_or_else(|| Fault::unreadable("`inputs` is missing; send an array of tensors"))?;
    Ok(header)
}

fn input(fields: &mut Fields<'_>, at: usize) -> Result<Input, Fault> {
    let path = format!("`inputs[{at}]`");
    let mut input = Input::default();
    let (mut named, mut typed, mut shaped) = (false, false, false);
    fields.object(&path, |fields, key| {
        match key {
            "name" => {
                named = true;
                input.name = fields.string(&format!("`inputs[{at}].name`"))?;
            }
            "datatype" => {
                typed = true;
                input.datatype = fields.string(&format!("`inputs[{at}].datatype`"))?;
            }
            "shape" => {
                shaped = true;
                let path = format!("`inputs[{at}].shape`");
                fields.array(&path, |fields, _| {
                    let dim = fields.count(&format!("a dimension in {path}"))?;
                    let dim = i64::try_from(dim);
                    input.shape.push(dim.map_err(|_| Fault::tensor(format!("{path} does not fit 64 bits")))?);
                    Ok(())
                })?;
            }
            "data" => input.data = Some(fields.skip()?),
            "parameters" => {
                fields.object(&format!("`inputs[{at}].parameters`"), |fields, key| {
                    if key == "binary_data_size" {
                        input.binary_bytes = Some(fields.count("`binary_data_size`")?);
                        return Ok(());
                    }
                    input.parameters.insert(key.to_owned(), parameter(fields, key)?);
                    Ok(())
                })?;
            }
            _ => {
                fields.skip()?;
            }
        }
        Ok(())
    })?;
    for (given, field) in [(named, "name"), (typed, "datatype"), (shaped, "shape")] {
        if !given {
            return Err(Fault::unreadable(format!("{path} has no `{field}`")));
        }
    }
    Ok(input)
}

fn output(fields: &mut Fields<'_>, at: usize) -> Result<(InferRequestedOutputTensor, Form), Fault> {
    let path = format!("`outputs[{at}]`");
    let (mut output, mut wanted) = (InferRequestedOutputTensor::default(), Form::Json);
    let mut named = false;
    fields.object(&path, |fields, key| {
        match key {
            "name" => {
                named = true;
                output.name = fields.string(&format!("`outputs[{at}].name`"))?;
            }
            "parameters" => {
                fields.object(&format!("`outputs[{at}].parameters`"), |fields, key| {
                    if key == "binary_data" {
                        wanted = form(fields, "`binary_data`")?;
                        return Ok(());
                    }
                    output.parameters.insert(key.to_owned(), parameter(fields, key)?);
                    Ok(())
                })?;
            }
            _ => {
                fields.skip()?;
            }
        }
        Ok(())
    })?;
    if !named {
        return Err(Fault::unreadable(format!("{path} has no `name`")));
    }
    Ok((output, wanted))
}

fn form(fields: &mut Fields<'_>, path: &str) -> Result<Form, Fault> {
    Ok(if fields.boolean(path)? { Form::Binary } else { Form::Json })
}

fn parameter(fields: &mut Fields<'_>, key: &str) -> Result<InferParameter, Fault> {
    let path = format!("the parameter `{key}`");
    let choice = match fields.peek()? {
        Peek::True | Peek::False => ParameterChoice::BoolParam(fields.boolean(&path)?),
        Peek::String => ParameterChoice::StringParam(fields.string(&path)?),
        peek @ (Peek::Null | Peek::Array | Peek::Object) => {
            let given = kind(peek);
            return Err(Fault::unreadable(format!(
                "{path} must be a number, a string or a boolean, not {given}"
            )));
        }
        _ => match fields.number(&path)? {
            Number::Signed(number) => ParameterChoice::Int64Param(number),
            Number::Unsigned(number) => ParameterChoice::Uint64Param(number),
            Number::Float(number) => ParameterChoice::DoubleParam(number),
        },
    };
    Ok(InferParameter { parameter_choice: Some(choice) })
}

#[cfg(test)]
mod tests;
