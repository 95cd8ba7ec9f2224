//! Owns a timing wheel: values with a time to go off, each removable by its handle.
//! Must not know: what the values are, locks.
//! On failure: cannot fail; a time that is over goes off at the next turn.
//!
//! A time goes off once its tick is complete: never early, at most one tick late. Times further
//! ahead than the wheel is round stay in their place and are passed by once a round.

/// Places on the wheel. With a tick of one second, a round is 17 minutes.
const PLACES: u64 = 1024;
const NONE: u32 = u32::MAX;

/// What handles can tell apart.
pub(super) const MAX_VALUES: usize = NONE as usize;

#[derive(Debug)]
struct Node<V> {
    due_ns: u64,
    place: u32,
    previous: u32,
    next: u32,
    /// `None` on the free list.
    value: Option<V>,
}

#[derive(Debug)]
pub(super) struct Wheel<V> {
    tick_ns: u64,
    /// The next tick to look at.
    cursor: u64,
    first: Box<[u32]>,
    nodes: Vec<Node<V>>,
    free: u32,
}

// === impl Wheel ===

impl<V> Wheel<V> {
    pub fn new(tick_ns: u64) -> Self {
        Self {
            tick_ns: tick_ns.max(1),
            cursor: 0,
            first: vec![NONE; PLACES as usize].into(),
            nodes: Vec::new(),
            free: NONE,
        }
    }

    /// Adds a value; the handle is good until the value is out. The caller keeps fewer than
    /// [`MAX_VALUES`] at once.
    pub fn insert(&mut self, due_ns: u64, value: V) -> u32 {
        // A tick that the cursor has passed would be seen a whole round later.
        let tick = (due_ns / self.tick_ns).max(self.cursor);
        let place = (tick % PLACES) as u32;
        let next = self.first[place as usize];
        let node = Node { due_ns, place, previous: NONE, next, value: Some(value) };
        let handle = if let Some(slot) = self.nodes.get_mut(self.free as usize) {
            let handle = self.free;
            self.free = slot.next;
            *slot = node;
            handle
        } else {
            let handle = self.nodes.len() as u32;
            self.nodes.push(node);
            handle
        };
        if let Some(second) = self.nodes.get_mut(next as usize) {
            second.previous = handle;
        }
        self.first[place as usize] = handle;
        handle
    }

    pub fn get_mut(&mut self, handle: u32) -> Option<&mut V> {
        self.nodes.get_mut(handle as usize)?.value.as_mut()
    }

    pub fn remove(&mut self, handle: u32) -> Option<V> {
        let node = self.nodes.get_mut(handle as usize)?;
        let value = node.value.take()?;
        let (previous, next, place) = (node.previous, node.next, node.place);
        node.next = self.free;
        self.free = handle;
        match self.nodes.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => self.first[place as usize] = next,
        }
        if let Some(after) = self.nodes.get_mut(next as usize) {
            after.previous = previous;
        }
        Some(value)
    }

    /// Takes out what is due, at most `max`; the rest comes with the next call.
    pub fn expire(&mut self, now_ns: u64, max: usize, mut out: impl FnMut(V)) -> usize {
        let until = now_ns / self.tick_ns;
        // After a long pause one round sees every place.
        self.cursor = self.cursor.max(until.saturating_sub(PLACES));
        let mut taken = 0;
        while self.cursor < until {
            let mut handle = self.first[(self.cursor % PLACES) as usize];
            while let Some(node) = self.nodes.get(handle as usize) {
                if taken == max {
                    return taken;
                }
                let (due, next) = (node.due_ns <= now_ns, node.next);
                if due && let Some(value) = self.remove(handle) {
                    out(value);
                    taken += 1;
                }
                handle = next;
            }
            self.cursor += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn expired(wheel: &mut Wheel<u64>, now_ns: u64, max: usize) -> Vec<u64> {
        let mut out = Vec::new();
        wheel.expire(now_ns, max, |value| out.push(value));
        out.sort_unstable();
        out
    }

    #[test]
    fn never_early_and_at_most_a_tick_late() {
        let mut wheel = Wheel::new(10);
        wheel.insert(15, 1);
        assert!(expired(&mut wheel, 14, 9).is_empty());
        assert!(expired(&mut wheel, 19, 9).is_empty());
        assert_eq!(expired(&mut wheel, 25, 9), [1]);
    }

    #[test]
    fn removed_values_do_not_go_off() {
        let mut wheel = Wheel::new(10);
        let handles: Vec<u32> = (0..3).map(|v| wheel.insert(15, v)).collect();
        assert_eq!(wheel.remove(handles[1]), Some(1));
        assert_eq!(wheel.remove(handles[1]), None);
        assert_eq!(wheel.insert(15, 7), handles[1], "its place is used again");
        assert_eq!(expired(&mut wheel, 20, 9), [0, 2, 7]);
    }

    #[test]
    fn far_and_past_times_are_kept() {
        let mut wheel = Wheel::new(1);
        wheel.insert(PLACES * 3 + 5, 1);
        assert!(expired(&mut wheel, PLACES + 50, 9).is_empty());
        wheel.insert(3, 2);
        assert!(expired(&mut wheel, PLACES + 50, 9).is_empty(), "its tick is being looked at");
        assert_eq!(expired(&mut wheel, PLACES + 51, 9), [2]);
        assert!(expired(&mut wheel, PLACES * 3 + 4, 9).is_empty());
        assert_eq!(expired(&mut wheel, PLACES * 40, 9), [1]);
        assert!(expired(&mut wheel, u64::MAX, 9).is_empty());
    }

    #[test]
    fn at_most_max_at_once() {
        let mut wheel = Wheel::new(1);
        for value in 0..5 {
            wheel.insert(value, value);
        }
        assert_eq!(expired(&mut wheel, 100, 2).len(), 2);
        assert_eq!(expired(&mut wheel, 100, 2).len(), 2);
        assert_eq!(expired(&mut wheel, 100, 2).len(), 1);
    }
}
