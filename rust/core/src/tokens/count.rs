//! Owns: the result of counting: tokens, how far off they may be, and whether that is certain.
//! Must not know: how it was counted.
//! On failure: cannot fail; sums saturate.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// Tokens of a prompt. A reservation takes `tokens + margin_tokens`, a report shows `tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Count {
    /// The best number that the rules give
    pub tokens: u64,
    /// By how much the true number may be higher
    pub margin_tokens: u64,
    /// Whether every part was counted by a published vocabulary and a published rule
    pub exact: bool,
}

// === impl Count ===

impl Count {
    /// A number that a published rule gives.
    pub const fn exact(tokens: u64) -> Self {
        Self { tokens, margin_tokens: 0, exact: true }
    }

    /// A number that may be too low by `margin_tokens`.
    pub const fn estimate(tokens: u64, margin_tokens: u64) -> Self {
        Self { tokens, margin_tokens, exact: false }
    }

    /// The number that a reservation takes.
    pub const fn bound_tokens(self) -> u64 {
        self.tokens.saturating_add(self.margin_tokens)
    }
}

/// No tokens, and certain of it.
impl Default for Count {
    fn default() -> Self {
        Self::exact(0)
    }
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            margin_tokens: self.margin_tokens.saturating_add(other.margin_tokens),
            exact: self.exact && other.exact,
        }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_exact_only_if_all_of_it_is() {
        assert_eq!([Count::exact(2), Count::exact(3)].into_iter().sum::<Count>(), Count::exact(5));
        let sum = Count::exact(2) + Count::estimate(3, 4);
        assert_eq!((sum, sum.bound_tokens()), (Count::estimate(5, 4), 9));
        assert_eq!(Count::exact(u64::MAX) + Count::exact(1), Count::exact(u64::MAX));
    }
}
