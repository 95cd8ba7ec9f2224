//! Owns: every refusal that a client can see, each with its status, type, code and words.
//! Must not know: HTTP servers, gRPC frames.
//! On failure: this is the failure; only what stands here reaches a client (an allow-list).

use std::fmt::Write as _;

use crate::policy::pb::route::Operation;

/// Why a request is answered with an error. The code is stable; a test walks all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No key was sent
    MissingKey,
    /// The key is not known
    UnknownKey,
    /// The key is known but disabled or past its end
    ExpiredKey,
    /// No route lists the path
    UnknownPath(String),
    /// A route lists the path, but not with this method
    WrongMethod(String),
    /// A header is malformed
    BadHeader(&'static str),
    /// The body has a content-encoding that is not read
    Encoding(String),
    /// The body is not JSON by its content type
    ContentType(String),
    /// The body is no acceptable JSON object
    Json(String),
    /// A field is missing, of the wrong type or out of range
    Field {
        /// The field's path
        param: String,
        /// What was wrong and what to do
        message: String,
    },
    /// A field asks for what cannot be governed
    Unsupported {
        /// The field's path
        param: &'static str,
        /// Why not, and what to do
        why: &'static str,
    },
    /// The body is larger than the bound
    TooLarge {
        /// Bytes allowed
        limit_bytes: u64,
    },
    /// No model has this name, or the key may not know
    UnknownModel(String),
    /// The key may not use the model
    ModelForbidden(String),
    /// The key may not name the feature
    FeatureForbidden(String),
    /// No feature has this name
    UnknownFeature(String),
    /// The model cannot do what the request asks
    Incapable {
        /// The model
        model: String,
        /// What it lacks
        what: &'static str,
    },
    /// Prompt and output do not fit the window
    Window {
        /// The model
        model: String,
        /// Tokens of prompt and asked output
        asked_tokens: u64,
        /// The window
        window_tokens: u64,
        /// Tokens of the prompt alone
        prompt_tokens: u64,
    },
    /// A limit is used up
    Limit {
        /// The limit's name
        name: String,
        /// Its unit, in words
        unit: &'static str,
        /// Its amount
        capacity: u64,
        /// What this request asked
        requested: u64,
        /// What was left
        remaining: u64,
        /// When to come back; `None`: never with this request
        retry_after_ns: Option<u64>,
        /// Until all of it is there again
        reset_ns: u64,
    },
    /// A hard budget has no room for the request
    Budget {
        /// The budget's name
        name: String,
        /// `nano-USD` or `tokens`
        unit: &'static str,
        /// Its amount in one period
        amount: u64,
        /// The most that this request can use
        requested: u64,
        /// What is left of it
        remaining: u64,
        /// When the period ends; `None`: never with this request
        retry_after_ns: Option<u64>,
    },
    /// A hard budget cannot bound the request
    BudgetUnbounded {
        /// The budget's name
        name: String,
        /// What has no bound
        why: &'static str,
    },
    /// What is left of a hard budget cannot be known at present
    BudgetUnavailable,
    /// Every pool of the model is full
    PoolFull {
        /// The model
        model: String,
        /// 429 or 503, by the route
        status: u16,
    },
    /// No pool of the model is healthy and known to Envoy
    NoPool(String),
    /// The person's stage failed and the policy refuses then
    Stage,
    /// The gateway is going away
    Draining,
    /// A table of the gateway is full
    Overloaded,
    /// Something broke in forebay; the request was not passed on
    Internal,
}

/// A refusal in the words of the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// HTTP status
    pub status: u16,
    /// gRPC status for gRPC callers
    pub grpc: u32,
    /// `OpenAI`'s `type`
    pub kind: &'static str,
    /// Stable slug
    pub code: &'static str,
    /// `OpenAI`'s `param`
    pub param: Option<String>,
    /// What was wrong, the value, what to do
    pub message: String,
    /// Seconds for `retry-after`, rounded up
    pub retry_after_s: Option<u64>,
}

