//! Owns: the JSON of a generation: the chunks of a stream, and the whole answer. `usage` comes last.
//! Must not know: tensors, sockets.
//! On failure: not applicable.

use std::fmt::Write as _;

use forebay_core::policy::pb::route::Operation;
use forebay_core::refusal::push_json_string;

/// What every chunk of one answer says.
#[derive(Debug, Clone)]
pub(super) struct Voice {
    kind: Kind,
    /// `"id":…` and the first letters of the object's name
    id: String,
    created_unix_s: u64,
    model: String,
    prompt_tokens: u64,
    usage: UsageChunk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Chat,
    Text,
}

/// Whether a stream ends with a chunk of its usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UsageChunk {
    Omit,
    Include,
}

/// What an answer says of its request.
pub(super) struct AnswerHead<'a> {
    pub operation: Operation,
    pub id: u128,
    pub model: &'a str,
    pub created_unix_s: u64,
    pub prompt_tokens: u64,
}

// === impl Voice ===

impl Voice {
    pub(super) fn new(head: &AnswerHead<'_>, usage: UsageChunk) -> Self {
        let (kind, prefix) = match head.operation {
            Operation::TextCompletions => (Kind::Text, "cmpl"),
            _ => (Kind::Chat, "chatcmpl"),
        };
        Self {
            kind,
            id: format!("{prefix}-{:032x}", head.id),
            created_unix_s: head.created_unix_s,
            model: head.model.to_owned(),
            prompt_tokens: head.prompt_tokens,
            usage,
        }
    }

