//! Owns: the rules of `ledger` and `telemetry`: where what was spent is written down and sent on.
//! Must not know: budgets, files that exist.
//! On failure: a finding.

use super::addresses::{self, Host};
use super::gateway::DAY_MS;
use super::{Report, names, pb};
use pb::ledger::OnFailure;

const MIB: u64 = 1 << 20;
/// Two segments of the journal: the one that is written and one that is read.
const LEAST_JOURNAL_BYTES: u64 = 32 * MIB;
const MOST_RETENTION_DAYS: u64 = 36_500;

pub(super) fn check(policy: &pb::Policy, report: &mut Report) {
    if let Some(ledger) = &policy.ledger {
        check_ledger(ledger, report);
    }
    if let Some(telemetry) = &policy.telemetry {
        check_telemetry(telemetry, report);
    }
}

fn check_ledger(ledger: &pb::Ledger, report: &mut Report) {
    report.text("ledger.directory", &ledger.directory, 1024);
    report.within("ledger.retention_days", u64::from(ledger.retention_days), 1, MOST_RETENTION_DAYS);
    report.within("ledger.max_journal_bytes", ledger.max_journal_bytes, LEAST_JOURNAL_BYTES, 1 << 40);
    if OnFailure::try_from(ledger.on_failure).is_err() {
        let message = format!("`{}` is no value of `on_failure`", ledger.on_failure);
        report.error("unknown_value", "ledger.on_failure", message);
    }
}

fn check_telemetry(telemetry: &pb::Telemetry, report: &mut Report) {
    let path = "telemetry.otlp_endpoint";
    let endpoint = telemetry.otlp_endpoint.as_str();
    if endpoint.is_empty() {
        report.warn("no_collector", path, "is not given, so no trace and no metric is sent");
    } else {
        check_endpoint(endpoint, path, report);
    }
    let sampled = u64::from(telemetry.sampled_per_million);
    report.within("telemetry.sampled_per_million", sampled, 1, 1_000_000);
    report.within("telemetry.slow_ms", telemetry.slow_ms, 1, 7 * DAY_MS);
    report.within("telemetry.metrics_interval_ms", telemetry.metrics_interval_ms, 100, DAY_MS);
}

fn check_endpoint(endpoint: &str, path: &str, report: &mut Report) {
    let shown = names::shown(endpoint);
    let (address, in_clear) = match (endpoint.strip_prefix("http://"), endpoint.strip_prefix("https://")) {
        (Some(address), _) => (address, true),
        (None, Some(address)) => (address, false),
        (None, None) => {
            let message = format!("`{shown}` is not `http://host:port` or `https://host:port`");
            report.error("bad_endpoint", path, message);
            return;
        }
    };
    match addresses::parse(address) {
        Err(fault) => report.error("bad_endpoint", path, fault),
        Ok((host, _)) if in_clear && !is_local(&host) => {
            let message = format!(
                "`{shown}`: names of tenants and users cross the network in plain text; use `https://`"
            );
            report.warn("telemetry_in_clear", path, message);
        }
        Ok(_) => {}
    }
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Ip(ip) => ip.is_loopback(),
        Host::Name(name) => name == "localhost",
    }
}
