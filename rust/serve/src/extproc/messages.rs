//! Owns: what is read of Envoy's messages on an `ext_proc` stream, borrowed from their bytes.
//! Must not know: which message may come when.
//! On failure: closed; a malformed message is an error of its stream.

use forebay_core::names;
use tonic::Status;

use crate::protobuf::{Malformed, Value, fields, text};

/// Headers that a request has as a rule, at most.
const USUAL_HEADERS: usize = 32;

/// One message of Envoy's.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub part: Option<Part<'a>>,
    /// The dynamic metadata, where the filter forwards it: `envoy.config.core.v3.Metadata`
    pub metadata: &'a [u8],
    /// The filter's own mode for request bodies, as a `BodySendMode`; only the first message of a stream says it
    pub body_mode: i32,
}

/// Which part of a request or response it is about.
#[derive(Debug)]
pub(super) enum Part<'a> {
    RequestHeaders(Headers<'a>),
    ResponseHeaders(Headers<'a>),
    RequestBody(Body<'a>),
    ResponseBody(Body<'a>),
    RequestTrailers,
    ResponseTrailers,
}

/// Headers as names and bytes, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Headers<'a> {
    pub pairs: Vec<(&'a str, &'a [u8])>,
    pub end_of_stream: bool,
}

/// A body, or a piece of one.
#[derive(Debug, Default)]
pub(super) struct Body<'a> {
    pub bytes: &'a [u8],
    pub end_of_stream: bool,
}

// === impl Message ===

impl<'a> Message<'a> {
    /// Reads a `ProcessingRequest`.
    pub fn read(message: &'a [u8]) -> Result<Self, Status> {
        Self::parts(message).map_err(|_| Status::invalid_argument("a message that is no ProcessingRequest"))
    }

    fn parts(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut read = Self { part: None, metadata: &[], body_mode: 0 };
        fields(message, |number, value| {
            let Value::Bytes(content) = value else { return Ok(()) };
            match number {
                2 => read.part = Some(Part::RequestHeaders(Headers::read(content)?)),
                3 => read.part = Some(Part::ResponseHeaders(Headers::read(content)?)),
                4 => read.part = Some(Part::RequestBody(Body::read(content)?)),
                5 => read.part = Some(Part::ResponseBody(Body::read(content)?)),
                6 => read.part = Some(Part::RequestTrailers),
                7 => read.part = Some(Part::ResponseTrailers),
                8 => read.metadata = content,
                11 => read.body_mode = body_mode(content)?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(read)
    }
}

/// `request_body_mode` of a `ProtocolConfiguration`.
fn body_mode(message: &[u8]) -> Result<i32, Malformed> {
    let mut mode = 0;
    fields(message, |number, value| {
        if let (1, Value::Varint(sent)) = (number, value) {
            // A mode beyond all numbers is as wrong as an unknown one.
            mode = i32::try_from(sent).unwrap_or(i32::MAX);
        }
        Ok(())
    })?;
    Ok(mode)
}

// === impl Headers ===

impl<'a> Headers<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut read = Self { pairs: Vec::with_capacity(USUAL_HEADERS), end_of_stream: false };
        fields(message, |number, value| {
            match (number, value) {
                (1, Value::Bytes(map)) => fields(map, |number, value| {
                    if let (1, Value::Bytes(header)) = (number, value) {
                        read.pairs.push(pair(header)?);
                    }
                    Ok(())
                })?,
                (3, Value::Varint(end)) => read.end_of_stream = end != 0,
                _ => {}
            }
            Ok(())
        })?;
        Ok(read)
    }
}

/// Name and value of a header, wherever Envoy put the value.
fn pair(header: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let (mut name, mut value, mut raw) = ("", &[][..], &[][..]);
    fields(header, |number, field| {
        match (number, field) {
            (1, Value::Bytes(bytes)) => name = text(bytes)?,
            (2, Value::Bytes(bytes)) => value = bytes,
            (3, Value::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
        Ok(())
    })?;
    Ok((name, if raw.is_empty() { value } else { raw }))
}

// === impl Body ===

impl<'a> Body<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut read = Self::default();
        fields(message, |number, value| {
            match (number, value) {
                (1, Value::Bytes(bytes)) => read.bytes = bytes,
                (2, Value::Varint(end)) => read.end_of_stream = end != 0,
                _ => {}
            }
            Ok(())
        })?;
        Ok(read)
    }
}

/// What an encoded `Metadata` says about a request: decide's own notes, and the usage that Envoy found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Notes<'a> {
    ours: &'a [u8],
    usage: &'a [u8],
}

// === impl Notes ===

impl<'a> Notes<'a> {
    /// Finds both namespaces; what cannot be read says nothing.
    pub fn read(metadata: &'a [u8]) -> Self {
        Self {
            ours: entry(metadata, 1, names::NAMESPACE).unwrap_or_default(),
            usage: entry(metadata, 1, names::USAGE_NAMESPACE).unwrap_or_default(),
        }
    }

    /// The reservation's id.
    pub fn id(&self) -> Option<u128> {
        hex_id(string(entry(self.ours, 1, "id")?)?.as_bytes())
    }

    /// A text that decide wrote.
    pub fn ours(&self, key: &str) -> Option<&'a str> {
        string(entry(self.ours, 1, key)?)
    }

    /// A text about the usage.
    pub fn usage(&self, key: &str) -> Option<&'a str> {
        if self.usage.is_empty() {
            return None;
        }
        string(entry(self.usage, 1, key)?)
    }
}

