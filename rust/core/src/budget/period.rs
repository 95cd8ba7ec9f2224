//! Owns calendar periods: which hour, day or month of a timezone an instant is in, without gap or overlap.
//! Must not know: budgets, the clock (`unix_ns` is an argument), what a period's end does.
//! On failure: closed. A clock that steps back stays in the period that had begun.
//!
//! A day is a date of the zone's calendar, of 23 or 25 hours where its clock jumps; a month is a month of it. An hour
//! ends with the clock's hour, or where the clock jumps.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jiff::civil::Date;

use super::zone::{CalendarError, Zone};

const NS_PER_S: u64 = 1_000_000_000;
const HOUR_S: i64 = 3_600;

/// How long a budget's period is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeriodKind {
    /// An hour of the zone's clock.
    Hour,
    /// A date.
    Day,
    /// A month.
    Month,
}

/// One period: `start_s <= t < end_s`, in unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Period {
    /// Its first second.
    pub start_s: i64,
    /// The first second of the next one.
    pub end_s: i64,
}

/// What a calendar says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// The present period, or the latest one that had begun.
    pub period: Period,
    /// The clock is seen before the period's start for the first time since it was within: it stepped back.
    pub stepped_back: bool,
}

/// The periods of one timezone.
#[derive(Debug)]
pub struct Calendar {
    kind: PeriodKind,
    zone: Zone,
    /// The latest period that had begun: packed, so that one load reads it whole and the larger one is later.
    latest: AtomicU64,
    behind: AtomicBool,
}

// === impl Period ===

/// Bits of a packed period's length: up to 48 days.
const LENGTH_BITS: u32 = 22;
/// The first period may begin before 1970, and packed starts are not negative.
const START_BIAS_S: i64 = 1 << 25;

impl Period {
    fn pack(self) -> u64 {
        let start = (self.start_s + START_BIAS_S).cast_unsigned();
        let length = (self.end_s - self.start_s).cast_unsigned().min((1 << LENGTH_BITS) - 1);
        start << LENGTH_BITS | length
    }

    fn unpack(packed: u64) -> Self {
        let start_s = (packed >> LENGTH_BITS).cast_signed() - START_BIAS_S;
        let length_s = (packed & ((1 << LENGTH_BITS) - 1)).cast_signed();
        Self { start_s, end_s: start_s + length_s }
    }

    fn has(self, unix_s: i64) -> bool {
        self.start_s <= unix_s && unix_s < self.end_s
    }
}

// === impl Calendar ===

impl Calendar {
    /// The calendar of a timezone, by its IANA name: `Europe/Berlin`, `UTC`.
    pub fn new(kind: PeriodKind, timezone: &str) -> Result<Self, CalendarError> {
        Ok(Self {
            kind,
            zone: Zone::named(timezone)?,
            latest: AtomicU64::new(0),
            behind: AtomicBool::new(false),
        })
    }

    /// How long its periods are.
    pub fn kind(&self) -> PeriodKind {
        self.kind
    }

    /// The period of the clock's time, or the latest one that had begun where the clock has stepped back: a former
    /// period never comes again.
    ///
    /// Cost: two atomic loads within a period; about 1 µs for the first call of a period.
    pub fn current(&self, unix_ns: u64) -> Current {
        let at_s = whole_seconds(unix_ns);
        let latest = Period::unpack(self.latest.load(Ordering::Relaxed));
        if latest.has(at_s) {
            if self.behind.load(Ordering::Relaxed) {
                self.behind.store(false, Ordering::Relaxed);
            }
            return Current { period: latest, stepped_back: false };
        }
        self.move_on(unix_ns)
    }

    #[cold]
    fn move_on(&self, unix_ns: u64) -> Current {
        let mine = self.period_at(unix_ns).pack();
        let latest = self.latest.fetch_max(mine, Ordering::Relaxed).max(mine);
        let period = Period::unpack(latest);
        let behind = whole_seconds(unix_ns) < period.start_s;
        let was_behind = self.behind.swap(behind, Ordering::Relaxed);
        Current { period, stepped_back: behind && !was_behind }
    }

    /// The period of an instant. Depends on nothing else.
    pub fn period_at(&self, unix_ns: u64) -> Period {
        let at_s = whole_seconds(unix_ns);
        match self.kind {
            PeriodKind::Hour => self.hour_at(at_s),
            PeriodKind::Day => self.dates_at(at_s, self.zone.date_at(at_s)),
            PeriodKind::Month => self.dates_at(at_s, self.zone.date_at(at_s).first_of_month()),
        }
    }

    fn hour_at(&self, unix_s: i64) -> Period {
        let into_hour_s = (unix_s + self.zone.offset_s(unix_s)).rem_euclid(HOUR_S);
        let (start_s, end_s) = (unix_s - into_hour_s, unix_s - into_hour_s + HOUR_S);
        Period {
            start_s: self.zone.jump_until(unix_s, start_s).unwrap_or(start_s),
            end_s: self.zone.jump_after(unix_s, end_s).unwrap_or(end_s),
        }
    }

