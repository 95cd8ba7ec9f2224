//! Owns: the messages to Envoy, built from what the engine says.
//! Must not know: the order in which they are sent.
//! On failure: it cannot fail.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::{ProcessingMode, processing_mode};
use envoy_types::pb::google::protobuf::Duration as PbDuration;
use forebay_core::engine::{Answer, Forward, MetaValue};
use forebay_core::names;

use super::wire::{
    BodyMutation, CommonResponse, GrpcStatus, HeaderMutation, HeaderValue, HeaderValueOption, HttpStatus,
    ImmediateResponse, PhaseResponse, ProcessingResponse, Response,
};
use crate::protobuf::{field_len, put_bytes, put_head};

// Field numbers of `google.protobuf.Value`, and the wire type of its number.
const NUMBER_VALUE: u32 = 2;
const STRING_VALUE: u32 = 3;
const STRUCT_VALUE: u32 = 5;
const SIXTY_FOUR_BITS: u8 = 1;

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
        response: Some(Response::RequestHeaders(PhaseResponse { response: Some(CommonResponse::default()) })),
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
    set.push(header(names::POOL, Bytes::copy_from_slice(forward.pool.as_bytes())));
    if forward.capture {
        set.push(header(names::CAPTURE, Bytes::from_static(b"1")));
    }
    if forward.batch {
        set.push(header(names::ID, format!("{:032x}", forward.id).into()));
    }
    if let Some(traceparent) = forward.traceparent {
        set.push(header(names::TRACEPARENT, traceparent.into()));
    }
    if let Some(body) = &forward.body {
        set.push(header("content-length", body.len().to_string().into()));
    }
    let common = CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers: set,
            remove_headers: names::CREDENTIALS.iter().map(|&n| Bytes::from_static(n.as_bytes())).collect(),
        }),
        body_mutation: forward.body.map(|body| BodyMutation { body: Some(body.into()) }),
        clear_route_cache: true,
    };
    let phased = PhaseResponse { response: Some(common) };
    ProcessingResponse {
        response: Some(match phase {
            Phase::Headers => Response::RequestHeaders(phased),
            Phase::Body => Response::RequestBody(phased),
        }),
        dynamic_metadata: metadata(&forward.metadata, forward.drop_usage),
        ..ProcessingResponse::default()
    }
}

/// Forebay answers itself. Nothing may be sent on the stream afterwards.
pub fn answer(answer: Answer, is_grpc: bool) -> ProcessingResponse {
    let grpc = if is_grpc { answer.grpc } else { None };
    let (body, grpc_status) = match grpc {
        Some((status, message)) => (message.into(), Some(GrpcStatus { status })),
        None => (answer.body, None),
    };
    let set_headers = answer
        .headers
        .into_iter()
        .filter(|(name, _)| grpc_status.is_none() || *name != "content-type")
        .map(|(name, value)| match value {
            Cow::Borrowed(value) => header(name, Bytes::from_static(value.as_bytes())),
            Cow::Owned(value) => header(name, value.into()),
        })
        .collect();
    ProcessingResponse {
        response: Some(Response::Immediate(ImmediateResponse {
            status: Some(HttpStatus { code: i32::from(answer.status) }),
            headers: Some(HeaderMutation { set_headers, remove_headers: Vec::new() }),
            body,
            grpc_status,
            details: format!("forebay_{}", if answer.code.is_empty() { "answer" } else { answer.code }),
        })),
        ..ProcessingResponse::default()
    }
}

fn header(name: &'static str, value: Bytes) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: Bytes::from_static(name.as_bytes()), raw_value: value }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
    }
}

