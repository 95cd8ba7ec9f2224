//! Owns one stored answer and what it weighs.
//! Must not know where it is stored.
//! On failure: an answer that has no stream says so once and is remembered as such.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::answer::{AnswerKind, NotStreamable, StreamUsage, Usage, render_stream};

/// A complete answer and what it may be invalidated by.
#[derive(Debug)]
pub struct Entry {
    /// The complete plain JSON answer, served as it is.
    pub body: Bytes,
    /// What kind of answer it is.
    pub kind: AnswerKind,
    /// Whose it is; part of the key too.
    pub tenant: Arc<str>,
    /// The resolved model.
    pub model: Arc<str>,
    /// The model's revision.
    pub revision: Arc<str>,
    /// Tags that the policy gave the request.
    pub tags: Arc<[Arc<str>]>,
    /// What the answer cost when it was made, hence what a hit saves; `None` where the upstream did not say.
    pub usage: Option<Usage>,
    /// When it was stored, on the clock of `now_ns`.
    pub stored_ns: u64,
    /// From when on it is no longer served.
    pub expires_ns: u64,
    /// The same answer as a stream; begin with `Streams::default()`.
    pub streams: Streams,
}

/// Renderings of an answer as a stream, each made when it is first asked for.
#[derive(Debug, Default)]
pub struct Streams {
    without_usage: OnceLock<Result<Bytes, NotStreamable>>,
    with_usage: OnceLock<Result<Bytes, NotStreamable>>,
}

// === impl Entry ===

impl Entry {
    /// The bytes of text that the entry keeps alive.
    pub(super) fn payload_bytes(&self) -> usize {
        let labels = self.tenant.len() + self.model.len() + self.revision.len();
        let tags: usize = self.tags.iter().map(|tag| tag.len() + size_of::<Arc<str>>() + ARC_BYTES).sum();
        self.body.len() + labels + tags + self.streams.len()
    }

    /// The rendering, if it is memoised.
    pub(super) fn memoised(&self, usage: StreamUsage) -> Option<Result<Bytes, NotStreamable>> {
        self.streams.slot(usage).get().cloned()
    }

    /// Renders without memoising.
    pub(super) fn render(&self, usage: StreamUsage) -> Result<Bytes, NotStreamable> {
        render_stream(self.kind, &self.body, usage).map(Bytes::from)
    }

    /// Memoises a rendering; of two that race the first stays.
    pub(super) fn memoise(&self, usage: StreamUsage, rendered: Result<Bytes, NotStreamable>) {
        // Losing the race is not a failure: both renderings are of the same immutable body.
        drop(self.streams.slot(usage).set(rendered));
    }
}

/// The two counters before the value of an `Arc`.
pub(super) const ARC_BYTES: usize = 2 * size_of::<usize>();

// === impl Streams ===

impl Streams {
    fn slot(&self, usage: StreamUsage) -> &OnceLock<Result<Bytes, NotStreamable>> {
        match usage {
            StreamUsage::Omit => &self.without_usage,
            StreamUsage::Include => &self.with_usage,
        }
    }

    fn len(&self) -> usize {
        [&self.without_usage, &self.with_usage]
            .into_iter()
            .filter_map(|slot| slot.get()?.as_ref().ok())
            .map(Bytes::len)
            .sum()
    }
}
