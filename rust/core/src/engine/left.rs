//! Owns: requests by Envoy's own name for them: those whose clients went away before Envoy had our decision, and those
//! that were decided by headers alone, of which nothing else tells that.
//! Must not know: why it matters.
//! On failure: when it is full the oldest is forgotten, and that request is charged its bound.

use std::collections::{HashMap, HashSet, VecDeque};

use parking_lot::Mutex;

/// Such requests that are remembered.
const MAX_LEFT: usize = 65_536;

/// The names, each for a while.
#[derive(Debug, Default)]
pub(super) struct Left {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    names: HashSet<u128>,
    /// The same, oldest first, with the time until which each is kept
    order: VecDeque<(u64, u128)>,
}

// === impl Left ===

impl Left {
    /// Remembers a request until then. 0 is no name.
    pub fn insert(&self, envoy_id: u128, until_ns: u64, now_ns: u64) {
        if envoy_id == 0 {
            return;
        }
        let mut inner = self.inner.lock();
        while inner.order.front().is_some_and(|(until, _)| *until < now_ns) || inner.order.len() >= MAX_LEFT {
            let Some((_, old)) = inner.order.pop_front() else { break };
            inner.names.remove(&old);
        }
        if inner.names.insert(envoy_id) {
            inner.order.push_back((until_ns, envoy_id));
        }
    }

    /// Whether the request is one of them.
    pub fn has(&self, envoy_id: u128) -> bool {
        envoy_id != 0 && self.inner.lock().names.contains(&envoy_id)
    }
}

/// Open requests that were decided by headers alone: their reservations' ids. As many as there are reservations.
#[derive(Debug, Default)]
pub(super) struct Unread {
    ids: Mutex<HashMap<u128, u128, ahash::RandomState>>,
}

// === impl Unread ===

impl Unread {
    /// Remembers a request. 0 is no name.
    pub fn insert(&self, envoy_id: u128, id: u128) {
        if envoy_id != 0 {
            self.ids.lock().insert(envoy_id, id);
        }
    }

    /// Forgets a request, and gives its id.
    pub fn remove(&self, envoy_id: u128) -> Option<u128> {
        self.ids.lock().remove(&envoy_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_for_its_time_and_zero_is_none() {
        let left = Left::default();
        left.insert(7, 100, 0);
        left.insert(7, 100, 50);
        left.insert(0, 100, 0);
        assert!(left.has(7) && !left.has(0) && !left.has(8));
        left.insert(8, 300, 101);
        assert!(!left.has(7) && left.has(8));
    }

    #[test]
    fn the_oldest_is_forgotten_where_there_is_no_room() {
        let left = Left::default();
        for name in 1..=MAX_LEFT as u128 + 1 {
            left.insert(name, u64::MAX, 0);
        }
        assert!(!left.has(1) && left.has(2) && left.has(MAX_LEFT as u128 + 1));
    }
}
