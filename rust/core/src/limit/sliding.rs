//! Owns counting in a window that slides: a ring of slots, of which the oldest counts in full.
//! Must not know: capacity, keys.
//! On failure: cannot fail; what is in doubt counts as used.
//!
//! A window of fifteen slots touches at most sixteen. All sixteen of the ring are summed, so
//! whatever happened within one window of now is in the sum: never over-admitting is exact, and
//! the price is that capacity comes back up to one slot late.

/// Slots in the ring; the window is one less.
pub(super) const SLOTS: u64 = 16;

#[derive(Debug, Clone)]
pub(super) struct Sliding {
    slot_ns: u64,
    /// Number of the newest slot; slot `n` lives at `n % SLOTS`.
    head: u64,
    /// Always the exact sum of `slots`.
    total: u64,
    slots: [u64; SLOTS as usize],
}

fn place(slot: u64) -> usize {
    (slot % SLOTS) as usize
}

// === impl Sliding ===

impl Sliding {
    pub fn new(slot_ns: u64, now_ns: u64) -> Self {
        Self { slot_ns, head: now_ns / slot_ns, total: 0, slots: [0; SLOTS as usize] }
    }

    pub fn slot_ns(&self) -> u64 {
        self.slot_ns
    }

    pub fn used(&self) -> u64 {
        self.total
    }

    pub fn advance(&mut self, now_ns: u64) {
        let slot = now_ns / self.slot_ns;
        let passed = slot.saturating_sub(self.head);
        if passed == 0 {
            return;
        }
        for step in 1..=passed.min(SLOTS) {
            let gone = std::mem::take(&mut self.slots[place(self.head.wrapping_add(step))]);
            self.total -= gone;
        }
        self.head = slot;
    }

    pub fn charge(&mut self, amount: u64) {
        // Clamped to what the sum can hold, so that it stays the exact sum.
        let amount = amount.min(u64::MAX - self.total);
        self.total += amount;
        self.slots[place(self.head)] += amount;
    }

    pub fn undo(&mut self, amount: u64) {
        self.take_from(self.head, amount);
    }

    /// Gives back into the slot that was charged; a slot that has left the ring gave all back.
    pub fn refund(&mut self, charged_ns: u64, amount: u64) {
        let slot = charged_ns / self.slot_ns;
        if slot <= self.head && self.head - slot < SLOTS {
            self.take_from(slot, amount);
        }
    }

    fn take_from(&mut self, slot: u64, amount: u64) {
        let count = &mut self.slots[place(slot)];
        let amount = amount.min(*count);
        *count -= amount;
        self.total -= amount;
    }

    /// Until no more than `room` is used.
    pub fn retry_after_ns(&self, room: u64, now_ns: u64) -> u64 {
        let mut left = self.total;
        let mut slot = self.head.saturating_sub(SLOTS - 1);
        while slot < self.head {
            left -= self.slots[place(slot)];
            if left <= room {
                break;
            }
            slot += 1;
        }
        self.leaves_at_ns(slot).saturating_sub(now_ns)
    }

    pub fn reset_ns(&self, now_ns: u64) -> u64 {
        if self.total == 0 {
            return 0;
        }
        self.retry_after_ns(0, now_ns)
    }

    pub fn is_idle(&self, now_ns: u64) -> bool {
        self.total == 0 || (now_ns / self.slot_ns).saturating_sub(self.head) >= SLOTS
    }

    fn leaves_at_ns(&self, slot: u64) -> u64 {
        slot.saturating_add(SLOTS).saturating_mul(self.slot_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_within_a_window_counts() {
        // 15 slots of 2 ns: a window of 30 ns.
        let mut cell = Sliding::new(2, 1);
        cell.charge(5);
        cell.advance(31);
        assert_eq!(cell.used(), 5, "30 ns later it still counts");
        cell.advance(32);
        assert_eq!(cell.used(), 0, "the slot has left");
    }

    #[test]
    fn refunds_go_where_the_charge_was() {
        let mut cell = Sliding::new(2, 0);
        cell.charge(10);
        cell.advance(4);
        cell.charge(7);
        cell.refund(0, 4);
        assert_eq!(cell.used(), 13);
        cell.advance(32);
        assert_eq!(cell.used(), 7, "the first slot left with its remaining 6");
        cell.refund(0, 6);
        assert_eq!(cell.used(), 7, "nothing of it counts any more");
    }

    #[test]
    fn retry_is_when_it_fits_and_not_before() {
        let mut cell = Sliding::new(10, 0);
        cell.charge(6);
        cell.advance(50);
        cell.charge(4);
        // Room for 4 more of 10 needs 6 used at most: the first slot leaves at 160.
        assert_eq!(cell.retry_after_ns(6, 50), 110);
        assert_eq!(cell.reset_ns(50), 160);
        let mut before = cell.clone();
        before.advance(159);
        assert_eq!(before.used(), 10);
        before.advance(160);
        assert_eq!(before.used(), 4);
    }

    #[test]
    fn the_clock_may_step_back_or_leap() {
        let mut cell = Sliding::new(1, 100);
        cell.charge(3);
        cell.advance(10);
        assert_eq!(cell.used(), 3);
        cell.advance(u64::MAX);
        assert_eq!(cell.used(), 0);
        cell.charge(u64::MAX);
        cell.charge(1);
        assert_eq!(cell.used(), u64::MAX);
        assert!(!cell.is_idle(0));
        assert_eq!(cell.reset_ns(u64::MAX), 0);
    }
}
