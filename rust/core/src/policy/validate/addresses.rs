//! Owns: what is a `host:port`, a header name, a path.
//! Must not know: which field holds it.
//! On failure: says what is wrong with the text; nothing is resolved or opened.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The two kinds of host that an endpoint may have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Host {
    /// An address
    Ip(IpAddr),
    /// A name that Envoy resolves
    Name(String),
}

/// Splits and checks `host:port`; the error says what to write instead.
pub(super) fn parse(address: &str) -> Result<(Host, u16), String> {
    let (host, port) = split(address)?;
    let digits = !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok((host, port)),
        _ => Err(format!("the port `{}` is not 1 to 65535", super::names::shown(port))),
    }
}

/// An address that a process listens on: no name, because a listener must not depend on a resolver.
pub(super) fn parse_listener(address: &str) -> Result<SocketAddr, String> {
    match parse(address)? {
        (Host::Ip(ip), port) => Ok(SocketAddr::new(ip, port)),
        (Host::Name(name), _) => Err(format!(
            "`{}` is a name; write an IP address, such as `127.0.0.1`",
            super::names::shown(&name)
        )),
    }
}

/// A name of a header as HTTP defines it, in lower case.
pub(super) fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// What is wrong with a path that requests are matched with or rewritten to.
pub(super) fn path_fault(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        Some("must begin with `/`")
    } else if path.len() > 1024 {
        Some("is longer than 1024 bytes")
    } else if path.contains(['?', '#']) {
        Some("must not hold a query or a fragment")
    } else if path.contains("//") || path.split('/').any(|part| part == "." || part == "..") {
        Some("must not hold `//`, `.` or `..`, which Envoy normalizes away before anything is matched")
    } else if !path.bytes().all(|b| b.is_ascii_graphic()) {
        Some("must be printable ASCII; write other characters percent-encoded")
    } else {
        None
    }
}

/// A host name: labels of letters, digits, `-` and `_`, the last one not a number.
pub(super) fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let labels_good = name.split('.').all(|label| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        !label.is_empty() && label.len() <= 63 && inner && !label.starts_with('-') && !label.ends_with('-')
    });
    let numeric_end = name.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
    labels_good && !numeric_end && name.len() <= 253
}

fn split(address: &str) -> Result<(Host, &str), String> {
    let shown = super::names::shown(address);
    if let Some(rest) = address.strip_prefix('[') {
        let (host, port) = rest.split_once("]:").ok_or_else(|| format!("`{shown}` is not `[IPv6]:port`"))?;
        let ip: Ipv6Addr =
            host.parse().map_err(|_| format!("`{shown}` holds no IPv6 address in its brackets"))?;
        return Ok((Host::Ip(IpAddr::V6(ip)), port));
    }
    if address.contains("://") {
        return Err(format!(
            "`{shown}` is a URL; write `host:port`, and `tls: {{}}` beside the endpoints for https"
        ));
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("`{shown}` is not `host:port`"))?;
    if host.contains(':') {
        return Err(format!(
            "`{shown}` is not `host:port`; an IPv6 address stands in brackets, `[::1]:8000`"
        ));
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return Ok((Host::Ip(IpAddr::V4(ip)), port));
    }
    if !is_host_name(host) {
        return Err(format!("`{}` is neither a host name nor an IP address", super::names::shown(host)));
    }
    Ok((Host::Name(host.to_owned()), port))
}
