//! Owns counting in aligned windows: `[n × window, (n + 1) × window)` of the caller's clock.
//! Must not know: capacity, keys.
//! On failure: cannot fail; a clock that steps back stays in the later window.

#[derive(Debug, Clone)]
pub(super) struct Fixed {
    window_ns: u64,
    /// Number of the window that `used` belongs to.
    window: u64,
    used: u64,
}

// === impl Fixed ===

impl Fixed {
    pub fn new(window_ns: u64, now_ns: u64) -> Self {
        Self { window_ns, window: now_ns / window_ns, used: 0 }
    }

    pub fn window_ns(&self) -> u64 {
        self.window_ns
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    pub fn advance(&mut self, now_ns: u64) {
        let window = now_ns / self.window_ns;
        if window > self.window {
            self.window = window;
            self.used = 0;
        }
    }

    pub fn charge(&mut self, amount: u64) {
        self.used = self.used.saturating_add(amount);
    }

    pub fn undo(&mut self, amount: u64) {
        self.used = self.used.saturating_sub(amount);
    }

    /// A refund into a window that is over has nothing left to give back.
    pub fn refund(&mut self, charged_ns: u64, amount: u64) {
        if charged_ns / self.window_ns == self.window {
            self.undo(amount);
        }
    }

    pub fn reset_ns(&self, now_ns: u64) -> u64 {
        self.window.saturating_add(1).saturating_mul(self.window_ns).saturating_sub(now_ns)
    }

    pub fn is_idle(&self, now_ns: u64) -> bool {
        self.used == 0 || now_ns / self.window_ns > self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_aligned_and_never_reopen() {
        let mut cell = Fixed::new(10, 5);
        cell.charge(4);
        cell.advance(9);
        assert_eq!((cell.used(), cell.reset_ns(9)), (4, 1));
        cell.advance(10);
        assert_eq!(cell.used(), 0);
        cell.charge(3);
        cell.advance(7);
        assert_eq!(cell.used(), 3);
    }

    #[test]
    fn a_refund_stays_in_its_window() {
        let mut cell = Fixed::new(10, 5);
        cell.charge(4);
        cell.refund(5, 1);
        assert_eq!(cell.used(), 3);
        cell.advance(12);
        cell.charge(4);
        cell.refund(5, 3);
        assert_eq!(cell.used(), 4);
        assert!(!cell.is_idle(19) && cell.is_idle(20));
    }
}
