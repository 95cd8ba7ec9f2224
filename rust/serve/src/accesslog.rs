//! Owns: the sink of Envoy's gRPC access log: each entry ends the request that its metadata names.
//! Must not know: what ending means.
//! On failure: an entry that cannot be read is counted; the stream goes on, since Envoy never resends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use envoy_types::pb::envoy::data::accesslog::v3::ResponseFlags;
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsResponse;
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use forebay_core::engine::{Clock, LogEntry};
use forebay_core::record::RecordEnd;
use tonic::body::Body;
use tonic::server::{ClientStreamingService, Grpc};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::extproc::{Runtime, reservation_id};

// The parts that are read of Envoy's messages, under the published field numbers. An entry has a hundred fields more;
// what is not named here is passed over without a copy.

/// `StreamAccessLogsMessage`
#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(message, optional, tag = "2")]
    http_logs: Option<HttpLogs>,
}

/// `HTTPAccessLogEntries`
#[derive(Clone, PartialEq, prost::Message)]
struct HttpLogs {
    #[prost(message, repeated, tag = "1")]
    log_entry: Vec<Entry>,
}

/// `HTTPAccessLogEntry`
#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(message, optional, tag = "1")]
    common_properties: Option<AccessLogCommon>,
    #[prost(message, optional, tag = "4")]
    response: Option<EntryResponse>,
}

/// `AccessLogCommon`
#[derive(Clone, PartialEq, prost::Message)]
struct AccessLogCommon {
    #[prost(message, optional, tag = "9")]
    time_to_first_upstream_rx_byte: Option<Duration>,
    #[prost(message, optional, tag = "12")]
    time_to_last_downstream_tx_byte: Option<Duration>,
    #[prost(message, optional, tag = "16")]
    response_flags: Option<ResponseFlags>,
    /// An encoded `envoy.config.core.v3.Metadata`
    #[prost(bytes = "bytes", tag = "17")]
    metadata: Bytes,
    #[prost(string, tag = "19")]
    route_name: String,
    #[prost(message, optional, tag = "23")]
    duration: Option<Duration>,
    #[prost(uint32, tag = "24")]
    upstream_request_attempt_count: u32,
}

/// `HTTPResponseProperties`
#[derive(Clone, PartialEq, prost::Message)]
struct EntryResponse {
    #[prost(message, optional, tag = "1")]
    response_code: Option<UInt32Value>,
    #[prost(string, tag = "6")]
    response_code_details: String,
}

/// The route that ends what no decision was made for, as it is rendered.
const UNDECIDED: &str = "undecided";

/// The service.
#[derive(Clone)]
pub struct AccessLog {
    runtime: Arc<Runtime>,
    max_message_bytes: usize,
}

// === impl AccessLog ===

impl AccessLog {
    /// The sink over a runtime, which takes messages up to a size.
    pub fn new(runtime: Arc<Runtime>, max_message_bytes: usize) -> Self {
        Self { runtime, max_message_bytes }
    }

    /// One stream of entries.
    pub async fn stream(self, request: http::Request<Body>) -> http::Response<Body> {
        let codec = ProstCodec::<StreamAccessLogsResponse, Message>::default();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(self.max_message_bytes);
        grpc.client_streaming(Entries(self), request).await
    }

    fn take(&self, entry: &Entry) {
        let Some(common) = &entry.common_properties else { return };
        let Some(id) = reservation_id(&common.metadata) else {
            // Refused, answered by us, or decided by nobody: nothing is open for it.
            self.runtime.engine.metrics().counters.log_entries.fetch_add(1, Relaxed);
            if common.route_name == UNDECIDED {
                self.runtime.report.say(
                    "undecided",
                    "Envoy went on with a request that was not decided, and refused it by its last route; is the decide \
                     filter as rendered, with allow_mode_override?",
                );
            }
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
    let served = details == "via_upstream"
        || first_byte_ns > 0
        || (aborted && common.upstream_request_attempt_count > 0);
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

/// One stream of entries.
struct Entries(AccessLog);

impl ClientStreamingService<Message> for Entries {
    type Response = StreamAccessLogsResponse;
    type Future = Pin<Box<dyn Future<Output = Result<Response<StreamAccessLogsResponse>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Message>>) -> Self::Future {
        let log = self.0.clone();
        Box::pin(async move {
            let mut inbound = request.into_inner();
            while let Some(message) = inbound.message().await? {
                // Copies of responses came first on the connection, but their tasks may stand behind this one: an
                // entry that ended a request before its copy began would keep its answer out of the cache.
                tokio::task::yield_now().await;
                for entry in message.http_logs.iter().flat_map(|logs| &logs.log_entry) {
                    log.take(entry);
                }
            }
            Ok(Response::new(StreamAccessLogsResponse {}))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(change: impl FnOnce(&mut AccessLogCommon, &mut ResponseFlags)) -> AccessLogCommon {
        let (mut common, mut flags) = (AccessLogCommon::default(), ResponseFlags::default());
        common.upstream_request_attempt_count = 1;
        change(&mut common, &mut flags);
        common.response_flags = Some(flags);
        common
    }

    #[test]
    fn an_upstreams_answer_is_no_local_reply() {
        let entry = read(
            &common(|c, _| {
                c.duration = Some(Duration { seconds: 2, nanos: 5 });
                c.time_to_first_upstream_rx_byte = Some(Duration { seconds: 0, nanos: 7 });
            }),
            200,
            "via_upstream",
        );
        let end = RecordEnd {
            status: 200,
            duration_ns: 2_000_000_005,
            first_byte_ns: 7,
            attempts: 1,
            ..RecordEnd::default()
        };
        assert_eq!((entry.end, entry.unreachable), (end, false));
    }

    #[test]
    fn envoys_own_answers_are_local_replies() {
        for details in ["no_healthy_upstream", "upstream_response_timeout", "route_not_found", ""] {
            assert!(read(&common(|_, _| ()), 503, details).end.local_reply, "{details}");
        }
    }

    #[test]
    fn a_client_that_left_may_have_cost_something() {
        let left = |attempts: u32| {
            let entry = common(|c, f| {
                c.upstream_request_attempt_count = attempts;
                f.downstream_connection_termination = true;
            });
            read(&entry, 0, "downstream_remote_disconnect").end
        };
        assert!(left(1).aborted && !left(1).local_reply);
        assert!(left(0).aborted && left(0).local_reply, "no upstream had it");
    }

    #[test]
    fn what_points_at_a_dead_pool_is_told() {
        type Set = fn(&mut ResponseFlags);
        let flags: [Set; 5] = [
            |f| f.failed_local_healthcheck = true,
            |f| f.no_healthy_upstream = true,
            |f| f.upstream_connection_failure = true,
            |f| f.upstream_connection_termination = true,
            |f| f.upstream_remote_reset = true,
        ];
        for set in flags {
            assert!(read(&common(|_, f| set(f)), 503, "").unreachable);
        }
        assert!(!read(&common(|_, f| f.upstream_request_timeout = true), 504, "").unreachable);
        assert!(!read(&AccessLogCommon::default(), 0, "").unreachable, "an entry without flags");
    }

    #[test]
    fn durations_are_never_negative() {
        assert_eq!(nanos(Some(&Duration { seconds: -1, nanos: -5 })), 0);
        assert_eq!(nanos(Some(&Duration { seconds: i64::MAX, nanos: 1 })), u64::MAX);
        assert_eq!(nanos(None), 0);
    }
}