/// The metadata as an encoded `google.protobuf.Struct` whose keys are namespaces: ours, and where the usage event must
/// be dropped, that of the usage.
///
/// Written out by hand: a tree of hash maps for a dozen strings costs more than the rest of the answer.
fn metadata(values: &[(&'static str, MetaValue)], drop_usage: bool) -> Bytes {
    const DROP: [(&str, MetaValue); 1] = [("drop", MetaValue::Word("1"))];
    let ours = namespace_len(names::NAMESPACE, values);
    let drop: &[_] = if drop_usage { &DROP } else { &[] };
    let usage = if drop_usage { namespace_len(names::USAGE_NAMESPACE, drop) } else { 0 };
    let mut out = Vec::with_capacity(ours + usage);
    put_namespace(&mut out, names::NAMESPACE, values);
    if drop_usage {
        put_namespace(&mut out, names::USAGE_NAMESPACE, drop);
    }
    out.into()
}

fn fields_len(values: &[(&str, MetaValue)]) -> usize {
    values.iter().map(|(name, value)| field_len(pair_len(name, value_len(value)))).sum()
}

fn namespace_len(namespace: &str, values: &[(&str, MetaValue)]) -> usize {
    field_len(pair_len(namespace, field_len(fields_len(values))))
}

fn put_namespace(out: &mut Vec<u8>, namespace: &str, values: &[(&str, MetaValue)]) {
    let fields = fields_len(values);
    put_pair_head(out, namespace, field_len(fields));
    put_head(out, STRUCT_VALUE, fields);
    for (name, value) in values {
        put_pair_head(out, name, value_len(value));
        match value {
            MetaValue::Shared(text) => put_bytes(out, STRING_VALUE, text.as_bytes()),
            MetaValue::Word(text) => put_bytes(out, STRING_VALUE, text.as_bytes()),
            MetaValue::Text(text) => put_bytes(out, STRING_VALUE, text.as_bytes()),
            MetaValue::Number(number) => {
                out.put_u8((NUMBER_VALUE << 3) as u8 | SIXTY_FOUR_BITS);
                out.put_f64_le(*number as f64);
            }
        }
    }
}

/// A key and the encoded value of `value_len` bytes that follows, as an entry of a struct's `fields`.
fn put_pair_head(out: &mut Vec<u8>, name: &str, value_len: usize) {
    put_head(out, 1, pair_len(name, value_len));
    put_bytes(out, 1, name.as_bytes());
    put_head(out, 2, value_len);
}

fn pair_len(name: &str, value_len: usize) -> usize {
    field_len(name.len()) + field_len(value_len)
}

fn value_len(value: &MetaValue) -> usize {
    match value {
        MetaValue::Shared(text) => field_len(text.len()),
        MetaValue::Word(text) => field_len(text.len()),
        MetaValue::Text(text) => field_len(text.len()),
        MetaValue::Number(_) => 9,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;
    use std::sync::Arc;

    use envoy_types::pb::envoy::service::ext_proc::v3 as published;
    use envoy_types::pb::google::protobuf::{Struct, value};
    use prost::Message;

    use super::*;

    fn as_published(ours: &ProcessingResponse) -> published::ProcessingResponse {
        let bytes = ours.encode_to_vec();
        let read = published::ProcessingResponse::decode(&bytes[..]).unwrap();
        // Nothing of it is unknown to Envoy.
        assert_eq!(read.encoded_len(), bytes.len());
        read
    }

    fn way() -> Forward {
        let long = "t".repeat(300);
        Forward {
            id: 255,
            pool: Arc::from("fast"),
            capture: true,
            batch: true,
            body: Some(b"{}".to_vec()),
            traceparent: Some("00-1-2-01".into()),
            drop_usage: true,
            metadata: vec![
                ("id", MetaValue::Text("ff".into())),
                ("tenant", MetaValue::Shared(long.into())),
                ("cache", MetaValue::Word("miss")),
                ("bound_tokens", MetaValue::Number(1_234)),
            ],
        }
    }

    #[test]
    fn a_way_reads_as_envoy_reads_it() {
        let read = as_published(&forward(way(), Phase::Body));
        let Some(published::processing_response::Response::RequestBody(body)) = read.response else {
            unreachable!()
        };
        let common = body.response.unwrap();
        assert!(common.clear_route_cache);
        let mutation = common.header_mutation.unwrap();
        let set: Vec<_> = mutation
            .set_headers
            .into_iter()
            .map(|h| {
                assert_eq!(h.append_action, HeaderAppendAction::OverwriteIfExistsOrAdd as i32);
                let header = h.header.unwrap();
                (header.key, String::from_utf8(header.raw_value).unwrap())
            })
            .collect();
        let id = format!("{:032x}", 255);
        let expected = [
            (names::POOL, "fast"),
            (names::CAPTURE, "1"),
            (names::ID, &id),
            (names::TRACEPARENT, "00-1-2-01"),
            ("content-length", "2"),
        ];
        assert_eq!(set, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(mutation.remove_headers, names::CREDENTIALS);
        let Some(published::body_mutation::Mutation::Body(body)) = common.body_mutation.unwrap().mutation
        else {
            unreachable!()
        };
        assert_eq!(body, b"{}");
    }

    #[test]
    fn metadata_reads_as_envoy_reads_it() {
        let read = as_published(&forward(way(), Phase::Headers));
        let mut all: HashMap<_, _> = read.dynamic_metadata.unwrap().fields;
        let Some(value::Kind::StructValue(Struct { fields })) = all.remove(names::NAMESPACE).unwrap().kind
        else {
            unreachable!()
        };
        let Some(value::Kind::StructValue(usage)) = all.remove(names::USAGE_NAMESPACE).unwrap().kind else {
            unreachable!()
        };
        assert!(all.is_empty());
        assert_eq!(usage.fields["drop"].kind, Some(value::Kind::StringValue("1".into())));
        let leave = forward(Forward { drop_usage: false, ..way() }, Phase::Headers);
        assert_eq!(
            as_published(&leave).dynamic_metadata.unwrap().fields.len(),
            1,
            "it asked for the usage itself"
        );
        let kind = |name: &str| fields[name].kind.clone().unwrap();
        assert_eq!(fields.len(), 4);
        assert_eq!(kind("id"), value::Kind::StringValue("ff".into()));
        assert_eq!(kind("tenant"), value::Kind::StringValue("t".repeat(300)));
        assert_eq!(kind("cache"), value::Kind::StringValue("miss".into()));
        assert_eq!(kind("bound_tokens"), value::Kind::NumberValue(1_234.0));
    }

    #[test]
    fn an_answer_reads_as_envoy_reads_it() {
        let made = Answer {
            status: 429,
            headers: vec![
                ("content-type", "application/json".into()),
                ("retry-after", "7".to_owned().into()),
            ],
            body: Bytes::from_static(b"{}"),
            grpc: Some((8, "too many".into())),
            code: "rate_limited",
        };
        for (is_grpc, headers, body) in [(false, 2, "{}"), (true, 1, "too many")] {
            let read = as_published(&answer(made.clone(), is_grpc));
            let Some(published::processing_response::Response::ImmediateResponse(read)) = read.response
            else {
                unreachable!()
            };
            assert_eq!(read.status.unwrap().code, 429);
            assert_eq!(read.headers.unwrap().set_headers.len(), headers);
            assert_eq!(read.body, body.as_bytes());
            assert_eq!(read.grpc_status.map(|g| g.status), is_grpc.then_some(8));
            assert_eq!(read.details, "forebay_rate_limited");
        }
    }

    #[test]
    fn what_asks_and_what_holds_read_as_envoy_reads_them() {
        let asked = as_published(&send_body());
        assert_eq!(
            asked.mode_override.unwrap().request_body_mode,
            processing_mode::BodySendMode::Buffered as i32
        );
        let held = as_published(&hold(Duration::from_millis(1_500)));
        assert_eq!(held.override_message_timeout, Some(PbDuration { seconds: 1, nanos: 500_000_000 }));
    }
}
