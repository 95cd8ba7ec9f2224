//! Owns: whose turn it is inside one priority: tenants by what they were served for their weight, a tenant's requests
//! by deadline, and the exception for a request that would be late.
//! Must not know: models, batches; service is told in padded tokens.
//! On failure: not applicable.
//!
//! The rule, and its bounds. Every tenant has a count of served tokens divided by its weight; the least one is next.
//! Between two tenants that always wait, the counts differ by at most one batch each. A tenant that comes back starts at
//! the present: the count that a tenant has by now that always waited. So it neither saves up nor pays for being away,
//! and since the present moves with every batch, those that come new cannot keep back one that waits. Inside a tenant
//! the earliest deadline is next, and a request counts as due `PATIENCE_NS` after it came at the latest: only those that
//! came less than that behind it can overtake it. A request that is late unless it goes now goes first, as long as its
//! tenant is at most `AHEAD_TOKENS` ahead of its share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap;

/// However far the deadline is, a request counts as due after this.
const PATIENCE_NS: u64 = 30_000_000_000;
/// How far ahead of its share, for weight 1, a tenant may get by requests that would be late.
const AHEAD_TOKENS: u64 = 32_768;
/// Parts of a token that service is counted in, so that a large weight still counts.
const TOKEN_PARTS: u64 = 1024;
/// Tenants that are remembered beyond those that wait.
const IDLE_TENANTS: usize = 64;
/// Requests that may be late which are looked at for one that may go first.
const LATE_LOOKS: usize = 8;

/// Where a request stands among those of its tenant: by when it is due, then by when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub due_ns: u64,
    pub number: u64,
}

/// The tenants of one priority of a lane.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    tenants: AHashMap<Arc<str>, TenantQueue>,
    /// Those that wait, by what they were served
    turns: BTreeSet<(u64, Arc<str>)>,
    places: BTreeMap<Place, Arc<str>>,
    /// Weight of those that wait
    weight: u64,
    /// What one has been served by now that always waited
    present: u64,
}

#[derive(Debug)]
struct TenantQueue {
    served: u64,
    weight: u64,
    places: BTreeSet<Place>,
}

// === impl Place ===

impl Place {
    pub(super) fn new(deadline_ns: u64, since_ns: u64, number: u64) -> Self {
        Self { due_ns: deadline_ns.min(since_ns.saturating_add(PATIENCE_NS)), number }
    }
}

// === impl FairQueue ===

