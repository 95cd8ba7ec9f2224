//! Budgets: the calendar periods they are counted in.
//! Must not know: who spends, what is left, the store.
//! On failure: a clock that steps back stays in the period that had begun: nothing is refilled.

mod period;
mod zone;

#[cfg(test)]
mod properties;

pub use period::{Calendar, Current, Period, PeriodKind};
pub use zone::CalendarError;
