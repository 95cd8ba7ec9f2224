//! Owns the three kinds of answers that may be stored, and their names in the protocol.
//! Must not know bodies.
//! On failure: nothing here fails.

/// What was asked for, hence what its answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerKind {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
    /// `/v1/embeddings`
    Embedding,
}

impl AnswerKind {
    /// The stable name used in metadata, metrics and the Python surface.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Embedding => "embedding",
        }
    }

    /// The kind of a stable name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "chat" => Some(Self::Chat),
            "completion" => Some(Self::Completion),
            "embedding" => Some(Self::Embedding),
            _ => None,
        }
    }

    /// The `object` of a plain answer.
    pub(crate) const fn plain_object(self) -> &'static str {
        match self {
            Self::Chat => "chat.completion",
            Self::Completion => "text_completion",
            Self::Embedding => "list",
        }
    }

    /// The `object` of one event of a stream; embeddings have none.
    pub(crate) const fn chunk_object(self) -> Option<&'static str> {
        match self {
            Self::Chat => Some("chat.completion.chunk"),
            Self::Completion => Some("text_completion"),
            Self::Embedding => None,
        }
    }
}
