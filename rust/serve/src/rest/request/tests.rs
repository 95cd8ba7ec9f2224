#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn parsed(json: &str, tail: &[u8]) -> Result<Parsed, String> {
    let body: Bytes = [json.as_bytes(), tail].concat().into();
    let split = (!tail.is_empty()).then_some(json.len());
    read(Named { model: "m".into(), version: "3".into() }, split, &body).map_err(|fault| {
        assert!(fault.status.is_client_error());
        fault.failure.message
    })
}

fn refusal(json: &str, tail: &[u8]) -> String {
    parsed(json, tail).unwrap_err()
}

#[test]
fn json_and_binary_inputs_mix() {
    let json = r#"{"id":"r1","inputs":[
        {"name":"a","shape":[2],"datatype":"INT16","parameters":{"binary_data_size":4}},
        {"data":[[1],[2]],"name":"b","shape":[2,1],"datatype":"UINT8"},
        {"name":"c","shape":[1],"datatype":"FP16","parameters":{"binary_data_size":2,"x":"y"}}],
        "unknown":{"deep":[1,{"a":2}]}}"#;
    let message = parsed(json, &[1, 2, 3, 4, 5, 6]).unwrap().message;
    assert_eq!(
        (message.model_name.as_str(), message.model_version.as_str(), message.id.as_str()),
        ("m", "3", "r1")
    );
    assert_eq!(message.raw_input_contents, [&[1, 2, 3, 4][..], &[1, 2], &[5, 6]]);
    let described: Vec<_> =
        message.inputs.iter().map(|input| (input.name.as_str(), input.shape.as_slice())).collect();
    assert_eq!(described, [("a", &[2][..]), ("b", &[2, 1]), ("c", &[1])]);
    assert!(message.inputs[0].parameters.is_empty());
    assert_eq!(message.inputs[2].parameters.len(), 1);
}

#[test]
fn binary_data_is_not_copied() {
    let json =
        r#"{"inputs":[{"name":"a","shape":[4],"datatype":"UINT8","parameters":{"binary_data_size":4}}]}"#;
    let body: Bytes = [json.as_bytes(), &[1, 2, 3, 4]].concat().into();
    let parsed = read(Named::default(), Some(json.len()), &body).unwrap();
    assert_eq!(parsed.message.raw_input_contents[0].as_ptr(), body[json.len()..].as_ptr());
}

#[test]
fn forms_and_parameters_are_told_apart() {
    let json = r#"{"inputs":[],"parameters":{"binary_data_output":true,"timeout":5,"f":0.5,"b":false,"u":18446744073709551615},
        "outputs":[{"name":"a","parameters":{"binary_data":false,"classification":3}},{"name":"b"},{"name":"d","parameters":{"binary_data":true}}]}"#;
    let Parsed { message, forms } = parsed(json, &[]).unwrap();
    assert_eq!(
        ["a", "b", "c", "d"].map(|name| forms.of(name)),
        [Form::Json, Form::Json, Form::Binary, Form::Binary]
    );
    let choice = |name: &str| message.parameters[name].parameter_choice.clone().unwrap();
    assert_eq!(choice("timeout"), ParameterChoice::Int64Param(5));
    assert_eq!(choice("f"), ParameterChoice::DoubleParam(0.5));
    assert_eq!(choice("b"), ParameterChoice::BoolParam(false));
    assert_eq!(choice("u"), ParameterChoice::Uint64Param(u64::MAX));
    assert_eq!(message.parameters.len(), 4);
    assert_eq!(message.outputs[0].parameters.keys().collect::<Vec<_>>(), ["classification"]);
    assert!(message.outputs[1].parameters.is_empty());
}

