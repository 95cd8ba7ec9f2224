//! Owns: counting for tokenizers whose vocabulary is not compiled in, from the count by one that is.
//! Must not know: messages, models.
//! On failure: cannot fail; the margin says how far a text of ordinary language or code may be off.
//!
//! Byte-pair vocabularies of today are trained on much the same texts, so they agree on most words. They differ
//! in digits (one token each, or up to three in one) and in how much they know of other scripts. An estimate is
//! therefore the count by `o200k_base` times a factor, plus a rate per digit and per byte beyond ASCII, fitted
//! to the published vocabularies of the family on prose, documentation, code in five languages, JSON, tables of
//! numbers, and one text in thirty-two languages. With its margin it is at least the true count for 95 of 100
//! kilobytes of each of these, but for what [`Estimate::ALL`] says. No text costs more than a token per byte.

use super::encoding::Encoding;

/// A named estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Estimate {
    name: &'static str,
    /// Thousandths of a token per `o200k_base` token, per digit, per byte beyond ASCII
    rates_milli: [u64; 3],
    /// Thousandths of the estimate that the true count may be higher by
    margin_ratio_milli: u64,
}

// === impl Estimate ===

impl Estimate {
    /// For a model of which nothing is known.
    pub const GENERIC: Self = Self::new("estimate:generic", [1150, 450, 100], 300);

    /// All estimates. Greek, which knows least of the scripts, may cost Qwen up to twice the estimate; Korean,
    /// Vietnamese and Greek may cost Llama 2 and the first Mistral vocabularies 1.6 times the estimate.
    pub const ALL: [Self; 7] = [
        Self::GENERIC,
        // Llama 3, 3.1, 3.2, 3.3
        Self::new("estimate:llama", [1030, 0, 5], 200),
        // Llama 2 and what was built on it
        Self::new("estimate:llama2", [1250, 360, 110], 400),
        // Mistral's vocabularies 1 to 3
        Self::new("estimate:mistral", [1200, 480, 80], 300),
        // Qwen 2, 2.5, 3
        Self::new("estimate:qwen", [1010, 520, 50], 300),
        // DeepSeek V3, R1
        Self::new("estimate:deepseek", [1040, 0, 5], 250),
        // Gemma 3
        Self::new("estimate:gemma", [1080, 500, 0], 200),
    ];

    const fn new(name: &'static str, rates_milli: [u64; 3], margin_ratio_milli: u64) -> Self {
        Self { name, rates_milli, margin_ratio_milli }
    }

    /// The name that a policy uses, such as `estimate:llama`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The encoding whose count an estimate starts from.
    pub const BASE: Encoding = Encoding::O200kBase;

    /// Thousandths of the estimate that the true count may be higher by.
    pub const fn margin_ratio_milli(&self) -> u64 {
        self.margin_ratio_milli
    }

    /// Estimated tokens of `text`, which has `base_tokens` by [`Self::BASE`].
    pub fn tokens(&self, text: &str, base_tokens: u64) -> u64 {
        let count = |of: fn(u8) -> bool| text.bytes().filter(|&byte| of(byte)).count() as u64;
        let digits = count(|byte| byte.is_ascii_digit());
        let beyond_ascii = count(|byte| byte >= 0x80);
        let [per_token, per_digit, per_byte] = self.rates_milli;
        let millitokens = per_token * base_tokens + per_digit * digits + per_byte * beyond_ascii;
        millitokens.div_ceil(1000).min(text.len() as u64)
    }

    /// By how much the true count may be higher than an estimate of `tokens`.
    pub fn margin_tokens(&self, tokens: u64) -> u64 {
        (tokens * self.margin_ratio_milli).div_ceil(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_base_count_digits_and_other_scripts() {
        let qwen = Estimate::ALL[4];
        assert_eq!(qwen.name(), "estimate:qwen");
        let tokens = |text: &str| qwen.tokens(text, Estimate::BASE.count(text));
        assert_eq!(tokens(""), 0);
        assert_eq!(tokens("hello world"), 3);
        assert_eq!(tokens(&"1234567890".repeat(10)), 87);
        assert!(tokens("\u{3b1}\u{3b2}\u{3b3}") > Estimate::BASE.count("\u{3b1}\u{3b2}\u{3b3}"));
        assert_eq!(qwen.margin_tokens(10), 3);
    }

    #[test]
    fn is_never_more_than_a_token_per_byte() {
        for estimate in Estimate::ALL {
            for text in ["1", "\u{7f}", "1 2 3 4", "\u{1F980}\u{1F980}"] {
                let tokens = estimate.tokens(text, Estimate::BASE.count(text));
                assert!((1..=text.len() as u64).contains(&tokens), "{} {text:?} {tokens}", estimate.name());
            }
        }
    }
}
