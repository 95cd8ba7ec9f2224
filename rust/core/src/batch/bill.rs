//! Owns: what a batch that is being filled holds, and whether one more request fits its bounds.
//! Must not know: queues, in which order requests are offered.
//! On failure: closed; what does not fit stays out, except that the first request always goes.

use super::Checked;
use super::classes::Classes;

/// Most bytes of one batch, padded, unless one request alone has more: a message has a bound too.
pub(super) const MAX_BATCH_BYTES: u64 = 512 << 20;

/// The bounds of one batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub rows: u64,
    /// Rows times padded length
    pub padded_tokens: u64,
}

/// A batch while it is filled.
#[derive(Debug)]
pub(super) struct Bill {
    pub rows: u64,
    /// The length that all of it is padded to
    pub length: u64,
    longest: u64,
    /// Most bytes of one token among its requests
    token_bytes: u64,
}

// === impl Limits ===

impl Limits {
    /// Rows of a padded length that one batch holds, at least 1.
    pub(super) fn rows_of(&self, length: u64) -> u64 {
        self.rows.min(self.padded_tokens / length.max(1)).max(1)
    }
}

// === impl Bill ===

impl Bill {
    /// A batch of one request.
    pub(super) fn of(first: &Checked, classes: &Classes) -> Self {
        let longest = first.length;
        let token_bytes = token_bytes(first);
        Self { rows: first.rows, length: padded(first, classes, longest), longest, token_bytes }
    }

    /// Adds a request if it fits.
    pub(super) fn add(&mut self, more: &Checked, classes: &Classes, limits: &Limits) -> bool {
        let rows = self.rows.saturating_add(more.rows);
        let longest = self.longest.max(more.length);
        let length = if longest == self.longest { self.length } else { padded(more, classes, longest) };
        let token_bytes = self.token_bytes.max(token_bytes(more));
        let padded_tokens = rows.saturating_mul(length);
        if rows > limits.rows
            || padded_tokens > limits.padded_tokens
            || padded_tokens.saturating_mul(token_bytes) > MAX_BATCH_BYTES
        {
            return false;
        }
        *self = Self { rows, length, longest, token_bytes };
        true
    }
}

fn padded(checked: &Checked, classes: &Classes, longest: u64) -> u64 {
    match checked.shares {
        super::model::Shares::AnyLength => classes.padded(longest),
        super::model::Shares::SameShape => longest,
    }
}

fn token_bytes(checked: &Checked) -> u64 {
    checked.bytes.div_ceil(checked.tokens().max(1))
}
