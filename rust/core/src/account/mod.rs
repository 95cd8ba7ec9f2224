//! Account: what a request really used and cost, once its end is known; and the record of it, ready for the journal.
//! Must not know: limits, Envoy's log, files.
//! On failure: what the upstream did not say is estimated and says so; a full outbox drops records and counts them.
//!
//! ```text
//! ending    how it ended, what was counted before, what the upstream said    -> Settlement
//! estimate  answers without usage: calibrated on those with it
//! outbox    records, framed, until somebody writes them down
//! ```

mod ending;
mod estimate;
mod outbox;

pub use ending::{Ending, Expected, Outcome, Settlement, Source, Told, settle};
pub use estimate::{Calibration, Calibrations};
pub use outbox::{MAX_FRAME_BYTES, Outbox};
