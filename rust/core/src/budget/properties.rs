//! Owns the promises about periods, tried with arbitrary instants of zones that jump in every way.
//! Must not know: how a period is found.
//! On failure: proptest prints the smallest instants that break a promise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use jiff::Timestamp;
use jiff::tz::TimeZoneDatabase;
use proptest::prelude::*;

use super::{Calendar, PeriodKind};

const NS: u64 = 1_000_000_000;

const ZONES: [&str; 16] = [
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",
    "America/New_York",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Caracas",
    "America/Havana",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Asia/Pyongyang",
    "Asia/Beirut",
    "Africa/Casablanca",
    "Africa/Monrovia",
    "Australia/Lord_Howe",
    "Pacific/Apia",
];

fn kinds() -> impl Strategy<Value = PeriodKind> {
    prop_oneof![Just(PeriodKind::Hour), Just(PeriodKind::Day), Just(PeriodKind::Month)]
}

/// Instants from 1970 to 2554, most of them where the zones' rules have changed; some on whole hours and a ns off.
fn instants() -> impl Strategy<Value = u64> {
    let second = prop_oneof![6 => 0_u64..2_000_000_000, 1 => 2_000_000_000_u64..18_446_000_000];
    (second, prop_oneof![Just(1_u64), Just(900), Just(3_600)], 0_u64..3).prop_map(|(second, grid, ns)| {
        let at_ns = second / grid * grid * NS;
        (at_ns + ns).saturating_sub(1)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn periods_tile_time(kind in kinds(), zone in prop::sample::select(&ZONES[..]), at_ns in instants()) {
        let calendar = Calendar::new(kind, zone).unwrap();
        let period = calendar.period_at(at_ns);
        let at_s = (at_ns / NS) as i64;
        prop_assert!(period.start_s <= at_s && at_s < period.end_s, "{period:?}");
        let longest_s = match kind {
            PeriodKind::Hour => 3_600,
            PeriodKind::Day => 26 * 3_600,
            PeriodKind::Month => 31 * 86_400 + 7_200,
        };
        prop_assert!(period.end_s - period.start_s <= longest_s, "{period:?}");
        // The whole of it is one period, and its neighbours meet it.
        let first_ns = period.start_s.max(0).cast_unsigned() * NS;
        prop_assert_eq!(calendar.period_at(first_ns), period);
        let end_ns = period.end_s.cast_unsigned() * NS;
        prop_assert_eq!(calendar.period_at(end_ns - 1), period);
        prop_assert_eq!(calendar.period_at(end_ns).start_s, period.end_s);
        if first_ns > 0 {
            prop_assert_eq!(calendar.period_at(first_ns - 1).end_s, period.start_s);
        }
        prop_assert_eq!(calendar.current(at_ns).period, period, "it is kept without loss");
    }

    #[test]
    fn a_walk_over_a_jump_meets_every_period_once(
        kind in kinds(),
        zone in prop::sample::select(&ZONES[..]),
        start_ns in instants(),
        step_s in 300_u64..7_200,
    ) {
        let calendar = Calendar::new(kind, zone).unwrap();
        let mut last = calendar.period_at(start_ns);
        for step in 1..200 {
            let at_ns = start_ns.saturating_add(step * step_s * NS);
            let period = calendar.period_at(at_ns);
            if period != last {
                prop_assert!(period.start_s >= last.end_s, "{last:?} and {period:?}");
            }
            last = period;
        }
    }

    #[test]
    fn the_current_period_never_goes_back(
        kind in kinds(),
        zone in prop::sample::select(&ZONES[..]),
        start_ns in instants(),
        steps in prop::collection::vec(-20_000_i64..30_000, 1..40),
    ) {
        let calendar = Calendar::new(kind, zone).unwrap();
        let mut at_ns = start_ns;
        let (mut latest, mut within) = (i64::MIN, true);
        for step in steps {
            at_ns = at_ns.saturating_add_signed(step * NS as i64);
            let current = calendar.current(at_ns);
            let at_s = (at_ns / NS) as i64;
            prop_assert!(current.period.start_s >= latest);
            prop_assert!(at_s < current.period.end_s);
            let behind = at_s < current.period.start_s;
            prop_assert!(behind || current.period == calendar.period_at(at_ns));
            prop_assert_eq!(current.stepped_back, behind && within);
            (latest, within) = (current.period.start_s, !behind);
        }
    }
}

#[test]
fn periods_meet_at_every_jump_of_every_zone() {
    let every = TimeZoneDatabase::bundled();
    for name in every.available() {
        let zone = every.get(name.as_str()).unwrap();
        let since = Timestamp::from_second(1_400_000_000).unwrap();
        let changes = zone.following(since).map(|change| change.timestamp().as_second());
        let changes: Vec<i64> = changes.take_while(|at_s| *at_s < 1_900_000_000).collect();
        for kind in [PeriodKind::Hour, PeriodKind::Day] {
            let calendar = Calendar::new(kind, name.as_str()).unwrap();
            for at_s in changes.iter().flat_map(|change_s| [change_s - 1, *change_s]) {
                let period = calendar.period_at(at_s.cast_unsigned() * NS);
                assert!(period.start_s <= at_s && at_s < period.end_s, "{name} {kind:?} {at_s}: {period:?}");
                let next = calendar.period_at(period.end_s.cast_unsigned() * NS);
                assert_eq!(next.start_s, period.end_s, "{name} {kind:?} {at_s}");
            }
        }
    }
}