/// The `string_value` of an encoded `google.protobuf.Value`.
fn string(value: &[u8]) -> Option<&str> {
    let mut found = None;
    fields(value, |number, value| {
        if let (3, Value::Bytes(bytes)) = (number, value) {
            found = Some(text(bytes)?);
        }
        Ok(())
    })
    .ok()?;
    found
}

/// An id as it is written: 32 hex digits.
pub(super) fn hex_id(digits: &[u8]) -> Option<u128> {
    if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u128::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The value of a key in the map that is field `number` of a message.
fn entry<'a>(message: &'a [u8], number: u32, key: &str) -> Option<&'a [u8]> {
    let mut found = None;
    fields(message, |at, value| {
        let Value::Bytes(pair) = value else { return Ok(()) };
        if at != number {
            return Ok(());
        }
        let (mut name, mut content) = (&[][..], None);
        fields(pair, |number, value| {
            match (number, value) {
                (1, Value::Bytes(bytes)) => name = bytes,
                (2, Value::Bytes(bytes)) => content = Some(bytes),
                _ => {}
            }
            Ok(())
        })?;
        if name == key.as_bytes() {
            found = content;
        }
        Ok(())
    })
    .ok()?;
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::collections::HashMap;

    use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
    use envoy_types::pb::envoy::service::ext_proc::v3::{
        HttpBody, HttpHeaders, ProcessingRequest, ProtocolConfiguration, processing_request,
    };
    use envoy_types::pb::google::protobuf::{Struct, Value as PbValue, value};
    use prost::Message as _;

    use super::*;

    fn header(key: &str, value: &str, raw: &[u8]) -> HeaderValue {
        HeaderValue { key: key.into(), value: value.into(), raw_value: raw.to_vec() }
    }

    fn metadata(id: &str) -> Metadata {
        let text = |text: &str| PbValue { kind: Some(value::Kind::StringValue(text.into())) };
        let fields = HashMap::from([("owner".into(), text("a")), ("id".into(), text(id))]);
        let other = HashMap::from([("id".into(), text(&"f".repeat(32)))]);
        Metadata {
            filter_metadata: HashMap::from([
                (names::NAMESPACE.into(), Struct { fields }),
                ("other".into(), Struct { fields: other }),
            ]),
            ..Metadata::default()
        }
    }

    #[test]
    fn headers_keep_their_order_and_come_from_either_field() {
        let headers =
            vec![header(":method", "POST", b""), header("x-a", "", b"\xff1"), header("x-a", "", b"")];
        let message = ProcessingRequest {
            request: Some(processing_request::Request::RequestHeaders(HttpHeaders {
                headers: Some(HeaderMap { headers }),
                end_of_stream: true,
                ..HttpHeaders::default()
            })),
            observability_mode: true,
            protocol_config: Some(ProtocolConfiguration { request_body_mode: 4, ..Default::default() }),
            ..ProcessingRequest::default()
        }
        .encode_to_vec();
        let read = Message::read(&message).unwrap();
        assert_eq!(read.body_mode, 4);
        let Some(Part::RequestHeaders(read)) = read.part else { panic!("not headers") };
        assert_eq!(read.pairs, [(":method", &b"POST"[..]), ("x-a", b"\xff1"), ("x-a", b"")]);
        assert!(read.end_of_stream);
        // Cut after a whole field it is a message still, though a shorter one; gRPC says how long it is.
        let whole = (1..message.len()).filter(|&cut| Message::read(&message[..cut]).is_ok()).count();
        assert!(whole < 3, "{whole}");
    }

    #[test]
    fn a_body_comes_with_its_metadata() {
        let message = ProcessingRequest {
            request: Some(processing_request::Request::ResponseBody(HttpBody {
                body: b"chunk".to_vec(),
                end_of_stream: false,
                ..HttpBody::default()
            })),
            metadata_context: Some(metadata("000000000000000000000000000000ff")),
            ..ProcessingRequest::default()
        }
        .encode_to_vec();
        let read = Message::read(&message).unwrap();
        assert_eq!(Notes::read(read.metadata).id(), Some(255));
        let Some(Part::ResponseBody(body)) = read.part else { panic!("not a body") };
        assert_eq!((body.bytes, body.end_of_stream), (&b"chunk"[..], false));
    }

    #[test]
    fn an_id_is_32_hex_digits_in_our_namespace_or_none() {
        for id in ["", "ff", "+00000000000000000000000000000ff", "g0000000000000000000000000000000"] {
            assert_eq!(Notes::read(&metadata(id).encode_to_vec()).id(), None, "{id}");
        }
        assert_eq!(Notes::read(&[]).id(), None);
        assert_eq!(Notes::read(b"no message").id(), None);
    }
}
