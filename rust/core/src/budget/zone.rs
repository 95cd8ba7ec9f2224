//! Owns a timezone by its IANA name: where its dates begin, and where its clock jumps.
//! Must not know: periods, the machine's own timezone files (the rules are compiled in).
//! On failure: an unknown name is refused when it is read, never at a request.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

/// Why a calendar cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CalendarError {
    /// No timezone has this name.
    UnknownTimezone(String),
}

// === impl CalendarError ===

impl CalendarError {
    /// The stable name of the error.
    pub const fn slug(&self) -> &'static str {
        match self {
            Self::UnknownTimezone(_) => "timezone_unknown",
        }
    }
}

impl fmt::Display for CalendarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTimezone(name) => {
                write!(
                    f,
                    "no timezone is named `{name}`; use an IANA name, for example `Europe/Berlin` or `UTC`"
                )
            }
        }
    }
}

impl std::error::Error for CalendarError {}

const DAY_S: i64 = 86_400;

#[derive(Debug)]
pub(super) struct Zone {
    rules: TimeZone,
}

// === impl Zone ===

impl Zone {
    pub fn named(name: &str) -> Result<Self, CalendarError> {
        TimeZoneDatabase::bundled()
            .get(name)
            .map(|rules| Self { rules })
            .map_err(|_| CalendarError::UnknownTimezone(name.to_owned()))
    }

    pub fn date_at(&self, unix_s: i64) -> Date {
        self.rules.to_datetime(timestamp(unix_s)).date()
    }

    /// The first instant of a date. Where midnight is skipped, that is when the clock has jumped; where it comes twice,
    /// the first time. A date that is skipped whole begins when the next one does.
    pub fn start_of(&self, date: Date) -> i64 {
        // Only what is some thousand years away has no timestamp; no count of ns in a `u64` is.
        let midnight_s =
            date.to_zoned(self.rules.clone()).map_or(i64::MAX, |midnight| midnight.timestamp().as_second());
        // A skipped midnight is read as much later as the clock has jumped; the date begins with the jump.
        match self.jump_until(midnight_s, midnight_s.saturating_sub(DAY_S)) {
            Some(jump_s) if self.date_at(jump_s) >= date => jump_s,
            _ => midnight_s,
        }
    }

    pub fn offset_s(&self, unix_s: i64) -> i64 {
        i64::from(self.rules.to_offset(timestamp(unix_s)).seconds())
    }

    /// The latest jump of the clock at or before `unix_s`, if it is after `floor_s`.
    pub fn jump_until(&self, unix_s: i64, floor_s: i64) -> Option<i64> {
        self.rules
            .preceding(timestamp(unix_s.saturating_add(1)))
            .map(|change| change.timestamp().as_second())
            .take_while(|at_s| *at_s > floor_s)
            .find(|at_s| self.is_jump(*at_s))
    }

    /// The earliest jump of the clock after `unix_s`, if it is before `ceiling_s`.
    pub fn jump_after(&self, unix_s: i64, ceiling_s: i64) -> Option<i64> {
        self.rules
            .following(timestamp(unix_s))
            .map(|change| change.timestamp().as_second())
            .take_while(|at_s| *at_s < ceiling_s)
            .find(|at_s| self.is_jump(*at_s))
    }

    /// Some changes are of the zone's name alone.
    fn is_jump(&self, at_s: i64) -> bool {
        self.offset_s(at_s) != self.offset_s(at_s - 1)
    }
}

fn timestamp(unix_s: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH.saturating_add(SignedDuration::from_secs(unix_s)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn unknown_names_are_refused() {
        for name in ["", "Mars/Olympus", "../etc/passwd", "Europe/Berlin "] {
            let error = Zone::named(name).unwrap_err();
            assert_eq!(error.slug(), "timezone_unknown");
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
    }

    #[test]
    fn a_date_begins_with_the_jump_that_skips_its_midnight() {
        // 23:30 became 00:30.
        let start_s = Zone::named("America/Toronto").unwrap().start_of(Date::constant(1919, 3, 31));
        assert_eq!(timestamp(start_s).to_string(), "1919-03-31T04:30:00Z");
    }
}
