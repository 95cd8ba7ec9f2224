//! Owns the nodes of one shard and the two queues that they stand in.
//! Must not know when a node is evicted.
//! On failure: an index that is not a node's is ignored.

use std::sync::Arc;

use super::entry::Entry;
use super::key::CacheKey;

/// No node.
const NIL: u32 = u32::MAX;

/// The two queues of S3-FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// New ones, on probation.
    Small = 0,
    /// Those that were asked for again.
    Main = 1,
}

/// One entry in a queue.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) key: CacheKey,
    pub(super) entry: Arc<Entry>,
    pub(super) cost_bytes: usize,
    /// How often it was asked for since it last moved, up to 3.
    pub(super) asked: u8,
    pub(super) lane: Lane,
    newer: u32,
    older: u32,
}

/// Head (newest), tail (oldest) and size of a queue.
#[derive(Clone, Copy, Debug)]
struct Ends {
    newest: u32,
    oldest: u32,
    bytes: usize,
}

/// Nodes in a slab, linked into two queues by index.
#[derive(Debug)]
pub(super) struct Queues {
    slots: Vec<Option<Node>>,
    free: Vec<u32>,
    lanes: [Ends; 2],
}

// === impl Queues ===

impl Queues {
    /// Empty queues.
    pub(super) fn new() -> Self {
        let empty = Ends { newest: NIL, oldest: NIL, bytes: 0 };
        Self { slots: Vec::new(), free: Vec::new(), lanes: [empty; 2] }
    }

    /// What a node costs beside its entry: its slot and free index, in vectors that grow by doubling.
    pub(super) const NODE_BYTES: usize = 2 * (size_of::<Option<Node>>() + size_of::<u32>());

    pub(super) fn get(&self, at: u32) -> Option<&Node> {
        self.slots.get(at as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, at: u32) -> Option<&mut Node> {
        self.slots.get_mut(at as usize)?.as_mut()
    }

    pub(super) fn bytes(&self, lane: Lane) -> usize {
        self.lanes[lane as usize].bytes
    }

    pub(super) fn oldest(&self, lane: Lane) -> Option<u32> {
        Some(self.lanes[lane as usize].oldest).filter(|at| *at != NIL)
    }

    /// Indices of all nodes.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(at, _)| at as u32)
    }

    /// Adds a node as the newest of `lane`.
    pub(super) fn insert(&mut self, lane: Lane, key: CacheKey, entry: Arc<Entry>, cost_bytes: usize) -> u32 {
        let node = Node { key, entry, cost_bytes, asked: 0, lane, newer: NIL, older: NIL };
        let at = if let Some(at) = self.free.pop() {
            self.slots[at as usize] = Some(node);
            at
        } else {
            self.slots.push(Some(node));
            (self.slots.len() - 1) as u32
        };
        self.link(at, lane);
        at
    }

    /// Removes a node.
    pub(super) fn remove(&mut self, at: u32) -> Option<Node> {
        self.unlink(at);
        let node = self.slots.get_mut(at as usize)?.take()?;
        self.free.push(at);
        Some(node)
    }

    /// Makes a node the newest of `lane`.
    pub(super) fn requeue(&mut self, at: u32, lane: Lane) {
        self.unlink(at);
        self.link(at, lane);
    }

    /// Changes what a node costs.
    pub(super) fn set_cost(&mut self, at: u32, cost_bytes: usize) {
        if let Some(node) = self.get_mut(at) {
            let before = std::mem::replace(&mut node.cost_bytes, cost_bytes);
            let ends = node.lane as usize;
            self.lanes[ends].bytes = self.lanes[ends].bytes - before + cost_bytes;
        }
    }

    fn link(&mut self, at: u32, lane: Lane) {
        let newest = self.lanes[lane as usize].newest;
        let Some(node) = self.get_mut(at) else { return };
        node.lane = lane;
        node.newer = NIL;
        node.older = newest;
        let cost_bytes = node.cost_bytes;
        if let Some(next) = self.get_mut(newest) {
            next.newer = at;
        }
        let ends = &mut self.lanes[lane as usize];
        ends.newest = at;
        if ends.oldest == NIL {
            ends.oldest = at;
        }
        ends.bytes += cost_bytes;
    }

    fn unlink(&mut self, at: u32) {
        let Some(node) = self.get(at) else { return };
        let (newer, older, lane, cost_bytes) = (node.newer, node.older, node.lane as usize, node.cost_bytes);
        match self.get_mut(newer) {
            Some(node) => node.older = older,
            None => self.lanes[lane].newest = older,
        }
        match self.get_mut(older) {
            Some(node) => node.newer = newer,
            None => self.lanes[lane].oldest = newer,
        }
        self.lanes[lane].bytes -= cost_bytes;
    }
}
