//! Owns answers of the `OpenAI` protocols: reading, folding, judging complete, rendering again.
//! Must not know where an answer comes from, who asked, or how long it is kept.
//! On failure: an answer that is not understood whole is not storable, since a wrong repeat is worse than a miss.

mod budget;
mod choice;
mod collect;
mod fold;
mod kind;
mod pieces;
mod plain;
mod reject;
mod render;
mod sse;
mod tools;
mod usage;
mod write;

#[cfg(test)]
mod generate;

pub use budget::{CaptureBudget, Hold};
pub use collect::{Answer, BodyEnd, CollectLimits, Collector, Expect, ResponseHead};
pub use kind::AnswerKind;
pub use reject::NotStorable;
pub use render::{NotStreamable, StreamUsage, render_stream};
pub use sse::{SseError, SseEvent, SseLimits, SseReader};
pub use usage::Usage;
