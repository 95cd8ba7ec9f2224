//! Owns: what a client is told of its rates: of each unit the limit that it will meet first.
//! Must not know: how headers are sent.
//! On failure: it cannot fail; without a limit on a unit nothing is said of it.

use std::borrow::Cow;

use super::session::Session;
use super::{Answer, Clock, Engine};
use crate::limit::Kind;
use crate::policy::Snapshot;

/// The names of one unit, in metadata and as headers.
#[derive(Debug, Clone, Copy)]
pub(super) struct RateNames {
    kind: Kind,
    pub limit_key: &'static str,
    pub remaining_key: &'static str,
    pub reset_key: &'static str,
    limit_header: &'static str,
    remaining_header: &'static str,
    reset_header: &'static str,
}

const UNITS: [RateNames; 2] = [
    RateNames {
        kind: Kind::Requests,
        limit_key: "limit_requests",
        remaining_key: "remaining_requests",
        reset_key: "reset_requests",
        limit_header: "x-ratelimit-limit-requests",
        remaining_header: "x-ratelimit-remaining-requests",
        reset_header: "x-ratelimit-reset-requests",
    },
    RateNames {
        kind: Kind::Tokens,
        limit_key: "limit_tokens",
        remaining_key: "remaining_tokens",
        reset_key: "reset_tokens",
        limit_header: "x-ratelimit-limit-tokens",
        remaining_header: "x-ratelimit-remaining-tokens",
        reset_header: "x-ratelimit-reset-tokens",
    },
];

/// The limit of one unit that has least left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub names: &'static RateNames,
    pub limit: u64,
    pub remaining: u64,
    reset_ns: u64,
}

// === impl Rate ===

impl Rate {
    /// Until all of it is there again, as `OpenAI` writes it: `12.5s`.
    pub fn reset(&self) -> String {
        duration(self.reset_ns)
    }
}

/// A number of seconds with at most three places.
pub(super) fn duration(ns: u64) -> String {
    let ms = ns.div_ceil(1_000_000);
    if ms.is_multiple_of(1_000) {
        format!("{}s", ms / 1_000)
    } else {
        format!("{}.{:03}s", ms / 1_000, ms % 1_000)
    }
}

// === impl Engine ===

impl Engine {
    /// What was taken for a session so far, seen as rates. Budgets are none.
    pub(super) fn rates(
        &self,
        session: &Session,
        snapshot: &Snapshot,
        clock: &impl Clock,
    ) -> impl Iterator<Item = Rate> {
        let held = session.taken.held();
        let now_ns = clock.now_ns();
        UNITS.iter().filter_map(move |names| {
            let (at, charge) = held
                .charges()
                .enumerate()
                .filter(|(_, c)| c.kind == names.kind && (c.limit.0 as usize) < snapshot.limits.len())
                .min_by_key(|(_, c)| c.remaining)?;
            let limit = snapshot.limits.get(charge.limit.0 as usize).map_or(0, |l| l.capacity);
            let reset_ns = self.limiter.reset_ns(held, at, now_ns);
            Some(Rate { names, limit, remaining: charge.remaining, reset_ns })
        })
    }

    /// An answer of our own tells the rates as one of an upstream does.
    pub(super) fn push_rate_headers(&self, session: &Session, answer: &mut Answer, clock: &impl Clock) {
        let live = session.live.clone();
        for rate in self.rates(session, &live.snapshot, clock) {
            answer.headers.push((rate.names.limit_header, Cow::Owned(rate.limit.to_string())));
            answer.headers.push((rate.names.remaining_header, Cow::Owned(rate.remaining.to_string())));
            answer.headers.push((rate.names.reset_header, Cow::Owned(rate.reset())));
        }
    }
}
