//! Owns the promises about leased budgets, tried with arbitrary histories beside a store of plain numbers.
//! Must not know: how a leased bucket counts.
//! On failure: proptest prints the smallest history that breaks a promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::spec::tests::definition;
use super::{
    Algorithm, Claim, ClaimPeriod, Enforcement, Granted, HashKey, Held, Kind, LimitDefinition, LimitSpec,
    Limiter, LimiterConfig, Scope, ScopeValue,
};

const KEY: HashKey = HashKey::new([3; 32]);
const PERIOD_NS: u64 = 1_000;

fn user(number: u8) -> ScopeValue {
    ScopeValue::new(&KEY, "acme", Scope::User, &number.to_string())
}

fn budget(name: &str, kind: Kind, capacity: u64, enforcement: Enforcement) -> LimitSpec {
    LimitSpec::new(LimitDefinition {
        name: name.into(),
        algorithm: Algorithm::Leased { enforcement },
        ..definition(kind, capacity, 0)
    })
    .unwrap()
}

fn period(now_ns: u64) -> ClaimPeriod {
    let number = now_ns / PERIOD_NS;
    ClaimPeriod { start_s: number as i64 - 2, ends_ns: (number + 1) * PERIOD_NS }
}

/// What a bucket should hold: by its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bucket {
    granted: u64,
    used: u64,
}

/// The durable side: how much of each bucket is drawn, by whomever.
#[derive(Debug, Default)]
struct Store {
    drawn: HashMap<u128, u64>,
}

impl Store {
    fn draw(&mut self, claim: &Claim<'_>, want: u64) -> (u64, u64) {
        let drawn = self.drawn.entry(Limiter::lease_key(claim)).or_default();
        let granted = want.min(claim.limit.capacity.saturating_sub(*drawn));
        *drawn += granted;
        (granted, claim.limit.capacity.saturating_sub(*drawn))
    }
}

