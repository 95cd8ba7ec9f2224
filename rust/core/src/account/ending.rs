//! Owns: the verdict on a request that is over: how it ended, what it used, and whether that is known or estimated.
//! Must not know: who reports the end, prices, limits.
//! On failure: usage that is no usage is counted by the caller and estimated here; a verdict is always given.

use super::estimate::Calibration;
use crate::usage::TokenUse;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    /// A whole answer of the upstream
    #[default]
    Ok,
    /// Answered from the cache
    Hit,
    /// Answered with the answer of an equal request in flight
    Follow,
    /// Refused by us
    Refused,
    /// The upstream answered with an error
    UpstreamError,
    /// Envoy answered itself: nothing reached a model
    LocalReply,
    /// The client left
    Aborted,
    /// The upstream took too long
    Timeout,
    /// The upstream broke off
    Reset,
    /// Nothing ended it
    Expired,
}

/// Where the numbers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// Nothing reached a model
    #[default]
    Nothing,
    /// The upstream said it
    Exact,
    /// Counted and calibrated
    Estimated,
}

/// What was known before the upstream was asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// Our count of the prompt
    pub prompt_tokens: u64,
    /// That count is exact
    pub exact: bool,
    /// The most output of all choices; 0: there is none, as of an embedding; the largest: nobody says
    pub output_cap_tokens: u64,
    /// The answer is a stream of events
    pub stream: bool,
}

/// What the upstream said about its use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Told {
    /// Nothing, or something that is no usage
    #[default]
    Nothing,
    /// What it read, at the beginning of a stream whose end never came
    Beginning(TokenUse),
    /// What it had used by then, in a stream whose end never came
    SoFar(TokenUse),
    /// All of it
    Whole(TokenUse),
}

/// The end, as the log tells it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ending {
    /// HTTP status that the client got; 0: none
    pub status: u16,
    /// No upstream had the request
    pub local_reply: bool,
    /// The client left before the end
    pub aborted: bool,
    /// A bound on time ended it
    pub timed_out: bool,
    /// The upstream broke off
    pub reset: bool,
    /// Bytes of the answer that went to the client
    pub answer_bytes: u64,
    /// From the request's first byte to the end
    pub duration_ns: u64,
    /// From the request's first byte to the answer's; 0: there was none
    pub first_byte_ns: u64,
}

/// The verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settlement {
    /// How it ended
    pub outcome: Outcome,
    /// What was used
    pub used: TokenUse,
    /// Known or estimated
    pub source: Source,
}

// === impl Outcome ===

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::Hit,
        Self::Follow,
        Self::Refused,
        Self::UpstreamError,
        Self::LocalReply,
        Self::Aborted,
        Self::Timeout,
        Self::Reset,
        Self::Expired,
    ];

    /// The word in records and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Hit => "hit",
            Self::Follow => "follow",
            Self::Refused => "refused",
            Self::UpstreamError => "upstream_error",
            Self::LocalReply => "local_reply",
            Self::Aborted => "aborted",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Expired => "expired",
        }
    }

    /// Whether what it cost bought nothing.
    pub fn is_wasted(self) -> bool {
        !matches!(self, Self::Ok | Self::Hit | Self::Follow)
    }

    /// How it ended, by the log alone.
    pub fn of(ending: &Ending) -> Self {
        if ending.aborted {
            Self::Aborted
        } else if ending.timed_out {
            Self::Timeout
        } else if ending.local_reply {
            Self::LocalReply
        } else if ending.reset {
            Self::Reset
        } else if ending.status >= 400 {
            Self::UpstreamError
        } else {
            Self::Ok
        }
    }
}

// === impl Source ===

impl Source {
    /// The word in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Exact => "exact",
            Self::Estimated => "estimated",
        }
    }
}

// === impl Settlement ===

impl Settlement {
    /// The verdict on what nothing ever ended: its bound.
    pub fn expired(expected: &Expected) -> Self {
        let output = if expected.output_cap_tokens == u64::MAX { 0 } else { expected.output_cap_tokens };
        Self {
            outcome: Outcome::Expired,
            used: TokenUse { prompt: expected.prompt_tokens, output, ..TokenUse::default() },
            source: Source::Estimated,
        }
    }
}

/// Gives the verdict, and learns from answers that were told whole.
pub fn settle(expected: &Expected, ending: &Ending, told: Told, calibration: &Calibration) -> Settlement {
    let outcome = Outcome::of(ending);
    if ending.local_reply {
        // What passed the filters was Envoy's own answer: nothing that was read in it is usage.
        return Settlement { outcome, ..Settlement::default() };
    }
    let generation_ns = ending.duration_ns;
    if let Told::Whole(used) = told {
        // Its last event came through: whoever leaves then, before Envoy's own end of it, has the whole answer.
        let whole = outcome == Outcome::Aborted && expected.stream && ending.status < 400;
        let outcome = if whole { Outcome::Ok } else { outcome };
        if outcome == Outcome::Ok {
            calibration.learn(expected.stream, ending.answer_bytes, generation_ns, used.output);
            calibration.learn_prompt(expected.prompt_tokens, used.prompt);
        }
        return Settlement { outcome, used, source: Source::Exact };
    }
    if outcome == Outcome::UpstreamError {
        // An answer of 400 or above generated nothing.
        return Settlement { outcome, ..Settlement::default() };
    }
    let cap = expected.output_cap_tokens;
    let output = if cap == 0 {
        0
    } else if ending.answer_bytes > 0 || expected.stream {
        calibration.output(expected.stream, ending.answer_bytes, cap)
    } else {
        calibration.output_within(generation_ns, cap)
    };
    let begun = match told {
        Told::Beginning(used) => used,
        // It may have gone on after that.
        Told::SoFar(used) => {
            let used = TokenUse { output: used.output.max(output), ..used };
            return Settlement { outcome, used, source: Source::Estimated };
        }
        Told::Nothing | Told::Whole(_) => {
            TokenUse { prompt: prompt(expected, calibration), ..TokenUse::default() }
        }
    };
    Settlement { outcome, used: TokenUse { output, ..begun }, source: Source::Estimated }
}

