//! Owns: the messages to Envoy, built from what the engine says.
//! Must not know: the order in which they are sent.
//! On failure: it cannot fail.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, header_value_option};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::{ProcessingMode, processing_mode};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, GrpcStatus, HeaderMutation, HeadersResponse, ImmediateResponse,
    ProcessingResponse, body_mutation, processing_response,
};
use envoy_types::pb::google::protobuf::{Duration as PbDuration, Struct, Value, value};
use forebay_core::engine::{Answer, Forward, MetaValue};
use forebay_core::names;

/// Which request message is being answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The request's headers
    Headers,
    /// The buffered body
    Body,
}

/// Asks for the whole body.
pub fn send_body() -> ProcessingResponse {
    ProcessingResponse {
        response: Some(processing_response::Response::RequestHeaders(HeadersResponse {
            response: Some(CommonResponse::default()),
        })),
        mode_override: Some(ProcessingMode {
            request_header_mode: processing_mode::HeaderSendMode::Send as i32,
            response_header_mode: processing_mode::HeaderSendMode::Skip as i32,
            request_body_mode: processing_mode::BodySendMode::Buffered as i32,
            response_body_mode: processing_mode::BodySendMode::None as i32,
            // The default, which is not to send them: the rendered filter allows this override and no other.
            ..ProcessingMode::default()
        }),
        ..ProcessingResponse::default()
    }
}

/// Announces that the answer to the present message may take this long.
pub fn hold(wait: Duration) -> ProcessingResponse {
    ProcessingResponse {
        override_message_timeout: Some(PbDuration {
            seconds: wait.as_secs() as i64,
            nanos: wait.subsec_nanos() as i32,
        }),
        ..ProcessingResponse::default()
    }
}

/// The request goes on.
pub fn forward(forward: Forward, phase: Phase) -> ProcessingResponse {
    let mut set = Vec::with_capacity(4);
    set.push(header(names::POOL, forward.pool.as_bytes().to_vec()));
    if forward.capture {
        set.push(header(names::CAPTURE, b"1".to_vec()));
    }
    if forward.batch {
        set.push(header(names::ID, format!("{:032x}", forward.id).into_bytes()));
    }
    if let Some(body) = &forward.body {
        set.push(header("content-length", body.len().to_string().into_bytes()));
    }
    let common = CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers: set,
            remove_headers: names::CREDENTIALS.iter().map(|&n| n.to_owned()).collect(),
        }),
        body_mutation: forward.body.map(|b| BodyMutation { mutation: Some(body_mutation::Mutation::Body(b)) }),
        clear_route_cache: true,
        ..CommonResponse::default()
    };
    let response = match phase {
        Phase::Headers => {
            processing_response::Response::RequestHeaders(HeadersResponse { response: Some(common) })
        }
        Phase::Body => processing_response::Response::RequestBody(BodyResponse { response: Some(common) }),
    };
    ProcessingResponse {
        response: Some(response),
        dynamic_metadata: Some(metadata(forward.metadata)),
        ..ProcessingResponse::default()
    }
}

/// Forebay answers itself. Nothing may be sent on the stream afterwards.
pub fn answer(answer: Answer, is_grpc: bool) -> ProcessingResponse {
    let grpc = if is_grpc { answer.grpc } else { None };
    let (body, grpc_status, details) = match grpc {
        Some((status, message)) => (message.into_bytes(), Some(GrpcStatus { status }), answer.code),
        None => (answer.body.to_vec(), None, answer.code),
    };
    let set_headers = answer
        .headers
        .iter()
        .filter(|(name, _)| grpc_status.is_none() || *name != "content-type")
        .map(|(name, value)| header(name, value.as_bytes().to_vec()))
        .collect();
    ProcessingResponse {
        response: Some(processing_response::Response::ImmediateResponse(ImmediateResponse {
            status: Some(HttpStatus { code: i32::from(answer.status) }),
            headers: Some(HeaderMutation { set_headers, remove_headers: Vec::new() }),
            body,
            grpc_status,
            details: format!("forebay_{}", if details.is_empty() { "answer" } else { details }),
        })),
        ..ProcessingResponse::default()
    }
}

fn header(name: &str, value: Vec<u8>) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), raw_value: value, ..HeaderValue::default() }),
        append_action: header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..HeaderValueOption::default()
    }
}

fn metadata(values: Vec<(&'static str, MetaValue)>) -> Struct {
    let mut fields = HashMap::with_capacity(values.len());
    for (name, value) in values {
        let kind = match value {
            MetaValue::Shared(text) => value::Kind::StringValue(text.to_string()),
            MetaValue::Word(word) => value::Kind::StringValue(word.to_owned()),
            MetaValue::Text(text) => value::Kind::StringValue(text),
            MetaValue::Number(number) => value::Kind::NumberValue(number as f64),
        };
        fields.insert(name.to_owned(), Value { kind: Some(kind) });
    }
    let inner = Value { kind: Some(value::Kind::StructValue(Struct { fields })) };
    Struct { fields: HashMap::from([(names::NAMESPACE.to_owned(), inner)]) }
}
