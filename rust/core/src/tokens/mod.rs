//! Owns: how many tokens a request costs before it is sent.
//! Must not know: limits, prices, how a request arrived.
//! On failure: never fails on a request; what it cannot know it estimates upwards and says so.
//!
//! ```
//! use forebay_core::tokens::{Encoding, Tokenizer};
//!
//! assert_eq!(Encoding::O200kBase.count("hello world"), 2);
//! assert!(!Tokenizer::from_name("estimate:llama")?.count("hello world").exact);
//! # Ok::<(), forebay_core::tokens::TokenizerError>(())
//! ```

// From bytes to a text's count.
mod ascii;
mod classes;
mod encoding;
mod merges;
#[cfg(test)]
mod oracle;
mod pieces;
mod split;
mod tree;
mod vocab;

// From a text's count to a request's.
mod attachment;
mod chat;
mod count;
mod estimate;
mod image;
mod memo;
mod messages;
mod picture;
mod prompt;
mod responses;
mod rules;
mod tokenizer;
mod tools;

pub use chat::count_chat;
pub use count::Count;
pub use encoding::Encoding;
pub use estimate::Estimate;
pub use image::ImageRule;
pub use memo::{Memo, MemoStats};
pub use messages::count_messages;
pub use prompt::count_prompt;
pub use responses::count_responses;
pub use rules::CountRules;
pub use tokenizer::{Tokenizer, TokenizerError};
