//! Owns: reading a packed vocabulary that is compiled in: rank → bytes.
//! Must not know: merging, splitting, which models use it.
//! On failure: stops at the first malformed entry; the bytes are constants, and a test pins their digest.
//!
//! Format (`splintr-vocab-pack` 1): `"SPLNTRV1"`, count as u32 LE, then `varint(rank) varint(length) bytes`.

/// Rank of a token: its identity, and the order in which merges are learned.
pub(super) type Rank = u32;

/// The tokens of one vocabulary, by rank; the bytes stay where they were compiled in.
pub(super) struct Vocab {
    tokens: Vec<&'static [u8]>,
}

// === impl Vocab ===

impl Vocab {
    /// Reads a packed vocabulary. Ranks without an entry have the empty token.
    pub(super) fn read(packed: &'static [u8]) -> Self {
        let mut tokens: Vec<&'static [u8]> = Vec::new();
        let mut rest = packed.get(12..).unwrap_or_default();
        while let Some((rank, token, after)) = entry(rest) {
            // A rank past the 18 bits that the pair table packs is no rank of these vocabularies.
            if rank >= 1 << 18 {
                break;
            }
            if tokens.len() <= rank {
                tokens.resize(rank + 1, &[]);
            }
            tokens[rank] = token;
            rest = after;
        }
        Self { tokens }
    }

    /// Every rank with its bytes, in rank order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Rank, &'static [u8])> + '_ {
        (0..).zip(self.tokens.iter().copied()).filter(|(_, token)| !token.is_empty())
    }

    /// One more than the highest rank.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }
}

fn entry(bytes: &[u8]) -> Option<(usize, &[u8], &[u8])> {
    let (rank, rest) = varint(bytes)?;
    let (length, rest) = varint(rest)?;
    let (token, rest) = rest.split_at_checked(length)?;
    Some((rank, token, rest))
}

fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        value |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    /// SHA-256 of the published text form, a line `base64(token) rank` for each token.
    fn published_sha256(packed: &'static [u8]) -> String {
        let mut text = Vec::new();
        for (rank, token) in Vocab::read(packed).iter() {
            for chunk in token.chunks(3) {
                let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
                let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
                for index in 0..4 {
                    let six = bits >> (18 - 6 * index) & 0x3F;
                    text.push(if index <= chunk.len() { ALPHABET[six as usize] } else { b'=' });
                }
            }
            text.extend_from_slice(format!(" {rank}\n").as_bytes());
        }
        let digest = Sha256::digest(&text);
        digest
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .filter_map(|four| char::from_digit(four.into(), 16))
            .collect()
    }

    /// The digests that `tiktoken` 0.14 expects of its downloads.
    #[test]
    fn the_compiled_in_vocabularies_are_the_published_ones() {
        assert_eq!(
            published_sha256(splintr_vocab_o200k::O200K_BASE_VOCAB_PACKED),
            "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
        );
        assert_eq!(
            published_sha256(splintr_vocab_cl100k::CL100K_BASE_VOCAB_PACKED),
            "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
        );
    }

    #[test]
    fn a_truncated_vocabulary_ends_early_and_does_not_panic() {
        let packed = splintr_vocab_cl100k::CL100K_BASE_VOCAB_PACKED;
        for end in [0, 3, 12, 13, 14, 100] {
            let part: &'static [u8] = &packed[..end];
            assert!(Vocab::read(part).len() <= end);
        }
    }
}
