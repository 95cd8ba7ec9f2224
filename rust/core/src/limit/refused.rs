//! Owns the refusal: which limit said no, how much is left, and when to come back.
//! Must not know: HTTP status codes, headers, other errors of a decision.
//! On failure: is the failure; it names the limit that keeps the request away longest.

use std::fmt;
use std::sync::Arc;

use super::lease::LeaseNeed;
use super::scope::Scope;
use super::spec::{Algorithm, Kind, LimitId, LimitSpec};

/// What is suggested when a concurrency slot is missing: no clock knows when one comes free.
pub const CONCURRENCY_RETRY_NS: u64 = 1_000_000_000;
/// What is suggested where no clock says anything: a lease is missing, or a place in the table.
pub const UNKNOWN_RETRY_NS: u64 = 1_000_000_000;

/// One limit had no room; nothing was charged anywhere.
///
/// Where several had none, this is the one that keeps the request away longest, so that a client
/// that obeys `retry_after_ns` is not sent away again by the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The limit's index in its policy.
    pub limit: LimitId,
    /// The limit's name.
    pub name: Arc<str>,
    /// What it counts.
    pub kind: Kind,
    /// Per what.
    pub scope: Scope,
    /// The most it admits at once: its capacity, or a token bucket's burst.
    pub capacity: u64,
    /// What was asked for.
    pub requested: u64,
    /// What it had left.
    pub remaining: u64,
    /// When the same request would fit if nobody else came. `None`: never, it is larger than the
    /// limit itself.
    pub retry_after_ns: Option<u64>,
    /// Whether the count is that of the bucket which newcomers share while the table is full.
    pub overflowed: bool,
    /// Whether it is a budget.
    pub leased: bool,
    /// What the request needs besides what is leased: with these granted it may fit. Empty: a limit or budget has no
    /// room whatever is granted.
    pub leases: Vec<LeaseNeed>,
}

// === impl Refused ===

impl Refused {
    pub(super) fn new(spec: &LimitSpec, requested: u64, used: u64) -> Self {
        let capacity = spec.rule().limit();
        Self {
            limit: spec.id,
            name: Arc::clone(&spec.name),
            kind: spec.kind,
            scope: spec.scope,
            capacity,
            requested,
            remaining: capacity.saturating_sub(used),
            retry_after_ns: None,
            overflowed: false,
            leased: matches!(spec.algorithm, Algorithm::Leased { .. }),
            leases: Vec::new(),
        }
    }

    /// The stable name of the error.
    pub const fn slug(&self) -> &'static str {
        if self.leased {
            return "budget_exceeded";
        }
        match self.kind {
            Kind::Requests => "limit_requests_exceeded",
            Kind::Tokens => "limit_tokens_exceeded",
            Kind::Concurrency => "limit_concurrency_exceeded",
            Kind::Money => "limit_money_exceeded",
        }
    }

    /// Whether this one keeps the request away longer than `other`. A missing lease may come at once.
    pub(super) fn outlasts(&self, other: &Self) -> bool {
        if self.leases.is_empty() != other.leases.is_empty() {
            return self.leases.is_empty();
        }
        match (self.retry_after_ns, other.retry_after_ns) {
            (None, Some(_)) => true,
            (Some(mine), Some(theirs)) => mine > theirs,
            (_, None) => false,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} `{}` allows {} {} per {}{} and has {} left, {} asked for; ",
            if self.leased { "budget" } else { "limit" },
            self.name,
            self.capacity,
            self.kind.unit(),
            self.scope.as_str(),
            if self.leased { " and period" } else { "" },
            self.remaining,
            self.requested,
        )?;
        match self.retry_after_ns {
            Some(ns) => write!(f, "retry in {} ms", ns.div_ceil(1_000_000)),
            None => f.write_str("this can never fit, ask for less"),
        }
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::spec::tests::definition;
    use super::*;

    #[test]
    fn a_message_says_what_and_what_to_do() {
        let spec = LimitSpec::new(definition(Kind::Tokens, 100, 60)).unwrap();
        let never = Refused::new(&spec, 500, 90);
        assert_eq!(
            never.to_string(),
            "limit `test` allows 100 tokens per user and has 10 left, 500 asked for; this can \
             never fit, ask for less"
        );
        let later = Refused { retry_after_ns: Some(1_500_000), ..never.clone() };
        assert!(later.to_string().ends_with("retry in 2 ms"));
        assert!(never.outlasts(&later) && !later.outlasts(&never));
        assert_eq!(never.slug(), "limit_tokens_exceeded");
    }
}
