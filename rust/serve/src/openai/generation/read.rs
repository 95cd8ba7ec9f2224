//! Owns: one body of a generation, read: the request for the model, and what the answer needs to know of it.
//! Must not know: sockets, time. It owns what it reads with, so that it may go to another thread.
//! On failure: closed; nothing is sent for a body that is refused.

use std::sync::Arc;

use bytes::Bytes;
use forebay_core::batch::ModelShape;
use forebay_core::json::{Bounds, Document};
use forebay_core::policy::pb::route::Operation;
use forebay_core::tokens::Tokenizer;

use super::chunk::UsageChunk;
use super::prompt;
use super::request::{self, Generate};
use super::sampling::{Sampling, Value};
use crate::kserve::Placed;
use crate::openai::Loaded;
use crate::openai::fault::Fault;

/// What a body is read with.
pub(super) struct Reader {
    pub placed: Placed,
    pub id: u128,
    pub shape: Arc<ModelShape>,
    pub loaded: Arc<Loaded>,
    pub max_prompt_bytes: usize,
}

/// What a body says.
pub(super) struct Read {
    /// The encoded message for the model
    pub request: Bytes,
    pub counter: Tokenizer,
    pub prompt_tokens: u64,
    pub max_tokens: Option<u64>,
    pub streamed: bool,
    pub usage: UsageChunk,
}

// === impl Reader ===

impl Reader {
    pub(super) fn read(&self, body: &[u8]) -> Result<Read, Fault> {
        let Placed { operation, tensors, tokenizer, context_window_tokens, .. } = &self.placed;
        let mapping = tensors.generation.clone().unwrap_or_default();
        let document = Document::parse(body, Bounds::default())?;
        let mut sampling = Sampling::read(&document, *operation)?;
        let prompt = if *operation == Operation::TextCompletions {
            prompt::of_completion(&document)?
        } else {
            let template = &mapping.chat_template;
            prompt::of_chat(&document, &self.loaded.templates, template, self.max_prompt_bytes)?
        };
        let counter = Tokenizer::from_name(tokenizer).unwrap_or_default();
        let count = counter.count(&prompt);
        // Without a bound servers stop after a handful of tokens; a chat goes on to the end of its window.
        let rest_of_window = || {
            let rest = context_window_tokens.saturating_sub(count.bound_tokens());
            (*context_window_tokens > 0).then(|| rest.max(1))
        };
        let max_tokens = sampling.max_tokens.or_else(rest_of_window);
        let written = max_tokens.map(|tokens| tokens.to_string());
        sampling.parameters.extend(written.as_deref().map(|text| ("max_tokens", Value::Number(text))));
        let generate = Generate {
            model: &self.placed.upstream,
            id: format!("{:032x}", self.id),
            prompt: &prompt,
            parameters: &sampling.parameters,
        };
        Ok(Read {
            request: request::encode(&generate, &mapping, &self.shape)?,
            counter,
            prompt_tokens: count.tokens,
            max_tokens,
            streamed: sampling.streamed,
            usage: if sampling.include_usage { UsageChunk::Include } else { UsageChunk::Omit },
        })
    }
}
