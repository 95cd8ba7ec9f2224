//! Owns: how long a client waits, read from `grpc-timeout`.
//! Must not know: clocks.
//! On failure: open; a header that is not in the protocol's form counts as absent, and the default bound holds.

use std::time::Duration;

use http::HeaderMap;

/// The server under us ends a call at the client's timeout by itself, as CANCELLED. We answer this much earlier,
/// so that the client reads `DEADLINE_EXCEEDED` and a reason.
const HEAD_START: Duration = Duration::from_millis(2);

/// What is left for this request, at most `bound`.
pub(super) fn time_left(headers: &HeaderMap, bound: Duration) -> Duration {
    asked(headers).map_or(bound, |asked| asked.min(bound))
}

/// What the client said that it waits; `None`: as long as it takes.
pub(super) fn asked(headers: &HeaderMap) -> Option<Duration> {
    let asked = headers.get("grpc-timeout").and_then(|value| parse(value.to_str().ok()?));
    asked.map(|asked| asked.saturating_sub(HEAD_START))
}

/// At most 8 digits and a unit, as gRPC over HTTP/2 writes it.
fn parse(value: &str) -> Option<Duration> {
    let unit = value.chars().last()?;
    let digits = value.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(amount * 3600)),
        'M' => Some(Duration::from_secs(amount * 60)),
        'S' => Some(Duration::from_secs(amount)),
        'm' => Some(Duration::from_millis(amount)),
        'u' => Some(Duration::from_micros(amount)),
        'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_the_protocols() {
        assert_eq!(parse("90S"), Some(Duration::from_secs(90)));
        assert_eq!(parse("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(359_999_996_400)));
        for wrong in ["", "S", "100000000n", "-1S", "1s", "1.5S", "1é"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_bound_holds_without_a_header_and_above_it() {
        let bound = Duration::from_secs(10);
        let mut headers = HeaderMap::new();
        assert_eq!(time_left(&headers, bound), bound);
        headers.insert("grpc-timeout", http::HeaderValue::from_static("1M"));
        assert_eq!(time_left(&headers, bound), bound);
        headers.insert("grpc-timeout", http::HeaderValue::from_static("100m"));
        assert_eq!(time_left(&headers, bound), Duration::from_millis(98));
    }
}
