//! Owns one bucket: the five ways to count behind one face, and the move from one to another.
//! Must not know: keys, tables, locks.
//! On failure: cannot fail; every sum saturates towards "used".

use super::concurrency::Concurrency;
use super::fixed::Fixed;
use super::leased::{Leased, LeasedRule};
use super::refused::CONCURRENCY_RETRY_NS;
use super::sliding::{SLOTS, Sliding};
use super::spec::{Algorithm, Kind, LimitDefinition};
use super::token_bucket::TokenBucket;

/// What a limit's definition means to a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Concurrency { capacity: u64 },
    Sliding { capacity: u64, slot_ns: u64 },
    Fixed { capacity: u64, window_ns: u64 },
    TokenBucket { capacity: u64, window_ns: u64, burst: u64 },
    Leased(LeasedRule),
}

// === impl Rule ===

impl Rule {
    pub fn of(definition: &LimitDefinition) -> Self {
        let LimitDefinition { capacity, window_ns, .. } = *definition;
        match (definition.kind, definition.algorithm) {
            (Kind::Concurrency, _) => Self::Concurrency { capacity },
            (_, Algorithm::SlidingWindow) => Self::Sliding {
                capacity,
                // Rounded up, so that the slots cover the whole window.
                slot_ns: window_ns.div_ceil(SLOTS - 1).max(1),
            },
            (_, Algorithm::FixedWindow) => Self::Fixed { capacity, window_ns: window_ns.max(1) },
            (_, Algorithm::Leased { enforcement }) => {
                Self::Leased(LeasedRule { capacity, ends_ns: 0, enforcement })
            }
            (_, Algorithm::TokenBucket { burst }) => {
                Self::TokenBucket { capacity: capacity.max(1), window_ns: window_ns.max(1), burst }
            }
        }
    }

