//! Owns: the sink of Envoy's gRPC access log: each entry ends the request that its metadata names.
//! Must not know: what ending means.
//! On failure: an entry that cannot be read is counted; the stream goes on, since Envoy never resends.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry, ResponseFlags};
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::AccessLogService;
use envoy_types::pb::envoy::service::accesslog::v3::{
    StreamAccessLogsMessage, StreamAccessLogsResponse, stream_access_logs_message::LogEntries,
};
use envoy_types::pb::google::protobuf::Duration;
use forebay_core::engine::{Clock, LogEntry};
use forebay_core::record::RecordEnd;
use tonic::{Request, Response, Status, Streaming};

use crate::extproc::{Runtime, reservation_id};

/// The service.
#[derive(Clone)]
pub struct AccessLog {
    runtime: Arc<Runtime>,
}

// === impl AccessLog ===

impl AccessLog {
    /// The sink over a runtime.
    pub fn new(runtime: Arc<Runtime>) -> Self {
        Self { runtime }
    }

    fn take(&self, entry: &HttpAccessLogEntry) {
        let Some(common) = &entry.common_properties else { return };
        let Some(id) = common.metadata.as_ref().and_then(|m| reservation_id(&m.filter_metadata)) else {
            // Refused, answered by us, or decided by nobody: nothing is open for it.
            self.runtime.engine.metrics().counters.log_entries.fetch_add(1, Relaxed);
            return;
        };
        let response = entry.response.as_ref();
        let status = response.and_then(|r| r.response_code).map_or(0, |code| code.value as u16);
        let details = response.map_or("", |r| r.response_code_details.as_str());
        self.runtime.engine.logged(id, &read(common, status, details), self.runtime.clock.now_ns());
    }
}

/// What the engine needs of an entry.
fn read(common: &AccessLogCommon, status: u16, details: &str) -> LogEntry {
    let default = ResponseFlags::default();
    let flags = common.response_flags.as_ref().unwrap_or(&default);
    let aborted = flags.downstream_connection_termination || flags.downstream_remote_reset;
    let first_byte_ns = nanos(common.time_to_first_upstream_rx_byte.as_ref());
    // An aborted or broken answer may have cost as much as a complete one, once an upstream had the request.
    let served = details == "via_upstream" || first_byte_ns > 0 || (aborted && common.upstream_request_attempt_count > 0);
    LogEntry {
        end: RecordEnd {
            status,
            duration_ns: nanos(common.duration.as_ref().or(common.time_to_last_downstream_tx_byte.as_ref())),
            first_byte_ns,
            attempts: common.upstream_request_attempt_count,
            local_reply: !served,
            aborted,
        },
        unreachable: flags.failed_local_healthcheck
            || flags.no_healthy_upstream
            || flags.upstream_connection_failure
            || flags.upstream_connection_termination
            || flags.upstream_remote_reset,
    }
}

fn nanos(duration: Option<&Duration>) -> u64 {
    duration.map_or(0, |d| {
        let seconds = u64::try_from(d.seconds).unwrap_or_default();
        seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(d.nanos).unwrap_or_default())
    })
}

#[tonic::async_trait]
impl AccessLogService for AccessLog {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut inbound = request.into_inner();
        while let Some(message) = inbound.message().await? {
            if let Some(LogEntries::HttpLogs(logs)) = message.log_entries {
                for entry in &logs.log_entry {
                    self.take(entry);
                }
            }
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
    }
}
