//! Prints what the limiter costs, in ns per call: `cargo run --release --example limit_bench`.
//!
//! One thread unless said otherwise, the median of 15 rounds. The claims are those of a governed
//! request (key requests, user tokens, pool concurrency) over 20,000 users, so that buckets are
//! mostly not in the nearest cache. Refuses a debug build.

use std::error::Error;
use std::hint::black_box;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use forebay_core::budget::{Calendar, PeriodKind};
use forebay_core::limit::{
    Algorithm, Claim, ClaimPeriod, Enforcement, Granted, HashKey, Held, Kind, LimitDefinition, LimitId,
    LimitSpec, Limiter, LimiterConfig, Reservation, ReservationConfig, ReservationTable, Scope, ScopeValue,
    SharedScope,
};

const USERS: usize = 20_000;
const CALLS: usize = 20_000;
const ROUNDS: usize = 15;
const MINUTE_NS: u64 = 60_000_000_000;

struct World {
    specs: [LimitSpec; 3],
    users: Vec<[ScopeValue; 2]>,
    pool: ScopeValue,
    limiter: Limiter,
}

fn main() -> ExitCode {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build; use `--release`");
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let key = HashKey::new([9; 32]);
    report("scope value: hash tenant and user", || {
        for user in 0..CALLS {
            let _ = black_box(ScopeValue::new(
                &key,
                "acme-corporation",
                Scope::User,
                if user % 2 == 0 { "user-00017" } else { "user-31337" },
            ));
        }
    });
    for algorithm in
        [Algorithm::SlidingWindow, Algorithm::FixedWindow, Algorithm::TokenBucket { burst: 1 << 40 }]
    {
        println!("{algorithm:?}");
        steps(&World::new(algorithm, 1 << 40)?);
    }
    let refusing = World::new(Algorithm::SlidingWindow, 0)?;
    report("reserve of 3, refused by one", || {
        for n in 0..CALLS {
            let _ = black_box(refusing.limiter.reserve(&refusing.claims(n), n as u64));
        }
    });
    budgets()?;
    reservations();
    for threads in [1, 2] {
        contended(&World::new(Algorithm::SlidingWindow, 1 << 40)?, threads);
    }
    Ok(())
}

// === impl World ===

impl World {
    fn new(algorithm: Algorithm, user_tokens: u64) -> Result<Self, Box<dyn Error>> {
        let key = HashKey::new([9; 32]);
        let spec = |id, kind, scope, capacity, window_ns| {
            LimitSpec::new(LimitDefinition {
                id: LimitId(id),
                name: format!("limit{id}").into(),
                kind,
                scope,
                capacity,
                window_ns,
                algorithm,
            })
        };
        Ok(Self {
            specs: [
                spec(0, Kind::Requests, Scope::Key, 1 << 40, MINUTE_NS)?,
                spec(1, Kind::Tokens, Scope::User, user_tokens, MINUTE_NS)?,
                spec(2, Kind::Concurrency, Scope::Pool, 1 << 40, 0)?,
            ],
            users: (0..USERS)
                .map(|user| {
                    let name = user.to_string();
                    [Scope::Key, Scope::User].map(|scope| ScopeValue::new(&key, "acme", scope, &name))
                })
                .collect(),
            pool: ScopeValue::shared(&key, SharedScope::Pool, "main"),
            limiter: Limiter::new(LimiterConfig::default()),
        })
    }

    fn claims(&self, call: usize) -> [Claim<'_>; 3] {
        // A stride that visits every user, in no order that a prefetcher knows.
        let [key, user] = self.users[call * 7_919 % USERS];
        let [requests, tokens, slots] = &self.specs;
        [
            Claim { limit: requests, scope: key, amount: 1, period: None },
            Claim { limit: tokens, scope: user, amount: 900, period: None },
            Claim { limit: slots, scope: self.pool, amount: 1, period: None },
        ]
    }
}

fn steps(world: &World) {
    let limiter = &world.limiter;
    let mut now_ns = 0;
    let mut held: Vec<Held> = Vec::with_capacity(CALLS);
    let (mut reserve, mut settle, mut release, mut peek) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        reserve.push(timed(|| {
            for call in 0..CALLS {
                now_ns += 100_000;
                held.extend(limiter.reserve(&world.claims(call), now_ns));
            }
        }));
        settle.push(timed(|| {
            for held in &held {
                limiter.settle(held, 300, now_ns);
            }
        }));
        release.push(timed(|| {
            for held in &held {
                limiter.release(held, now_ns);
            }
        }));
        peek.push(timed(|| {
            for call in 0..CALLS {
                let _ = black_box(limiter.peek(&world.claims(call)[1], now_ns));
            }
        }));
        held.clear();
    }
    print_median("  reserve of 3", reserve);
    print_median("  settle of 1 token claim", settle);
    print_median("  release of 1 slot", release);
    print_median("  peek", peek);
}

