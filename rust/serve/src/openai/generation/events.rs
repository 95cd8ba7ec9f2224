//! Owns: a generation as an event stream: one event for each piece, pulled by the client's own reading.
//! Must not know: tensors; what the events say.
//! On failure: an error behind the first byte is an event, and the stream ends without `[DONE]`.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tonic::body::Body;

use super::chunk::Voice;
use super::run::{Run, Step};
use crate::kserve::{BatchEnd, Ending};
use crate::openai::fault::Fault;

/// What a stream needs until its end. Dropping it (the client left) cancels the generation and tells the end.
struct Events {
    /// `None`: over
    run: Option<Run>,
    /// The step that was awaited before the answer's head
    first: Option<Step>,
    voice: Voice,
    ending: Ending,
}

/// The answer to a request that asked for a stream. Nothing is read ahead: what the client does not take stays
/// upstream, but for the buffers of HTTP/2.
pub(super) fn response(run: Run, first: Step, voice: Voice, ending: Ending) -> Response<Body> {
    let events = Events { run: Some(run), first: Some(first), voice, ending };
    let frames = stream::unfold(events, |mut events| async move {
        let frame = events.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(frame)), events))
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

// === impl Events ===

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        let run = self.run.as_mut()?;
        let mut out = String::with_capacity(512);
        let step = match self.first.take() {
            Some(first) => {
                self.voice.push_begin(&mut out);
                Ok(first)
            }
            None => run.step().await,
        };
        match step {
            Ok(Step::Text(text)) => self.voice.push_text(&mut out, &text),
            Ok(Step::End { finish_reason, completion_tokens }) => {
                self.voice.push_end(&mut out, &finish_reason, completion_tokens);
                self.ending.ends(BatchEnd::Forwarded);
                self.run = None;
            }
            Err(fault) => {
                push_error(&mut out, &fault);
                self.ending.ends(fault.end());
                self.run = None;
            }
        }
        Some(out.into())
    }
}

fn push_error(out: &mut String, fault: &Fault) {
    out.push_str("data: ");
    out.push_str(&String::from_utf8_lossy(&fault.body()));
    out.push_str("\n\n");
}