    /// How a stream begins: a chat with its role, a completion with nothing.
    pub(super) fn push_begin(&self, out: &mut String) {
        if self.kind == Kind::Chat {
            self.push_chunk(out, |out| out.push_str(r#""delta":{"role":"assistant","content":""}"#), None);
        }
    }

    /// A piece of text.
    pub(super) fn push_text(&self, out: &mut String, text: &str) {
        let kind = self.kind;
        let payload = |out: &mut String| match kind {
            Kind::Chat => {
                out.push_str(r#""delta":{"content":"#);
                push_json_string(out, text);
                out.push('}');
            }
            Kind::Text => {
                out.push_str(r#""text":"#);
                push_json_string(out, text);
            }
        };
        self.push_chunk(out, payload, None);
    }

    /// How a stream ends: the reason, the usage where it was asked for, and the mark.
    pub(super) fn push_end(&self, out: &mut String, finish_reason: &str, completion_tokens: u64) {
        let payload = match self.kind {
            Kind::Chat => r#""delta":{}"#,
            Kind::Text => r#""text":"""#,
        };
        self.push_chunk(out, |out| out.push_str(payload), Some(finish_reason));
        if self.usage == UsageChunk::Include {
            out.push_str("data: ");
            self.push_head(out, self.chunk_object());
            out.push_str(r#""choices":[],"#);
            self.push_usage(out, completion_tokens);
            out.push_str("}\n\n");
        }
        out.push_str("data: [DONE]\n\n");
    }

    /// The whole answer.
    pub(super) fn whole(&self, text: &str, finish_reason: &str, completion_tokens: u64) -> Vec<u8> {
        let mut out = String::with_capacity(320 + text.len() + text.len() / 8);
        let object = match self.kind {
            Kind::Chat => "chat.completion",
            Kind::Text => "text_completion",
        };
        self.push_head(&mut out, object);
        out.push_str(r#""choices":[{"index":0,"#);
        match self.kind {
            Kind::Chat => {
                out.push_str(r#""message":{"role":"assistant","content":"#);
                push_json_string(&mut out, text);
                out.push_str(r#","refusal":null}"#);
            }
            Kind::Text => {
                out.push_str(r#""text":"#);
                push_json_string(&mut out, text);
            }
        }
        out.push_str(r#","logprobs":null,"finish_reason":"#);
        push_json_string(&mut out, finish_reason);
        out.push_str("}],");
        self.push_usage(&mut out, completion_tokens);
        out.push('}');
        out.into_bytes()
    }

    fn push_chunk(&self, out: &mut String, payload: impl FnOnce(&mut String), finish_reason: Option<&str>) {
        out.push_str("data: ");
        self.push_head(out, self.chunk_object());
        out.push_str(r#""choices":[{"index":0,"#);
        payload(out);
        out.push_str(r#","logprobs":null,"finish_reason":"#);
        match finish_reason {
            Some(reason) => push_json_string(out, reason),
            None => out.push_str("null"),
        }
        out.push_str("}]");
        if self.usage == UsageChunk::Include {
            out.push_str(r#","usage":null"#);
        }
        out.push_str("}\n\n");
    }

    fn push_head(&self, out: &mut String, object: &str) {
        let Self { id, created_unix_s, .. } = self;
        let _ = write!(out, r#"{{"id":"{id}","object":"{object}","created":{created_unix_s},"model":"#);
        push_json_string(out, &self.model);
        out.push(',');
    }

    fn push_usage(&self, out: &mut String, completion_tokens: u64) {
        let prompt_tokens = self.prompt_tokens;
        let total_tokens = prompt_tokens.saturating_add(completion_tokens);
        let _ = write!(
            out,
            r#""usage":{{"prompt_tokens":{prompt_tokens},"completion_tokens":{completion_tokens},"total_tokens":{total_tokens}}}"#
        );
    }

    fn chunk_object(&self) -> &'static str {
        match self.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Text => "text_completion",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use forebay_core::answer::{
        AnswerKind, BodyEnd, CaptureBudget, CollectLimits, Collector, Expect, ResponseHead, Usage,
    };
    use forebay_core::json::{Bounds, Document, Json};
    use proptest::prelude::*;

    fn voice(operation: Operation, usage: UsageChunk) -> Voice {
        let head =
            AnswerHead { operation, id: 0xab, model: "m\"", created_unix_s: 1_700_000_000, prompt_tokens: 5 };
        Voice::new(&head, usage)
    }

    fn kind(operation: Operation) -> AnswerKind {
        if operation == Operation::ChatCompletions { AnswerKind::Chat } else { AnswerKind::Completion }
    }

    /// What the exact cache would keep of it.
    fn collected(operation: Operation, content_type: &str, body: &[u8]) -> Document<'static> {
        let limits =
            CollectLimits { max_answer_bytes: 1 << 20, max_event_bytes: 1 << 20, max_stream_bytes: 1 << 20 };
        let head = ResponseHead { status: 200, content_type: Some(content_type), content_encoding: None };
        let expect = Expect { kind: kind(operation), items: Some(1) };
        let mut collector = Collector::new(expect, &head, limits, &CaptureBudget::new(1 << 24));
        collector.push(body);
        let answer = collector.finish(BodyEnd::Complete).unwrap();
        Document::parse(Box::leak(answer.body.to_vec().into_boxed_slice()), Bounds::default()).unwrap()
    }

    fn text_of(operation: Operation, document: &Document<'_>) -> String {
        let choice = &document.get("choices").unwrap().as_array().unwrap()[0];
        let text = match operation {
            Operation::ChatCompletions => choice.get("message").and_then(|message| message.get("content")),
            _ => choice.get("text"),
        };
        text.and_then(Json::as_str).unwrap().to_owned()
    }

    #[test]
    fn a_stream_reads_as_openais() {
        let voice = voice(Operation::ChatCompletions, UsageChunk::Include);
        let mut out = String::new();
        voice.push_begin(&mut out);
        voice.push_text(&mut out, "a\n");
        voice.push_end(&mut out, "stop", 2);
        let head = r#"data: {"id":"chatcmpl-000000000000000000000000000000ab","object":"chat.completion.chunk","created":1700000000,"model":"m\"","choices":["#;
        let events = [
            r#"{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}"#,
            r#"{"index":0,"delta":{"content":"a\n"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
            r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}"#,
            r#"],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#,
        ];
        let events: Vec<String> = events.iter().map(|event| format!("{head}{event}\n\n")).collect();
        assert_eq!(out, events.concat() + "data: [DONE]\n\n");
    }

    #[test]
    fn the_usage_is_where_it_is_looked_for() {
        for operation in [Operation::ChatCompletions, Operation::TextCompletions] {
            let body = voice(operation, UsageChunk::Omit).whole("x", "length", 9);
            let usage = Usage::of_body(&body).unwrap();
            assert_eq!((usage.prompt_tokens, usage.completion_tokens), (5, 9));
            assert!(body.ends_with(br#""total_tokens":14}}"#));
        }
    }

    proptest! {
        /// Streamed in any pieces or whole: what the cache keeps is the same text.
        #[test]
        fn the_cache_keeps_what_was_said(
            pieces in prop::collection::vec(any::<String>(), 0..6),
            operation in prop::sample::select(vec![Operation::ChatCompletions, Operation::TextCompletions]),
            usage in prop::sample::select(vec![UsageChunk::Omit, UsageChunk::Include]),
        ) {
            let voice = voice(operation, usage);
            let mut stream = String::new();
            voice.push_begin(&mut stream);
            for piece in &pieces {
                voice.push_text(&mut stream, piece);
            }
            voice.push_end(&mut stream, "stop", 3);
            let folded = collected(operation, "text/event-stream", stream.as_bytes());
            let whole = collected(operation, "application/json", &voice.whole(&pieces.concat(), "stop", 3));
            prop_assert_eq!(text_of(operation, &folded), pieces.concat());
            prop_assert_eq!(text_of(operation, &whole), pieces.concat());
            let same = |name: &str| folded.get(name) == whole.get(name);
            prop_assert!(["id", "created", "model", "object"].into_iter().all(same));
            prop_assert_eq!(folded.get("usage").is_some(), usage == UsageChunk::Include);
        }
    }
}
