//! Owns: the rules of `pools`: where requests can go, under which name, with which credential.
//! Must not know: who may go there.
//! On failure: a finding.

use std::collections::HashSet;

use super::addresses::{self, Host};
use super::names::{self, Alphabet, Names};
use super::{Report, pb, tensors};
use pb::credential::Source;
use pb::pool::Protocol;

/// Headers that a credential cannot be: they carry the message itself, or Envoy and forebay own them.
const NOT_A_CREDENTIAL: [&str; 9] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "content-type",
    "accept",
];

pub(super) fn check(policy: &pb::Policy, names: &Names, report: &mut Report) {
    names::check_unique(
        policy.pools.iter().enumerate().map(|(i, p)| (format!("pools[{i}].name"), &*p.name)),
        report,
    );
    for (i, pool) in policy.pools.iter().enumerate() {
        let path = format!("pools[{i}]");
        check_pool(pool, &path, report);
        if !is_used(policy, pool) && names.pools.contains_key(pool.name.as_str()) {
            let message = format!("neither a model nor a route uses the pool `{}`", names::shown(&pool.name));
            report.warn("pool_unused", format!("{path}.name"), message);
        }
    }
}

fn check_pool(pool: &pb::Pool, path: &str, report: &mut Report) {
    let name_path = format!("{path}.name");
    names::check_name(&pool.name, &name_path, Alphabet::Plain, report);
    if pool.name == "forebay" || pool.name.starts_with("forebay.") || pool.name.starts_with("forebay-") {
        report.error(
            "reserved_name",
            name_path,
            "names that begin with `forebay` belong to the gateway's own clusters",
        );
    }
    if Protocol::try_from(pool.protocol).unwrap_or_default() == Protocol::Unspecified {
        let message = "must be given: `OPENAI`, `ANTHROPIC`, `KSERVE_GRPC`, `HTTP` or `GRPC`";
        report.error("no_protocol", format!("{path}.protocol"), message);
    }
    report.text(&format!("{path}.provider"), &pool.provider, 64);
    let hosts = check_endpoints(pool, path, report);
    if let Some(tls) = &pool.tls {
        check_tls(tls, &hosts, path, report);
    }
    if !pool.path_prefix.is_empty() {
        let fault = addresses::path_fault(&pool.path_prefix)
            .or_else(|| pool.path_prefix.ends_with('/').then_some("must not end with `/`; write `/serving`"));
        if let Some(fault) = fault {
            let message = format!("`{}` {fault}", names::shown(&pool.path_prefix));
            report.error("bad_path", format!("{path}.path_prefix"), message);
        }
    }
    if let Some(credential) = &pool.credential {
        check_credential(credential, &format!("{path}.credential"), report);
        if pool.tls.is_none() && hosts.iter().any(|host| !is_local(host)) {
            let message = "the secret crosses the network in plain text; give the pool `tls: {}`";
            report.warn("credential_in_clear", format!("{path}.credential"), message);
        }
    }
    if let Some(health) = &pool.health {
        check_health(health, &format!("{path}.health"), report);
    }
    check_kserve(pool, path, report);
    tensors::check_queue(pool, path, report);
}

/// A `KServe` pool is reached by the gateway's own client, so what Envoy would do for it happens nowhere.
fn check_kserve(pool: &pb::Pool, path: &str, report: &mut Report) {
    if pool.protocol() != Protocol::KserveGrpc {
        return;
    }
    let ignored = [
        ("credential", pool.credential.is_some()),
        ("health", pool.health.is_some()),
        ("path_prefix", !pool.path_prefix.is_empty()),
    ];
    for (field, given) in ignored {
        if given {
            let message =
                format!("a `KSERVE_GRPC` pool is reached by the gateway, not by Envoy, and has no `{field}`");
            report.error("field_not_used", format!("{path}.{field}"), message);
        }
    }
}