    /// The most that may be taken at once.
    pub fn limit(self) -> u64 {
        match self {
            Self::Concurrency { capacity }
            | Self::Sliding { capacity, .. }
            | Self::Fixed { capacity, .. }
            | Self::Leased(LeasedRule { capacity, .. }) => capacity,
            Self::TokenBucket { burst, .. } => burst,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Cell {
    Concurrency(Concurrency),
    Sliding(Sliding),
    Fixed(Fixed),
    TokenBucket(TokenBucket),
    Leased(Leased),
}

// === impl Cell ===

impl Cell {
    pub fn fresh(rule: Rule, now_ns: u64) -> Self {
        match rule {
            Rule::Concurrency { .. } => Self::Concurrency(Concurrency::default()),
            Rule::Sliding { slot_ns, .. } => Self::Sliding(Sliding::new(slot_ns, now_ns)),
            Rule::Fixed { window_ns, .. } => Self::Fixed(Fixed::new(window_ns, now_ns)),
            Rule::TokenBucket { capacity, window_ns, .. } => {
                Self::TokenBucket(TokenBucket::new(capacity, window_ns, now_ns))
            }
            Rule::Leased(rule) => Self::Leased(Leased::new(rule)),
        }
    }

    /// The bucket of a value that may have been charged in this shared one before: as used as this
    /// is. Concurrency alone starts empty and shadowed, since its slots are freed here.
    pub fn inherit(&self, now_ns: u64) -> Self {
        match self {
            Self::Concurrency(_) => Self::Concurrency(Concurrency { in_use: 0, shadowed: true }),
            Self::Sliding(_) | Self::Fixed(_) | Self::Leased(_) => self.clone(),
            Self::TokenBucket(cell) => {
                // A refund of the value's own former bucket would take from what others put here.
                let mut cell = cell.clone();
                cell.refuse_older_refunds(now_ns);
                Self::TokenBucket(cell)
            }
        }
    }

    /// Brings the bucket to `now_ns` and under `rule`. What was used under another rule counts as
    /// used now: a changed definition may hold someone back for one window, but refills nobody.
    pub fn advance(&mut self, rule: Rule, now_ns: u64) {
        self.pass_time(now_ns);
        if !self.is_under(rule) {
            let used = self.used();
            *self = Self::fresh(rule, now_ns);
            self.charge(used);
            return;
        }
        match (self, rule) {
            (Self::TokenBucket(cell), Rule::TokenBucket { capacity, .. }) => cell.set_capacity(capacity),
            (Self::Leased(cell), Rule::Leased(rule)) => cell.come_under(rule),
            _ => {}
        }
    }

    /// Lets time pass under the bucket's own rule.
    pub fn pass_time(&mut self, now_ns: u64) {
        match self {
            Self::Concurrency(_) | Self::Leased(_) => {}
            Self::Sliding(cell) => cell.advance(now_ns),
            Self::Fixed(cell) => cell.advance(now_ns),
            Self::TokenBucket(cell) => cell.advance(now_ns),
        }
    }

    /// Whether it counts the way `rule` does; capacity and burst may differ.
    pub fn is_under(&self, rule: Rule) -> bool {
        match (self, rule) {
            (Self::Concurrency(_), Rule::Concurrency { .. }) | (Self::Leased(_), Rule::Leased(_)) => true,
            (Self::Sliding(cell), Rule::Sliding { slot_ns, .. }) => slot_ns == cell.slot_ns(),
            (Self::Fixed(cell), Rule::Fixed { window_ns, .. }) => window_ns == cell.window_ns(),
            (Self::TokenBucket(cell), Rule::TokenBucket { window_ns, .. }) => window_ns == cell.window_ns(),
            _ => false,
        }
    }

    /// What counts as used, rounded up, as of the last `advance`. Of a budget: what is not there.
    pub fn used(&self) -> u64 {
        match self {
            Self::Concurrency(cell) => cell.in_use,
            Self::Sliding(cell) => cell.used(),
            Self::Fixed(cell) => cell.used(),
            Self::TokenBucket(cell) => cell.used(),
            Self::Leased(cell) => cell.unavailable(),
        }
    }

    pub fn charge(&mut self, amount: u64) {
        match self {
            Self::Concurrency(cell) => cell.in_use = cell.in_use.saturating_add(amount),
            Self::Sliding(cell) => cell.charge(amount),
            Self::Fixed(cell) => cell.charge(amount),
            Self::TokenBucket(cell) => cell.charge(amount),
            Self::Leased(cell) => cell.charge(amount),
        }
    }

    /// Takes back a charge made in the same critical section, as if it had not happened.
    pub fn undo(&mut self, amount: u64) {
        match self {
            Self::Concurrency(cell) => cell.in_use = cell.in_use.saturating_sub(amount),
            Self::Sliding(cell) => cell.undo(amount),
            Self::Fixed(cell) => cell.undo(amount),
            Self::TokenBucket(cell) => cell.undo(amount),
            Self::Leased(cell) => cell.refund(amount),
        }
    }

    /// Gives back part of an earlier charge, never more than what still counts of it.
    pub fn refund(&mut self, charged_ns: u64, amount: u64) {
        match self {
            Self::Concurrency(cell) => cell.in_use = cell.in_use.saturating_sub(amount),
            Self::Sliding(cell) => cell.refund(charged_ns, amount),
            Self::Fixed(cell) => cell.refund(charged_ns, amount),
            Self::TokenBucket(cell) => cell.refund(charged_ns, amount),
            Self::Leased(cell) => cell.refund(amount),
        }
    }

    /// When `amount` fits if nobody else comes; `None` if it never does.
    pub fn retry_after_ns(&self, rule: Rule, amount: u64, now_ns: u64) -> Option<u64> {
        let limit = rule.limit();
        if amount > limit {
            return None;
        }
        Some(match self {
            Self::Concurrency(_) => CONCURRENCY_RETRY_NS,
            Self::Sliding(cell) => cell.retry_after_ns(limit - amount, now_ns),
            Self::Fixed(cell) => cell.reset_ns(now_ns),
            Self::TokenBucket(cell) => cell.retry_after_ns(limit - amount),
            Self::Leased(cell) => cell.reset_ns(now_ns),
        })
    }

    /// Until the bucket is as good as new, if nothing more is taken.
    #[inline]
    pub fn reset_ns(&self, now_ns: u64) -> u64 {
        match self {
            Self::Concurrency(_) => 0,
            Self::Sliding(cell) => cell.reset_ns(now_ns),
            Self::Fixed(cell) if cell.used() == 0 => 0,
            Self::Fixed(cell) => cell.reset_ns(now_ns),
            Self::TokenBucket(cell) => cell.retry_after_ns(0),
            Self::Leased(cell) => cell.reset_ns(now_ns),
        }
    }

    /// Whether a fresh bucket would be no better: the only thing that may be forgotten.
    pub fn is_idle(&self, now_ns: u64) -> bool {
        match self {
            Self::Concurrency(cell) => cell.in_use == 0,
            Self::Sliding(cell) => cell.is_idle(now_ns),
            Self::Fixed(cell) => cell.is_idle(now_ns),
            Self::TokenBucket(cell) => cell.is_idle(now_ns),
            Self::Leased(cell) => cell.is_idle(now_ns),
        }
    }
}
