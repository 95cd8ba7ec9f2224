//! Owns the limiter's promises, tried with arbitrary histories.
//! Must not know: how buckets count; it compares with plain lists of what was admitted.
//! On failure: proptest prints the smallest history that breaks a promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::spec::tests::definition;
use super::{
    Algorithm, Claim, HashKey, Held, Kind, LimitDefinition, LimitSpec, Limiter, LimiterConfig, Scope,
    ScopeValue,
};

const KEY: HashKey = HashKey::new([1; 32]);

fn user(number: u8) -> ScopeValue {
    ScopeValue::new(&KEY, "acme", Scope::User, &number.to_string())
}

fn spec(name: &str, kind: Kind, capacity: u64, window_ns: u64, algorithm: Algorithm) -> LimitSpec {
    LimitSpec::new(LimitDefinition { name: name.into(), algorithm, ..definition(kind, capacity, window_ns) })
        .unwrap()
}

fn limiter(max_buckets: usize, shards: usize) -> Limiter {
    Limiter::new(LimiterConfig { max_buckets, shards })
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    prop_oneof![
        Just(Algorithm::SlidingWindow),
        Just(Algorithm::FixedWindow),
        (1_u64..40).prop_map(|burst| Algorithm::TokenBucket { burst }),
    ]
}

/// What was admitted when, by the limiter's own clock, and how much of it turned out to be real.
#[derive(Debug, Clone, Copy)]
struct Admitted {
    at_ns: u64,
    amount: u64,
}

fn assert_never_over_admits(spec: &LimitSpec, admitted: &[Admitted]) -> Result<(), TestCaseError> {
    for (last, end) in admitted.iter().enumerate() {
        let mut sum = 0;
        for start in admitted[..=last].iter().rev() {
            let allowed = match spec.algorithm {
                Algorithm::SlidingWindow if end.at_ns - start.at_ns > spec.window_ns => break,
                Algorithm::FixedWindow if end.at_ns / spec.window_ns != start.at_ns / spec.window_ns => {
                    break;
                }
                Algorithm::SlidingWindow | Algorithm::FixedWindow => spec.capacity,
                Algorithm::Leased { .. } => unreachable!("budgets have no window"),
                Algorithm::TokenBucket { burst } => {
                    burst + (end.at_ns - start.at_ns) * spec.capacity / spec.window_ns
                }
            };
            sum += start.amount;
            prop_assert!(sum <= allowed, "{sum} > {allowed} from {start:?} to {end:?}");
        }
    }
    Ok(())
}

