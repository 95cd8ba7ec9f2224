//! Owns: the rules of `gateway`, `envoy` and `cache`: listeners, exposure, and waits that must fit into each other.
//! Must not know: models, tenants, routes.
//! On failure: a finding.

use std::net::SocketAddr;

use super::{Report, addresses, pb};

/// One day in milliseconds.
pub(super) const DAY_MS: u64 = 86_400_000;

const HOUR_MS: u64 = 3_600_000;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Waits and sizes with their defaults filled in, for rules that compare them.
pub(super) struct Waits {
    /// Envoy's wait for one answer
    pub message_timeout_ms: u64,
    /// The longest announced hold
    pub max_message_timeout_ms: u64,
}

pub(super) fn check(policy: &pb::Policy, report: &mut Report) {
    let gateway = policy.gateway.clone().unwrap_or_default();
    let envoy = policy.envoy.clone().unwrap_or_default();
    check_listeners(&gateway, &envoy, report);
    check_bounds(&gateway, &envoy, report);
    check_tls(&envoy, report);
    if let Some(cache) = &policy.cache {
        check_cache(cache, &gateway, report);
    }
}

// === impl Waits ===

impl Waits {
    pub(super) fn of(policy: &pb::Policy) -> Self {
        policy.gateway.as_ref().map_or_else(|| Self::from(&pb::Gateway::default()), Self::from)
    }
}

impl From<&pb::Gateway> for Waits {
    fn from(gateway: &pb::Gateway) -> Self {
        Self {
            message_timeout_ms: or(gateway.message_timeout_ms, 1_000),
            max_message_timeout_ms: or(gateway.max_message_timeout_ms, 60_000),
        }
    }
}

fn check_listeners(gateway: &pb::Gateway, envoy: &pb::Envoy, report: &mut Report) {
    let listeners = [
        ("gateway.ext_proc_address", gateway.ext_proc_address.as_str(), "127.0.0.1:9300"),
        ("gateway.admin_address", gateway.admin_address.as_str(), "127.0.0.1:9301"),
        ("gateway.batch_address", gateway.batch_address.as_str(), "127.0.0.1:9302"),
        ("envoy.listen_address", envoy.listen_address.as_str(), "127.0.0.1:10000"),
        ("envoy.admin_address", envoy.admin_address.as_str(), "127.0.0.1:9901"),
    ];
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    for (path, given, default) in listeners {
        let address = match addresses::parse_listener(if given.is_empty() { default } else { given }) {
            Ok(address) => address,
            Err(fault) => {
                report.error("bad_address", path, fault);
                continue;
            }
        };
        if let Some((other, _)) = taken.iter().find(|(_, used)| clash(*used, address)) {
            report.error("address_taken", path, format!("`{address}` is also where `{other}` listens"));
        }
        taken.push((path, address));
        if !address.ip().is_loopback() {
            check_exposure(path, address, gateway, report);
        }
    }
}

fn check_exposure(path: &str, address: SocketAddr, gateway: &pb::Gateway, report: &mut Report) {
    match path {
        "gateway.admin_address" if gateway.admin_token_sha256.is_empty() => report.error(
            "admin_exposed",
            path,
            format!("`{address}` is reachable from outside; give `gateway.admin_token_sha256`, or listen on loopback"),
        ),
        "gateway.ext_proc_address" | "gateway.batch_address" => report.warn(
            "address_exposed",
            path,
            format!("`{address}` is reachable from outside and asks nobody for a key; only Envoy may reach it"),
        ),
        "envoy.admin_address" => report.warn(
            "address_exposed",
            path,
            format!("Envoy's admin port on `{address}` lets anybody who reaches it stop Envoy; listen on loopback"),
        ),
        _ => {}
    }
}

