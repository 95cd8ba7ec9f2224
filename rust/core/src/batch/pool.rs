//! Owns: how much may wait for a pool, how much does, and which bound a request would break.
//! Must not know: lanes, order.
//! On failure: closed; above a bound a request is refused at once and nothing that waits is disturbed.

use std::sync::Arc;

use ahash::AHashMap;

use super::{BatchError, Checked, Priority, QueueUnit, Tenant};

/// What may wait for one pool.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most rows that may wait for one pool, such as 16,384
    pub max_rows: u64,
    /// Most tokens (rows times length, unpadded) that may wait for one pool, such as 4,194,304
    pub max_tokens: u64,
    /// Most bytes that may wait for one pool, such as 268,435,456
    pub max_bytes: u64,
}

/// What waits for one pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolLoad {
    /// Requests
    pub requests: u64,
    /// Their rows
    pub rows: u64,
    /// Their tokens, unpadded
    pub tokens: u64,
    /// Their bytes
    pub bytes: u64,
    /// When the oldest of them came; `None`: nothing waits
    pub oldest_ns: Option<u64>,
    /// How long until all of that would have run, as far as latency is known; 0: unknown
    pub drain_ns: u64,
}

// === impl Bounds ===

impl Bounds {
    /// Refuses what an empty queue could not hold: waiting would not help it.
    pub fn hold(&self, checked: &Checked) -> Result<(), BatchError> {
        let units = [
            (QueueUnit::Rows, checked.rows, self.max_rows),
            (QueueUnit::Tokens, checked.tokens(), self.max_tokens),
            (QueueUnit::Bytes, checked.bytes, self.max_bytes),
        ];
        match units.into_iter().find(|(_, given, max)| given > max) {
            Some((unit, given, max)) => Err(BatchError::LargerThanQueue { unit, given, max }),
            None => Ok(()),
        }
    }

    /// What a class may fill: a flood of a lower one leaves room for those above it, an eighth to P0 and P1 together and
    /// a sixteenth to P0 alone.
    pub(super) fn of(self, priority: Priority) -> Self {
        let share = |max: u64| match priority {
            Priority::P0 => max,
            Priority::P1 => max - max / 16,
            Priority::P2 => max - max / 8,
        };
        Self {
            max_rows: share(self.max_rows),
            max_tokens: share(self.max_tokens),
            max_bytes: share(self.max_bytes),
        }
    }
}

/// What waits for one pool, in all and of each tenant.
#[derive(Debug, Default)]
pub(super) struct Pool {
    load: PoolLoad,
    tenants: AHashMap<Arc<str>, Own>,
    /// Of the tenants that wait
    weights: u64,
}

/// What waits of one tenant.
#[derive(Debug, Default)]
struct Own {
    requests: u64,
    rows: u64,
    tokens: u64,
    bytes: u64,
    weight: u64,
}

// === impl Pool ===

impl Pool {
    /// Counts a request in, if it keeps the bounds of its class and, once half of that waits, its tenant's share beside
    /// the others that wait. A tenant of which nothing waits may use all that there is, so that no flood keeps it out.
    pub(super) fn add(
        &mut self,
        pool: &Arc<str>,
        checked: &Checked,
        tenant: &Tenant,
        bounds: Bounds,
        priority: Priority,
    ) -> Result<(), BatchError> {
        bounds.hold(checked)?;
        let none = Own::default();
        let own = self.tenants.get(&tenant.name).unwrap_or(&none);
        let is_new = own.requests == 0;
        let bounds = bounds.of(if is_new { Priority::P0 } else { priority });
        let units = [
            (QueueUnit::Rows, self.load.rows, own.rows, checked.rows, bounds.max_rows),
            (QueueUnit::Tokens, self.load.tokens, own.tokens, checked.tokens(), bounds.max_tokens),
            (QueueUnit::Bytes, self.load.bytes, own.bytes, checked.bytes, bounds.max_bytes),
        ];
        let weight = u64::from(tenant.weight.max(1));
        for (unit, waiting, own, given, max) in units {
            let full = |waiting, max| BatchError::QueueFull { pool: Arc::clone(pool), unit, waiting, max };
            if waiting.saturating_add(given) > max {
                return Err(full(waiting, max));
            }
            let share = u128::from(max) * u128::from(weight) / u128::from(self.weights.max(weight));
            let is_above = u128::from(own.saturating_add(given)) > share;
            if !is_new && is_above && waiting.saturating_add(given) > max / 2 {
                return Err(full(own, u64::try_from(share).unwrap_or(max)));
            }
        }
        let own = self.tenants.entry(Arc::clone(&tenant.name)).or_default();
        if own.requests == 0 {
            own.weight = weight;
            self.weights = self.weights.saturating_add(weight);
        }
        own.requests += 1;
        own.rows += checked.rows;
        own.tokens += checked.tokens();
        own.bytes += checked.bytes;
        self.load.requests += 1;
        self.load.rows += checked.rows;
        self.load.tokens += checked.tokens();
        self.load.bytes += checked.bytes;
        Ok(())
    }