impl FairQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    pub(super) fn push(&mut self, tenant: &Arc<str>, weight: u32, place: Place) {
        let present = self.present;
        let fresh = || TenantQueue { served: present, weight: 1, places: BTreeSet::new() };
        let queue = self.tenants.entry(Arc::clone(tenant)).or_insert_with(fresh);
        if queue.places.is_empty() {
            queue.served = queue.served.max(present);
            self.turns.insert((queue.served, Arc::clone(tenant)));
        } else {
            self.weight -= queue.weight;
        }
        queue.weight = u64::from(weight.max(1));
        self.weight += queue.weight;
        queue.places.insert(place);
        self.places.insert(place, Arc::clone(tenant));
    }

    pub(super) fn remove(&mut self, tenant: &Arc<str>, place: Place) {
        let Some(queue) = self.tenants.get_mut(tenant) else { return };
        if !queue.places.remove(&place) {
            return;
        }
        self.places.remove(&place);
        if queue.places.is_empty() {
            self.weight -= queue.weight;
            self.turns.remove(&(queue.served, Arc::clone(tenant)));
            self.forget();
        }
    }

    /// Forgets tenants that are not ahead; and when nobody waits, all of them: then nobody was kept back.
    fn forget(&mut self) {
        let present = self.present;
        if self.turns.is_empty() {
            self.present = self.tenants.values().map(|queue| queue.served).fold(present, u64::max);
            self.tenants.clear();
        } else if self.tenants.len() > 2 * self.turns.len() + IDLE_TENANTS {
            self.tenants.retain(|_, queue| !queue.places.is_empty() || queue.served > present);
        }
    }

    /// Counts service of a tenant.
    pub(super) fn charge(&mut self, tenant: &Arc<str>, tokens: u64) {
        let Some(queue) = self.tenants.get_mut(tenant) else { return };
        let before = queue.served;
        let parts = (tokens.saturating_mul(TOKEN_PARTS) / queue.weight).max(1);
        queue.served = before.saturating_add(parts);
        if !queue.places.is_empty() {
            self.turns.remove(&(before, Arc::clone(tenant)));
            self.turns.insert((queue.served, Arc::clone(tenant)));
        }
    }

    /// What a tenant was served for its weight.
    pub(super) fn served(&self, tenant: &Arc<str>) -> u64 {
        self.tenants.get(tenant).map_or(self.present, |queue| queue.served)
    }

    /// Who is next: one that is late unless it goes now, which is those due in `late`; otherwise the one in turn.
    pub(super) fn head(&self, late: std::ops::Range<u64>) -> Option<Place> {
        let (least, tenant) = self.turns.first()?;
        let may_lead = |tenant: &Arc<str>| {
            let ahead = |queue: &TenantQueue| {
                queue.served.saturating_sub(*least) <= AHEAD_TOKENS * TOKEN_PARTS / queue.weight
            };
            self.tenants.get(tenant).is_some_and(ahead)
        };
        if !late.is_empty() {
            let at = |due_ns| Place { due_ns, number: 0 };
            let mut due = self.places.range(at(late.start)..at(late.end)).take(LATE_LOOKS);
            if let Some((&place, _)) = due.find(|(_, tenant)| may_lead(tenant)) {
                return Some(place);
            }
        }
        self.tenants.get(tenant)?.places.first().copied()
    }

    /// So many tokens of this priority leave, and the present moves on.
    pub(super) fn pass(&mut self, tokens: u64) {
        let least = self.turns.first().map_or(0, |(served, _)| *served);
        let parts = tokens.saturating_mul(TOKEN_PARTS) / self.weight.max(1);
        self.present = self.present.saturating_add(parts).max(least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY_LATE: std::ops::Range<u64> = 0..0;

    fn queue(tenants: &[(&str, u32, usize)]) -> FairQueue {
        let mut queue = FairQueue::default();
        let mut number = 0;
        for &(tenant, weight, requests) in tenants {
            for _ in 0..requests {
                queue.push(&tenant.into(), weight, Place::new(1_000_000, 0, number));
                number += 1;
            }
        }
        queue
    }

    fn serve(queue: &mut FairQueue, tokens: u64) -> Option<Arc<str>> {
        let place = queue.head(NOBODY_LATE)?;
        let tenant = queue.places.get(&place).cloned()?;
        queue.pass(tokens);
        queue.charge(&tenant, tokens);
        queue.remove(&tenant, place);
        Some(tenant)
    }

    #[test]
    fn weights_share_the_service() {
        let mut queue = queue(&[("one", 1, 300), ("three", 3, 300)]);
        let served =
            (0..200).filter_map(|_| serve(&mut queue, 10)).filter(|tenant| **tenant == *"three").count();
        assert!((148..=152).contains(&served), "{served}");
    }

    #[test]
    fn one_that_comes_back_starts_at_the_present() {
        let mut queue = queue(&[("busy", 1, 300)]);
        for _ in 0..100 {
            serve(&mut queue, 10);
        }
        for number in 1000..1100 {
            queue.push(&"late".into(), 1, Place::new(1_000_000, 0, number));
        }
        let served =
            (0..100).filter_map(|_| serve(&mut queue, 10)).filter(|tenant| **tenant == *"late").count();
        assert!((49..=52).contains(&served), "{served}");
    }

    #[test]
    fn new_tenants_without_end_do_not_keep_one_back() {
        let mut queue = queue(&[("old", 1, 2)]);
        queue.charge(&"old".into(), 100);
        let mut batches = 0;
        while queue.places.values().any(|tenant| **tenant == *"old") {
            let new: Arc<str> = batches.to_string().into();
            queue.push(&new, 1, Place::new(1_000_000, 0, 1000 + batches));
            serve(&mut queue, 10);
            batches += 1;
            assert!(batches < 50);
        }
    }

    #[test]
    fn the_earliest_deadline_of_a_tenant_is_next_and_patience_ends() {
        let mut queue = FairQueue::default();
        let tenant: Arc<str> = "a".into();
        queue.push(&tenant, 1, Place::new(u64::MAX, 0, 1));
        queue.push(&tenant, 1, Place::new(PATIENCE_NS - 1, 0, 2));
        queue.push(&tenant, 1, Place::new(PATIENCE_NS + 1, 1, 3));
        let order: Vec<u64> = std::iter::from_fn(|| {
            let place = queue.head(NOBODY_LATE)?;
            queue.remove(&tenant, place);
            Some(place.number)
        })
        .collect();
        assert_eq!(order, [2, 1, 3]);
    }

    #[test]
    fn one_that_would_be_late_goes_first_unless_its_tenant_had_its_share() {
        let mut queue = queue(&[("a", 1, 1)]);
        queue.push(&"b".into(), 1, Place::new(500, 0, 7));
        queue.charge(&"b".into(), AHEAD_TOKENS);
        assert_eq!(queue.head(400..600).map(|place| place.number), Some(7));
        assert_eq!(queue.head(501..600).map(|place| place.number), Some(0));
        queue.charge(&"b".into(), 1);
        assert_eq!(queue.head(400..600).map(|place| place.number), Some(0));
    }

    #[test]
    fn tenants_that_left_are_forgotten() {
        let mut queue = FairQueue::default();
        for number in 0..1000 {
            let tenant: Arc<str> = number.to_string().into();
            queue.push(&tenant, 1, Place::new(0, 0, number));
            assert_eq!(serve(&mut queue, 1), Some(tenant));
        }
        assert!(queue.tenants.len() <= 2 * IDLE_TENANTS + 2, "{}", queue.tenants.len());
    }
}
