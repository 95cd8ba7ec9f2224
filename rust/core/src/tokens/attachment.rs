//! Owns: the tokens of what a request carries and no tokenizer reads: files, sealed reasoning, what is named by an id.
//! Must not know: messages, items, tools.
//! On failure: never fails; each is a named estimate with a margin, `exact` false.

use super::count::Count;

/// A file by its id or URL: a page of a PDF, up to ten of them.
///
/// *Source*: Anthropic, "PDF support": 1,500 to 3,000 tokens a page.
const UNSEEN_FILE: Count = Count::estimate(3_000, 27_000);

/// An item that only the server has: a turn, up to eight of them.
const UNSEEN_ITEM: Count = Count::estimate(256, 1_792);

/// A conversation that only the server has: some turns, up to eight times as many.
const UNSEEN_CONVERSATION: Count = Count::estimate(2_000, 14_000);

/// A file whose content is not in the request.
pub(super) const fn unseen_file() -> Count {
    UNSEEN_FILE
}

/// One item that is named by its id.
pub(super) const fn unseen_item() -> Count {
    UNSEEN_ITEM
}

/// Earlier turns that are named by an id.
pub(super) const fn unseen_conversation() -> Count {
    UNSEEN_CONVERSATION
}

/// A file in base64: four characters hold three bytes. A token has about four of them, and at least one.
pub(super) fn file(base64: &str) -> Count {
    of_bytes(base64)
}

/// Text that the provider encrypted, in base64, such as reasoning that is handed back.
pub(super) fn sealed(base64: &str) -> Count {
    of_bytes(base64)
}

fn of_bytes(base64: &str) -> Count {
    let bytes = (base64.len() as u64).div_ceil(4).saturating_mul(3);
    let tokens = bytes.div_ceil(4);
    Count::estimate(tokens, bytes - tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_has_less_than_a_byte() {
        assert_eq!(file(""), Count::estimate(0, 0));
        assert_eq!(sealed("AAAA"), Count::estimate(1, 2));
        assert_eq!(file(&"A".repeat(4_000)).bound_tokens(), 3_000);
        for unseen in [unseen_file(), unseen_item(), unseen_conversation()] {
            assert!(!unseen.exact && unseen.margin_tokens > unseen.tokens);
        }
    }
}