fn standings(limiter: &Limiter, now_ns: u64) -> HashMap<u128, Bucket> {
    limiter
        .leases(now_ns)
        .into_iter()
        .filter(|lease| lease.granted > 0 || lease.used > 0)
        .map(|lease| (lease.key, Bucket { granted: lease.granted, used: lease.used }))
        .collect()
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Claims of user and amounts: of the hard budget of money, the soft one of tokens, a limit.
    Reserve {
        who: u8,
        nanousd: u64,
        tokens: u64,
        requests: u64,
    },
    /// The store gives to the hard (or soft) budget's bucket of the user's last period.
    Grant {
        who: u8,
        want: u64,
        soft: bool,
    },
    /// Somebody else draws.
    Elsewhere {
        who: u8,
        want: u64,
    },
    Settle {
        which: usize,
        share_percent: u64,
    },
    Cancel {
        which: usize,
    },
    Wait {
        ns: u64,
    },
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..3, 0_u64..40, 0_u64..40, 0_u64..3)
            .prop_map(|(who, nanousd, tokens, requests)| Step::Reserve { who, nanousd, tokens, requests }),
        4 => (0_u8..3, 0_u64..80, any::<bool>()).prop_map(|(who, want, soft)| Step::Grant { who, want, soft }),
        1 => (0_u8..3, 0_u64..80).prop_map(|(who, want)| Step::Elsewhere { who, want }),
        3 => (0_usize..8, 0_u64..=100).prop_map(|(which, share_percent)| Step::Settle { which, share_percent }),
        1 => (0_usize..8).prop_map(|which| Step::Cancel { which }),
        1 => (0_u64..400).prop_map(|ns| Step::Wait { ns }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn leases_conserve_and_hard_budgets_hold(
        capacity in 1_u64..300,
        history in prop::collection::vec(steps(), 1..120),
    ) {
        let money = budget("money", Kind::Money, capacity, Enforcement::Hard);
        let tokens = budget("tokens", Kind::Tokens, 60, Enforcement::Soft);
        let rate = LimitSpec::new(definition(Kind::Requests, 12, 500)).unwrap();
        let limiter = Limiter::new(LimiterConfig { max_buckets: 1_000, shards: 4 });
        let (mut store, mut now_ns) = (Store::default(), 0);
        let mut model: HashMap<u128, Bucket> = HashMap::new();
        // What is reserved: by whom, as (key, amount) of money and of tokens.
        let mut open: Vec<(Held, [(u128, u64); 2])> = Vec::new();
        for step in history {
            match step {
                Step::Reserve { who, nanousd, tokens: bound, requests } => {
                    let claim = |limit, amount| Claim { limit, scope: user(who), amount, period: Some(period(now_ns)) };
                    let claims = [claim(&rate, requests), claim(&money, nanousd), claim(&tokens, bound)];
                    let keys = [Limiter::lease_key(&claims[1]), Limiter::lease_key(&claims[2])];
                    let left = || claims.map(|claim| limiter.peek(&claim, now_ns).remaining);
                    let before = (standings(&limiter, now_ns), left());
                    let bucket = model.get(&keys[0]).copied().unwrap_or_default();
                    let leased = bucket.used + nanousd <= bucket.granted.min(capacity);
                    let rate_left = before.1[0];
                    match limiter.reserve(&claims, now_ns) {
                        Ok(held) => {
                            prop_assert!(leased && requests <= rate_left);
                            model.entry(keys[0]).or_default().used += nanousd;
                            model.entry(keys[1]).or_default().used += bound;
                            let soft = model[&keys[1]];
                            let charges: Vec<_> = held.charges().collect();
                            prop_assert_eq!(charges[0].lease_left, None);
                            prop_assert_eq!(charges[1].lease_left, Some(bucket.granted - bucket.used - nanousd));
                            prop_assert_eq!(charges[2].lease_left, Some(soft.granted.saturating_sub(soft.used)));
                            prop_assert_eq!(charges[2].lease_short, soft.used.saturating_sub(soft.granted));
                            let spent_up = store.drawn.get(&keys[1]) == Some(&60) && soft.granted > 0;
                            prop_assert!(!charges[2].over || spent_up);
                            open.push((held, [(keys[0], nanousd), (keys[1], bound)]));
                        }
                        Err(refused) => {
                            prop_assert!(!leased || requests > rate_left);
                            prop_assert_eq!((standings(&limiter, now_ns), left()), before);
                            if requests > rate_left || bucket.used + nanousd > capacity {
                                prop_assert!(refused.leases.is_empty(), "a grant cannot help: {refused:?}");
                            }
                            for need in &refused.leases {
                                prop_assert_eq!(need.claim, 1);
                                prop_assert_eq!(need.short_by, bucket.used + nanousd - bucket.granted);
                            }
                            // What the store still has, as far as it was said, is never refused unasked.
                            if !leased && requests <= rate_left && bucket.used + nanousd <= capacity {
                                let drawn = store.drawn.get(&keys[0]).copied().unwrap_or(0);
                                prop_assert!(!refused.leases.is_empty() || drawn == capacity);
                            }
                        }
                    }
                }
                Step::Grant { who, want, soft } => {
                    let limit = if soft { &tokens } else { &money };
                    let mut claim = Claim { limit, scope: user(who), amount: 0, period: Some(period(now_ns)) };
                    let (granted, left) = store.draw(&claim, want);
                    claim.amount = granted;
                    prop_assert_eq!(limiter.grant(&claim, left, now_ns), Granted::Kept);
                    model.entry(Limiter::lease_key(&claim)).or_default().granted += granted;
                }
                Step::Elsewhere { who, want } => {
                    let claim = Claim { limit: &money, scope: user(who), amount: 0, period: Some(period(now_ns)) };
                    store.draw(&claim, want);
                }
                Step::Settle { which, share_percent } if which < open.len() => {
                    let (held, [(money_key, nanousd), (tokens_key, bound)]) = open.swap_remove(which);
                    let actual = nanousd * share_percent / 100;
                    limiter.settle_money(&held, actual, now_ns);
                    model.get_mut(&money_key).unwrap().used -= nanousd - actual;
                    // Tokens may be more than was reserved.
                    let actual = bound * share_percent / 50;
                    limiter.settle(&held, actual, now_ns);
                    let bucket = model.get_mut(&tokens_key).unwrap();
                    bucket.used = bucket.used + actual - bound;
                }
                Step::Cancel { which } if which < open.len() => {
                    let (held, reserved) = open.swap_remove(which);
                    limiter.cancel(&held, now_ns);
                    for (key, amount) in reserved {
                        model.get_mut(&key).unwrap().used -= amount;
                    }
                }
                Step::Settle { .. } | Step::Cancel { .. } => {}
                Step::Wait { ns } => now_ns += ns,
            }
            let expected: HashMap<_, _> =
                model.iter().filter(|(_, b)| **b != Bucket::default()).map(|(k, b)| (*k, *b)).collect();
            prop_assert_eq!(&standings(&limiter, now_ns), &expected);
            for who in 0..3 {
                let claim = Claim { limit: &money, scope: user(who), amount: 0, period: Some(period(now_ns)) };
                let bucket = model.get(&Limiter::lease_key(&claim)).copied().unwrap_or_default();
                prop_assert!(bucket.used <= bucket.granted && bucket.granted <= capacity);
                let remaining = limiter.peek(&claim, now_ns).remaining;
                prop_assert!(bucket.granted - bucket.used <= remaining && remaining <= capacity - bucket.used);
            }
        }
    }

    #[test]
    fn a_full_table_never_strands_or_over_admits(
        max_buckets in 1_usize..4,
        history in prop::collection::vec((0_u8..6, 0_u64..30, 0_u64..30, 0_u64..120, 0_usize..6), 1..120),
    ) {
        let money = budget("money", Kind::Money, 50, Enforcement::Hard);
        let limiter = Limiter::new(LimiterConfig { max_buckets, shards: 1 });
        let (mut store, mut now_ns) = (Store::default(), 0);
        let mut kept: HashMap<u128, Bucket> = HashMap::new();
        let mut ends: HashMap<u128, u64> = HashMap::new();
        let mut open: Vec<(Held, u128, u64)> = Vec::new();
        for (who, amount, want, step, end) in history {
            now_ns += step;
            let mut claim = Claim { limit: &money, scope: user(who), amount: 0, period: Some(period(now_ns)) };
            let key = Limiter::lease_key(&claim);
            ends.insert(key, period(now_ns).ends_ns);
            let (granted, left) = store.draw(&claim, want);
            claim.amount = granted;
            match limiter.grant(&claim, left, now_ns) {
                Granted::Kept => kept.entry(key).or_default().granted += granted,
                Granted::NoPlace => *store.drawn.get_mut(&key).unwrap() -= granted,
                Granted::Ended => prop_assert!(false, "the period is on"),
            }
            claim.amount = amount;
            if let Ok(held) = limiter.reserve(&[claim], now_ns) {
                kept.entry(key).or_default().used += amount;
                open.push((held, key, amount));
            }
            if end < open.len() {
                let (held, key, amount) = open.swap_remove(end);
                limiter.settle_money(&held, amount / 2, now_ns);
                kept.get_mut(&key).unwrap().used -= amount - amount / 2;
            }
            let standing = standings(&limiter, now_ns);
            for (key, bucket) in &kept {
                prop_assert!(bucket.used <= bucket.granted && bucket.granted <= 50);
                // Forgotten only when its period is over.
                if *bucket != Bucket::default() && (now_ns < ends[key] || standing.contains_key(key)) {
                    prop_assert_eq!(standing.get(key), Some(bucket));
                }
            }
            prop_assert!(limiter.stats().buckets <= max_buckets);
            prop_assert_eq!(limiter.stats().overflow_buckets, 0, "leases are never shared");
        }
    }

    #[test]
    fn a_lowered_budget_admits_nothing_above_it(
        changes in prop::collection::vec((1_u64..100, 0_u64..40, 0_u64..60, 0_u64..30), 1..40),
    ) {
        let limiter = Limiter::new(LimiterConfig { max_buckets: 10, shards: 1 });
        let mut store = Store::default();
        let mut used = 0;
        for (capacity, elsewhere, want, amount) in changes {
            let money = budget("money", Kind::Money, capacity, Enforcement::Hard);
            let mut claim = Claim { limit: &money, scope: user(0), amount: 0, period: Some(period(0)) };
            // Another process draws, as far as there is anything, just before we do.
            store.draw(&claim, elsewhere);
            let (granted, left) = store.draw(&claim, want);
            claim.amount = granted;
            prop_assert_eq!(limiter.grant(&claim, left, 0), Granted::Kept);
            claim.amount = amount;
            if limiter.reserve(&[claim], 0).is_ok() {
                used += amount;
                prop_assert!(amount == 0 || used <= capacity, "{used} of {capacity}");
            }
            prop_assert!(limiter.peek(&claim, 0).remaining <= capacity.saturating_sub(used));
        }
    }
}

