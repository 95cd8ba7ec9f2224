//! Owns the count of requests in flight of one scope value.
//! Must not know: time, capacity.
//! On failure: cannot fail; a release too many stops at zero.

#[derive(Debug, Clone, Default)]
pub(super) struct Concurrency {
    pub in_use: u64,
    /// Made while newcomers of its limit still hold slots of the shared overflow bucket. Some of
    /// those may be this value's own, so they count here until the overflow bucket is empty.
    pub shadowed: bool,
}
