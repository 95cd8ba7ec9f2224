//! Owns the count of bytes that all captures together hold.
//! Must not know what the bytes are.
//! On failure: refuses; the answer is then not stored, and the client notices nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bound over all captures in flight, shared between them.
#[derive(Debug)]
pub struct CaptureBudget {
    max_bytes: usize,
    held_bytes: AtomicUsize,
}

/// What one capture holds of the budget; given back when dropped.
#[derive(Debug)]
pub struct Hold {
    budget: Arc<CaptureBudget>,
    bytes: usize,
}

// === impl CaptureBudget ===

impl CaptureBudget {
    /// A budget of `max_bytes` over all captures, for example 67,108,864 for 64 MiB.
    pub fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_bytes, held_bytes: AtomicUsize::new(0) })
    }

    /// An empty hold on this budget.
    pub fn hold(self: &Arc<Self>) -> Hold {
        Hold { budget: Arc::clone(self), bytes: 0 }
    }

    /// What all holds have taken.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }
}

// === impl Hold ===

impl Hold {
    /// Grows to `bytes` in all, or refuses and stays as it was. Never shrinks.
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return true;
        };
        let taken = self.budget.held_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(more).filter(|sum| *sum <= self.budget.max_bytes)
        });
        if taken.is_ok() {
            self.bytes = bytes;
        }
        taken.is_ok()
    }

    /// Gives everything back.
    pub fn release(&mut self) {
        self.budget.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_over_all_holds_and_a_drop_gives_back() {
        let budget = CaptureBudget::new(100);
        let mut a = budget.hold();
        let mut b = budget.hold();
        assert!(a.grow_to(60));
        assert!(!b.grow_to(41));
        assert!(b.grow_to(40));
        assert_eq!(budget.held_bytes(), 100);
        drop(a);
        assert_eq!(budget.held_bytes(), 40);
        assert!(b.grow_to(100));
        assert!(!b.grow_to(usize::MAX));
        b.release();
        assert_eq!(budget.held_bytes(), 0);
    }
}
