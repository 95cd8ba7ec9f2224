//! What requests cost, from the decision over Envoy's log to the journal's file, and the leases that they wait for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, HttpAccessLogEntry, HttpResponseProperties,
};
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, LogEntries,
};
use envoy_types::pb::google::protobuf::{Struct, UInt32Value, Value, value};
use forebay_core::policy::pb;
use forebay_core::policy::pb::LedgerRecord;
use forebay_serve::JournalSettings;
use prost::Message as _;

use super::rig::{BODY, Rig, Stream, body, chat, immediate, metadata, policy, said, until};

const LONG: Duration = Duration::from_secs(20);

fn budgeted() -> pb::Policy {
    let mut policy = policy();
    policy.cache = None;
    policy.models[0].prices = Some(pb::Prices {
        prompt_nanousd_per_million_tokens: 1_000_000,
        output_nanousd_per_million_tokens: 2_000_000,
        ..pb::Prices::default()
    });
    policy.ledger = Some(pb::Ledger::default());
    policy.budgets = vec![pb::Budget {
        name: "money".into(),
        scope: pb::limit::Scope::Tenant as i32,
        unit: pb::budget::Unit::Nanousd as i32,
        amount: 1 << 40,
        period: pb::budget::Period::Day as i32,
        ..pb::Budget::default()
    }];
    policy
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("forebay-accounts-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).unwrap();
    path
}

fn records(directory: &Path) -> Vec<LedgerRecord> {
    let frames = std::fs::read(directory.join(format!("journal-{:020}.log", 1))).unwrap();
    let mut rest = &frames[..];
    let mut found = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let len = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let Some(payload) = after.get(..len) else { break };
        found.push(LedgerRecord::decode(payload).unwrap());
        rest = &after[len..];
    }
    found
}

/// Grants the next ask, whatever it wants.
fn draw(rig: &Rig) {
    let asks = rig.gateway.leases().next(LONG).unwrap();
    assert_eq!((asks.len(), &*asks[0].value), (1, "acme"));
    rig.gateway.engine().grant_lease(asks[0].token, asks[0].want, 1 << 30, rig.gateway.now_ns());
}

async fn begin(rig: &Rig) -> Stream {
    let mut stream = rig.decide().await;
    stream.ask(chat()).await;
    stream
}

/// Tells the end of a request whose upstream said this of its use.
async fn log(rig: &Rig, id: &str, usage: &str) {
    let mut all = metadata(id);
    let text = Value { kind: Some(value::Kind::StringValue(usage.to_owned())) };
    let fields = [("last".to_owned(), text)].into();
    all.filter_metadata.insert("forebay.usage".to_owned(), Struct { fields });
    let entry = HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon { metadata: Some(all), ..AccessLogCommon::default() }),
        response: Some(HttpResponseProperties {
            response_code: Some(UInt32Value { value: 200 }),
            response_code_details: "via_upstream".into(),
            ..HttpResponseProperties::default()
        }),
        ..HttpAccessLogEntry::default()
    };
    let message = StreamAccessLogsMessage {
        log_entries: Some(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry: vec![entry] })),
        ..StreamAccessLogsMessage::default()
    };
    let mut client = AccessLogServiceClient::new(rig.channel().await);
    client.stream_access_logs(tokio_stream::iter([message])).await.unwrap();
}

#[test]
fn a_request_waits_for_its_lease_and_its_cost_is_written_down() {
    let directory = folder("cost");
    let settings = JournalSettings { directory: directory.clone(), max_bytes: 1 << 20 };
    let rig = Rig::with(&budgeted(), Some(settings));
    rig.run(async {
        let mut stream = begin(&rig).await;
        stream.send(body(BODY)).await;
        tokio::task::block_in_place(|| draw(&rig));
        let forward = stream.answer().await;
        let id = said(&forward, "id").unwrap();
        assert!(said(&forward, "reserved_nanousd").unwrap().parse::<u64>().unwrap() > 200);
        log(&rig, &id, r#"{"prompt_tokens":7,"completion_tokens":5}"#).await;
    });
    until("the record", || rig.gateway.journal_counts().0 > 0);
    let record = records(&directory).remove(0);
    assert_eq!((record.outcome.as_str(), record.cost_nanousd, record.charges[0].amount), ("ok", 17, 17));
    let balances = rig.gateway.engine().lease_balances(rig.gateway.now_ns());
    assert_eq!(balances.iter().map(|b| b.used).collect::<Vec<_>>(), [17]);
    rig.gateway.shutdown(LONG);
    assert!(rig.gateway.leases().next(LONG).is_none());
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn without_a_lease_it_is_refused_in_time() {
    let mut policy = budgeted();
    policy.gateway = Some(pb::Gateway { message_timeout_ms: 200, ..pb::Gateway::default() });
    let rig = Rig::new(&policy);
    rig.run(async {
        let mut stream = begin(&rig).await;
        let (status, text, _) = immediate(stream.ask(body(BODY)).await);
        assert!(status == 503 && text.contains("budget_unavailable"), "{text}");
    });
    assert_eq!(rig.gateway.engine().open_reservations(), 0);
    assert_eq!(rig.counter("forebay_lease_waits_total"), 1);
}

#[test]
fn a_drawer_that_fails_is_asked_a_few_times_a_second() {
    let rig = Rig::new(&budgeted());
    rig.run(async {
        let mut stream = begin(&rig).await;
        stream.send(body(BODY)).await;
        let asked = tokio::task::block_in_place(|| {
            let mut asked = 0;
            while rig.counter("forebay_budget_refused_total") == 0 && asked < 20 {
                let asks = rig.gateway.leases().next(Duration::from_millis(700)).unwrap();
                if asks.is_empty() {
                    break;
                }
                asked += asks.len();
                for ask in &asks {
                    rig.gateway.engine().fail_lease(ask.token);
                }
            }
            asked
        });
        assert!((1..=4).contains(&asked), "{asked} times in half a second");
        assert_eq!(immediate(stream.answer().await).0, 503);
    });
}
