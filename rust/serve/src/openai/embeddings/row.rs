//! Owns: one text as the model reads it: itself, or its token numbers; and the tensors that these become.
//! Must not know: JSON, queues.
//! On failure: closed; a text that is too long is refused with the numbers, and is never cut.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use forebay_core::batch::{Datatype, ModelShape, Tensor};
use forebay_core::policy::pb::{EmbeddingTensors, TokenInputs, embedding_tensors};
use forebay_core::tokens::{Encoding, Tokenizer as Counter};

use super::input::{Input, Placed as PlacedInput};
use crate::kserve::{Asked, Placed};
use crate::openai::fault::Fault;
use crate::openai::tensors;

/// Cuts texts as one model wants them. It owns all that it needs, so that it may go to another thread.
pub(super) struct Reader {
    cutter: Cutter,
    /// 0: no bound
    max_tokens: u64,
}

enum Cutter {
    /// The model reads text; tokens are counted alone
    Text(Counter),
    /// A tokenizer from a file, which adds its special tokens
    File(Arc<::tokenizers::Tokenizer>),
    /// One that is compiled in, which adds none
    Exact(Encoding),
}

/// One text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    content: Content,
    /// What the model reads
    pub tokens: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Text(Bytes),
    Ids { ids: Vec<u32>, types: Vec<u32> },
}

// === impl Reader ===

impl Reader {
    /// A reader for a model, its tokenizer loaded.
    pub(super) async fn of(
        asked: &Asked,
        placed: &Placed,
        mapping: &EmbeddingTensors,
    ) -> Result<Self, Fault> {
        let window = placed.context_window_tokens;
        match &mapping.input {
            None | Some(embedding_tensors::Input::TextInput(_)) => {
                let counter = Counter::from_name(&placed.tokenizer).unwrap_or_default();
                Ok(Self { cutter: Cutter::Text(counter), max_tokens: window })
            }
            Some(embedding_tensors::Input::Tokens(tokens)) => {
                let max_tokens = if tokens.max_tokens > 0 { u64::from(tokens.max_tokens) } else { window };
                Ok(Self { cutter: cutter(asked, placed, tokens).await?, max_tokens })
            }
        }
    }

    /// One text as the model reads it.
    pub(super) fn row(&self, placed: &PlacedInput<'_>) -> Result<Row, Fault> {
        let path = &placed.path;
        let row = match (&placed.input, &self.cutter) {
            (Input::Text(text), Cutter::Text(counter)) => Row {
                content: Content::Text(Bytes::copy_from_slice(text.as_bytes())),
                tokens: counter.count(text).tokens,
            },
            (Input::Tokens(_), Cutter::Text(_)) => {
                let message =
                    format!("`{path}` holds token numbers, but the model reads text; send a string");
                return Err(Fault::field(path, message));
            }
            (Input::Text(text), Cutter::File(tokenizer)) => {
                let encoding = tokenizer.encode_fast(*text, true).map_err(|error| {
                    Fault::field(path, format!("`{path}` cannot be cut into tokens: {error}"))
                })?;
                Row::of_ids(encoding.get_ids().to_vec(), encoding.get_type_ids().to_vec())
            }
            (Input::Text(text), Cutter::Exact(encoding)) => Row::of_ids(encoding.ids(text), Vec::new()),
            (Input::Tokens(ids), cutter) => {
                let known = match cutter {
                    Cutter::File(tokenizer) => tokenizer.get_vocab_size(true) as u64,
                    _ => u64::MAX,
                };
                if let Some(unknown) = ids.iter().find(|&&id| u64::from(id) >= known) {
                    let message = format!(
                        "`{path}` has the token number {unknown}, but the model knows {known} tokens; cut the text by \
                         the model's own tokenizer, or send it as a string"
                    );
                    return Err(Fault::field(path, message));
                }
                Row::of_ids(ids.clone(), Vec::new())
            }
        };
        if self.max_tokens > 0 && row.tokens > self.max_tokens {
            let message = format!(
                "`{path}` has {} tokens; the model reads at most {}, and nothing is cut off: send less",
                row.tokens, self.max_tokens
            );
            return Err(Fault::field(path, message));
        }
        if row.tokens == 0 && matches!(row.content, Content::Ids { .. }) {
            return Err(Fault::field(path, format!("`{path}` has no token that the model knows")));
        }
        Ok(row)
    }
}

