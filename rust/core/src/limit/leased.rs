//! Owns counting against what was leased: one period's share of a budget that this process may spend.
//! Must not know: the store that leases, other processes, keys.
//! On failure: closed; what is not known to be granted is not there.
//!
//! ```text
//! capacity = elsewhere (drawn by others, or by an earlier process) + granted (drawn by us) + left
//! granted >= used (reserved and spent), except for what was spent above its reservation
//! ```

use super::spec::Enforcement;

/// What a budget's definition and the period of a claim mean to its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeasedRule {
    pub capacity: u64,
    /// 0 in a definition: only a claim knows its period.
    pub ends_ns: u64,
    pub enforcement: Enforcement,
}

#[derive(Debug, Clone)]
pub(super) struct Leased {
    granted: u64,
    used: u64,
    /// What the store could still give. `None`: not known, or not under this capacity.
    left: Option<u64>,
    /// What `left` is a part of.
    capacity: u64,
    /// What others have drawn, as far as known: a lowered capacity is met with it.
    elsewhere: u64,
    ends_ns: u64,
    asked: bool,
}

/// How a lease stands just after a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeaseState {
    pub left: u64,
    pub short_by: u64,
    /// The store may have more, and nobody is asking for it.
    pub may_grow: bool,
    pub over: bool,
}

/// The lease is too small, and the store may have more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shortfall {
    pub missing: u64,
    pub granted: u64,
    pub used: u64,
}

// === impl Leased ===

impl Leased {
    pub fn new(rule: LeasedRule) -> Self {
        Self {
            granted: 0,
            used: 0,
            left: None,
            capacity: rule.capacity,
            elsewhere: 0,
            ends_ns: rule.ends_ns,
            asked: false,
        }
    }

    pub fn granted(&self) -> u64 {
        self.granted
    }

    /// What is reserved or spent of `granted`.
    pub fn used(&self) -> u64 {
        self.used
    }

    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Another capacity: what the store could still give is not known until it says so again.
    pub fn come_under(&mut self, rule: LeasedRule) {
        if rule.capacity != self.capacity {
            self.capacity = rule.capacity;
            self.left = None;
        }
        // Two claims of one period may put its end a little apart; the later one forgets nothing early.
        self.ends_ns = self.ends_ns.max(rule.ends_ns);
    }

    /// What is not there for anyone: spent, reserved, or drawn elsewhere. The rest of the capacity remains.
    pub fn unavailable(&self) -> u64 {
        let ours = self.capacity.saturating_sub(self.elsewhere);
        let reach = self.left.map_or(ours, |left| self.granted.saturating_add(left).min(ours));
        self.capacity - reach.saturating_sub(self.used)
    }

    /// Charges `amount` where it fits, or where nothing has to. `Err(None)`: the store has no more.
    pub fn take(&mut self, enforcement: Enforcement, amount: u64) -> Result<LeaseState, Option<Shortfall>> {
        if enforcement == Enforcement::Hard {
            let Some(wanted) = self.used.checked_add(amount).filter(|wanted| *wanted <= self.capacity) else {
                return Err(None);
            };
            let ceiling = self.capacity.saturating_sub(self.elsewhere);
            if wanted > self.granted.min(ceiling) {
                let missing = wanted.saturating_sub(self.granted);
                let worth_asking = missing > 0 && self.left != Some(0);
                let short = Shortfall { missing, granted: self.granted, used: self.used };
                return Err(worth_asking.then_some(short));
            }
        }
        self.charge(amount);
        Ok(self.state())
    }

    fn state(&self) -> LeaseState {
        let spent_up = self.left == Some(0);
        LeaseState {
            left: self.granted.saturating_sub(self.used),
            short_by: self.used.saturating_sub(self.granted),
            may_grow: !spent_up && !self.asked,
            over: spent_up && self.used > self.granted,
        }
    }

    /// The store gave `amount` and could still give `left`.
    pub fn grant(&mut self, amount: u64, left: u64) {
        self.asked = false;
        self.granted = self.granted.saturating_add(amount);
        self.left = Some(left);
        let elsewhere = self.capacity.saturating_sub(left).saturating_sub(self.granted);
        // With nothing left, more may have been drawn than a lowered capacity can show.
        self.elsewhere = if left == 0 { self.elsewhere.max(elsewhere) } else { elsewhere };
    }

    /// Whether the caller is the one who asks the store. Until `grant` or `stop_asking` nobody else is.
    pub fn begin_asking(&mut self) -> bool {
        !std::mem::replace(&mut self.asked, true)
    }

    pub fn stop_asking(&mut self) {
        self.asked = false;
    }

    pub fn charge(&mut self, amount: u64) {
        self.used = self.used.saturating_add(amount);
    }

