//! Owns: the protocol's descriptive answers (metadata, configuration, statistics) turned into Triton's JSON.
//! Must not know: any message by its fields; the compiled protocol says what they are called.
//! On failure: closed; an answer that cannot be read is not passed on. Fields that a newer server added are left out.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};
use tonic::Code;

use super::fault::Fault;
use super::text;
use crate::kserve::Failure;
use crate::kserve::pb::RepositoryIndexResponse;

/// The compiled protocol. `None` cannot be: the build made it, and a test reads it.
static PROTOCOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/inference.descriptors")).as_slice()).ok()
});

/// The JSON of an encoded `inference.{message}`, with the names of the protocol's fields and numbers as numbers.
/// Fields without presence are written even when they are empty, as Triton does.
pub(super) fn message(message: &str, encoded: Bytes) -> Result<Vec<u8>, Fault> {
    Ok(written(&decoded(message, encoded)?))
}

/// The JSON of the configuration in an encoded `ModelConfigResponse`.
pub(super) fn config(encoded: Bytes) -> Result<Vec<u8>, Fault> {
    let answer = decoded("ModelConfigResponse", encoded)?;
    let config = answer.get_field_by_name("config");
    let config = config.as_deref().and_then(Value::as_message);
    config.map(written).ok_or_else(|| unusable(&"it has no configuration"))
}

/// The JSON of an encoded `RepositoryIndexResponse`: a list, with what is empty left out.
pub(super) fn index(encoded: Bytes) -> Result<Vec<u8>, Fault> {
    let answer = RepositoryIndexResponse::decode(encoded).map_err(|error| unusable(&error))?;
    let mut json = b"[".to_vec();
    for model in &answer.models {
        text::comma(&mut json);
        json.push(b'{');
        let rest = [("version", &model.version), ("state", &model.state), ("reason", &model.reason)];
        text::key(&mut json, "name");
        text::string(&mut json, &model.name);
        for (name, value) in rest.into_iter().filter(|(_, value)| !value.is_empty()) {
            text::key(&mut json, name);
            text::string(&mut json, value);
        }
        json.push(b'}');
    }
    json.push(b']');
    Ok(json)
}

fn decoded(message: &str, encoded: Bytes) -> Result<DynamicMessage, Fault> {
    let descriptor =
        PROTOCOL.as_ref().and_then(|pool| pool.get_message_by_name(&format!("inference.{message}")));
    let descriptor = descriptor.ok_or_else(|| unusable(&format_args!("`{message}` is not known")))?;
    DynamicMessage::decode(descriptor, encoded).map_err(|error| unusable(&error))
}

fn written(message: &DynamicMessage) -> Vec<u8> {
    let mut json = Vec::with_capacity(1 << 10);
    object(&mut json, message);
    json
}

fn object(json: &mut Vec<u8>, message: &DynamicMessage) {
    json.push(b'{');
    let mut fields: Vec<FieldDescriptor> = message.descriptor().fields().collect();
    // As the protocol's file has them, which readers know from Triton.
    fields.sort_by_key(|field| field.path().last().copied());
    for field in fields {
        if field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        text::key(json, field.name());
        value(json, &field, &message.get_field(&field));
    }
    json.push(b'}');
}

fn value(json: &mut Vec<u8>, field: &FieldDescriptor, given: &Value) {
    match given {
        Value::Bool(given) => json.extend_from_slice(if *given { b"true" } else { b"false" }),
        Value::I32(given) => text::integer(json, *given),
        Value::I64(given) => text::integer(json, *given),
        Value::U32(given) => text::integer(json, *given),
        Value::U64(given) => text::integer(json, *given),
        Value::F32(given) => text::float(json, *given),
        Value::F64(given) => text::float(json, *given),
        Value::String(given) => text::string(json, given),
        // The protocol's answers have no bytes but those that `config` opens.
        Value::Bytes(given) => text::string(json, &String::from_utf8_lossy(given)),
        Value::EnumNumber(given) => match field.kind() {
            Kind::Enum(names) if names.get_value(*given).is_some() => {
                text::string(json, names.get_value(*given).as_ref().map_or("", |value| value.name()));
            }
            _ => text::integer(json, *given),
        },
        Value::Message(given) => object(json, given),
        Value::List(items) => {
            json.push(b'[');
            for item in items {
                text::comma(json);
                value(json, field, item);
            }
            json.push(b']');
        }
        Value::Map(entries) => map(json, field, entries.iter().collect()),
    }
}