#[test]
fn a_budget_and_a_limit_of_one_name_are_two_buckets_and_so_is_each_period() {
    let limiter = Limiter::new(LimiterConfig::default());
    let money = budget("test", Kind::Money, 100, Enforcement::Soft);
    let rate = LimitSpec::new(definition(Kind::Money, 100, 60)).unwrap();
    let claim = |limit, now_ns, amount| Claim { limit, scope: user(1), amount, period: Some(period(now_ns)) };
    assert_ne!(money.identity(), rate.identity());
    let mut first = limiter.reserve(&[claim(&rate, 0, 15)], 0).unwrap();
    first.join(limiter.reserve(&[claim(&money, 0, 30), claim(&rate, 0, 5)], 0).unwrap());
    let shorts: Vec<_> = first.charges().map(|charge| (charge.lease_left, charge.lease_short)).collect();
    assert_eq!(shorts, [(None, 0), (Some(0), 30), (None, 0)]);
    let second = limiter.reserve(&[claim(&money, PERIOD_NS, 5)], 0).unwrap();
    let left = |claim: Claim<'_>| limiter.peek(&claim, 0).remaining;
    assert_eq!(left(claim(&money, 0, 0)), 70);
    assert_eq!(left(claim(&rate, 0, 0)), 80);
    assert_eq!(left(claim(&money, PERIOD_NS, 0)), 95);
    // Settled in the next period, each goes where it was reserved; one unit does not touch the other.
    limiter.settle(&first, 0, PERIOD_NS);
    limiter.settle_money(&first, 10, PERIOD_NS);
    limiter.settle_money(&second, 50, PERIOD_NS);
    assert_eq!(left(claim(&money, 0, 0)), 90);
    assert_eq!(left(claim(&money, PERIOD_NS, 0)), 50);
}