/// One budget of money for each user, all of it leased beforehand.
fn budgets() -> Result<(), Box<dyn Error>> {
    let key = HashKey::new([9; 32]);
    let budget = LimitSpec::new(LimitDefinition {
        id: LimitId(0),
        name: "day".into(),
        kind: Kind::Money,
        scope: Scope::User,
        capacity: 1 << 50,
        window_ns: 0,
        algorithm: Algorithm::Leased { enforcement: Enforcement::Hard },
    })?;
    let calendar = Calendar::new(PeriodKind::Day, "Europe/Berlin")?;
    let unix_ns = 1_800_000_000_000_000_000;
    let start_s = calendar.current(unix_ns).period.start_s;
    let period = Some(ClaimPeriod { start_s, ends_ns: u64::MAX });
    let users: Vec<ScopeValue> =
        (0..USERS).map(|user| ScopeValue::new(&key, "acme", Scope::User, &user.to_string())).collect();
    let claim =
        |call: usize, amount| Claim { limit: &budget, scope: users[call * 7_919 % USERS], amount, period };
    let limiter = Limiter::new(LimiterConfig::default());
    for call in 0..USERS {
        if limiter.grant(&claim(call, 1 << 40), 0, 0) != Granted::Kept {
            return Err("a grant had no place".into());
        }
    }
    println!("budgets");
    let (mut reserve, mut settle) = (vec![], vec![]);
    let mut held: Vec<Held> = Vec::with_capacity(CALLS);
    for _ in 0..ROUNDS {
        reserve.push(timed(|| {
            held.extend((0..CALLS).filter_map(|call| limiter.reserve(&[claim(call, 900)], 5).ok()));
        }));
        settle.push(timed(|| held.iter().for_each(|held| limiter.settle_money(held, 300, 5))));
        held.clear();
    }
    print_median("  reserve of 1", reserve);
    print_median("  settle of 1", settle);
    report("  current period", || {
        for call in 0..CALLS {
            let _ = black_box(calendar.current(black_box(unix_ns + call as u64)));
        }
    });
    Ok(())
}

fn reservations() {
    let table: ReservationTable<u64> = ReservationTable::new(ReservationConfig::default());
    let id = |n: usize| (n as u128).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    let (mut insert, mut take, mut expire) = (vec![], vec![], vec![]);
    for round in 0..ROUNDS as u64 {
        let fill = || {
            for n in 0..CALLS {
                let expires_ns = (600 + round * 2_000) * 1_000_000_000;
                let reservation = Reservation { held: Held::default(), owner: 1, expires_ns };
                let _ = black_box(table.insert(id(n), reservation));
            }
        };
        insert.push(timed(fill));
        take.push(timed(|| {
            for n in 0..CALLS {
                let _ = black_box(table.take(id(n)));
            }
        }));
        fill();
        expire.push(timed(|| {
            let expired = table.expire((1_000 + round * 2_000) * 1_000_000_000, usize::MAX);
            assert_eq!(black_box(expired).len(), CALLS);
        }));
    }
    println!("reservation table");
    print_median("  insert", insert);
    print_median("  take", take);
    print_median("  expire", expire);
}

fn contended(world: &World, threads: usize) {
    let rounds = (0..ROUNDS)
        .map(|_| {
            timed(|| {
                thread::scope(|scope| {
                    for thread in 0..threads {
                        scope.spawn(move || {
                            for call in 0..CALLS {
                                let claims = world.claims(call + thread * 5_000);
                                if let Ok(held) = world.limiter.reserve(&claims, call as u64) {
                                    world.limiter.release(&held, call as u64);
                                }
                            }
                        });
                    }
                });
            })
        })
        .collect();
    print_median(&format!("reserve and release, {threads} threads, one pool, per call of each"), rounds);
}

fn report(name: &str, mut work: impl FnMut()) {
    let rounds = (0..ROUNDS).map(|_| timed(&mut work)).collect();
    print_median(name, rounds);
}

/// Runs `work`, which makes `CALLS` calls; gives ns per call.
fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / CALLS as f64
}

fn print_median(name: &str, mut rounds: Vec<f64>) {
    rounds.sort_by(f64::total_cmp);
    println!("{name}: {:.0} ns", rounds[rounds.len() / 2]);
}
