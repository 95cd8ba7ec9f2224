//! Owns the limiter's promises under racing threads.
//! Must not know: how buckets count or lock.
//! On failure: the assertion names the count that went over.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::spec::tests::definition;
use super::{
    Algorithm, Claim, ClaimPeriod, Enforcement, Granted, HashKey, Held, Kind, LimitDefinition, LimitSpec,
    Limiter, LimiterConfig, Reservation, ReservationConfig, ReservationTable, Scope, ScopeValue,
};

const THREADS: u64 = 64;
const KEY: HashKey = HashKey::new([2; 32]);

fn spec(name: &str, kind: Kind, capacity: u64, algorithm: Algorithm) -> LimitSpec {
    let window_ns = if kind == Kind::Concurrency { 0 } else { 1_000_000 };
    LimitSpec::new(LimitDefinition { name: name.into(), algorithm, ..definition(kind, capacity, window_ns) })
        .unwrap()
}

fn user(number: u64) -> ScopeValue {
    ScopeValue::new(&KEY, "acme", Scope::User, &number.to_string())
}

fn race(work: impl Fn(u64) + Sync) {
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                work(number);
            });
        }
    });
}

#[test]
fn racing_threads_get_exactly_the_capacity() {
    for algorithm in
        [Algorithm::SlidingWindow, Algorithm::FixedWindow, Algorithm::TokenBucket { burst: 1_000 }]
    {
        let wide = spec("wide", Kind::Requests, 1_000_000, algorithm);
        let narrow = spec("narrow", Kind::Tokens, 1_000, algorithm);
        let own = spec("own", Kind::Requests, 1_000_000, algorithm);
        let limiter = Limiter::new(LimiterConfig::default());
        let admitted = AtomicU64::new(0);
        race(|number| {
            for _ in 0..100 {
                let claim = |limit, scope, amount| Claim { limit, scope, amount, period: None };
                let claims = [
                    claim(&own, user(number), 1),
                    claim(&narrow, user(1_000), 1),
                    claim(&wide, user(1_001), 1),
                ];
                if limiter.reserve(&claims, 5).is_ok() {
                    admitted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        assert_eq!(admitted.into_inner(), 1_000, "{algorithm:?}");
        let left = |limit, scope| limiter.peek(&Claim { limit, scope, amount: 0, period: None }, 5);
        // All or nothing: what the narrow one refused was charged nowhere else.
        let used_of_own: u64 =
            (0..THREADS).map(|number| left(&own, user(number))).map(|left| left.limit - left.remaining).sum();
        let used_of_wide = left(&wide, user(1_001)).limit - left(&wide, user(1_001)).remaining;
        assert_eq!((used_of_own, used_of_wide), (1_000, 1_000), "{algorithm:?}");
    }
}

#[test]
fn racing_threads_never_hold_more_slots_than_there_are() {
    const CAPACITY: u64 = 7;
    let slots = spec("slots", Kind::Concurrency, CAPACITY, Algorithm::default());
    // Too small a table for 64 users: most of them share overflow buckets and get out again.
    let limiter = Limiter::new(LimiterConfig { max_buckets: 16, shards: 4 });
    let in_use: Vec<AtomicU64> = (0..20).map(|_| AtomicU64::new(0)).collect();
    race(|number| {
        for round in 0..300 {
            let who = (number + round) % 20;
            let claims = [
                Claim { limit: &slots, scope: user(who), amount: 1, period: None },
                Claim { limit: &slots, scope: user(round % 20 + 100), amount: 1, period: None },
            ];
            if let Ok(held) = limiter.reserve(&claims, round) {
                let running = in_use[who as usize].fetch_add(1, Ordering::SeqCst) + 1;
                assert!(running <= CAPACITY, "{running} slots held");
                thread::yield_now();
                in_use[who as usize].fetch_sub(1, Ordering::SeqCst);
                limiter.release(&held, round);
            }
        }
    });
    for who in (0..20).chain(100..120) {
        let claim = Claim { limit: &slots, scope: user(who), amount: 0, period: None };
        assert_eq!(limiter.peek(&claim, 300).remaining, CAPACITY);
    }
}

#[test]
fn racing_settlements_conserve() {
    let tokens = spec("tokens", Kind::Tokens, 1_000_000, Algorithm::SlidingWindow);
    let limiter = Limiter::new(LimiterConfig::default());
    race(|number| {
        for round in 0..100 {
            let claim = Claim { limit: &tokens, scope: user(0), amount: 50, period: None };
            let held = limiter.reserve(&[claim], 5).unwrap();
            // Half of them stay below their bound, half go above it.
            limiter.settle(&held, 50 + number % 2 * 20 - 10 * (round % 2), 5);
        }
    });
    // 32 threads × 50 × (50 + 40) + 32 threads × 50 × (70 + 60)
    let spent = 32 * 50 * 90 + 32 * 50 * 130;
    let claim = Claim { limit: &tokens, scope: user(0), amount: 0, period: None };
    assert_eq!(limiter.peek(&claim, 5).remaining, 1_000_000 - spent);
}

#[test]
fn one_end_wins() {
    const IDS: u128 = 2_000;
    let table: ReservationTable<u128> =
        ReservationTable::new(ReservationConfig { max_reservations: IDS as usize, shards: 8, tick_ns: 10 });
    for id in 0..IDS {
        let reservation = Reservation { held: Held::default(), owner: id, expires_ns: 100 };
        table.insert(id, reservation).unwrap();
    }
    let wins: Vec<AtomicU64> = (0..IDS).map(|_| AtomicU64::new(0)).collect();
    let won = |owner: u128| wins[owner as usize].fetch_add(1, Ordering::Relaxed);
    race(|number| {
        // An eighth of the threads are expiry; the rest are stream ends and access-log entries.
        if number % 8 == 0 {
            while let expired @ [_, ..] = table.expire(1_000, 16).as_slice() {
                for (id, reservation) in expired {
                    assert_eq!(*id, reservation.owner);
                    won(reservation.owner);
                }
            }
        } else {
            for step in 0..IDS {
                if let Some(taken) = table.take((step + u128::from(number) * 31) % IDS) {
                    won(taken.owner);
                }
            }
        }
    });
    assert!(wins.iter().all(|wins| wins.load(Ordering::Relaxed) == 1));
    assert!(table.is_empty());
}

/// A budget's durable side, and what the gateway does with a refusal that only lacks a lease.
struct Asking<'a> {
    limiter: &'a Limiter,
    drawn: &'a AtomicU64,
    amount: u64,
}

impl Asking<'_> {
    fn reserve(&self, claims: &[Claim<'_>]) -> Option<Held> {
        loop {
            let refused = match self.limiter.reserve(claims, 5) {
                Ok(held) => return Some(held),
                Err(refused) => refused,
            };
            if refused.leases.is_empty() {
                return None;
            }
            for need in refused.leases {
                let claim = claims[need.claim];
                if !self.limiter.begin_asking(&claim, 5) {
                    thread::yield_now();
                    continue;
                }
                let want = need.short_by + 20;
                let draw = |drawn: u64| Some(drawn + want.min(self.amount - drawn));
                let before = self.drawn.fetch_update(Ordering::SeqCst, Ordering::SeqCst, draw).unwrap();
                let amount = want.min(self.amount - before);
                let granted =
                    self.limiter.grant(&Claim { amount, ..claim }, self.amount - before - amount, 5);
                assert_eq!(granted, Granted::Kept);
            }
        }
    }
}

#[test]
fn racing_clients_never_overspend_a_budget() {
    const AMOUNT: u64 = 20_000;
    let budget = LimitSpec::new(LimitDefinition {
        name: "day".into(),
        algorithm: Algorithm::Leased { enforcement: Enforcement::Hard },
        ..definition(Kind::Money, AMOUNT, 0)
    })
    .unwrap();
    let own = spec("own", Kind::Requests, 60, Algorithm::FixedWindow);
    let limiter = Limiter::new(LimiterConfig::default());
    let (drawn, spent, passed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let asking = Asking { limiter: &limiter, drawn: &drawn, amount: AMOUNT };
    let period = Some(ClaimPeriod { start_s: 7, ends_ns: 1_000 });
    let everyone = Claim { limit: &budget, scope: user(1_000), amount: 0, period };
    race(|number| {
        for round in 0..100 {
            let amount = 5 + (number * 31 + round * 17) % 40;
            let claims = [
                Claim { limit: &own, scope: user(number), amount: 1, period: None },
                Claim { amount, ..everyone },
            ];
            let Some(held) = asking.reserve(&claims) else { continue };
            // In flight and spent together: never above the budget, to the nano-USD.
            let in_all = spent.fetch_add(amount, Ordering::SeqCst) + amount;
            assert!(in_all <= AMOUNT, "{in_all} spent");
            passed.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            match round % 3 {
                0 => {
                    spent.fetch_sub(amount, Ordering::SeqCst);
                    passed.fetch_sub(1, Ordering::SeqCst);
                    limiter.cancel(&held, 5);
                }
                1 => {
                    spent.fetch_sub(amount / 4, Ordering::SeqCst);
                    limiter.settle_money(&held, amount - amount / 4, 5);
                }
                _ => limiter.settle_money(&held, amount, 5),
            }
        }
    });
    let leases = limiter.leases(5);
    let standing = leases.first().unwrap();
    assert_eq!((leases.len(), standing.key), (1, Limiter::lease_key(&everyone)));
    assert_eq!(standing.used, spent.into_inner(), "what is used is what was spent");
    assert_eq!(standing.granted, drawn.into_inner());
    assert!(standing.used <= standing.granted && standing.granted == AMOUNT);
    assert_eq!(limiter.peek(&everyone, 5).remaining, AMOUNT - standing.used);
    let requests = |number| Claim { limit: &own, scope: user(number), amount: 0, period: None };
    let counted: u64 = (0..THREADS).map(|number| 60 - limiter.peek(&requests(number), 5).remaining).sum();
    assert_eq!(counted, passed.into_inner(), "a refusal charges nothing");
}
