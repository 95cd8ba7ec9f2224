//! Owns: an answer's outputs written as JSON, or as JSON with the tensors' bytes behind it.
//! Must not know: HTTP, queues.
//! On failure: closed; an output that its form cannot carry makes the answer an error.

use bytes::Bytes;
use forebay_core::batch::Tensor;

use super::fault::Fault;
use super::request::{Form, Forms};
use super::{text, values};
use crate::kserve::Answered;
use crate::kserve::pb::InferParameter;
use crate::kserve::pb::infer_parameter::ParameterChoice;

/// A written answer.
#[derive(Debug)]
pub(super) struct Written {
    /// The JSON, and behind it the bytes of the outputs that are binary, not copied
    pub parts: Vec<Bytes>,
    /// Bytes of the JSON, if an output is binary
    pub json_bytes: Option<usize>,
}

/// Writes the answer to the request `id` for `model`, as the client named both.
pub(super) fn write(model: &str, id: &str, answered: &Answered, forms: &Forms) -> Result<Written, Fault> {
    let Answered { head, tensors } = answered;
    let in_json: usize = tensors
        .iter()
        .filter(|tensor| forms.of(tensor.name()) == Form::Json)
        .map(|tensor| tensor.data().len())
        .sum();
    let mut json = Vec::with_capacity(256 + 128 * tensors.len() + 4 * in_json);
    let mut parts = vec![Bytes::new()];
    json.push(b'{');
    if !id.is_empty() {
        text::key(&mut json, "id");
        text::string(&mut json, id);
    }
    text::key(&mut json, "model_name");
    text::string(&mut json, model);
    text::key(&mut json, "model_version");
    text::string(&mut json, &head.model_version);
    parameters(&mut json, &head.parameters, None);
    text::key(&mut json, "outputs");
    json.push(b'[');
    let mut binary = false;
    for (at, tensor) in tensors.iter().enumerate() {
        text::comma(&mut json);
        described(&mut json, tensor);
        let own = head.output_parameters.get(at);
        let own = own.into_iter().flatten();
        match forms.of(tensor.name()) {
            Form::Binary => {
                binary = true;
                parameters(&mut json, own, Some(tensor.data().len()));
                parts.push(tensor.data().clone());
            }
            Form::Json => {
                parameters(&mut json, own, None);
                text::key(&mut json, "data");
                values::write(&mut json, tensor)?;
            }
        }
        json.push(b'}');
    }
    json.extend_from_slice(b"]}");
    let json_bytes = binary.then_some(json.len());
    parts[0] = json.into();
    Ok(Written { parts, json_bytes })
}

fn described(json: &mut Vec<u8>, tensor: &Tensor) {
    json.push(b'{');
    text::key(json, "name");
    text::string(json, tensor.name());
    text::key(json, "datatype");
    text::string(json, tensor.datatype().name());
    text::key(json, "shape");
    json.push(b'[');
    for &dim in tensor.shape() {
        text::comma(json);
        text::integer(json, dim);
    }
    json.push(b']');
}

/// The field `parameters`, left out when it would be empty.
fn parameters<'a>(
    json: &mut Vec<u8>,
    parameters: impl IntoIterator<Item = (&'a String, &'a InferParameter)>,
    binary_bytes: Option<usize>,
) {
    let mut parameters = parameters.into_iter().peekable();
    if parameters.peek().is_none() && binary_bytes.is_none() {
        return;
    }
    text::key(json, "parameters");
    json.push(b'{');
    for (name, parameter) in parameters {
        text::key(json, name);
        match &parameter.parameter_choice {
            None => json.extend_from_slice(b"null"),
            Some(ParameterChoice::BoolParam(value)) => {
                json.extend_from_slice(if *value { b"true" } else { b"false" });
            }
            Some(ParameterChoice::Int64Param(value)) => text::integer(json, *value),
            Some(ParameterChoice::Uint64Param(value)) => text::integer(json, *value),
            Some(ParameterChoice::DoubleParam(value)) => text::float(json, *value),
            Some(ParameterChoice::StringParam(value)) => text::string(json, value),
        }
    }
    if let Some(bytes) = binary_bytes {
        text::key(json, "binary_data_size");
        text::integer(json, bytes);
    }
    json.push(b'}');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use forebay_core::batch::Datatype;

    use super::super::request;
    use super::super::route::Named;
    use super::*;
    use crate::kserve::AnswerHead;

    fn answered() -> Answered {
        let tensor = |name: &str, datatype, shape: &[i64], data: &'static [u8]| {
            Tensor::new(name.into(), datatype, shape, Bytes::from_static(data)).unwrap()
        };
        let tensors = vec![
            tensor("a", Datatype::Int16, &[1, 2], &[1, 0, 255, 255]),
            tensor("b", Datatype::Bytes, &[1], b"\x02\0\0\0\"\n"),
        ];
        let odd = InferParameter { parameter_choice: Some(ParameterChoice::Uint64Param(u64::MAX)) };
        let head = AnswerHead {
            model_version: "7".to_owned(),
            parameters: [("odd".to_owned(), odd)].into(),
            output_parameters: vec![[].into(), [].into()],
        };
        Answered { head: Arc::new(head), tensors }
    }

    fn forms(json: &str) -> Forms {
        request::read(Named::default(), None, &Bytes::copy_from_slice(json.as_bytes())).unwrap().forms
    }

    #[test]
    fn json_alone_has_no_length() {
        let written = write("m", "r\"1", &answered(), &Forms::default()).unwrap();
        assert_eq!(written.json_bytes, None);
        let expected = r#"{"id":"r\"1","model_name":"m","model_version":"7","parameters":{"odd":18446744073709551615},"outputs":[{"name":"a","datatype":"INT16","shape":[1,2],"data":[1,-1]},{"name":"b","datatype":"BYTES","shape":[1],"data":["\"\n"]}]}"#;
        assert_eq!(written.parts.concat(), expected.as_bytes());
    }

    #[test]
    fn binary_outputs_follow_in_order_and_are_not_copied() {
        let answered = answered();
        let all = forms(r#"{"inputs":[],"parameters":{"binary_data_output":true}}"#);
        let written = write("m", "", &answered, &all).unwrap();
        assert_eq!(written.json_bytes, Some(written.parts[0].len()));
        assert_eq!(written.parts[1].as_ptr(), answered.tensors[0].data().as_ptr());
        assert_eq!(written.parts[2], answered.tensors[1].data());
        assert!(!written.parts[0].starts_with(b"{\"id\""));

        let one = forms(r#"{"inputs":[],"outputs":[{"name":"b","parameters":{"binary_data":true}}]}"#);
        let written = write("m", "", &answered, &one).unwrap();
        assert_eq!(written.parts[1..], [answered.tensors[1].data().clone()]);
        let json = String::from_utf8(written.parts[0].to_vec()).unwrap();
        assert!(json.ends_with(r#""shape":[1],"parameters":{"binary_data_size":6}}]}"#), "{json}");
    }
}
