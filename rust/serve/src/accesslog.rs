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
use envoy_types::pb::google::protobuf::{Duration, Timestamp, UInt32Value};
use forebay_core::engine::{Clock, Endpoint, LogEntry, Logged, UsageText};
use forebay_core::record::RecordEnd;
use forebay_core::request::uuid;
use tonic::body::Body;
use tonic::server::{ClientStreamingService, Grpc};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::extproc::{Notes, Runtime};
use crate::protobuf::{Value, fields, text};

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
    #[prost(message, optional, tag = "3")]
    request: Option<EntryRequest>,
    #[prost(message, optional, tag = "4")]
    response: Option<EntryResponse>,
}

/// `AccessLogCommon`
#[derive(Clone, PartialEq, prost::Message)]
struct AccessLogCommon {
    #[prost(message, optional, tag = "5")]
    start_time: Option<Timestamp>,
    #[prost(message, optional, tag = "9")]
    time_to_first_upstream_rx_byte: Option<Duration>,
    #[prost(message, optional, tag = "10")]
    time_to_last_upstream_rx_byte: Option<Duration>,
    #[prost(message, optional, tag = "12")]
    time_to_last_downstream_tx_byte: Option<Duration>,
    /// An encoded `envoy.config.core.v3.Address`
    #[prost(bytes = "bytes", tag = "13")]
    upstream_remote_address: Bytes,
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

/// `HTTPRequestProperties`
#[derive(Clone, PartialEq, prost::Message)]
struct EntryRequest {
    #[prost(string, tag = "9")]
    request_id: String,
}

/// `HTTPResponseProperties`
#[derive(Clone, PartialEq, prost::Message)]
struct EntryResponse {
    #[prost(message, optional, tag = "1")]
    response_code: Option<UInt32Value>,
    #[prost(uint64, tag = "3")]
    body_bytes: u64,
    #[prost(string, tag = "6")]
    response_code_details: String,
}

/// The route that ends what no decision was made for, as it is rendered.
const UNDECIDED: &str = "undecided";
/// How Envoy's details begin where an upstream ended its answer before it was whole.
const BROKEN_OFF: &str = "upstream_reset_after_response_started";
/// What Envoy says where a stream has lived as long as it may.
const MAX_DURATION: &str = "max_duration_timeout";
/// What Envoy says of an answer that a route gives.
const DIRECT_RESPONSE: &str = "direct_response";

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
        let engine = &self.runtime.engine;
        let Some(common) = &entry.common_properties else { return };
        let notes = Notes::read(&common.metadata);
        let Some(id) = notes.id() else {
            // Refused, answered by us, or decided by nobody: nothing is open for it.
            engine.metrics().counters.log_entries.fetch_add(1, Relaxed);
            if let Some(request) = &entry.request
                && left(common)
            {
                // Its client may have gone while our decision was on its way: then Envoy never had it, and no upstream.
                engine.left_undecided(uuid(&request.request_id), self.runtime.clock.now_ns());
            }
            let details = entry.response.as_ref().map_or("", |r| r.response_code_details.as_str());
            // The answers that we gave ourselves have that route too, where a filter asked for one on their way back.
            if common.route_name == UNDECIDED && details == DIRECT_RESPONSE {
                self.runtime.report.say(
                    "undecided",
                    "Envoy went on with a request that was not decided, and refused it by its last route; is the decide \
                     filter as rendered, with allow_mode_override?",
                );
            }
            return;
        };
        let ended = read(common, entry.response.as_ref(), &notes);
        let clock = &self.runtime.clock;
        if engine.logged(id, &ended, clock.now_ns()) == Logged::Unknown {
            // Decided by a process that is gone, or told twice: the metadata says which, and what it was.
            engine.logged_foreign(id, &ended, &|key| notes.ours(key), clock.unix_ns());
        }
    }
}

/// Whether the client went away.
fn left(common: &AccessLogCommon) -> bool {
    let flags = common.response_flags.as_ref();
    flags.is_some_and(|f| f.downstream_connection_termination || f.downstream_remote_reset)
}