    /// The span from the start of one first date to that of the next, around an instant.
    ///
    /// A clock that jumps back over midnight shows the former date again; that time belongs to the date that had begun.
    fn dates_at(&self, unix_s: i64, first: Date) -> Period {
        let mut first = first;
        let mut next = self.next(first);
        let mut period = Period { start_s: self.zone.start_of(first), end_s: self.zone.start_of(next) };
        while unix_s >= period.end_s {
            (first, next) = (next, self.next(next));
            period = Period { start_s: self.zone.start_of(first), end_s: self.zone.start_of(next) };
        }
        period
    }

    fn next(&self, first: Date) -> Date {
        let last = if self.kind == PeriodKind::Month { first.last_of_month() } else { first };
        last.tomorrow().unwrap_or(Date::MAX)
    }
}

fn whole_seconds(unix_ns: u64) -> i64 {
    (unix_ns / NS_PER_S).cast_signed()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use jiff::Timestamp;

    use super::*;

    fn unix_ns(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    fn period(kind: PeriodKind, zone: &str, at: &str) -> (String, i64) {
        let period = Calendar::new(kind, zone).unwrap().period_at(unix_ns(at));
        (Timestamp::from_second(period.start_s).unwrap().to_string(), period.end_s - period.start_s)
    }

    #[test]
    fn days_follow_the_zones_clock() {
        use PeriodKind::Day;
        for (zone, at, start, hours) in [
            ("UTC", "2026-11-21T23:59:59.999Z", "2026-11-21T00:00:00Z", 24.0),
            ("Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", 23.0),
            ("Europe/Berlin", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", 25.0),
            ("Australia/Lord_Howe", "2026-04-04T20:00:00Z", "2026-04-04T13:00:00Z", 24.5),
            // Midnight is skipped.
            ("America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", 23.0),
            // 2011-12-30 is skipped.
            ("Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", 24.0),
            ("Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", 24.0),
            // The clock goes back at one minute past midnight: the date that had begun goes on.
            ("America/St_Johns", "2010-11-07T03:00:00Z", "2010-11-07T02:30:00Z", 25.0),
        ] {
            assert_eq!(period(Day, zone, at), (start.to_owned(), (hours * 3_600.0) as i64), "{zone} {at}");
        }
    }

    #[test]
    fn hours_end_with_the_clocks_hour_or_where_it_jumps() {
        use PeriodKind::Hour;
        for (zone, at, start, minutes) in [
            ("Asia/Kolkata", "2026-11-21T10:29:59Z", "2026-11-21T09:30:00Z", 60),
            ("Asia/Kathmandu", "2026-11-21T10:15:00Z", "2026-11-21T10:15:00Z", 60),
            ("Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25T00:00:00Z", 60),
            ("Europe/Berlin", "2026-10-25T01:30:00Z", "2026-10-25T01:00:00Z", 60),
            // 02:00 becomes 01:30.
            ("Australia/Lord_Howe", "2026-04-04T14:59:59Z", "2026-04-04T14:00:00Z", 60),
            ("Australia/Lord_Howe", "2026-04-04T15:00:00Z", "2026-04-04T15:00:00Z", 30),
            ("Australia/Lord_Howe", "2026-04-04T15:30:00Z", "2026-04-04T15:30:00Z", 60),
            // 02:00 becomes 02:30.
            ("Australia/Lord_Howe", "2026-10-03T15:29:59Z", "2026-10-03T14:30:00Z", 60),
            ("Australia/Lord_Howe", "2026-10-03T15:30:00Z", "2026-10-03T15:30:00Z", 30),
        ] {
            assert_eq!(period(Hour, zone, at), (start.to_owned(), minutes * 60), "{zone} {at}");
        }
    }

    #[test]
    fn months_follow_the_zones_dates() {
        let of = |at| period(PeriodKind::Month, "Asia/Tokyo", at);
        assert_eq!(of("2026-01-31T14:59:59Z"), ("2025-12-31T15:00:00Z".to_owned(), 31 * 86_400));
        assert_eq!(of("2026-01-31T15:00:00Z"), ("2026-01-31T15:00:00Z".to_owned(), 28 * 86_400));
        assert_eq!(of("1970-01-01T00:00:00Z"), ("1969-12-31T15:00:00Z".to_owned(), 31 * 86_400));
    }

    #[test]
    fn a_clock_that_steps_back_opens_no_former_period() {
        let calendar = Calendar::new(PeriodKind::Hour, "UTC").unwrap();
        let seen = |at: &str| {
            let Current { period, stepped_back } = calendar.current(unix_ns(at));
            (Timestamp::from_second(period.start_s).unwrap().to_string(), stepped_back)
        };
        let nine = "2026-11-21T09:00:00Z".to_owned();
        assert_eq!(seen("2026-11-21T09:30:00Z"), (nine.clone(), false));
        assert_eq!(seen("2026-11-21T09:00:00Z"), (nine.clone(), false));
        assert_eq!(seen("2026-11-21T08:59:59Z"), (nine.clone(), true));
        assert_eq!(seen("2026-11-21T07:00:00Z"), (nine.clone(), false), "one step is counted once");
        assert_eq!(seen("2026-11-21T09:00:01Z"), (nine.clone(), false));
        assert_eq!(seen("2026-11-21T08:00:00Z"), (nine, true), "this is another one");
        assert_eq!(seen("2026-11-21T10:00:00Z"), ("2026-11-21T10:00:00Z".to_owned(), false));
    }
}