fn check_endpoints(pool: &pb::Pool, path: &str, report: &mut Report) -> Vec<Host> {
    if pool.endpoints.is_empty() {
        report.error(
            "no_endpoint",
            format!("{path}.endpoints"),
            "must list at least one `address: host:port`",
        );
    }
    if pool.endpoints.len() > 1024 {
        let message = format!("has {} endpoints; at most 1024 are allowed", pool.endpoints.len());
        report.error("too_many", format!("{path}.endpoints"), message);
    }
    let mut seen = HashSet::new();
    let mut hosts = Vec::new();
    for (i, endpoint) in pool.endpoints.iter().enumerate() {
        let path = format!("{path}.endpoints[{i}].address");
        match addresses::parse(&endpoint.address) {
            Err(fault) => report.error("bad_address", path, fault),
            Ok((Host::Ip(ip), _)) if ip.is_unspecified() => {
                report.error(
                    "bad_address",
                    path,
                    format!("`{ip}` is where one listens, not where one calls"),
                );
            }
            Ok((host, port)) => {
                if !seen.insert((host.clone(), port)) {
                    let message = format!("`{}` is listed twice", names::shown(&endpoint.address));
                    report.error("duplicate_endpoint", path, message);
                }
                hosts.push(host);
            }
        }
    }
    hosts
}

fn check_tls(tls: &pb::ClientTls, hosts: &[Host], path: &str, report: &mut Report) {
    let sni = format!("{path}.tls.sni");
    if !tls.sni.is_empty() && !addresses::is_host_name(&tls.sni) {
        report.error("bad_host_name", sni, format!("`{}` is no host name", names::shown(&tls.sni)));
    } else if tls.sni.is_empty() && hosts.iter().any(|host| matches!(host, Host::Ip(_))) {
        let message =
            "an endpoint is an IP address, so there is no host to verify; give the certificate's name";
        report.error("no_server_name", sni, message);
    }
    report.text(&format!("{path}.tls.ca_file"), &tls.ca_file, 1024);
}

fn check_credential(credential: &pb::Credential, path: &str, report: &mut Report) {
    if !credential.header.is_empty() {
        let header = credential.header.as_str();
        let path = format!("{path}.header");
        if !addresses::is_header_name(header) {
            let message = format!("`{}` is no header name in lower case", names::shown(header));
            report.error("bad_header", path, message);
        } else if NOT_A_CREDENTIAL.contains(&header)
            || header.starts_with("x-forebay-")
            || header.starts_with("x-envoy-")
        {
            report.error("bad_header", path, format!("`{header}` cannot carry a credential"));
        }
    }
    if credential.prefix.len() > 64 || !credential.prefix.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        report.error("bad_text", format!("{path}.prefix"), "must be at most 64 printable ASCII characters");
    }
    match &credential.source {
        None => report.error("no_secret", path, "must name where the secret is: `file` or `env`"),
        Some(Source::File(file)) => {
            if file.is_empty() {
                report.error(
                    "no_file",
                    format!("{path}.file"),
                    "must be the path of a file that holds the secret alone",
                );
            }
            report.text(&format!("{path}.file"), file, 1024);
        }
        Some(Source::Env(name)) => {
            let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && name.bytes().next().is_some_and(|b| !b.is_ascii_digit())
                && name.len() <= 128;
            if !good {
                // The value is not shown: what stands here by mistake may be the secret itself.
                let message =
                    "must be the name of an environment variable, such as `OPENAI_API_KEY`, not the secret";
                report.error("bad_variable", format!("{path}.env"), message);
            }
        }
    }
}

fn check_health(health: &pb::HealthCheck, path: &str, report: &mut Report) {
    if let Some(fault) = addresses::path_fault(&health.path) {
        report.error("bad_path", format!("{path}.path"), format!("`{}` {fault}", names::shown(&health.path)));
    }
    report.within(&format!("{path}.interval_ms"), health.interval_ms, 100, 3_600_000);
    report.within(&format!("{path}.timeout_ms"), health.timeout_ms, 10, 600_000);
}

fn is_used(policy: &pb::Policy, pool: &pb::Pool) -> bool {
    policy.models.iter().any(|model| model.pools.contains(&pool.name))
        || policy.routes.iter().any(|route| route.pool == pool.name || route.fail_open_pool == pool.name)
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Ip(ip) => ip.is_loopback(),
        Host::Name(name) => name == "localhost",
    }
}
