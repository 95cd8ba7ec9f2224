//! Owns: the part of Envoy's answer messages that forebay uses, in a form that is cheap to make and to encode.
//! Must not know: what is answered.
//! On failure: it cannot fail. A test holds every message against the published one.
//!
//! The same field numbers as `envoy.service.ext_proc.v3`; names and values are slices where that has owned text, and
//! the metadata is encoded already.

use bytes::Bytes;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
use envoy_types::pb::google::protobuf::Duration;

/// `ProcessingResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProcessingResponse {
    #[prost(oneof = "Response", tags = "1, 3, 7")]
    pub response: Option<Response>,
    /// An encoded `google.protobuf.Struct`; empty: none
    #[prost(bytes = "bytes", tag = "8")]
    pub dynamic_metadata: Bytes,
    #[prost(message, optional, tag = "9")]
    pub mode_override: Option<ProcessingMode>,
    #[prost(message, optional, tag = "10")]
    pub override_message_timeout: Option<Duration>,
}

/// What is answered
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Response {
    #[prost(message, tag = "1")]
    RequestHeaders(PhaseResponse),
    #[prost(message, tag = "3")]
    RequestBody(PhaseResponse),
    #[prost(message, tag = "7")]
    Immediate(ImmediateResponse),
}

/// `HeadersResponse` and `BodyResponse`, which are one on the wire
#[derive(Clone, PartialEq, prost::Message)]
pub struct PhaseResponse {
    #[prost(message, optional, tag = "1")]
    pub response: Option<CommonResponse>,
}

/// `CommonResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommonResponse {
    #[prost(message, optional, tag = "2")]
    pub header_mutation: Option<HeaderMutation>,
    #[prost(message, optional, tag = "3")]
    pub body_mutation: Option<BodyMutation>,
    #[prost(bool, tag = "5")]
    pub clear_route_cache: bool,
}

/// `BodyMutation` with a body, which may be empty
#[derive(Clone, PartialEq, prost::Message)]
pub struct BodyMutation {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub body: Option<Bytes>,
}

/// `HeaderMutation`
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderMutation {
    #[prost(message, repeated, tag = "1")]
    pub set_headers: Vec<HeaderValueOption>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub remove_headers: Vec<Bytes>,
}

/// `HeaderValueOption`
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    pub header: Option<HeaderValue>,
    #[prost(int32, tag = "3")]
    pub append_action: i32,
}

/// `HeaderValue`
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeaderValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub raw_value: Bytes,
}

/// `ImmediateResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImmediateResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<HttpStatus>,
    #[prost(message, optional, tag = "2")]
    pub headers: Option<HeaderMutation>,
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
    #[prost(message, optional, tag = "4")]
    pub grpc_status: Option<GrpcStatus>,
    #[prost(string, tag = "5")]
    pub details: String,
}

/// `envoy.type.v3.HttpStatus`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct HttpStatus {
    #[prost(int32, tag = "1")]
    pub code: i32,
}

/// `GrpcStatus`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct GrpcStatus {
    #[prost(uint32, tag = "1")]
    pub status: u32,
}