const INVALID: &str = "invalid_request_error";
const AUTH: &str = "authentication_error";
const FORBIDDEN: &str = "permission_error";
const RATE: &str = "rate_limit_error";
const SERVER: &str = "server_error";
const QUOTA: &str = "insufficient_quota";

/// Whose error body a client expects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ErrorShape {
    /// `{"error": {"message", "type", "param", "code"}}`
    #[default]
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}}`, and our slug beside them as `code`
    Anthropic,
    /// `KServe` v2's HTTP protocol
    Kserve,
}

// === impl Refusal ===

impl Refusal {
    /// The stable slug.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingKey => "missing_api_key",
            Self::UnknownKey => "invalid_api_key",
            Self::ExpiredKey => "expired_api_key",
            Self::UnknownPath(_) => "unknown_path",
            Self::WrongMethod(_) => "method_not_allowed",
            Self::BadHeader(_) => "invalid_header",
            Self::Encoding(_) => "unsupported_encoding",
            Self::ContentType(_) => "unsupported_media_type",
            Self::Json(_) => "invalid_json",
            Self::Field { .. } => "invalid_value",
            Self::Unsupported { .. } => "unsupported_value",
            Self::TooLarge { .. } => "request_too_large",
            Self::UnknownModel(_) => "model_not_found",
            Self::ModelForbidden(_) => "model_forbidden",
            Self::FeatureForbidden(_) => "feature_forbidden",
            Self::UnknownFeature(_) => "feature_not_found",
            Self::Incapable { .. } => "unsupported_capability",
            Self::Window { .. } => "context_length_exceeded",
            Self::Limit { .. } => "rate_limit_exceeded",
            Self::Budget { .. } => "budget_exhausted",
            Self::BudgetUnbounded { .. } => "budget_unbounded",
            Self::BudgetUnavailable => "budget_unavailable",
            Self::PoolFull { .. } => "pool_full",
            Self::NoPool(_) => "no_healthy_pool",
            Self::Stage => "stage_failed",
            Self::Draining => "draining",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal_error",
        }
    }

    /// The refusal as it goes out.
    pub fn wire(&self) -> Wire {
        let (status, grpc, kind) = match self {
            Self::MissingKey | Self::UnknownKey | Self::ExpiredKey => (401, 16, AUTH),
            Self::UnknownPath(_) => (404, 12, INVALID),
            Self::UnknownModel(_) => (404, 5, INVALID),
            Self::WrongMethod(_) => (405, 12, INVALID),
            Self::Encoding(_) | Self::ContentType(_) => (415, 3, INVALID),
            Self::TooLarge { .. } => (413, 8, INVALID),
            Self::ModelForbidden(_) | Self::FeatureForbidden(_) => (403, 7, FORBIDDEN),
            Self::BadHeader(_)
            | Self::Json(_)
            | Self::Field { .. }
            | Self::Unsupported { .. }
            | Self::UnknownFeature(_)
            | Self::Incapable { .. }
            | Self::BudgetUnbounded { .. }
            | Self::Window { .. } => (400, 3, INVALID),
            Self::Limit { .. } | Self::PoolFull { status: 429, .. } => (429, 8, RATE),
            Self::Budget { .. } => (429, 8, QUOTA),
            Self::PoolFull { .. }
            | Self::NoPool(_)
            | Self::Stage
            | Self::Draining
            | Self::Overloaded
            | Self::BudgetUnavailable => (503, 14, SERVER),
            Self::Internal => (500, 13, SERVER),
        };
        Wire {
            status,
            grpc,
            kind,
            code: self.code(),
            param: self.param(),
            message: self.message(),
            retry_after_s: self.retry_after_ns().map(whole_seconds),
        }
    }

    fn param(&self) -> Option<String> {
        match self {
            Self::Field { param, .. } => Some(param.clone()),
            Self::Unsupported { param, .. } => Some((*param).to_owned()),
            Self::UnknownModel(_) | Self::ModelForbidden(_) | Self::Incapable { .. } => Some("model".into()),
            Self::Window { .. } => Some("messages".into()),
            _ => None,
        }
    }

    /// When it may succeed; `None`: not by waiting.
    pub fn retry_after_ns(&self) -> Option<u64> {
        match self {
            Self::Limit { retry_after_ns, .. } | Self::Budget { retry_after_ns, .. } => *retry_after_ns,
            Self::PoolFull { .. }
            | Self::NoPool(_)
            | Self::Overloaded
            | Self::Draining
            | Self::Stage
            | Self::BudgetUnavailable => Some(1_000_000_000),
            _ => None,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::MissingKey => "no API key was sent; send it as `authorization: Bearer KEY`".into(),
            Self::UnknownKey => "the API key is not known".into(),
            Self::ExpiredKey => "the API key is disabled or past its end; ask for a new one".into(),
            Self::UnknownPath(path) => format!("no route serves `{path}`"),
            Self::WrongMethod(method) => format!("this path is not served with `{method}`"),
            Self::BadHeader(name) => format!("the header `{name}` is malformed"),
            Self::Encoding(encoding) => {
                format!("the body has the content-encoding `{encoding}`; send it uncompressed")
            }
            Self::ContentType(given) => format!("the content type is `{given}`; send `application/json`"),
            Self::Json(message) | Self::Field { message, .. } => message.clone(),
            Self::Unsupported { param, why } => format!("`{param}` is not supported here: {why}"),
            Self::TooLarge { limit_bytes } => format!("the body is larger than {limit_bytes} bytes"),
            Self::UnknownModel(model) => format!("the model `{model}` does not exist"),
            Self::ModelForbidden(model) => format!("this key may not use the model `{model}`"),
            Self::FeatureForbidden(feature) => format!("this key may not use the feature `{feature}`"),
            Self::UnknownFeature(feature) => format!("the feature `{feature}` does not exist"),
            Self::Incapable { model, what } => format!("the model `{model}` does not support {what}"),
            Self::Window { model, asked_tokens, window_tokens, prompt_tokens } => format!(
                "the request asks for {asked_tokens} tokens ({prompt_tokens} in the prompt), but the context window of \
                 `{model}` is {window_tokens} tokens; shorten the prompt or lower the output bound"
            ),
            Self::Limit { name, unit, capacity, requested, remaining, retry_after_ns, .. } => {
                let mut text = format!(
                    "the limit `{name}` of {capacity} {unit} is reached: this request needs {requested}, {remaining} \
                     remain"
                );
                push_when(&mut text, *retry_after_ns);
                text
            }
            Self::Budget { name, unit, amount, requested, remaining, retry_after_ns } => {
                let mut text = format!(
                    "the budget `{name}` of {amount} {unit} has no room: this request may use {requested}, {remaining} \
                     remain"
                );
                push_when(&mut text, *retry_after_ns);
                text
            }
            Self::BudgetUnbounded { name, why } => {
                format!("the budget `{name}` is hard, and this request has no bound: {why}")
            }
            Self::BudgetUnavailable => "what is left of a budget is not known at present; retry later".into(),
            Self::PoolFull { model, .. } => format!("every pool that serves `{model}` is full; retry later"),
            Self::NoPool(model) => format!("no healthy pool serves `{model}` at present; retry later"),
            Self::Stage => "the routing stage of this deployment failed; retry later".into(),
            Self::Draining => "this gateway is shutting down; retry on another connection".into(),
            Self::Overloaded => "the gateway is at its bound of open requests; retry later".into(),
            Self::Internal => "an internal error; the request was not passed on".into(),
        }
    }
}

// === impl ErrorShape ===

impl ErrorShape {
    /// What clients of the operation expect.
    pub fn of(operation: Operation) -> Self {
        match operation {
            Operation::Messages => Self::Anthropic,
            Operation::Kserve => Self::Kserve,
            _ => Self::OpenAi,
        }
    }
}

// === impl Wire ===

impl Wire {
    /// The body in the shape that the client expects.
    pub fn body_as(&self, shape: ErrorShape) -> Vec<u8> {
        match shape {
            ErrorShape::OpenAi => self.body(),
            ErrorShape::Anthropic => self.anthropic_body(),
            ErrorShape::Kserve => self.kserve_body(),
        }
    }

    /// The body in the shape of `KServe` v2's HTTP protocol.
    fn kserve_body(&self) -> Vec<u8> {
        let mut out = String::from("{\"error\":");
        push_json_string(&mut out, &self.message);
        out.push('}');
        out.into_bytes()
    }

    /// The body in Anthropic's shape.
    fn anthropic_body(&self) -> Vec<u8> {
        let mut out = String::with_capacity(112 + self.message.len());
        let kind = anthropic_kind(self.status);
        let _ = write!(out, "{{\"type\":\"error\",\"error\":{{\"type\":\"{kind}\",\"message\":");
        push_json_string(&mut out, &self.message);
        let _ = write!(out, ",\"code\":\"{}\"}}}}", self.code);
        out.into_bytes()
    }

    /// The body in `OpenAI`'s shape.
    pub fn body(&self) -> Vec<u8> {
        let mut out = String::with_capacity(96 + self.message.len());
        out.push_str("{\"error\":{\"message\":");
        push_json_string(&mut out, &self.message);
        let _ = write!(out, ",\"type\":\"{}\",\"param\":", self.kind);
        match &self.param {
            Some(param) => push_json_string(&mut out, param),
            None => out.push_str("null"),
        }
        let _ = write!(out, ",\"code\":\"{}\"}}}}", self.code);
        out.into_bytes()
    }
}

/// Anthropic's error type, which follows the status.
///
/// *Source*: Anthropic API reference, "Errors".
fn anthropic_kind(status: u16) -> &'static str {
    match status {
        401 => AUTH,
        403 => FORBIDDEN,
        404 => "not_found_error",
        413 => "request_too_large",
        429 => RATE,
        // Theirs is 529; what it tells a client is the same.
        503 => "overloaded_error",
        500.. => "api_error",
        _ => INVALID,
    }
}

/// When to come back, in the words of a message.
fn push_when(text: &mut String, retry_after_ns: Option<u64>) {
    match retry_after_ns {
        Some(ns) => {
            let _ = write!(text, "; retry after {} s", whole_seconds(ns));
        }
        None => text.push_str("; it can never fit, make it smaller"),
    }
}

fn whole_seconds(ns: u64) -> u64 {
    ns.div_ceil(1_000_000_000).max(1)
}

/// Appends `text` as a JSON string.
pub fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    fn all() -> Vec<Refusal> {
        let s = || "x\"\n\u{1}".to_owned();
        vec![
            Refusal::MissingKey,
            Refusal::UnknownKey,
            Refusal::ExpiredKey,
            Refusal::UnknownPath(s()),
            Refusal::WrongMethod(s()),
            Refusal::BadHeader("x"),
            Refusal::Encoding(s()),
            Refusal::ContentType(s()),
            Refusal::Json(s()),
            Refusal::Field { param: s(), message: s() },
            Refusal::TooLarge { limit_bytes: 1 },
            Refusal::UnknownModel(s()),
            Refusal::ModelForbidden(s()),
            Refusal::FeatureForbidden(s()),
            Refusal::UnknownFeature(s()),
            Refusal::Incapable { model: s(), what: "tools" },
            Refusal::Window { model: s(), asked_tokens: 2, window_tokens: 1, prompt_tokens: 2 },
            Refusal::Limit {
                name: s(),
                unit: "requests",
                capacity: 1,
                requested: 1,
                remaining: 0,
                retry_after_ns: Some(1),
                reset_ns: 1,
            },
            Refusal::Budget {
                name: s(),
                unit: "nano-USD",
                amount: 1,
                requested: 1,
                remaining: 0,
                retry_after_ns: Some(1),
            },
            Refusal::BudgetUnbounded { name: s(), why: "the model has no price" },
            Refusal::BudgetUnavailable,
            Refusal::Unsupported { param: "background", why: "no" },
            Refusal::PoolFull { model: s(), status: 429 },
            Refusal::NoPool(s()),
            Refusal::Stage,
            Refusal::Draining,
            Refusal::Overloaded,
            Refusal::Internal,
        ]
    }

    #[test]
    fn every_refusal_has_its_own_code_and_valid_json() {
        let mut codes = std::collections::HashSet::new();
        for refusal in all() {
            let wire = refusal.wire();
            assert!(codes.insert(wire.code), "{} twice", wire.code);
            assert!((400..600).contains(&wire.status));
            let body = wire.body();
            let doc = crate::json::Document::parse(&body, crate::json::Bounds::default());
            let doc = doc.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&body)));
            let error = doc.get("error").unwrap_or_else(|| panic!("no error"));
            assert_eq!(error.get("code").and_then(|c| c.as_str()), Some(wire.code));
            assert_eq!(error.get("message").and_then(|c| c.as_str()), Some(wire.message.as_str()));
        }
    }

    #[test]
    fn anthropic_s_shape_is_valid_and_its_types_follow_the_status() {
        let field = |body: &[u8], path: &[&str]| {
            let doc = crate::json::Document::parse(body, crate::json::Bounds::default());
            let doc = doc.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(body)));
            let (first, rest) = path.split_first().unwrap_or_else(|| panic!("no path"));
            let value = rest.iter().try_fold(doc.get(first)?, |value, name| value.get(name))?;
            value.as_str().map(str::to_owned)
        };
        for refusal in all() {
            let wire = refusal.wire();
            let body = wire.body_as(ErrorShape::Anthropic);
            assert_eq!(field(&body, &["type"]).as_deref(), Some("error"));
            assert_eq!(field(&body, &["error", "code"]).as_deref(), Some(wire.code));
            assert_eq!(field(&body, &["error", "message"]), Some(wire.message.clone()));
            assert_eq!(wire.body_as(ErrorShape::OpenAi), wire.body());
            let expected = match wire.status {
                400 | 405 | 415 => "invalid_request_error",
                401 => "authentication_error",
                403 => "permission_error",
                404 => "not_found_error",
                413 => "request_too_large",
                429 => "rate_limit_error",
                500 => "api_error",
                503 => "overloaded_error",
                other => panic!("{other}"),
            };
            assert_eq!(field(&body, &["error", "type"]).as_deref(), Some(expected), "{}", wire.code);
        }
        assert_eq!(ErrorShape::of(Operation::Messages), ErrorShape::Anthropic);
        assert_eq!(ErrorShape::of(Operation::Responses), ErrorShape::OpenAi);
    }

    #[test]
    fn a_budget_says_what_is_left_and_when_to_come_back() {
        let budget = |retry_after_ns| {
            let name = "acme-month".to_owned();
            Refusal::Budget {
                name,
                unit: "nano-USD",
                amount: 100,
                requested: 60,
                remaining: 40,
                retry_after_ns,
            }
            .wire()
        };
        let wire = budget(Some(1_500_000_000));
        assert_eq!((wire.status, wire.kind, wire.code), (429, "insufficient_quota", "budget_exhausted"));
        assert_eq!(wire.retry_after_s, Some(2));
        assert_eq!(
            wire.message,
            "the budget `acme-month` of 100 nano-USD has no room: this request may use 60, 40 remain; retry after 2 s"
        );
        let never = budget(None);
        assert!(
            never.retry_after_s.is_none() && never.message.ends_with("it can never fit, make it smaller")
        );
        let unknown = Refusal::BudgetUnavailable.wire();
        assert_eq!(
            (unknown.status, unknown.code, unknown.retry_after_s),
            (503, "budget_unavailable", Some(1))
        );
        let unbounded = Refusal::BudgetUnbounded { name: "b".into(), why: "the model has no price" }.wire();
        assert_eq!((unbounded.status, unbounded.code, unbounded.kind), (400, "budget_unbounded", INVALID));
    }
}
