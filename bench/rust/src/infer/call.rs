//! Owns one connection and one unary call whose messages are bytes on both sides.
//! Must not know when it is called or what the bytes are.
//! On failure: a call gives its gRPC code and the status's message instead of an answer.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use crate::error::BenchError;

const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
const CONNECT: Duration = Duration::from_secs(10);
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// A connection.
#[derive(Debug, Clone)]
pub struct Caller {
    channel: Channel,
}

// === impl Caller ===

impl Caller {
    /// Connects to `host:port`.
    pub async fn connect(address: &str) -> Result<Self, BenchError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .buffer_size(65_536)
            .tcp_nodelay(true);
        Ok(Self { channel: endpoint.connect().await? })
    }

    /// The gRPC code and the encoded answer, or the message of the status.
    pub async fn call(&self, message: Bytes, metadata: &MetadataMap) -> (u32, Bytes) {
        match self.answer(message, metadata).await {
            Ok(answer) => (0, answer),
            Err(status) => (status.code() as u32, Bytes::copy_from_slice(status.message().as_bytes())),
        }
    }

    async fn answer(&self, message: Bytes, metadata: &MetadataMap) -> Result<Bytes, Status> {
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = Request::new(message);
        *request.metadata_mut() = metadata.clone();
        Ok(client.unary(request, PathAndQuery::from_static(PATH), AsItIs).await?.into_inner())
    }
}

/// Neither encodes nor decodes.
#[derive(Debug, Clone, Copy, Default)]
struct AsItIs;

// === impl AsItIs ===

impl Codec for AsItIs {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsItIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for AsItIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