fn prompt(expected: &Expected, calibration: &Calibration) -> u64 {
    // Also an exact count may miss what a server adds of its own, such as a template.
    calibration.prompt(expected.prompt_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USED: TokenUse = TokenUse { prompt: 90, cached: 0, cache_write: 0, output: 10, reasoning: 0 };

    fn expected(stream: bool) -> Expected {
        Expected { prompt_tokens: 100, exact: true, output_cap_tokens: 50, stream }
    }

    fn learned() -> Calibration {
        let calibration = Calibration::default();
        for tokens in 1..50 {
            calibration.learn(true, 100 * tokens, 0, tokens);
            calibration.learn(false, 10 * tokens, 1_000 * tokens, tokens);
        }
        calibration
    }

    #[test]
    fn what_the_upstream_says_is_exact_at_whatever_end() {
        for ending in [
            Ending { status: 200, ..Ending::default() },
            Ending { status: 200, aborted: true, ..Ending::default() },
            Ending { status: 200, reset: true, ..Ending::default() },
            Ending { status: 504, timed_out: true, ..Ending::default() },
        ] {
            let verdict = settle(&expected(true), &ending, Told::Whole(USED), &learned());
            assert_eq!((verdict.used, verdict.source), (USED, Source::Exact));
        }
    }

    #[test]
    fn a_local_reply_never_settles_from_usage() {
        let ending = Ending { status: 503, local_reply: true, ..Ending::default() };
        let verdict = settle(&expected(false), &ending, Told::Whole(USED), &learned());
        assert_eq!(verdict, Settlement { outcome: Outcome::LocalReply, ..Settlement::default() });
    }

    #[test]
    fn without_usage_it_is_estimated_from_what_was_seen() {
        let calibration = learned();
        let cut = Ending { status: 200, aborted: true, answer_bytes: 700, ..Ending::default() };
        let verdict = settle(&expected(true), &cut, Told::Nothing, &calibration);
        assert_eq!((verdict.outcome, verdict.source), (Outcome::Aborted, Source::Estimated));
        assert_eq!((verdict.used.prompt, verdict.used.output), (100, 7));
        let late = Ending { aborted: true, duration_ns: 20_000, ..Ending::default() };
        assert_eq!(settle(&expected(false), &late, Told::Nothing, &calibration).used.output, 20);
        let begun = settle(&expected(true), &cut, Told::Beginning(USED), &calibration);
        assert_eq!((begun.used.prompt, begun.used.output), (90, 7));
    }

    #[test]
    fn who_leaves_after_the_last_event_has_the_answer() {
        let left = Ending { status: 200, aborted: true, answer_bytes: 700, ..Ending::default() };
        let outcome = |stream, told| settle(&expected(stream), &left, told, &learned()).outcome;
        assert_eq!(outcome(true, Told::Whole(USED)), Outcome::Ok);
        assert_eq!(
            outcome(false, Told::Whole(USED)),
            Outcome::Aborted,
            "a plain answer may be cut behind its usage"
        );
        assert_eq!(outcome(true, Told::SoFar(USED)), Outcome::Aborted);
    }

    #[test]
    fn what_was_told_so_far_is_the_least() {
        let cut = |answer_bytes| {
            let ending = Ending { status: 200, aborted: true, answer_bytes, ..Ending::default() };
            settle(&expected(true), &ending, Told::SoFar(USED), &learned())
        };
        assert_eq!((cut(700).used, cut(700).source), (USED, Source::Estimated));
        assert_eq!(cut(1_200).used, TokenUse { output: 12, ..USED });
    }

    #[test]
    fn an_upstreams_error_costs_nothing_unless_it_says_so() {
        let ending = Ending { status: 500, answer_bytes: 900, ..Ending::default() };
        let verdict = settle(&expected(false), &ending, Told::Nothing, &learned());
        assert_eq!((verdict.outcome, verdict.source), (Outcome::UpstreamError, Source::Nothing));
        let billed = settle(&expected(false), &ending, Told::Whole(USED), &learned());
        assert_eq!((billed.used, billed.source), (USED, Source::Exact));
    }

    #[test]
    fn an_embedding_has_no_output() {
        let expected = Expected { output_cap_tokens: 0, ..expected(false) };
        let ending = Ending { status: 200, answer_bytes: 90_000, ..Ending::default() };
        assert_eq!(settle(&expected, &ending, Told::Nothing, &learned()).used.output, 0);
    }

    #[test]
    fn what_never_ended_costs_its_bound() {
        let verdict = Settlement::expired(&expected(true));
        assert_eq!((verdict.used.prompt, verdict.used.output), (100, 50));
        assert_eq!(verdict.source, Source::Estimated);
    }

    #[test]
    fn every_outcome_has_its_word() {
        let words: std::collections::HashSet<_> = Outcome::ALL.iter().map(|o| o.name()).collect();
        assert_eq!(words.len(), Outcome::ALL.len());
        assert!(Outcome::ALL.iter().filter(|o| !o.is_wasted()).count() == 3);
    }
}