#[test]
fn refusals_say_what_is_wrong() {
    let input = |rest: &str| format!(r#"{{"inputs":[{{"name":"x","datatype":"INT8","shape":[2]{rest}}}]}}"#);
    assert_eq!(refusal("{}", &[]), "`inputs` is missing; send an array of tensors");
    assert_eq!(refusal(r#"{"inputs":{}}"#, &[]), "`inputs` must be an array, not an object");
    assert_eq!(refusal(r#"{"inputs":[{"name":"x"}]}"#, &[]), "`inputs[0]` has no `datatype`");
    assert_eq!(refusal(&input(""), &[]), "input `x` has neither of `data` and `binary_data_size`; give one");
    assert_eq!(
        refusal(&input(r#","data":[1,2],"parameters":{"binary_data_size":2}"#), &[1, 2]),
        "input `x` has both of `data` and `binary_data_size`; give one"
    );
    let binary = input(r#","parameters":{"binary_data_size":2}"#);
    assert!(
        refusal(&binary, &[1]).starts_with("input `x` has a `binary_data_size` of 2, but 1 bytes are left")
    );
    assert!(refusal(&binary, &[1, 2, 3]).starts_with("1 bytes are left behind the inputs' binary data"));
    assert_eq!(
        refusal(&input(r#","parameters":{"binary_data_size":-1}"#), &[]),
        "`binary_data_size` must be a whole number that is not negative, not -1"
    );
    assert_eq!(
        refusal(r#"{"inputs":[{"name":"x","datatype":"INT8","shape":[-2],"data":[]}]}"#, &[]),
        "a dimension in `inputs[0].shape` must be a whole number that is not negative, not -2"
    );
    assert_eq!(
        refusal(r#"{"inputs":[{"name":"x","datatype":"NOPE","shape":[1],"data":[1]}]}"#, &[]),
        "tensor `x` has the unknown datatype `NOPE`"
    );
    assert_eq!(
        refusal(r#"{"inputs":[],"parameters":{"p":null}}"#, &[]),
        "the parameter `p` must be a number, a string or a boolean, not null"
    );
    assert_eq!(
        refusal(r#"{"inputs":[],"inputs":[]}"#, &[]),
        "the key `inputs` occurs twice in the request; send it once"
    );
    let huge = r#"{"inputs":[{"name":"x","datatype":"INT8","shape":[9223372036854775807,4],"data":[1]}]}"#;
    assert_eq!(refusal(huge, &[]), "the shape of tensor `x` does not fit 64 bits");
}

#[test]
fn a_split_at_any_other_place_is_refused() {
    let json =
        r#"{"inputs":[{"name":"x","datatype":"INT8","shape":[9],"parameters":{"binary_data_size":9}}]}"#;
    let body: Bytes = [json.as_bytes(), b"[1,2,3]  "].concat().into();
    for split in 0..body.len() + 3 {
        let read = read(Named::default(), Some(split), &body);
        assert_eq!(read.is_ok(), split == json.len(), "{split}");
        if let Err(fault) = read {
            assert_eq!(fault.status, http::StatusCode::BAD_REQUEST);
        }
    }
    assert!(read(Named::default(), None, &body).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        body in proptest::collection::vec(any::<u8>(), 0..200), split in proptest::option::of(0_usize..220),
    ) {
        let _ = read(Named::default(), split, &body.into());
    }

    #[test]
    fn any_request_like_text_is_read_or_refused(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"inputs\"", "\"name\"", "\"x\"", "\"datatype\"", "\"INT8\"", "\"shape\"",
            "\"data\"", "\"parameters\"", "\"outputs\"", "\"binary_data_size\"", "1", "-1", "1.5", "true", "null", "NaN",
        ]), 0..30),
        split in proptest::option::of(0_usize..100),
    ) {
        let _ = read(Named::default(), split, &words.concat().into());
    }

    #[test]
    fn sizes_must_add_up(sizes in proptest::collection::vec(0_usize..6, 1..4), given in 0_usize..20) {
        let inputs: Vec<_> = sizes.iter().map(|size| format!(
            r#"{{"name":"x","datatype":"INT8","shape":[{size}],"parameters":{{"binary_data_size":{size}}}}}"#
        )).collect();
        let json = format!(r#"{{"inputs":[{}]}}"#, inputs.join(","));
        let body: Bytes = [json.as_bytes(), &vec![7; given]].concat().into();
        let read = read(Named::default(), Some(json.len()), &body);
        prop_assert_eq!(read.is_ok(), given == sizes.iter().sum::<usize>());
    }
}
