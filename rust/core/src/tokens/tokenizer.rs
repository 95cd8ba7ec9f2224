//! Owns: the names by which a policy chooses how text is counted.
//! Must not know: messages, requests.
//! On failure: closed; an unknown name is an error that lists the known ones.

use std::fmt;

use super::count::Count;
use super::encoding::Encoding;
use super::estimate::Estimate;

/// How a model's text is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tokenizer {
    /// By a vocabulary that is compiled in
    Exact(Encoding),
    /// By a named estimate with a margin
    Estimate(Estimate),
}

/// Why a tokenizer was not chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerError {
    /// No tokenizer has this name
    Unknown {
        /// The name as it was given
        name: String,
    },
}

// === impl Tokenizer ===

impl Tokenizer {
    /// The tokenizer with this name: `o200k_base`, `cl100k_base`, `estimate:generic`, `estimate:llama`, …
    pub fn from_name(name: &str) -> Result<Self, TokenizerError> {
        let estimate =
            || Estimate::ALL.into_iter().find(|estimate| estimate.name() == name).map(Self::Estimate);
        Encoding::from_name(name)
            .map(Self::Exact)
            .or_else(estimate)
            .ok_or_else(|| TokenizerError::Unknown { name: name.to_owned() })
    }

    /// Every name that [`Self::from_name`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let estimates = Estimate::ALL.iter().map(Estimate::name);
        Encoding::ALL.into_iter().map(Encoding::name).chain(estimates)
    }

    /// The name in a policy.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Exact(encoding) => encoding.name(),
            Self::Estimate(estimate) => estimate.name(),
        }
    }

    /// Tokens of `text`.
    pub fn count(&self, text: &str) -> Count {
        self.count_from(text, self.base().count(text))
    }

    /// The encoding that text is counted with, whether for itself or as the base of an estimate.
    pub const fn base(&self) -> Encoding {
        match self {
            Self::Exact(encoding) => *encoding,
            Self::Estimate(_) => Estimate::BASE,
        }
    }

    /// Tokens of `text`, which has `base_tokens` by [`Self::base`].
    pub(super) fn count_from(&self, text: &str, base_tokens: u64) -> Count {
        match self {
            Self::Exact(_) => Count::exact(base_tokens),
            Self::Estimate(estimate) => {
                let tokens = estimate.tokens(text, base_tokens);
                Count::estimate(tokens, estimate.margin_tokens(tokens))
            }
        }
    }

    /// Builds what counting needs now, so that no request waits for it.
    pub fn warm(&self) {
        self.base().warm();
    }
}

/// `estimate:generic`, for a model of which nothing is known.
impl Default for Tokenizer {
    fn default() -> Self {
        Self::Estimate(Estimate::GENERIC)
    }
}

// === impl TokenizerError ===

impl TokenizerError {
    /// Stable name of the error.
    pub const fn slug(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown-tokenizer",
        }
    }
}

impl fmt::Display for TokenizerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => {
                write!(f, "unknown tokenizer `{name}`; take one of")?;
                for (index, name) in Tokenizer::names().enumerate() {
                    write!(f, "{} `{name}`", if index == 0 { "" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for TokenizerError {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_name_leads_back_to_itself() {
        for name in Tokenizer::names() {
            assert_eq!(Tokenizer::from_name(name).unwrap().name(), name);
        }
        assert_eq!(Tokenizer::default().name(), "estimate:generic");
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = Tokenizer::from_name("gpt2").unwrap_err();
        assert_eq!(error.slug(), "unknown-tokenizer");
        assert!(
            error
                .to_string()
                .starts_with("unknown tokenizer `gpt2`; take one of `o200k_base`, `cl100k_base`,")
        );
    }

    #[test]
    fn an_estimate_says_that_it_is_one() {
        let count = Tokenizer::default().count("The quick brown fox jumps over the lazy dog.");
        assert!(!count.exact && count.margin_tokens > 0 && count.tokens >= 9, "{count:?}");
        assert_eq!(Tokenizer::default().count("").tokens, 0);
    }
}
