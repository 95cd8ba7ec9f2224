//! Owns the request bodies: distinct chat prompts of real words, of an exact size, from a seed.
//! Must not know of sockets or of who reads the body.
//! On failure: nothing here fails; a size below the frame's gives the frame with its prefix.

use crate::words::WORDS;

/// What one run's bodies have in common.
#[derive(Clone, Debug)]
pub struct PromptSpec {
    /// Model name in the body.
    pub model: String,
    /// Bytes of the whole JSON body, for example 1024.
    pub body_bytes: usize,
    /// Most completion tokens that the request allows.
    pub max_tokens: u32,
    /// Whether the body asks for a stream, and for its usage.
    pub reply: Reply,
    /// Changes every word but not the shape.
    pub seed: u64,
}

/// Which answer the body asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// One JSON object.
    Plain,
    /// Server-sent events that end with the usage.
    Stream,
    /// Server-sent events; nothing is said about usage.
    BareStream,
}

// === impl Reply ===

impl Reply {
    /// Whether a 200 must carry events.
    pub fn is_stream(self) -> bool {
        self != Self::Plain
    }
}

// === impl PromptSpec ===

impl PromptSpec {
    /// Appends the body of request `index` to `out`: equal indices give equal bodies, others differ early.
    pub fn write_body(&self, index: u64, out: &mut Vec<u8>) {
        let start = out.len();
        let stream = match self.reply {
            Reply::Plain => "",
            Reply::Stream => ",\"stream\":true,\"stream_options\":{\"include_usage\":true}",
            Reply::BareStream => ",\"stream\":true",
        };
        let tail = format!("\"}}],\"temperature\":0,\"max_tokens\":{}{stream}}}", self.max_tokens);
        out.extend_from_slice(
            format!(
                "{{\"model\":\"{}\",\"messages\":[{{\"role\":\"system\",\"content\":\"You answer briefly and name \
                 your sources.\"}},{{\"role\":\"user\",\"content\":\"Case {:x}-{index}: ",
                self.model, self.seed
            )
            .as_bytes(),
        );
        let end = (start + self.body_bytes).saturating_sub(tail.len());
        let mut random = Random::new(self.seed, index);
        while out.len() < end {
            write_word(&mut random, out);
        }
        // A cut inside a word is fine: every byte of a word is ASCII and needs no escape.
        out.truncate(end.max(start));
        out.extend_from_slice(tail.as_bytes());
    }
}

/// Prose is mostly common words; numbers, codes and sentence ends keep a tokenizer's memo honest.
fn write_word(random: &mut Random, out: &mut Vec<u8>) {
    let draw = random.next();
    match draw % 64 {
        0..=2 => out.extend_from_slice((draw >> 40).to_string().as_bytes()),
        3 => {
            for shift in 0..6 {
                out.push(b'a' + ((draw >> (8 + shift * 6)) % 26) as u8);
            }
        }
        _ => out.extend_from_slice(WORDS[(draw >> 8) as usize % WORDS.len()].as_bytes()),
    }
    let separator: &[u8] = match (draw >> 56) % 16 {
        0 => b". ",
        1 => b", ",
        _ => b" ",
    };
    out.extend_from_slice(separator);
}

/// `SplitMix64`: small, fast, and good enough to choose words.
#[derive(Debug)]
struct Random(u64);

// === impl Random ===

impl Random {
    fn new(seed: u64, index: u64) -> Self {
        Self(seed ^ index.wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(index: u64, body_bytes: usize) -> Vec<u8> {
        let spec = PromptSpec {
            model: "bench".to_owned(),
            body_bytes,
            max_tokens: 64,
            reply: Reply::Stream,
            seed: 7,
        };
        let mut out = Vec::new();
        spec.write_body(index, &mut out);
        out
    }

    #[test]
    fn bodies_have_the_size_asked_for_and_differ() {
        assert_eq!(body(1, 1024).len(), 1024);
        assert_eq!(body(1, 220_000).len(), 220_000);
        assert_eq!(body(1, 1024), body(1, 1024));
        assert_ne!(body(1, 1024), body(2, 1024));
    }

    #[test]
    fn a_bare_stream_says_nothing_about_usage() {
        let spec = PromptSpec {
            model: "bench".to_owned(),
            body_bytes: 512,
            max_tokens: 64,
            reply: Reply::BareStream,
            seed: 7,
        };
        let mut out = Vec::new();
        spec.write_body(1, &mut out);
        assert!(out.ends_with(b",\"stream\":true}"));
        assert_eq!(out.len(), 512);
    }

    #[test]
    fn no_byte_of_a_prompt_needs_an_escape() {
        assert!(WORDS.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_alphabetic())));
    }
}