/// The entries in the order of their keys, so that equal answers have equal texts.
fn map(json: &mut Vec<u8>, field: &FieldDescriptor, entries: Vec<(&MapKey, &Value)>) {
    let named = |(key, value)| {
        let name = match key {
            &MapKey::Bool(key) => key.to_string(),
            &MapKey::I32(key) => key.to_string(),
            &MapKey::I64(key) => key.to_string(),
            &MapKey::U32(key) => key.to_string(),
            &MapKey::U64(key) => key.to_string(),
            MapKey::String(key) => key.clone(),
        };
        (name, value)
    };
    let mut entries: Vec<(String, &Value)> = entries.into_iter().map(named).collect();
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    json.push(b'{');
    if let Kind::Message(entry) = field.kind() {
        for (name, each) in entries {
            text::key(json, &name);
            value(json, &entry.map_entry_value_field(), each);
        }
    }
    json.push(b'}');
}

fn unusable(reason: &dyn std::fmt::Display) -> Fault {
    let message = format!("the model server's answer cannot be used: {reason}");
    Failure { code: Code::Internal, slug: "batch_answer", message, retry_after_ns: None }.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http::StatusCode;

    use super::*;
    use crate::kserve::pb::model_version_policy::PolicyChoice;
    use crate::kserve::pb::repository_index_response::ModelIndex;
    use crate::kserve::pb::{
        ModelConfig, ModelConfigResponse, ModelInput, ModelParameter, ModelVersionPolicy,
        model_version_policy,
    };

    fn json(message: &str, encoded: &[u8]) -> String {
        String::from_utf8(super::message(message, Bytes::copy_from_slice(encoded)).unwrap()).unwrap()
    }

    #[test]
    fn empty_fields_are_written_and_absent_messages_are_not() {
        assert_eq!(json("ServerMetadataResponse", &[]), r#"{"name":"","version":"","extensions":[]}"#);
        let config = json("ModelConfig", &[]);
        assert!(
            config.starts_with(r#"{"name":"","platform":"","backend":"","runtime":"","max_batch_size":0,"#),
            "{config}"
        );
        for absent in ["dynamic_batching", "version_policy", "optimization"] {
            assert!(!config.contains(absent), "{absent}");
        }
    }

    #[test]
    fn numbers_enums_maps_and_choices_are_tritons() {
        let parameter = |value: &str| ModelParameter { string_value: value.to_owned() };
        let described = ModelConfig {
            version_policy: Some(ModelVersionPolicy {
                policy_choice: Some(PolicyChoice::Latest(model_version_policy::Latest { num_versions: 1 })),
            }),
            input: vec![ModelInput { data_type: 9, dims: vec![-1], ..ModelInput::default() }],
            parameters: [("b".to_owned(), parameter("2")), ("a".to_owned(), parameter("1"))].into(),
            ..ModelConfig::default()
        };
        let answer = ModelConfigResponse { config: Some(described) };
        let config = String::from_utf8(config(answer.encode_to_vec().into()).unwrap()).unwrap();
        for part in [
            r#""version_policy":{"latest":{"num_versions":1}}"#,
            r#""data_type":"TYPE_INT64","format":"FORMAT_NONE","dims":[-1]"#,
            r#""parameters":{"a":{"string_value":"1"},"b":{"string_value":"2"}}"#,
        ] {
            assert!(config.contains(part), "{config}");
        }
    }

    #[test]
    fn an_index_is_a_list() {
        let ready =
            ModelIndex { name: "m".into(), version: "1".into(), state: "READY".into(), ..Default::default() };
        let failed = ModelIndex { name: "n".into(), reason: "no \"file\"".into(), ..Default::default() };
        let answer = RepositoryIndexResponse { models: vec![ready, failed] };
        let json = index(answer.encode_to_vec().into()).unwrap();
        assert_eq!(
            String::from_utf8(json).unwrap(),
            r#"[{"name":"m","version":"1","state":"READY"},{"name":"n","reason":"no \"file\""}]"#
        );
        assert_eq!(index(Bytes::new()).unwrap(), b"[]");
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_the_servers_fault() {
        assert_eq!(
            message("ModelConfig", vec![0x0a].into()).unwrap_err().status,
            StatusCode::INTERNAL_SERVER_ERROR
        );
    }
}
