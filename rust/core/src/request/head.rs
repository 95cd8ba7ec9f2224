//! Owns: one pass over a request's headers into the few that a decision needs.
//! Must not know: what a key may do, which routes there are.
//! On failure: closed; a header that is no text where text is needed counts as absent, a malformed one is refused.

use crate::names;
use crate::refusal::Refusal;

/// The longest value of a header that names somebody or something.
const MAX_NAME_BYTES: usize = 256;
/// The longest name of a run or an evaluation. Each is a row in the ledger's books.
const MAX_RUN_BYTES: usize = 128;

/// What a request's headers say. Borrows from them.
#[derive(Debug, Clone, Default)]
pub struct Head<'a> {
    /// `:method`
    pub method: &'a str,
    /// `:path` without its query
    pub path: &'a str,
    /// The presented key: `authorization: Bearer`, else `x-api-key`, else `api-key`
    pub key: Option<&'a str>,
    /// `content-type`
    pub content_type: &'a str,
    /// `content-encoding`; empty: none
    pub content_encoding: &'a str,
    /// `content-length`, when it was sent and is a number
    pub content_length: Option<u64>,
    /// `x-forebay-feature`
    pub feature: &'a str,
    /// `x-forebay-user`
    pub user: &'a str,
    /// `x-forebay-run`; empty: none
    pub run: &'a str,
    /// `x-forebay-eval`; empty: none
    pub eval: &'a str,
    /// `traceparent`; empty: none
    pub traceparent: &'a str,
    /// `x-request-id` as Envoy makes it; 0: none, or another form
    pub envoy_id: u128,
    /// `cache-control` of the request
    pub cache_control: CacheControl,
    /// The address that Envoy saw: the last of `x-forwarded-for`
    pub client_address: &'a str,
    /// The body is empty
    pub end_stream: bool,
}

/// `cache-control` as far as a shared cache must honour it (RFC 9111, section 5.2.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// Neither look up nor keep
    pub no_store: bool,
    /// Do not look up; the new answer may be kept
    pub no_cache: bool,
    /// Look up, but nothing older
    pub max_age_s: Option<u64>,
}

// === impl Head ===

impl<'a> Head<'a> {
    /// Reads headers in the order they came; names are lower case, as HTTP/2 and Envoy send them.
    pub fn read(
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        end_stream: bool,
    ) -> Result<Self, Refusal> {
        let mut head = Head { end_stream, ..Head::default() };
        let (mut bearer, mut x_api_key, mut api_key) = (None, None, None);
        for (name, value) in headers {
            let text = || std::str::from_utf8(value).map(str::trim).unwrap_or_default();
            match name {
                ":method" => head.method = text(),
                ":path" => head.path = text().split(['?', '#']).next().unwrap_or_default(),
                "authorization" => bearer = bearer_token(text()),
                "x-api-key" => x_api_key = Some(text()),
                "api-key" => api_key = Some(text()),
                "content-type" => head.content_type = text(),
                "content-encoding" => head.content_encoding = text(),
                "content-length" => {
                    head.content_length =
                        Some(text().parse().map_err(|_| Refusal::BadHeader("content-length"))?);
                }
                names::FEATURE => head.feature = named(text(), names::FEATURE)?,
                names::USER => head.user = named(text(), names::USER)?,
                names::RUN => head.run = visible(text(), names::RUN)?,
                names::EVAL => head.eval = visible(text(), names::EVAL)?,
                "x-request-id" => head.envoy_id = uuid(text()),
                names::TRACEPARENT => head.traceparent = text(),
                "cache-control" => head.cache_control = CacheControl::read(text()),
                "x-forwarded-for" => {
                    head.client_address = text().rsplit(',').next().unwrap_or_default().trim();
                }
                _ => {}
            }
        }
        head.key = bearer.or(x_api_key).or(api_key).filter(|k| !k.is_empty());
        Ok(head)
    }

