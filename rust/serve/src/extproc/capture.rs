//! Owns: one capture stream: a copy of a response, from its head to its end, fed to the engine.
//! Must not know: what is kept.
//! On failure: the copy is given up; observability mode means that no client waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, processing_request};
use envoy_types::pb::google::protobuf::{Struct, value};
use forebay_core::answer::{BodyEnd, ResponseHead};
use forebay_core::engine::{Capture, Clock};
use forebay_core::names;
use tonic::Streaming;

use super::decide::pairs;
use super::service::Runtime;

/// Reads the whole stream; nothing is ever answered on it.
pub async fn run(runtime: Arc<Runtime>, mut inbound: Streaming<ProcessingRequest>) {
    use processing_request::Request;
    let counters = &runtime.engine.metrics().counters;
    counters.capture_streams.fetch_add(1, Relaxed);
    let mut copy = Copy { runtime: runtime.clone(), capture: None, end: BodyEnd::Cut };
    while let Ok(Some(message)) = inbound.message().await {
        if copy.capture.is_none() {
            copy.capture = message
                .metadata_context
                .as_ref()
                .and_then(|m| reservation_id(&m.filter_metadata))
                .and_then(|id| runtime.engine.capture(id));
        }
        match message.request {
            Some(Request::ResponseHeaders(headers)) => {
                let mut head = ResponseHead::default();
                for (name, value) in pairs(&headers) {
                    let text = std::str::from_utf8(value).ok();
                    match name {
                        ":status" => head.status = text.and_then(|t| t.parse().ok()).unwrap_or_default(),
                        "content-type" => head.content_type = text,
                        "content-encoding" => head.content_encoding = text,
                        _ => {}
                    }
                }
                if let Some(capture) = &mut copy.capture {
                    capture.head(&head);
                }
                if headers.end_of_stream {
                    copy.end = BodyEnd::Complete;
                    break;
                }
            }
            Some(Request::ResponseBody(body)) => {
                counters.response_body_messages.fetch_add(1, Relaxed);
                if let Some(capture) = &mut copy.capture {
                    capture.body(&body.body);
                }
                if body.end_of_stream {
                    copy.end = BodyEnd::Complete;
                    break;
                }
            }
            _ => {}
        }
    }
}

/// The copy, given to the engine when the stream is over in any way.
struct Copy {
    runtime: Arc<Runtime>,
    capture: Option<Capture>,
    end: BodyEnd,
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Some(capture) = self.capture.take() {
            // Why an answer is not kept is a counter of the engine.
            let _ = self.runtime.engine.captured(capture, self.end, self.runtime.clock.now_ns());
        }
    }
}

/// The id that decide wrote into the dynamic metadata.
pub fn reservation_id(filter_metadata: &HashMap<String, Struct>) -> Option<u128> {
    let id = filter_metadata.get(names::NAMESPACE)?.fields.get("id")?;
    match &id.kind {
        Some(value::Kind::StringValue(text)) if text.len() == 32 => u128::from_str_radix(text, 16).ok(),
        _ => None,
    }
}
