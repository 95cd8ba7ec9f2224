//! Owns: what a walk over a body's contents finds: images, and what has no bound.
//! Must not know: the shapes that are walked over.
//! On failure: cannot fail.

/// A class of service with prices of its own.
pub(super) const DEARER: &str = "the class of service that it asks for has prices of its own";

/// What was seen so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    /// An image
    pub(super) image: bool,
    /// The first thing whose tokens or price the body does not bound
    pub(super) uncounted: Option<&'static str>,
}

// === impl Seen ===

impl Seen {
    /// Something whose tokens or price the body does not bound.
    pub(super) fn has_uncounted(&mut self, why: &'static str) {
        self.uncounted.get_or_insert(why);
    }
}
