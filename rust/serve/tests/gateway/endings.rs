//! How streams end: never cleanly without a decision.

use std::time::Duration;

use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, HttpAccessLogEntry, HttpResponseProperties,
};
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, LogEntries,
};
use envoy_types::pb::google::protobuf::UInt32Value;

use super::rig::{BODY, Rig, body, chat, immediate, metadata, policy, said, until};

#[test]
fn a_stream_without_a_decision_ends_with_an_error() {
    let rig = Rig::new(&policy());
    rig.run(async {
        // A clean end would let the request pass.
        assert!(rig.decide().await.close().await.is_err());
        let mut stream = rig.decide().await;
        stream.ask(chat()).await;
        assert!(stream.close().await.is_err());
    });
    assert_eq!(rig.gateway.engine().open_reservations(), 0);
}

#[test]
fn a_reset_at_any_point_leaves_nothing_behind() {
    let rig = Rig::new(&policy());
    rig.run(async {
        drop(rig.decide().await);
        let mut stream = rig.decide().await;
        stream.ask(chat()).await;
        drop(stream);
        let stream = rig.decide().await;
        stream.send(chat()).await;
        stream.send(body(BODY)).await;
        drop(stream);
        let mut stream = rig.decide().await;
        stream.ask(chat()).await;
        stream.ask(body(BODY)).await;
        drop(stream);
    });
    until("the slots", || rig.in_flight("fleet") == 0);
    until("the streams", || rig.counter("forebay_streams_reset_total") >= 2);
}

#[test]
fn a_draining_gateway_refuses() {
    let rig = Rig::new(&policy());
    rig.run(async {
        let mut before = rig.decide().await;
        before.ask(chat()).await;
        rig.gateway.engine().drain();
        let mut stream = rig.decide().await;
        let (status, text, _) = immediate(stream.ask(chat()).await);
        assert!(status == 503 && text.contains("draining"), "{text}");
        assert!(said(&before.ask(body(BODY)).await, "pool").is_some(), "what had begun goes on");
    });
}

#[test]
fn a_shutdown_in_the_middle_ends_streams_with_an_error() {
    let rig = Rig::new(&policy());
    let mut stream = rig.run(async {
        let mut stream = rig.decide().await;
        stream.ask(chat()).await;
        stream
    });
    let mut fresh = rig.run(rig.decide());
    assert_eq!(rig.gateway.shutdown(Duration::ZERO), 0);
    rig.run(async {
        for stream in [&mut stream, &mut fresh] {
            let end = stream.rx.message().await;
            assert!(end.is_err(), "a clean end would let the request pass: {end:?}");
        }
    });
}

#[test]
fn a_shutdown_waits_for_requests_in_flight() {
    let rig = Rig::new(&policy());
    let id = rig.run(async {
        let mut stream = rig.decide().await;
        stream.ask(chat()).await;
        said(&stream.ask(body(BODY)).await, "id").unwrap()
    });
    assert_eq!(rig.gateway.engine().open_reservations(), 1);
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| rig.gateway.shutdown(super::rig::BOUND));
        until("the drain", || rig.gateway.engine().is_draining());
        rig.run(log(&rig, &id));
        assert_eq!(ended.join().unwrap(), 0);
    });
    let another = Rig::new(&policy());
    another.run(async {
        let mut stream = another.decide().await;
        stream.ask(chat()).await;
        stream.ask(body(BODY)).await;
    });
    assert_eq!(another.gateway.shutdown(Duration::ZERO), 1, "nobody logged it in time, and that is said");
}

#[test]
fn the_access_log_ends_requests() {
    let rig = Rig::new(&policy());
    rig.run(async {
        let mut stream = rig.decide().await;
        stream.ask(chat()).await;
        let id = said(&stream.ask(body(BODY)).await, "id").unwrap();
        log(&rig, "nonsense").await;
        log(&rig, &"f".repeat(32)).await;
        assert_eq!(rig.gateway.engine().open_reservations(), 1);
        log(&rig, &id).await;
        assert_eq!((rig.gateway.engine().open_reservations(), rig.in_flight("fleet")), (0, 0));
        log(&rig, &id).await;
    });
    assert_eq!(rig.counter("forebay_log_entries_total"), 4);
    assert_eq!(rig.counter("forebay_log_entries_unknown_total"), 2);
}

/// One stream with one entry, as Envoy flushes it.
async fn log(rig: &Rig, id: &str) {
    let entry = HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon { metadata: Some(metadata(id)), ..Default::default() }),
        response: Some(HttpResponseProperties {
            response_code: Some(UInt32Value { value: 200 }),
            response_code_details: "via_upstream".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let entries = HttpAccessLogEntries { log_entry: vec![HttpAccessLogEntry::default(), entry] };
    let message =
        StreamAccessLogsMessage { log_entries: Some(LogEntries::HttpLogs(entries)), ..Default::default() };
    let mut client = AccessLogServiceClient::new(rig.channel().await);
    client.stream_access_logs(tokio_stream::iter([message])).await.unwrap();
}