async fn cutter(asked: &Asked, placed: &Placed, tokens: &TokenInputs) -> Result<Cutter, Fault> {
    if tokens.tokenizer_file.is_empty() {
        return match Encoding::from_name(&placed.tokenizer) {
            Some(encoding) => Ok(Cutter::Exact(encoding)),
            None => Err(Fault::mapping(format!(
                "`{}` needs a `tokenizer_file`: its tokenizer `{}` has no token numbers",
                placed.model, placed.tokenizer
            ))),
        };
    }
    match asked.loaded.tokenizers.of_file(&tokens.tokenizer_file).await {
        Ok(tokenizer) => Ok(Cutter::File(tokenizer)),
        Err(unusable) => {
            asked.loaded.report.say("tokenizer_unusable", &unusable.0);
            Err(Fault::tokenizer())
        }
    }
}

// === impl Row ===

impl Row {
    fn of_ids(ids: Vec<u32>, types: Vec<u32>) -> Self {
        let tokens = ids.len() as u64;
        Self { content: Content::Ids { ids, types }, tokens }
    }

    /// Bytes that it holds, about.
    pub(super) fn bytes(&self) -> u64 {
        match &self.content {
            Content::Text(text) => text.len() as u64,
            Content::Ids { ids, .. } => 8 * ids.len() as u64,
        }
    }

    /// Its tensors, by the model's own datatypes and dimensions.
    pub(super) fn tensors(
        self,
        mapping: &EmbeddingTensors,
        shape: &ModelShape,
    ) -> Result<Vec<Tensor>, Fault> {
        match (self.content, &mapping.input) {
            (Content::Ids { ids, types }, Some(embedding_tensors::Input::Tokens(inputs))) => {
                let mut made = vec![integers(shape, &inputs.ids, ids.iter().copied())?];
                if !inputs.mask.is_empty() {
                    made.push(integers(shape, &inputs.mask, ids.iter().map(|_| 1))?);
                }
                if !inputs.type_ids.is_empty() {
                    let types = (0..ids.len()).map(|at| types.get(at).copied().unwrap_or_default());
                    made.push(integers(shape, &inputs.type_ids, types)?);
                }
                Ok(made)
            }
            (Content::Text(text), Some(embedding_tensors::Input::TextInput(name))) => {
                Ok(vec![tensors::texts(shape, name, &[&text])?])
            }
            _ => Err(Fault::mapping("the `embeddings` tensors name no input".to_owned())),
        }
    }
}

/// Numbers in the datatype that the input has.
fn integers(
    shape: &ModelShape,
    name: &str,
    values: impl ExactSizeIterator<Item = u32>,
) -> Result<Tensor, Fault> {
    let spec = tensors::input(shape, name)?;
    let count = values.len();
    let mut data = BytesMut::with_capacity(8 * count);
    match spec.datatype {
        Datatype::Int64 | Datatype::Uint64 => values.for_each(|value| data.put_u64_le(value.into())),
        // Above 2^31 only as an unsigned one, and no vocabulary is that large.
        Datatype::Int32 | Datatype::Uint32 => values.for_each(|value| data.put_u32_le(value)),
        other => {
            return Err(Fault::mapping(format!(
                "the input `{name}` is {other}; token numbers need an integer of 32 or 64 bits"
            )));
        }
    }
    tensors::tensor(shape, spec, count, data.freeze())
}