/// What the engine needs of an entry.
fn read<'a>(
    common: &'a AccessLogCommon,
    response: Option<&EntryResponse>,
    notes: &Notes<'a>,
) -> LogEntry<'a> {
    let default = ResponseFlags::default();
    let flags = common.response_flags.as_ref().unwrap_or(&default);
    let details = response.map_or("", |r| r.response_code_details.as_str());
    let aborted = flags.downstream_connection_termination || flags.downstream_remote_reset;
    let first_byte_ns = nanos(common.time_to_first_upstream_rx_byte.as_ref());
    let attempts = common.upstream_request_attempt_count;
    // Time is over while an upstream had the request: it may have cost as much as a complete answer.
    let timed_out = attempts > 0
        && (flags.upstream_request_timeout
            || flags.stream_idle_timeout
            || flags.duration_timeout
            || flags.upstream_max_stream_duration_reached
            // The bound on a stream's life sets no flag.
            || details == MAX_DURATION);
    // So may an aborted or broken answer, once an upstream had the request.
    let answered = details == "via_upstream" || first_byte_ns > 0;
    let reset = flags.upstream_connection_termination
        || flags.upstream_remote_reset
        || flags.upstream_protocol_error
        || details.starts_with(BROKEN_OFF);
    let served = answered || timed_out || (attempts > 0 && (aborted || reset));
    let started_ns = common
        .start_time
        .as_ref()
        .map_or(0, |t| nanos(Some(&Duration { seconds: t.seconds, nanos: t.nanos })));
    let first_token_ns = notes
        .usage("first_us")
        .and_then(|us| us.parse::<u64>().ok())
        .map_or(0, |us| us.saturating_mul(1_000).saturating_sub(started_ns));
    LogEntry {
        end: RecordEnd {
            status: response.and_then(|r| r.response_code).map_or(0, |code| code.value as u16),
            duration_ns: nanos(common.duration.as_ref().or(common.time_to_last_downstream_tx_byte.as_ref())),
            first_byte_ns,
            attempts,
            local_reply: !served,
            aborted,
        },
        unreachable: flags.failed_local_healthcheck
            || flags.no_healthy_upstream
            || flags.upstream_connection_failure
            || flags.upstream_connection_termination
            || flags.upstream_remote_reset
            || flags.upstream_protocol_error,
        timed_out,
        reset,
        // An answer of Envoy's own passes the same filters; its bytes and what it says of usage are nobody's.
        answer_bytes: response.filter(|_| answered).map_or(0, |r| r.body_bytes),
        started_unix_ns: started_ns,
        first_token_ns,
        last_byte_ns: nanos(common.time_to_last_upstream_rx_byte.as_ref()),
        endpoint: endpoint(&common.upstream_remote_address),
        usage: if answered {
            UsageText {
                start: notes.usage("start").map(str::as_bytes),
                last: notes.usage("last").map(str::as_bytes),
                so_far: notes.usage("so_far").map(str::as_bytes),
                is_bad: notes.usage("bad").is_some(),
            }
        } else {
            UsageText::default()
        },
    }
}

/// Host and port out of an encoded `Address`; nothing where it is no socket's.
fn endpoint(address: &[u8]) -> Endpoint<'_> {
    let mut found = Endpoint::default();
    let read = fields(address, |number, value| {
        let (1, Value::Bytes(socket)) = (number, value) else { return Ok(()) };
        fields(socket, |number, value| {
            match (number, value) {
                (2, Value::Bytes(host)) => found.host = text(host)?,
                (3, Value::Varint(port)) => found.port = port as u16,
                _ => {}
            }
            Ok(())
        })
    });
    if read.is_ok() { found } else { Endpoint::default() }
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
                log.runtime.wake_journal();
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

    fn read_as<'a>(common: &'a AccessLogCommon, status: u32, details: &str) -> LogEntry<'a> {
        let response = EntryResponse {
            response_code: Some(UInt32Value { value: status }),
            response_code_details: details.into(),
            ..EntryResponse::default()
        };
        read(common, Some(&response), &Notes::read(&common.metadata))
    }

    #[test]
    fn an_upstreams_answer_is_no_local_reply() {
        let common = common(|c, _| {
            c.duration = Some(Duration { seconds: 2, nanos: 5 });
            c.time_to_first_upstream_rx_byte = Some(Duration { seconds: 0, nanos: 7 });
        });
        let entry = read_as(&common, 200, "via_upstream");
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
        for details in ["no_healthy_upstream", "route_not_found", ""] {
            assert!(read_as(&common(|_, _| ()), 503, details).end.local_reply, "{details}");
        }
    }

    #[test]
    fn the_bytes_of_envoys_own_answer_are_nobodys() {
        let bytes = |first_byte_ns: i32| {
            let common = common(|c, f| {
                f.upstream_request_timeout = true;
                if first_byte_ns > 0 {
                    c.time_to_first_upstream_rx_byte = Some(Duration { seconds: 0, nanos: first_byte_ns });
                }
            });
            let response = EntryResponse { body_bytes: 24, ..EntryResponse::default() };
            read(&common, Some(&response), &Notes::read(&common.metadata)).answer_bytes
        };
        assert_eq!((bytes(0), bytes(7)), (0, 24));
    }

    #[test]
    fn a_client_that_left_may_have_cost_something() {
        let left = |attempts: u32| {
            let entry = common(|c, f| {
                c.upstream_request_attempt_count = attempts;
                f.downstream_connection_termination = true;
            });
            read_as(&entry, 0, "downstream_remote_disconnect").end
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
            assert!(read_as(&common(|_, f| set(f)), 503, "").unreachable);
        }
        let late = common(|_, f| f.upstream_request_timeout = true);
        let entry = read_as(&late, 504, "upstream_response_timeout");
        assert!(
            !entry.unreachable && entry.timed_out && !entry.end.local_reply,
            "it may have cost something"
        );
        let entry = common(|_, _| ());
        let lived = read_as(&entry, 504, "max_duration_timeout");
        assert!(
            !lived.unreachable && lived.timed_out && !lived.end.local_reply,
            "so may a stream that lived too long"
        );
        assert!(!read_as(&AccessLogCommon::default(), 0, "").unreachable, "an entry without flags");
    }

    #[test]
    fn an_endpoint_is_a_sockets_address() {
        // Address { socket_address { address: "::1", port_value: 8000 } }
        let address = [0x0a, 8, 0x12, 3, b':', b':', b'1', 0x18, 0xc0, 0x3e];
        let found = endpoint(&address);
        assert_eq!((found.host, found.port), ("::1", 8_000));
        assert_eq!(endpoint(&address[..9]), Endpoint::default());
        assert_eq!(endpoint(b""), Endpoint::default());
    }

    #[test]
    fn durations_are_never_negative() {
        assert_eq!(nanos(Some(&Duration { seconds: -1, nanos: -5 })), 0);
        assert_eq!(nanos(Some(&Duration { seconds: i64::MAX, nanos: 1 })), u64::MAX);
        assert_eq!(nanos(None), 0);
    }
}