/// Steps of the caller's clock: mostly forward by little, sometimes far, sometimes back.
fn steps() -> impl Strategy<Value = i64> {
    prop_oneof![6 => 0_i64..12, 1 => 50_i64..400, 1 => -150_i64..0]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn never_over_admits_in_any_window(
        algorithm in algorithms(),
        capacity in 1_u64..30,
        window_ns in 1_u64..120,
        history in prop::collection::vec((steps(), 0_u64..12), 1..120),
    ) {
        let spec = spec("rate", Kind::Requests, capacity, window_ns, algorithm);
        let limiter = limiter(100, 4);
        let (mut now, mut latest, mut admitted) = (0_i64, 0, Vec::new());
        for (step, amount) in history {
            now = (now + step).max(0);
            latest = latest.max(now as u64);
            let claim = Claim { limit: &spec, scope: user(1), amount, period: None };
            match limiter.reserve(&[claim], now as u64) {
                Ok(_) => admitted.push(Admitted { at_ns: latest, amount }),
                Err(refused) => match refused.retry_after_ns {
                    None => prop_assert!(amount > refused.capacity),
                    Some(wait_ns) => {
                        prop_assert!(wait_ns > 0);
                        // Just before it still does not fit; then it does. A look only: no charge.
                        let room = |at_ns| limiter.peek(&claim, at_ns).remaining;
                        prop_assert!(room(latest + wait_ns - 1) < amount);
                        prop_assert!(room(latest + wait_ns) >= amount);
                    }
                },
            }
            let left = limiter.peek(&claim, now as u64);
            let later = limiter.peek(&claim, latest + left.reset_ns);
            prop_assert_eq!(later.remaining, later.limit);
        }
        assert_never_over_admits(&spec, &admitted)?;
    }

    #[test]
    fn all_or_nothing(
        capacities in prop::collection::vec((algorithms(), 1_u64..20), 2..6),
        history in prop::collection::vec(
            (0_u64..20, any::<bool>(), prop::collection::vec((0_usize..6, 0_u8..3, 1_u64..9), 1..6)),
            1..60,
        ),
    ) {
        let specs: Vec<LimitSpec> = capacities
            .iter()
            .enumerate()
            .map(|(n, (algorithm, capacity))| {
                spec(&format!("limit{n}"), Kind::Tokens, *capacity, 50, *algorithm)
            })
            .collect();
        let limiter = limiter(1_000, 8);
        let mut now_ns = 0;
        for (step, cancels, wanted) in history {
            now_ns += step;
            let claims: Vec<Claim<'_>> = wanted
                .iter()
                .map(|(n, who, amount)| Claim {
                    limit: &specs[n % specs.len()],
                    scope: user(*who),
                    amount: *amount,
                    period: None,
                })
                .collect();
            let left = || claims.iter().map(|c| limiter.peek(c, now_ns).remaining).collect::<Vec<_>>();
            let before = left();
            // Two claims on one bucket take their sum.
            let asked = |n: usize| -> u64 {
                claims
                    .iter()
                    .filter(|c| c.scope == claims[n].scope && c.limit.name == claims[n].limit.name)
                    .map(|c| c.amount)
                    .sum()
            };
            let fits = (0..claims.len()).all(|n| asked(n) <= before[n]);
            if let Ok(held) = limiter.reserve(&claims, now_ns) {
                prop_assert!(fits);
                prop_assert_eq!(held.len(), claims.len());
                let expected: Vec<u64> = (0..claims.len()).map(|n| before[n] - asked(n)).collect();
                prop_assert_eq!(left(), expected);
                if cancels {
                    limiter.cancel(&held, now_ns);
                    prop_assert_eq!(left(), before);
                }
            } else {
                prop_assert!(!fits);
                prop_assert_eq!(left(), before);
            }
        }
    }

    #[test]
    fn settling_is_as_if_the_real_amount_had_been_charged(
        algorithm in algorithms(),
        history in prop::collection::vec((0_u64..25, 0_u64..20, 0_u64..20, 0_usize..4), 1..100),
    ) {
        let spec = spec("tokens", Kind::Tokens, 30, 60, algorithm);
        let limiter = limiter(100, 1);
        let claim = |amount| Claim { limit: &spec, scope: user(1), amount, period: None };
        let (mut now_ns, mut open, mut real) = (0, Vec::<(Held, usize, u64)>::new(), Vec::new());
        let mut owes = Vec::new();
        for (step, amount, actual, end) in history {
            now_ns += step;
            if let Ok(held) = limiter.reserve(&[claim(amount)], now_ns) {
                real.push(Admitted { at_ns: now_ns, amount });
                open.push((held, real.len() - 1, actual));
            }
            if end < open.len() {
                let (held, n, actual) = open.swap_remove(end);
                limiter.settle(&held, actual, now_ns);
                let reserved = real[n].amount;
                real[n].amount = actual.min(reserved);
                if actual > reserved {
                    owes.push(Admitted { at_ns: now_ns, amount: actual - reserved });
                }
            }
            // What was owed was spent without being admitted, so it counts but is not promised.
            assert_never_over_admits(&spec, &real)?;
            let used = limiter.peek(&claim(0), now_ns);
            let spent: u64 = real
                .iter()
                .chain(&owes)
                .filter(|a| match algorithm {
                    Algorithm::SlidingWindow => now_ns - a.at_ns <= 60,
                    Algorithm::FixedWindow => now_ns / 60 == a.at_ns / 60,
                    Algorithm::TokenBucket { .. } => now_ns == a.at_ns,
                    Algorithm::Leased { .. } => unreachable!("budgets have no window"),
                })
                .map(|a| a.amount)
                .sum();
            prop_assert!(used.remaining <= used.limit.saturating_sub(spent));
        }
        // Conservation: with everything settled, two windows later nothing is missing.
        for (held, _, actual) in open {
            limiter.settle(&held, actual, now_ns);
        }
        let end = limiter.peek(&claim(0), now_ns + 100_000);
        prop_assert_eq!(end.remaining, end.limit);
    }

    #[test]
    fn a_sliding_window_gives_back_exactly_the_surplus(
        amounts in prop::collection::vec((1_u64..50, 0_u64..50), 1..20),
    ) {
        let spec = spec("tokens", Kind::Tokens, 2_000, 1_000, Algorithm::SlidingWindow);
        let limiter = limiter(10, 1);
        let claim = |amount| Claim { limit: &spec, scope: user(1), amount, period: None };
        let held: Vec<Held> = amounts
            .iter()
            .enumerate()
            .map(|(n, (reserved, _))| limiter.reserve(&[claim(*reserved)], n as u64 * 40).unwrap())
            .collect();
        for (held, (_, actual)) in held.iter().zip(&amounts) {
            limiter.settle(held, *actual, 800);
        }
        let spent: u64 = amounts.iter().map(|(_, actual)| actual).sum();
        prop_assert_eq!(limiter.peek(&claim(0), 800).remaining, 2_000 - spent);
    }

    #[test]
    fn a_small_table_never_refills_anyone(
        algorithm in algorithms(),
        max_buckets in 1_usize..6,
        history in prop::collection::vec((steps(), 0_u8..9, 1_u64..8, any::<bool>(), 0_usize..6), 1..150),
    ) {
        let rate = spec("rate", Kind::Tokens, 10, 60, algorithm);
        let slots = spec("slots", Kind::Concurrency, 3, 0, Algorithm::default());
        let limiter = limiter(max_buckets, 1);
        let (mut now, mut latest) = (0_i64, 0_u64);
        let mut admitted: Vec<Vec<Admitted>> = vec![Vec::new(); 9];
        let mut running: Vec<(Held, u8, usize)> = Vec::new();
        for (step, who, amount, both, end) in history {
            now = (now + step).max(0);
            latest = latest.max(now as u64);
            let mut claims = vec![Claim { limit: &rate, scope: user(who), amount, period: None }];
            if both {
                claims.push(Claim { limit: &slots, scope: user(who), amount: 1, period: None });
            }
            if let Ok(held) = limiter.reserve(&claims, now as u64) {
                admitted[usize::from(who)].push(Admitted { at_ns: latest, amount });
                if both {
                    running.push((held, who, admitted[usize::from(who)].len() - 1));
                }
            }
            if end < running.len() {
                let (held, who, n) = running.swap_remove(end);
                limiter.settle(&held, 0, now as u64);
                limiter.release(&held, now as u64);
                admitted[usize::from(who)][n].amount = 0;
            }
            for who in 0..9 {
                prop_assert!(running.iter().filter(|(_, other, _)| *other == who).count() <= 3);
                assert_never_over_admits(&rate, &admitted[usize::from(who)])?;
            }
            prop_assert!(limiter.stats().buckets <= max_buckets);
        }
        // Nothing is stranded: when all is over, everyone is as good as new.
        for (held, ..) in running {
            limiter.release(&held, latest);
        }
        for who in 0..9 {
            for spec in [&rate, &slots] {
                let claim = Claim { limit: spec, scope: user(who), amount: 0, period: None };
                let end = limiter.peek(&claim, latest + 100_000);
                prop_assert_eq!(end.remaining, end.limit);
            }
        }
    }

    #[test]
    fn a_changed_policy_refills_nobody(
        changes in prop::collection::vec((algorithms(), 1_u64..40, 10_u64..200, 0_u64..9, 0_u64..30), 2..40),
    ) {
        let limiter = limiter(10, 1);
        let mut now_ns = 0;
        let mut previous: Option<LimitSpec> = None;
        for (algorithm, capacity, window_ns, amount, step) in changes {
            let next = spec("same", Kind::Tokens, capacity, window_ns, algorithm);
            let used = |spec: &LimitSpec, at_ns| {
                let left = limiter.peek(&Claim { limit: spec, scope: user(1), amount: 0, period: None }, at_ns);
                (left.limit - left.remaining, left.limit)
            };
            if let Some(previous) = &previous {
                let ((before, _), (after, limit)) = (used(previous, now_ns), used(&next, now_ns));
                prop_assert!(after >= before.min(limit), "{before} became {after}");
            }
            let _held = limiter.reserve(&[Claim { limit: &next, scope: user(1), amount, period: None }], now_ns);
            now_ns += step;
            previous = Some(next);
        }
    }
}
