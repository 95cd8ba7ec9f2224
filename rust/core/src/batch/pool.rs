//! Owns: how much may wait for a pool, how much does, and which bound a request would break.
//! Must not know: lanes, order.
//! On failure: closed; above a bound a request is refused at once and nothing that waits is disturbed.

use std::sync::Arc;

use super::{BatchError, Checked, Priority, QueueUnit};

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

// === impl PoolLoad ===

impl PoolLoad {
    /// Counts a request in, if it keeps its class's bounds.
    pub(super) fn add(
        &mut self,
        pool: &Arc<str>,
        checked: &Checked,
        bounds: Bounds,
    ) -> Result<(), BatchError> {
        let units = [
            (QueueUnit::Rows, self.rows, checked.rows, bounds.max_rows),
            (QueueUnit::Tokens, self.tokens, checked.tokens(), bounds.max_tokens),
            (QueueUnit::Bytes, self.bytes, checked.bytes, bounds.max_bytes),
        ];
        for (unit, _, given, max) in units {
            if given > max {
                return Err(BatchError::LargerThanQueue { unit, given, max });
            }
        }
        for (unit, waiting, given, max) in units {
            if waiting.saturating_add(given) > max {
                return Err(BatchError::QueueFull { pool: Arc::clone(pool), unit, waiting, max });
            }
        }
        self.requests += 1;
        self.rows += checked.rows;
        self.tokens += checked.tokens();
        self.bytes += checked.bytes;
        Ok(())
    }

    /// Counts a request out.
    pub(super) fn take(&mut self, checked: &Checked) {
        self.requests = self.requests.saturating_sub(1);
        self.rows = self.rows.saturating_sub(checked.rows);
        self.tokens = self.tokens.saturating_sub(checked.tokens());
        self.bytes = self.bytes.saturating_sub(checked.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