    /// Counts a request out.
    pub(super) fn take(&mut self, checked: &Checked, tenant: &str) {
        let load = &mut self.load;
        load.requests = load.requests.saturating_sub(1);
        load.rows = load.rows.saturating_sub(checked.rows);
        load.tokens = load.tokens.saturating_sub(checked.tokens());
        load.bytes = load.bytes.saturating_sub(checked.bytes);
        let Some(own) = self.tenants.get_mut(tenant) else { return };
        own.requests = own.requests.saturating_sub(1);
        own.rows = own.rows.saturating_sub(checked.rows);
        own.tokens = own.tokens.saturating_sub(checked.tokens());
        own.bytes = own.bytes.saturating_sub(checked.bytes);
        if own.requests == 0 {
            self.weights = self.weights.saturating_sub(own.weight);
            self.tenants.remove(tenant);
        }
    }

    /// What waits in all.
    pub(super) fn load(&self) -> PoolLoad {
        self.load
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::batch::property::{bytes_model, bytes_request};

    const BOUNDS: Bounds = Bounds { max_rows: 64, max_tokens: 1 << 20, max_bytes: 1 << 20 };

    const BOUNDS_OF_8: Bounds = Bounds { max_rows: 8, ..BOUNDS };

    fn request_of(rows: u64) -> Checked {
        bytes_request(&bytes_model(8), rows, 1)
    }

    fn push(pool: &mut Pool, tenant: &str, weight: u32) -> Result<(), BatchError> {
        let tenant = Tenant { name: tenant.into(), weight };
        pool.add(&"pool".into(), &request_of(1), &tenant, BOUNDS, Priority::P1)
    }

    fn fill(pool: &mut Pool, tenant: &str, weight: u32) -> usize {
        (0..100).take_while(|_| push(pool, tenant, weight).is_ok()).count()
    }

    #[test]
    fn a_tenant_alone_may_use_all_and_beside_others_its_share() {
        let mut pool = Pool::default();
        assert_eq!(fill(&mut pool, "flood", 1), 60);
        assert!(push(&mut pool, "other", 1).is_ok(), "who waits with nothing gets in");
        assert!(push(&mut pool, "other", 1).is_err());
        for _ in 0..20 {
            pool.take(&request_of(1), "flood");
        }
        assert!(push(&mut pool, "flood", 1).is_err(), "40 are above its half");
        assert_eq!(fill(&mut pool, "other", 1), 19);
        for _ in 0..40 {
            pool.take(&request_of(1), "flood");
        }
        assert_eq!(fill(&mut pool, "heavy", 3), 40, "what is left, which is below three quarters");
        for _ in 0..20 {
            pool.take(&request_of(1), "other");
        }
        assert_eq!(pool.load().rows, 40);
        assert_eq!(pool.weights, 3);
    }

    #[test]
    fn what_only_the_whole_queue_could_hold_may_come_again_and_what_is_larger_may_not() {
        let mut pool = Pool::default();
        let tenant = Tenant { name: "t".into(), weight: 1 };
        let mut add = |rows| pool.add(&"pool".into(), &request_of(rows), &tenant, BOUNDS_OF_8, Priority::P2);
        assert!(add(1).is_ok());
        assert_eq!(add(8).unwrap_err().slug(), "batch_queue_full");
        assert_eq!(add(9).unwrap_err().slug(), "batch_larger_than_queue");
    }

    #[test]
    fn a_flood_of_a_lower_class_leaves_room_above_it() {
        let bounds = Bounds { max_rows: 64, max_tokens: 1600, max_bytes: 8 };
        let of = |priority| {
            let Bounds { max_rows, max_tokens, max_bytes } = bounds.of(priority);
            (max_rows, max_tokens, max_bytes)
        };
        assert_eq!(of(Priority::P0), (64, 1600, 8));
        assert_eq!(of(Priority::P1), (60, 1500, 8));
        assert_eq!(of(Priority::P2), (56, 1400, 7));
    }
}