fn check_bounds(gateway: &pb::Gateway, envoy: &pb::Envoy, report: &mut Report) {
    report.within("gateway.workers", u64::from(gateway.workers), 1, 256);
    // Envoy's buffer limit is 32 bits wide.
    report.within("gateway.max_body_bytes", gateway.max_body_bytes, 1024, GIB);
    report.within("gateway.max_json_depth", u64::from(gateway.max_json_depth), 4, 256);
    report.within("gateway.message_timeout_ms", gateway.message_timeout_ms, 10, HOUR_MS);
    report.within("gateway.max_message_timeout_ms", gateway.max_message_timeout_ms, 10, HOUR_MS);
    report.within("gateway.max_stream_duration_ms", gateway.max_stream_duration_ms, 1_000, 7 * DAY_MS);
    report.within("gateway.max_reservations", gateway.max_reservations, 16, 1 << 26);
    report.within("gateway.max_buckets", gateway.max_buckets, 16, 1 << 28);
    report.within("gateway.max_records", gateway.max_records, 16, 1 << 22);
    report.within("gateway.drain_ms", gateway.drain_ms, 1, HOUR_MS);
    report.within("envoy.log_flush_ms", envoy.log_flush_ms, 1, 60_000);
    let waits = Waits::from(gateway);
    if waits.max_message_timeout_ms < waits.message_timeout_ms {
        report.error(
            "timeouts_reversed",
            "gateway.max_message_timeout_ms",
            format!(
                "`{}` is shorter than message_timeout_ms, `{}`",
                waits.max_message_timeout_ms, waits.message_timeout_ms
            ),
        );
    }
    if !gateway.admin_token_sha256.is_empty() {
        report.digest("gateway.admin_token_sha256", &gateway.admin_token_sha256);
    }
}

fn check_tls(envoy: &pb::Envoy, report: &mut Report) {
    let Some(tls) = &envoy.tls else { return };
    for (path, file) in [
        ("envoy.tls.certificate_file", &tls.certificate_file),
        ("envoy.tls.private_key_file", &tls.private_key_file),
    ] {
        if file.is_empty() {
            report.error("no_file", path, "must be given for a listener with TLS");
        }
        report.text(path, file, 1024);
    }
}

fn check_cache(cache: &pb::Cache, gateway: &pb::Gateway, report: &mut Report) {
    report.within("cache.max_bytes", cache.max_bytes, 64 * 1024, 1 << 40);
    report.within("cache.max_entry_bytes", cache.max_entry_bytes, 256, GIB);
    report.within("cache.ttl_ms", cache.ttl_ms, 1, 366 * DAY_MS);
    report.within("cache.capture_max_bytes", cache.capture_max_bytes, 256, GIB);
    report.within("cache.capture_total_bytes", cache.capture_total_bytes, 256, 1 << 40);
    report.within("cache.follow_ms", cache.follow_ms, 1, HOUR_MS);
    report.within("cache.max_followers", u64::from(cache.max_followers), 1, 65_536);
    report.within("cache.max_followers_total", u64::from(cache.max_followers_total), 1, 1 << 24);
    let fits = [
        ("cache.max_entry_bytes", or(cache.max_entry_bytes, MIB), "max_bytes", or(cache.max_bytes, 64 * MIB)),
        (
            "cache.capture_max_bytes",
            or(cache.capture_max_bytes, MIB),
            "capture_total_bytes",
            or(cache.capture_total_bytes, 64 * MIB),
        ),
        (
            "cache.max_followers",
            u64::from(or32(cache.max_followers, 64)),
            "max_followers_total",
            u64::from(or32(cache.max_followers_total, 4_096)),
        ),
    ];
    for (path, part, whole_name, whole) in fits {
        if part > whole {
            report.error("part_above_whole", path, format!("`{part}` is more than {whole_name}, `{whole}`"));
        }
    }
    let entry = or(cache.max_entry_bytes, MIB);
    let capture = or(cache.capture_max_bytes, MIB);
    if capture < entry && cache.max_entry_bytes != 0 {
        let message = format!(
            "`{entry}` is never reached: a response above capture_max_bytes, `{capture}`, is dropped"
        );
        report.warn("entry_above_capture", "cache.max_entry_bytes", message);
    }
    check_follow(cache, gateway, report);
}

/// A hold above Envoy's `max_message_timeout` is not honoured by Envoy: the request would end in 504 after the short
/// timeout. Given so, it is an error; where only the default exceeds it, followers wait shorter, and that is said.
fn check_follow(cache: &pb::Cache, gateway: &pb::Gateway, report: &mut Report) {
    let longest = Waits::from(gateway).max_message_timeout_ms;
    if cache.follow_ms > longest {
        let message = format!(
            "`{}` is longer than Envoy may be held, gateway.max_message_timeout_ms `{longest}`; lower it or raise that",
            cache.follow_ms
        );
        report.error("hold_too_long", "cache.follow_ms", message);
    } else if cache.follow_ms == 0 && longest < 30_000 {
        let message = format!(
            "the default, 30000, is longer than gateway.max_message_timeout_ms; an equal request follows for `{longest}` ms"
        );
        report.warn("hold_shortened", "cache.follow_ms", message);
    }
}

/// Two listeners that cannot both be opened: the same port on the same address, or on a wildcard.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn or(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

fn or32(value: u32, default: u32) -> u32 {
    if value == 0 { default } else { value }
}
