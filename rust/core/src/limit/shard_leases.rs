//! Owns a shard's leased buckets: taking, granting, and that they are never shared or made too late.
//! Must not know: who asks the store, what else is claimed.
//! On failure: closed for hard budgets; a soft one that has no place goes on uncounted here, and is counted as
//! overflowed.

use super::cell::{Cell, Rule};
use super::lease::{Granted, LeaseStanding};
use super::leased::{LeaseState, Leased, LeasedRule, Shortfall};
use super::refused::UNKNOWN_RETRY_NS;
use super::shard::{Address, NoRoom, Shard, Standing};
use super::spec::Enforcement;

/// Why a leased claim has no bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// It is gone and its period is over: a new one could take back what the former one gave.
    Ended,
    /// The table is full of what may not be forgotten.
    Full,
}

// === impl Shard ===

impl Shard {
    /// Charges `amount` if the lease has room for it, or if the budget is soft.
    pub(super) fn take_leased(
        &mut self,
        address: Address,
        rule: LeasedRule,
        amount: u64,
    ) -> Result<(Standing, Option<LeaseState>), (NoRoom, Option<Shortfall>)> {
        let now_ns = self.now_ns();
        let missing = match self.leased(address, rule) {
            Ok(cell) => {
                let taken = cell.take(rule.enforcement, amount);
                let standing = Standing { used: cell.unavailable(), overflowed: false };
                let until_end_ns = rule.ends_ns.saturating_sub(now_ns);
                let retry_after_ns = (amount <= rule.capacity).then_some(until_end_ns);
                return taken
                    .map(|lease| (standing, Some(lease)))
                    .map_err(|short| (NoRoom { standing, retry_after_ns }, short));
            }
            Err(missing) => missing,
        };
        let overflowed = missing == Missing::Full;
        self.overflowed += u64::from(overflowed);
        if rule.enforcement == Enforcement::Soft {
            // Held like a claim on a bucket that is gone: no later step finds another one.
            return Ok((Standing { used: 0, overflowed }, None));
        }
        let standing = Standing { used: rule.capacity, overflowed };
        // Whoever asks for an ended one is told so, and comes back with the next period.
        let short = (!overflowed).then_some(Shortfall { missing: amount, granted: 0, used: 0 });
        Err((NoRoom { standing, retry_after_ns: Some(UNKNOWN_RETRY_NS) }, short))
    }

    pub(super) fn owe_leased(&mut self, address: Address, rule: LeasedRule, amount: u64) {
        if let Ok(cell) = self.leased(address, rule) {
            cell.charge(amount);
        }
    }

    pub(super) fn grant(&mut self, address: Address, amount: u64, left: u64) -> Granted {
        let Rule::Leased(rule) = address.rule else { return Granted::NoPlace };
        if self.now_ns() >= rule.ends_ns {
            return Granted::Ended;
        }
        match self.leased(address, rule) {
            Ok(cell) => {
                cell.grant(amount, left);
                Granted::Kept
            }
            Err(Missing::Ended) => Granted::Ended,
            Err(Missing::Full) => Granted::NoPlace,
        }
    }

    pub(super) fn begin_asking(&mut self, address: Address) -> bool {
        let Rule::Leased(rule) = address.rule else { return false };
        self.leased(address, rule).is_ok_and(Leased::begin_asking)
    }

    pub(super) fn stop_asking(&mut self, address: Address) {
        if let Some(Cell::Leased(cell)) = self.existing(address, false) {
            cell.stop_asking();
        }
    }

    pub(super) fn leases(&self, now_ns: u64, standings: &mut Vec<LeaseStanding>) {
        let now_ns = now_ns.max(self.now_ns());
        standings.extend(self.cells().filter_map(|(key, cell)| match cell {
            Cell::Leased(cell) => Some(LeaseStanding {
                key,
                granted: cell.granted(),
                used: cell.used(),
                left: cell.left(),
                ended: cell.has_ended(now_ns),
            }),
            _ => None,
        }));
    }

    /// The claim's own bucket, found or made; never the one that newcomers share.
    fn leased(&mut self, address: Address, rule: LeasedRule) -> Result<&mut Leased, Missing> {
        let ended = self.now_ns() >= rule.ends_ns;
        let cell = if ended {
            self.existing(address, false).ok_or(Missing::Ended)?
        } else {
            self.own(address).ok_or(Missing::Full)?
        };
        match cell {
            Cell::Leased(cell) => {
                cell.come_under(rule);
                Ok(cell)
            }
            // No other kind of bucket has a leased identity.
            _ => Err(Missing::Full),
        }
    }
}