    pub fn refund(&mut self, amount: u64) {
        self.used = self.used.saturating_sub(amount);
    }

    pub fn reset_ns(&self, now_ns: u64) -> u64 {
        if self.unavailable() == 0 { 0 } else { self.ends_ns.saturating_sub(now_ns) }
    }

    pub fn has_ended(&self, now_ns: u64) -> bool {
        now_ns >= self.ends_ns
    }

    /// A lease that is forgotten within its period would be stranded, and what was spent drawn again.
    pub fn is_idle(&self, now_ns: u64) -> bool {
        self.has_ended(now_ns) || (self.used == 0 && self.granted == 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn rule(capacity: u64) -> LeasedRule {
        LeasedRule { capacity, ends_ns: 1_000, enforcement: Enforcement::Hard }
    }

    #[test]
    fn nothing_is_there_until_it_is_granted() {
        let mut cell = Leased::new(rule(100));
        assert_eq!(cell.unavailable(), 0, "for all that is known");
        let short = cell.take(Enforcement::Hard, 30).unwrap_err();
        assert_eq!(short, Some(Shortfall { missing: 30, granted: 0, used: 0 }));
        cell.grant(40, 20);
        assert_eq!(cell.unavailable(), 40, "drawn elsewhere");
        let state = cell.take(Enforcement::Hard, 30).unwrap();
        assert_eq!((state.left, state.short_by, state.may_grow), (10, 0, true));
        let short = cell.take(Enforcement::Hard, 25).unwrap_err().unwrap();
        assert_eq!((short.missing, short.granted, short.used), (15, 40, 30));
        cell.grant(20, 0);
        assert!(cell.take(Enforcement::Hard, 25).is_ok());
        assert_eq!(cell.take(Enforcement::Hard, 6), Err(None));
        assert_eq!(cell.unavailable(), 95);
    }

    #[test]
    fn what_was_spent_above_its_reservation_is_made_good_first() {
        let mut cell = Leased::new(rule(100));
        cell.grant(10, 90);
        cell.take(Enforcement::Hard, 10).unwrap();
        cell.charge(15);
        let short = cell.take(Enforcement::Hard, 5).unwrap_err().unwrap();
        assert_eq!(short.missing, 20);
        assert_eq!(cell.take(Enforcement::Hard, 76), Err(None), "more than the budget will ever have");
    }

    #[test]
    fn a_soft_budget_says_when_it_is_over() {
        let mut cell = Leased::new(rule(10));
        let state = cell.take(Enforcement::Soft, 8).unwrap();
        assert_eq!((state.short_by, state.may_grow, state.over), (8, true, false));
        cell.grant(10, 0);
        assert!(!cell.take(Enforcement::Soft, 2).unwrap().over);
        assert!(cell.take(Enforcement::Soft, 1).unwrap().over);
        assert_eq!(cell.unavailable(), 10);
    }

    #[test]
    fn a_changed_capacity_holds_at_once_and_asks_again() {
        let mut cell = Leased::new(rule(100));
        cell.grant(50, 20);
        cell.take(Enforcement::Hard, 15).unwrap();
        cell.come_under(rule(60));
        // 30 were drawn elsewhere: 30 of the 60 can be ours.
        assert_eq!(cell.unavailable(), 45);
        assert!(cell.take(Enforcement::Hard, 15).is_ok());
        assert_eq!(cell.take(Enforcement::Hard, 1), Err(None));
        cell.grant(0, 0);
        assert_eq!(cell.take(Enforcement::Hard, 1), Err(None));
        cell.come_under(rule(200));
        assert!(cell.take(Enforcement::Hard, 20).is_ok());
        assert_eq!(cell.take(Enforcement::Hard, 10).unwrap_err().unwrap().missing, 10);
    }

    #[test]
    fn one_asks_until_it_is_answered() {
        let mut cell = Leased::new(rule(100));
        assert!(cell.begin_asking() && !cell.begin_asking());
        assert!(!cell.take(Enforcement::Soft, 1).unwrap().may_grow);
        cell.stop_asking();
        assert!(cell.begin_asking());
        cell.grant(5, 95);
        assert!(cell.begin_asking());
    }

    #[test]
    fn a_lease_is_forgotten_when_its_period_is_over() {
        let mut cell = Leased::new(rule(100));
        assert!(cell.is_idle(0));
        cell.grant(1, 99);
        assert!(!cell.is_idle(999) && cell.is_idle(1_000));
        cell.come_under(LeasedRule { ends_ns: 1_005, ..rule(100) });
        cell.come_under(rule(100));
        assert!(!cell.is_idle(1_004) && cell.is_idle(1_005));
    }
}
