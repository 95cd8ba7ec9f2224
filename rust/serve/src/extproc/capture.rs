//! Owns: one capture stream: a copy of a response, from its head to its end, fed to the engine.
//! Must not know: what is kept.
//! On failure: the copy is given up; observability mode means that no client waits for it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use forebay_core::answer::{BodyEnd, ResponseHead};
use forebay_core::engine::{Capture, Clock};
use tonic::Streaming;

use super::messages::{Message, Notes, Part};
use super::service::Runtime;

/// The copy of one response, given to the engine when the stream is over in any way.
pub struct Copied {
    runtime: Arc<Runtime>,
    id: Option<u128>,
    capture: Option<Capture>,
    end: BodyEnd,
}

// === impl Copied ===

impl Copied {
    /// Begins at the opening of a stream. `id` is the reservation's; a stream without it names it in its metadata.
    pub fn begin(runtime: Arc<Runtime>, id: Option<u128>) -> Self {
        runtime.engine.metrics().counters.capture_streams.fetch_add(1, Relaxed);
        let capture = id.and_then(|id| runtime.engine.capture(id));
        Self { runtime, id, capture, end: BodyEnd::Cut }
    }

    /// Reads the whole stream; nothing is ever answered on it.
    pub async fn run(mut self, mut inbound: Streaming<Bytes>) {
        while let Ok(Some(message)) = inbound.message().await {
            let Ok(message) = Message::read(&message) else {
                self.runtime.engine.metrics().counters.protocol_errors.fetch_add(1, Relaxed);
                return;
            };
            if self.id.is_none() {
                self.id = Notes::read(message.metadata).id();
                self.capture = self.id.and_then(|id| self.runtime.engine.capture(id));
            }
            if self.take(message.part) {
                self.end = BodyEnd::Complete;
                return;
            }
        }
    }

    /// Takes a part of the response; whether it was the last.
    fn take(&mut self, part: Option<Part<'_>>) -> bool {
        match part {
            Some(Part::ResponseHeaders(headers)) => {
                let mut head = ResponseHead::default();
                for (name, value) in headers.pairs {
                    let text = std::str::from_utf8(value).ok();
                    match name {
                        ":status" => head.status = text.and_then(|t| t.parse().ok()).unwrap_or_default(),
                        "content-type" => head.content_type = text,
                        "content-encoding" => head.content_encoding = text,
                        _ => {}
                    }
                }
                if let Some(capture) = &mut self.capture {
                    capture.head(&head);
                }
                headers.end_of_stream
            }
            Some(Part::ResponseBody(body)) => {
                self.runtime.engine.metrics().counters.response_body_messages.fetch_add(1, Relaxed);
                if let Some(capture) = &mut self.capture {
                    capture.body(body.bytes);
                }
                body.end_of_stream
            }
            _ => false,
        }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        if let Some(capture) = self.capture.take() {
            // Why an answer is not kept is a counter of the engine.
            let _ = self.runtime.engine.captured(capture, self.end, self.runtime.clock.now_ns());
        }
    }
}