#[test]
fn what_is_over_is_given_back_and_never_made_again() {
    let limiter = Limiter::new(LimiterConfig { max_buckets: 1, shards: 1 });
    let money = budget("money", Kind::Money, 100, Enforcement::Hard);
    let claim =
        |amount, now_ns| Claim { limit: &money, scope: user(1), amount, period: Some(period(now_ns)) };
    assert_eq!(limiter.grant(&claim(40, 0), 60, 0), Granted::Kept);
    let held = limiter.reserve(&[claim(30, 0)], 0).unwrap();
    assert_eq!(limiter.grant(&claim(40, 0), 20, PERIOD_NS), Granted::Ended);
    // The next period takes the only place.
    assert_eq!(limiter.grant(&claim(40, PERIOD_NS), 60, PERIOD_NS), Granted::Kept);
    let refused = limiter.reserve(&[claim(10, 0)], PERIOD_NS).unwrap_err();
    assert_eq!(refused.leases[0].short_by, 10, "whoever asks is told that it is over");
    limiter.settle_money(&held, 90, PERIOD_NS);
    assert_eq!(limiter.leases(PERIOD_NS).len(), 1);
    assert_eq!(limiter.peek(&claim(0, PERIOD_NS), PERIOD_NS).remaining, 100);
    // No place for another user: hard is refused, soft goes on, both are counted.
    let other = |limit| Claim { limit, scope: user(2), amount: 1, period: Some(period(PERIOD_NS)) };
    let refused = limiter.reserve(&[other(&money)], PERIOD_NS).unwrap_err();
    assert!(refused.overflowed && refused.leases.is_empty() && refused.retry_after_ns.is_some());
    let soft = budget("soft", Kind::Money, 100, Enforcement::Soft);
    let held = limiter.reserve(&[other(&soft)], PERIOD_NS).unwrap();
    assert_eq!(held.charges().next().unwrap().lease_left, None);
    limiter.settle_money(&held, 5, PERIOD_NS);
    assert_eq!(limiter.grant(&other(&soft), 5, PERIOD_NS), Granted::NoPlace);
    assert_eq!((limiter.stats().overflowed, limiter.stats().overflow_buckets), (2, 0));
}

#[test]
fn all_that_is_missing_is_said_at_once_unless_something_else_refuses() {
    let limiter = Limiter::new(LimiterConfig::default());
    let day = budget("day", Kind::Money, 100, Enforcement::Hard);
    let month = budget("month", Kind::Tokens, 1_000, Enforcement::Hard);
    let rate = LimitSpec::new(definition(Kind::Requests, 1, 60)).unwrap();
    let claim = |limit, amount| Claim { limit, scope: user(1), amount, period: Some(period(0)) };
    let refused = limiter.reserve(&[claim(&rate, 1), claim(&day, 10), claim(&month, 20)], 0).unwrap_err();
    let needs: Vec<_> = refused.leases.iter().map(|need| (need.claim, need.short_by)).collect();
    assert_eq!(needs, [(1, 10), (2, 20)]);
    assert_eq!(refused.slug(), "budget_exceeded");
    for other in [claim(&rate, 2), claim(&day, 101)] {
        let refused = limiter.reserve(&[claim(&month, 20), other, claim(&day, 1)], 0).unwrap_err();
        assert!(refused.leases.is_empty());
        assert_eq!(refused.name, other.limit.name);
    }
    assert_eq!(
        limiter.reserve(&[claim(&day, 101)], 0).unwrap_err().to_string(),
        "budget `day` allows 100 nano-USD per user and period and has 100 left, 101 asked for; this can never \
         fit, ask for less"
    );
}
