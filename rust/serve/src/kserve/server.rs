//! Owns: the listener of the batch service and its HTTP/2 settings.
//! Must not know: the protocol, the runtime's owner.
//! On failure: closed; the error of the listener is returned, and connections end as the runtime drains.

use std::future::Future;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Error, Server};

use super::KserveService;

/// HTTP/2 towards Envoy.
#[derive(Debug, Clone, Copy)]
pub struct ServerSettings {
    /// Requests open at once on one connection, such as 65,536: one stream waits for every queued request
    pub max_streams: u32,
    /// Bytes that one request may have on the way unread, such as 4,194,304
    pub stream_window_bytes: u32,
    /// Bytes that one connection may have on the way unread, such as 67,108,864
    pub connection_window_bytes: u32,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { max_streams: 65_536, stream_window_bytes: 4 << 20, connection_window_bytes: 64 << 20 }
    }
}

/// Serves until `shutdown` resolves; then takes nothing new and returns when the open requests have ended.
pub async fn serve(
    listener: TcpListener,
    service: KserveService,
    settings: ServerSettings,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder()
        // Envoy speaks HTTP/2; an HTTP client that comes without it, as in a trial, may speak HTTP/1.
        .accept_http1(true)
        .max_concurrent_streams(settings.max_streams)
        // Clients that go away must not end the connection of all others; the default is 20 at once.
        .http2_max_pending_accept_reset_streams(Some(settings.max_streams as usize))
        .initial_stream_window_size(settings.stream_window_bytes)
        .initial_connection_window_size(settings.connection_window_bytes)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .max_frame_size(1 << 20)
        .serve_with_incoming_shutdown(service, incoming, shutdown)
        .await
}