    /// Whether the content type is JSON.
    pub fn is_json(&self) -> bool {
        let media = self.content_type.split(';').next().unwrap_or_default().trim();
        media.eq_ignore_ascii_case("application/json")
    }

    /// Whether this is gRPC.
    pub fn is_grpc(&self) -> bool {
        self.content_type.starts_with("application/grpc")
    }

    /// Whether a body is expected and encoded in some way.
    pub fn is_encoded(&self) -> bool {
        !self.content_encoding.is_empty() && !self.content_encoding.eq_ignore_ascii_case("identity")
    }
}

/// A UUID as a number; 0 where it is none.
pub fn uuid(text: &str) -> u128 {
    if text.len() != 36 {
        return 0;
    }
    let mut digits = text.bytes().filter(|b| *b != b'-');
    let number = digits.try_fold(0_u128, |id, digit| {
        let digit = (digit as char).to_digit(16)?;
        Some(id.checked_mul(16)? + u128::from(digit))
    });
    number.unwrap_or_default()
}

fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn named<'a>(value: &'a str, header: &'static str) -> Result<&'a str, Refusal> {
    if value.len() > MAX_NAME_BYTES || value.chars().any(char::is_control) {
        return Err(Refusal::BadHeader(header));
    }
    Ok(value)
}

fn visible<'a>(value: &'a str, header: &'static str) -> Result<&'a str, Refusal> {
    if value.is_empty() || value.len() > MAX_RUN_BYTES || !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Refusal::BadHeader(header));
    }
    Ok(value)
}

// === impl CacheControl ===

impl CacheControl {
    fn read(value: &str) -> Self {
        let mut control = Self::default();
        for directive in value.split(',') {
            let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => control.no_store = true,
                "no-cache" => control.no_cache = true,
                // A value that is no number is taken as 0, the strictest.
                "max-age" => control.max_age_s = Some(argument.trim().trim_matches('"').parse().unwrap_or(0)),
                _ => {}
            }
        }
        control
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read<'a>(headers: &'a [(&'a str, &'a str)]) -> Result<Head<'a>, Refusal> {
        Head::read(headers.iter().map(|(k, v)| (*k, v.as_bytes())), false)
    }

    #[test]
    fn a_key_is_taken_from_the_first_header_that_has_one() {
        assert_eq!(read(&[("authorization", "bearer  k1 "), ("x-api-key", "k2")]).unwrap().key, Some("k1"));
        assert_eq!(read(&[("authorization", "Basic abc"), ("x-api-key", "k2")]).unwrap().key, Some("k2"));
        assert_eq!(read(&[("api-key", "k3")]).unwrap().key, Some("k3"));
        assert_eq!(read(&[("authorization", "Bearer ")]).unwrap().key, None);
        assert_eq!(read(&[]).unwrap().key, None);
    }

    #[test]
    fn paths_lose_their_query_and_addresses_are_the_last_hop() {
        let head = read(&[(":path", "/v1/models?x=1"), ("x-forwarded-for", "6.6.6.6, 10.0.0.1")]).unwrap();
        assert_eq!((head.path, head.client_address), ("/v1/models", "10.0.0.1"));
    }

    #[test]
    fn cache_control_is_read_strictly() {
        let of = |v: &str| CacheControl::read(v);
        assert!(of("No-Store").no_store);
        assert!(of("max-age=5, no-cache").no_cache);
        assert_eq!(of("max-age=5").max_age_s, Some(5));
        assert_eq!(of("max-age=soon").max_age_s, Some(0));
        assert_eq!(of("public"), CacheControl::default());
    }

    #[test]
    fn names_are_bounded() {
        let long = "u".repeat(257);
        assert_eq!(read(&[(names::USER, long.as_str())]).unwrap_err(), Refusal::BadHeader(names::USER));
        assert_eq!(read(&[("content-length", "-1")]).unwrap_err(), Refusal::BadHeader("content-length"));
    }
}
