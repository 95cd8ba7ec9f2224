//! Owns what was invalidated lately, so that an answer computed before an invalidation is not stored after it.
//! Must not know entries beyond the labels that a selector matches.
//! On failure: a fill that began before the log's memory is refused: a lost hit, never a stale answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::entry::Entry;

/// Invalidations remembered. A fill lasts seconds, so that this is more than falls into one.
const MAX_REMEMBERED: usize = 1024;

/// Which entries an invalidation removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// Those that carry the tag.
    Tag(Arc<str>),
    /// Those of a model, of one revision or of all.
    Model {
        /// The model.
        model: Arc<str>,
        /// The revision; `None` for all.
        revision: Option<Arc<str>>,
    },
    /// Those of a tenant.
    Tenant(Arc<str>),
    /// All.
    All,
}

/// When a fill began, in invalidations. Taken before the look-up that missed, handed in with the store.
///
/// Valid in the process and for the cache that gave it; the number may cross a process boundary and come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillTicket(pub u64);

/// The log.
#[derive(Debug, Default)]
pub(super) struct Invalidations {
    /// The number of the last invalidation; also readable without the lock.
    epoch: AtomicU64,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// Tickets below this are older than what is remembered.
    floor: u64,
    log: VecDeque<(u64, Selector)>,
}

// === impl Selector ===

impl Selector {
    pub(super) fn matches(&self, entry: &Entry) -> bool {
        match self {
            Self::Tag(tag) => entry.tags.contains(tag),
            Self::Model { model, revision } => {
                entry.model == *model && revision.as_ref().is_none_or(|revision| entry.revision == *revision)
            }
            Self::Tenant(tenant) => entry.tenant == *tenant,
            Self::All => true,
        }
    }
}

// === impl Invalidations ===

impl Invalidations {
    /// A ticket for a fill that begins now.
    pub(super) fn ticket(&self) -> FillTicket {
        FillTicket(self.epoch.load(Ordering::Acquire))
    }

    /// Remembers an invalidation. Called before entries are removed: a store that is checked before this call is
    /// done before the removal, one that is checked after it is refused.
    pub(super) fn record(&self, selector: Selector) {
        let mut recent = self.recent.lock();
        let epoch = self.epoch.load(Ordering::Relaxed) + 1;
        if selector == Selector::All {
            recent.log.clear();
            recent.floor = epoch;
        } else {
            recent.log.retain(|(_, known)| *known != selector);
            if recent.log.len() == MAX_REMEMBERED
                && let Some((forgotten, _)) = recent.log.pop_front()
            {
                recent.floor = forgotten;
            }
            recent.log.push_back((epoch, selector));
        }
        self.epoch.store(epoch, Ordering::Release);
    }

    /// True if `entry`, computed since `ticket`, was invalidated meanwhile.
    pub(super) fn covers(&self, ticket: FillTicket, entry: &Entry) -> bool {
        if ticket == self.ticket() {
            return false;
        }
        let recent = self.recent.lock();
        // A ticket from the future is not of this cache.
        ticket.0 < recent.floor
            || ticket.0 > self.epoch.load(Ordering::Relaxed)
            || recent.log.iter().rev().take_while(|(at, _)| *at > ticket.0).any(|(_, s)| s.matches(entry))
    }
}
