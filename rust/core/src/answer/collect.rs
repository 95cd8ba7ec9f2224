//! Owns one response on its way past: head, chunks, end; out comes a storable answer or the reason why not.
//! Must not know keys, tenants or the cache.
//! On failure: drops what it holds at once and only drains, so that a large answer costs no memory.

use std::sync::Arc;

use bytes::Bytes;

use super::budget::{CaptureBudget, Hold};
use super::fold::Fold;
use super::kind::AnswerKind;
use super::plain;
use super::reject::NotStorable;
use super::sse::{SseLimits, SseReader};
use super::usage::Usage;

/// What the request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The kind of answer.
    pub kind: AnswerKind,
    /// How many choices (`n`, times the prompts of a completion) or embeddings; `None` where it is not known.
    pub items: Option<u32>,
}

/// The head of a response, as far as it decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseHead<'a> {
    /// `:status`
    pub status: u16,
    /// `content-type`
    pub content_type: Option<&'a str>,
    /// `content-encoding`
    pub content_encoding: Option<&'a str>,
}

/// What one response may hold.
#[derive(Clone, Copy, Debug)]
pub struct CollectLimits {
    /// Bytes of the answer: of a stream, what is folded, not what is framed around it.
    pub max_answer_bytes: usize,
    /// Bytes of one event of a stream.
    pub max_event_bytes: usize,
    /// Bytes of a whole stream; a stream is about 60 times its text.
    pub max_stream_bytes: u64,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// With its end of stream.
    Complete,
    /// Without: reset, aborted, or the copy was lost.
    Cut,
}

/// A complete plain answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its kind.
    pub kind: AnswerKind,
    /// The plain JSON body: as it came, or folded from a stream.
    pub body: Bytes,
    /// What it reports as used, where it does so sanely.
    pub usage: Option<Usage>,
}

/// Collects one response.
///
/// *Cost*: linear in the bytes; holds the answer, not the stream. Buffers grow by doubling, so that memory is at
/// most twice what the budget counts.
#[derive(Debug)]
pub struct Collector {
    expect: Expect,
    limits: CollectLimits,
    hold: Hold,
    state: State,
}

#[derive(Debug)]
enum State {
    Plain(Vec<u8>),
    Stream(Box<(SseReader, Fold)>),
    Draining(NotStorable),
}

// === impl Expect ===

impl Expect {
    pub(super) fn check(self, items: usize) -> Result<(), NotStorable> {
        match self.items {
            Some(expected) if expected as usize != items => {
                Err(NotStorable::Incomplete("the answer has fewer or more items than were asked for"))
            }
            _ => Ok(()),
        }
    }
}

// === impl Collector ===

impl Collector {
    /// Begins with the head of the response.
    pub fn new(
        expect: Expect,
        head: &ResponseHead<'_>,
        limits: CollectLimits,
        budget: &Arc<CaptureBudget>,
    ) -> Self {
        Self { expect, limits, hold: budget.hold(), state: State::of(expect, head, limits) }
    }

    /// Takes the next chunk of the body.
    pub fn push(&mut self, chunk: &[u8]) {
        if let Err(reason) = self.take(chunk) {
            self.give_up(reason);
        }
    }

    /// Why the answer will not be stored, as soon as it is known; what is pushed from then on is dropped.
    pub fn refusal(&self) -> Option<&NotStorable> {
        match &self.state {
            State::Draining(reason) => Some(reason),
            _ => None,
        }
    }

    /// Bytes held now.
    pub fn held_bytes(&self) -> usize {
        match &self.state {
            State::Plain(body) => body.len(),
            State::Stream(stream) => stream.0.held_bytes() + stream.1.held_bytes(),
            State::Draining(_) => 0,
        }
    }

    /// Ends the response.
    ///
    /// A stream that was complete by its protocol stays complete if the connection breaks after its last event.
    pub fn finish(self, end: BodyEnd) -> Result<Answer, NotStorable> {
        match self.state {
            State::Draining(reason) => Err(reason),
            State::Plain(_) if end == BodyEnd::Cut => Err(NotStorable::Cut),
            State::Plain(body) => plain::judge(self.expect, body),
            State::Stream(stream) if end == BodyEnd::Cut && !stream.1.is_done() => Err(NotStorable::Cut),
            State::Stream(stream) => stream.1.finish(),
        }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), NotStorable> {
        match &mut self.state {
            State::Draining(_) => return Ok(()),
            State::Plain(body) => {
                let after = body.len() + chunk.len();
                if after > self.limits.max_answer_bytes {
                    return Err(NotStorable::TooLarge);
                }
                if !self.hold.grow_to(after) {
                    return Err(NotStorable::BudgetFull);
                }
                body.extend_from_slice(chunk);
                return Ok(());
            }
            State::Stream(stream) => {
                let (reader, fold) = stream.as_mut();
                let mut folded = Ok(());
                let max = self.limits.max_answer_bytes;
                let framed = reader.feed(chunk, |event| {
                    if folded.is_ok() {
                        folded = fold.push(event);
                    }
                    if folded.is_ok() && fold.held_bytes() > max {
                        folded = Err(NotStorable::TooLarge);
                    }
                });
                folded?;
                framed?;
            }
        }
        if self.hold.grow_to(self.held_bytes()) { Ok(()) } else { Err(NotStorable::BudgetFull) }
    }

    fn give_up(&mut self, reason: NotStorable) {
        self.state = State::Draining(reason);
        self.hold.release();
    }
}

// === impl State ===

impl State {
    fn of(expect: Expect, head: &ResponseHead<'_>, limits: CollectLimits) -> Self {
        if head.status != 200 {
            return Self::Draining(NotStorable::Status(head.status));
        }
        let encoding = head.content_encoding.unwrap_or_default().trim();
        if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
            return Self::Draining(NotStorable::ContentEncoding);
        }
        let media_type = head.content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if media_type.eq_ignore_ascii_case("application/json") {
            return Self::Plain(Vec::new());
        }
        if media_type.eq_ignore_ascii_case("text/event-stream") && expect.kind != AnswerKind::Embedding {
            let reader = SseReader::new(SseLimits {
                max_event_bytes: limits.max_event_bytes,
                max_stream_bytes: limits.max_stream_bytes,
            });
            return Self::Stream(Box::new((reader, Fold::new(expect))));
        }
        Self::Draining(NotStorable::ContentType)
    }
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
