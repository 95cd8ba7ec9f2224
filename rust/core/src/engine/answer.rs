//! Owns: what a decision says in the end: an answer of our own, or the way to the upstream.
//! Must not know: how it is framed for Envoy.
//! On failure: it cannot fail.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use super::live::Live;
use crate::names;
use crate::policy::KeyRecord;
use crate::refusal::{ErrorShape, Refusal, push_json_string};

/// An answer that forebay gives itself.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status
    pub status: u16,
    /// Headers beside `content-length`
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body
    pub body: Bytes,
    /// For gRPC callers: status and message
    pub grpc: Option<(u32, String)>,
    /// The refusal's code; empty for an answer that is none
    pub code: &'static str,
}

/// The way of a request that goes on.
#[derive(Debug, Clone)]
pub struct Forward {
    /// Reservation id
    pub id: u128,
    /// Envoy's cluster
    pub pool: Arc<str>,
    /// Copy the response to capture
    pub capture: bool,
    /// The upstream is our batch service, which needs the id
    pub batch: bool,
    /// The body, where it had to change
    pub body: Option<Vec<u8>>,
    /// The trace context that the upstream gets; `None`: what the client sent goes on
    pub traceparent: Option<String>,
    /// The usage event was asked for by us: the client must not see it
    pub drop_usage: bool,
    /// Dynamic metadata, in the namespace `forebay`
    pub metadata: Vec<(&'static str, MetaValue)>,
}

/// A value of dynamic metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum MetaValue {
    /// A string that the policy holds
    Shared(Arc<str>),
    /// A word
    Word(&'static str),
    /// A string of this request
    Text(String),
    /// A number
    Number(u64),
}

// === impl Answer ===

impl Answer {
    pub(super) fn json(id: u128, status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![
                ("content-type", Cow::Borrowed("application/json")),
                (names::REQUEST_ID, Cow::Owned(format!("{id:032x}"))),
            ],
            body: body.into(),
            grpc: None,
            code: "",
        }
    }

    /// The refusal as an answer in `OpenAI`'s shape.
    pub fn refusal(id: u128, refusal: &Refusal) -> Self {
        Self::refusal_in(ErrorShape::OpenAi, id, refusal)
    }

    /// The refusal as an answer.
    pub fn refusal_in(shape: ErrorShape, id: u128, refusal: &Refusal) -> Self {
        let wire = refusal.wire();
        let mut answer = Self::json(id, wire.status, wire.body_as(shape));
        if let Some(seconds) = wire.retry_after_s {
            answer.headers.push(("retry-after", Cow::Owned(seconds.to_string())));
        }
        if let Refusal::Limit { unit, capacity, remaining, reset_ns, .. } = refusal {
            let names = match *unit {
                "requests" => Some((
                    "x-ratelimit-limit-requests",
                    "x-ratelimit-remaining-requests",
                    "x-ratelimit-reset-requests",
                )),
                "tokens" => Some((
                    "x-ratelimit-limit-tokens",
                    "x-ratelimit-remaining-tokens",
                    "x-ratelimit-reset-tokens",
                )),
                _ => None,
            };
            if let Some((limit, left, reset)) = names {
                answer.headers.push((limit, Cow::Owned(capacity.to_string())));
                answer.headers.push((left, Cow::Owned(remaining.to_string())));
                answer.headers.push((reset, Cow::Owned(super::rates::duration(*reset_ns))));
            }
        }
        answer.grpc = Some((wire.grpc, wire.message));
        answer.code = wire.code;
        answer
    }

    /// `GET /v1/models`: what the key may use.
    pub(super) fn models(id: u128, live: &Live, key: &KeyRecord) -> Self {
        let mut out = String::from("{\"object\":\"list\",\"data\":[");
        let mut first = true;
        for (i, model) in live.snapshot.models.iter().enumerate() {
            if !key.models.allows(i as u32) {
                continue;
            }
            let owner = model.pools.first().and_then(|p| live.snapshot.pools.get(*p as usize));
            out.push_str(if first { "{\"id\":" } else { ",{\"id\":" });
            push_json_string(&mut out, &model.name);
            let _ = write!(out, ",\"object\":\"model\",\"created\":0,\"owned_by\":");
            push_json_string(&mut out, owner.map_or("", |p| &p.provider));
            out.push('}');
            first = false;
        }
        out.push_str("]}");
        Self::json(id, 200, out)
    }
}
