//! Owns: one generation on its way: answers of the model in, new text and one end out, within the request's time.
//! Must not know: JSON, HTTP.
//! On failure: closed; an error is the last thing that comes. Dropping it cancels the generation upstream.

use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay_core::policy::pb::GenerationTensors;
use forebay_core::policy::pb::generation_tensors::Text;
use forebay_core::tokens::Tokenizer;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::response::{Answer, Outputs};
use super::text::Pieces;
use crate::kserve::{Asked, Failure, UpstreamStream};
use crate::openai::fault::Fault;

/// The longest answer: it is held where its tokens are counted, or where it is not streamed.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// A generation that goes on upstream.
pub(super) struct Run {
    upstream: UpstreamStream,
    /// Open as long as the generation: a server may take the end of our half for the end of the request
    _outgoing: mpsc::Sender<Bytes>,
    outputs: Outputs,
    pieces: Pieces,
    tally: Tally,
    max_tokens: Option<u64>,
    finish_reason: Option<String>,
    text_bytes: usize,
    ended: bool,
    time: TimeLeft,
}

/// What comes of a generation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Text(String),
    End { finish_reason: String, completion_tokens: u64 },
}

/// What a generation is started with.
pub(super) struct Start<'a> {
    pub request: Bytes,
    pub mapping: &'a GenerationTensors,
    pub counter: Tokenizer,
    pub max_tokens: Option<u64>,
    pub time: TimeLeft,
}

/// The time of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLeft {
    pub until: Instant,
    /// All of it, for the words of an error
    pub whole: Duration,
}

/// The tokens of an answer.
#[derive(Debug)]
enum Tally {
    /// Each answer says how many tokens are new
    Sum(u64),
    /// Each answer says how many there are
    Last(u64),
    /// Nobody says; the text is counted at its end
    Counted { counter: Tokenizer, text: String },
}

// === impl Run ===

impl Run {
    /// Sends the request. Errors of the server come with the first step.
    pub(super) async fn start(asked: &Asked, start: Start<'_>) -> Result<Self, Fault> {
        let Start { request, mapping, counter, max_tokens, time } = start;
        let (outgoing, receiver) = mpsc::channel(1);
        // It cannot be full, and its receiver is still here.
        let _ = outgoing.try_send(request);
        let upstream = asked.upstreams.stream_infer(&asked.admitted.pool, receiver).await?;
        let outputs = Outputs::of(mapping);
        let text = Text::try_from(mapping.text).unwrap_or_default();
        let tally = match (outputs.has_tokens(), text) {
            (true, Text::Cumulative) => Tally::Last(0),
            (true, _) => Tally::Sum(0),
            (false, _) => Tally::Counted { counter, text: String::new() },
        };
        Ok(Self {
            upstream,
            _outgoing: outgoing,
            outputs,
            pieces: Pieces::of(text),
            tally,
            max_tokens,
            finish_reason: None,
            text_bytes: 0,
            ended: false,
            time,
        })
    }

    /// The next text or the end, after which it must not be called. It may be dropped and called again.
    pub(super) async fn step(&mut self) -> Result<Step, Fault> {
        while !self.ended {
            let left = self.time.until.saturating_duration_since(Instant::now());
            let message = match timeout(left, self.upstream.next()).await {
                Ok(Some(message)) => message?,
                Ok(None) if self.finish_reason.is_some() => {
                    self.ended = true;
                    break;
                }
                Ok(None) => return Err(Fault::answer("the stream ended before its last answer")),
                Err(_) => return Err(Failure::deadline(self.time.whole).into()),
            };
            let answer = self.outputs.read(message)?;
            let text = self.take(answer)?;
            if !text.is_empty() {
                return Ok(Step::Text(text));
            }
        }
        let completion_tokens = self.tally.total();
        let reached = self.max_tokens.is_some_and(|most| completion_tokens >= most);
        let default = || if reached { "length" } else { "stop" }.to_owned();
        Ok(Step::End { finish_reason: self.finish_reason.take().unwrap_or_else(default), completion_tokens })
    }

    fn take(&mut self, answer: Answer) -> Result<String, Fault> {
        let mut text = match &answer.text {
            Some(piece) => self.pieces.push(piece).map_err(Fault::answer)?,
            None => String::new(),
        };
        if answer.is_last {
            self.ended = true;
            text.push_str(&self.pieces.finish());
        }
        if answer.finish_reason.is_some() {
            self.finish_reason = answer.finish_reason;
        }
        self.text_bytes = self.text_bytes.saturating_add(text.len());
        if self.text_bytes > MAX_TEXT_BYTES {
            return Err(Fault::answer(format!("it has more than {MAX_TEXT_BYTES} bytes")));
        }
        self.tally.add(&text, answer.tokens);
        Ok(text)
    }
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, new_text: &str, tokens: Option<u64>) {
        match self {
            Self::Sum(sum) => *sum = sum.saturating_add(tokens.unwrap_or_default()),
            Self::Last(last) => *last = tokens.unwrap_or(*last),
            Self::Counted { text, .. } => text.push_str(new_text),
        }
    }

    fn total(&self) -> u64 {
        match self {
            Self::Sum(total) | Self::Last(total) => *total,
            Self::Counted { counter, text } => counter.count(text).tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_core::tokens::Encoding;

    #[test]
    fn tokens_are_what_the_model_says_or_what_the_text_has() {
        let total = |mut tally: Tally| {
            tally.add("hello", Some(2));
            tally.add(" world", Some(3));
            tally.add("", None);
            tally.total()
        };
        assert_eq!(total(Tally::Sum(0)), 5);
        assert_eq!(total(Tally::Last(0)), 3);
        let counter = Tokenizer::Exact(Encoding::Cl100kBase);
        assert_eq!(total(Tally::Counted { counter, text: String::new() }), 2);
    }
}
