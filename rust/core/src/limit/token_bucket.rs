//! Owns the bucket that fills by what is taken and drains continuously.
//! Must not know: burst, keys.
//! On failure: cannot fail; what is in doubt counts as used.
//!
//! The level is kept in tokens × ns of window, so draining is `elapsed × capacity`: integers
//! without a remainder to lose.
//!
//! A refund must not give back what has drained already: the level afterwards may not be lower
//! than if the smaller amount had been charged at the start. The gap between the two levels
//! shrinks only while the lower one is empty, so it is at least `refund − drained since`, and at
//! least as large as the refund where the level never fell below it since. Two low-water marks
//! over recent spans answer the second.

#[derive(Debug, Clone, Copy)]
struct LowMark {
    since_ns: u64,
    level: u128,
}

#[derive(Debug, Clone)]
pub(super) struct TokenBucket {
    capacity: u64,
    window_ns: u64,
    /// Tokens × `window_ns`.
    level: u128,
    last_ns: u64,
    /// Charges from before then were made under another capacity, or in another bucket, and are
    /// not refunded.
    refundable_since_ns: u64,
    recent: LowMark,
    earlier: LowMark,
}

/// A low-water mark covers an eighth of the window before the next one begins.
const MARKS_PER_WINDOW: u64 = 8;

// === impl TokenBucket ===

impl TokenBucket {
    pub fn new(capacity: u64, window_ns: u64, now_ns: u64) -> Self {
        let mark = LowMark { since_ns: now_ns, level: 0 };
        Self {
            capacity,
            window_ns,
            level: 0,
            last_ns: now_ns,
            refundable_since_ns: now_ns,
            recent: mark,
            earlier: mark,
        }
    }

    pub fn window_ns(&self) -> u64 {
        self.window_ns
    }

    /// Changes how fast it drains from now on; what is in it stays.
    pub fn set_capacity(&mut self, capacity: u64) {
        if capacity != self.capacity {
            self.capacity = capacity;
            self.refuse_older_refunds(self.last_ns);
        }
    }

    /// Gives nothing back for charges made before then.
    pub fn refuse_older_refunds(&mut self, then_ns: u64) {
        self.refundable_since_ns = then_ns;
    }

    pub fn used(&self) -> u64 {
        u64::try_from(self.level.div_ceil(u128::from(self.window_ns))).unwrap_or(u64::MAX)
    }

    pub fn advance(&mut self, now_ns: u64) {
        if now_ns > self.last_ns {
            self.level = self.level_at(now_ns);
            self.last_ns = now_ns;
        }
        self.mark();
    }

    pub fn charge(&mut self, amount: u64) {
        self.level = self.level.saturating_add(self.scaled(amount));
    }

    pub fn undo(&mut self, amount: u64) {
        self.level = self.level.saturating_sub(self.scaled(amount));
    }

    pub fn refund(&mut self, charged_ns: u64, amount: u64) {
        if charged_ns < self.refundable_since_ns {
            return;
        }
        let scaled = self.scaled(amount);
        let undrained = scaled.saturating_sub(self.drained_since(charged_ns));
        let never_below = scaled.min(self.lowest_since(charged_ns));
        self.level = self.level.saturating_sub(undrained.max(never_below));
        self.mark();
    }

    /// Until no more than `room` is in it.
    pub fn retry_after_ns(&self, room: u64) -> u64 {
        let surplus = self.level.saturating_sub(self.scaled(room));
        u64::try_from(surplus.div_ceil(u128::from(self.capacity))).unwrap_or(u64::MAX)
    }

    pub fn is_idle(&self, now_ns: u64) -> bool {
        self.level_at(now_ns) == 0
    }

    fn level_at(&self, now_ns: u64) -> u128 {
        let drained = u128::from(now_ns.saturating_sub(self.last_ns)) * u128::from(self.capacity);
        self.level.saturating_sub(drained)
    }

    fn drained_since(&self, then_ns: u64) -> u128 {
        u128::from(self.last_ns.saturating_sub(then_ns)) * u128::from(self.capacity)
    }

    fn scaled(&self, amount: u64) -> u128 {
        u128::from(amount) * u128::from(self.window_ns)
    }

    fn mark(&mut self) {
        self.recent.level = self.recent.level.min(self.level);
        if self.last_ns - self.recent.since_ns >= self.window_ns.div_ceil(MARKS_PER_WINDOW) {
            self.earlier = self.recent;
            self.recent = LowMark { since_ns: self.last_ns, level: self.level };
        }
    }

    /// A lower bound of every level since then; 0 where the marks do not reach back.
    fn lowest_since(&self, then_ns: u64) -> u128 {
        if then_ns >= self.recent.since_ns {
            self.recent.level
        } else if then_ns >= self.earlier.since_ns {
            self.recent.level.min(self.earlier.level)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_drains_exactly() {
        // 3 tokens in 10 ns.
        let mut cell = TokenBucket::new(3, 10, 0);
        cell.charge(3);
        assert_eq!(cell.retry_after_ns(0), 10);
        for now_ns in 1..=10 {
            cell.advance(now_ns);
            assert_eq!(cell.used(), (3 * (10 - now_ns)).div_ceil(10));
        }
        assert!(cell.is_idle(10));
    }

    #[test]
    fn a_refund_gives_back_nothing_that_drained() {
        // 1 token a ns. Reserved 100 at 0, of which 50 drained; really 10 were used.
        let mut cell = TokenBucket::new(1_000, 1_000, 0);
        cell.charge(100);
        cell.advance(50);
        cell.charge(50);
        assert_eq!(cell.used(), 100);
        // Charged as 10 from the start it would hold 50 now, not 10.
        cell.refund(0, 90);
        assert_eq!(cell.used(), 60);
    }

    #[test]
    fn a_busy_bucket_gives_all_back() {
        let mut cell = TokenBucket::new(1_000, 1_000, 0);
        cell.charge(2_000);
        for now_ns in [200, 400, 600] {
            cell.advance(now_ns);
        }
        cell.charge(500);
        cell.advance(700);
        assert_eq!(cell.used(), 1_800);
        cell.refund(600, 400);
        assert_eq!(cell.used(), 1_400, "it never fell below 400, so all of it still counts");
    }

    #[test]
    fn a_changed_capacity_keeps_the_level_and_voids_old_refunds() {
        let mut cell = TokenBucket::new(10, 100, 0);
        cell.charge(10);
        cell.advance(50);
        cell.set_capacity(1);
        assert_eq!(cell.used(), 5);
        cell.refund(0, 10);
        assert_eq!(cell.used(), 5);
        assert_eq!(cell.retry_after_ns(0), 500);
    }

    #[test]
    fn extremes_saturate() {
        let mut cell = TokenBucket::new(u64::MAX, u64::MAX, 0);
        cell.charge(u64::MAX);
        cell.charge(u64::MAX);
        assert_eq!(cell.used(), u64::MAX);
        cell.advance(u64::MAX);
        cell.advance(3);
        assert_eq!(cell.retry_after_ns(u64::MAX), 0);
    }
}
