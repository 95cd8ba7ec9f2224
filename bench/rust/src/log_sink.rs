//! Owns the control of the access log: takes Envoy's entries and counts them.
//! Must not know what an entry says.
//! On failure: a stream that breaks is over; Envoy opens another.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse, access_log_service_server::AccessLogService,
    stream_access_logs_message::LogEntries,
};
use tonic::{Request, Response, Status, Streaming};

/// Counts the entries of every stream.
#[derive(Debug, Default)]
pub struct LogSink {
    entries: Arc<AtomicU64>,
}

// === impl LogSink ===

impl LogSink {
    /// A handle on the count.
    pub fn entries(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.entries)
    }
}

#[tonic::async_trait]
impl AccessLogService for LogSink {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut inbound = request.into_inner();
        while let Some(message) = inbound.message().await? {
            if let Some(LogEntries::HttpLogs(logs)) = message.log_entries {
                self.entries.fetch_add(logs.log_entry.len() as u64, Ordering::Relaxed);
            }
        }
        Ok(Response::new(StreamAccessLogsResponse::default()))
    }
}
