//! Owns: what tokens cost: the cost of a use, and the most that a use within bounds can cost.
//! Must not know: where prices come from, budgets, models.
//! On failure: cannot fail; sums are exact in 128 bits and end at `u64::MAX`.
//!
//! A price of 0 is "not given" in the policy. Not given, a prompt or an output is free: a model's own prices are a
//! statement as a whole, and one without an output price, such as an embedding model's, charges none. A cached or
//! written token without a price costs what a prompt token costs; where the provider gives it away, 1 (a nano-USD
//! for a million tokens) says so. For long prompts, what is not given is as for shorter ones, but the two cache
//! prices follow the long prompt's.

use std::sync::Arc;

use crate::policy::pb;
use crate::usage::TokenUse;

const TOKENS_PER_PRICE: u128 = 1_000_000;

/// The prices of a model, every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prices {
    revision: Arc<str>,
    request_nanousd: u64,
    /// By the bound above which they hold, rising; the first is 0 and holds for any prompt
    rates: Box<[(u64, Rates)]>,
}

/// Nano-USD for a million tokens of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rates {
    prompt: u64,
    cached: u64,
    cache_write: u64,
    output: u64,
}

/// What the use costs: the exact sum, rounded up to a whole nano-USD.
///
/// *Cost*: a few multiplications.
///
/// ```
/// use forebay_core::policy::pb;
/// use forebay_core::price::{Prices, bound_nanousd, cost_nanousd};
/// use forebay_core::usage::TokenUse;
///
/// // 0.15 USD for a million tokens of prompt, half of it for cached ones, 0.60 USD for output.
/// let prices = Prices::new(&pb::Prices {
///     prompt_nanousd_per_million_tokens: 150_000_000,
///     cached_prompt_nanousd_per_million_tokens: 75_000_000,
///     output_nanousd_per_million_tokens: 600_000_000,
///     ..pb::Prices::default()
/// });
/// let used = TokenUse { prompt: 1_000, cached: 400, output: 100, ..TokenUse::default() };
/// assert_eq!(cost_nanousd(&prices, &used), 600 * 150 + 400 * 75 + 100 * 600);
/// assert_eq!(bound_nanousd(&prices, 1_000, 100), 1_000 * 150 + 100 * 600);
/// ```
pub fn cost_nanousd(prices: &Prices, used: &TokenUse) -> u64 {
    let rates = prices.rates_for(used.prompt);
    let cached = used.cached.min(used.prompt);
    let cache_write = used.cache_write.min(used.prompt - cached);
    let plain = used.prompt - cached - cache_write;
    let sum = [
        (plain, rates.prompt),
        (cached, rates.cached),
        (cache_write, rates.cache_write),
        (used.output, rates.output),
    ];
    prices.whole_nanousd(&sum)
}

/// The most that any use of at most so many tokens costs, whatever the provider's cache does.
///
/// *Units*: `prompt_tokens` with the count's margin; `output_tokens` of all choices together.
pub fn bound_nanousd(prices: &Prices, prompt_tokens: u64, output_tokens: u64) -> u64 {
    // A prompt may turn out shorter than its bound, and a shorter one may be dearer: each step at its longest.
    let steps = prices.rates.iter().enumerate().filter(|(i, (above, _))| *i == 0 || *above < prompt_tokens);
    steps
        .map(|(i, (_, rates))| {
            let longest = prices.rates.get(i + 1).map_or(u64::MAX, |(next, _)| *next).min(prompt_tokens);
            let dearest = rates.prompt.max(rates.cached).max(rates.cache_write);
            prices.whole_nanousd(&[(longest, dearest), (output_tokens, rates.output)])
        })
        .max()
        .unwrap_or(0)
}

// === impl Prices ===

impl Prices {
    /// Reads the policy's prices.
    pub fn new(prices: &pb::Prices) -> Self {
        let base = Rates::new(
            prices.prompt_nanousd_per_million_tokens,
            prices.output_nanousd_per_million_tokens,
            prices.cached_prompt_nanousd_per_million_tokens,
            prices.cache_write_nanousd_per_million_tokens,
        );
        let mut long: Vec<(u64, Rates)> = prices
            .long_prompt
            .iter()
            .map(|long| {
                let rates = Rates::new(
                    or(long.prompt_nanousd_per_million_tokens, base.prompt),
                    or(long.output_nanousd_per_million_tokens, base.output),
                    long.cached_prompt_nanousd_per_million_tokens,
                    long.cache_write_nanousd_per_million_tokens,
                );
                (long.above_prompt_tokens, rates)
            })
            .collect();
        long.sort_by_key(|(above, _)| *above);
        let rates = std::iter::once((0, base)).chain(long).collect();
        Self { revision: Arc::from(prices.revision.as_str()), request_nanousd: prices.request_nanousd, rates }
    }

    /// Which price list this is.
    pub fn revision(&self) -> &Arc<str> {
        &self.revision
    }

    /// Those of the highest bound below the prompt.
    fn rates_for(&self, prompt_tokens: u64) -> Rates {
        let mut found = Rates::FREE;
        for (i, (above, rates)) in self.rates.iter().enumerate() {
            if i == 0 || *above < prompt_tokens {
                found = *rates;
            }
        }
        found
    }

    /// The sum of tokens times price, rounded up, and the request's own price.
    fn whole_nanousd(&self, tokens_at_price: &[(u64, u64)]) -> u64 {
        let sum = tokens_at_price.iter().fold(0_u128, |sum, (tokens, price)| {
            sum.saturating_add(u128::from(*tokens) * u128::from(*price))
        });
        let whole = u64::try_from(sum.div_ceil(TOKENS_PER_PRICE)).unwrap_or(u64::MAX);
        whole.saturating_add(self.request_nanousd)
    }
}

// === impl Rates ===

impl Rates {
    const FREE: Self = Self { prompt: 0, cached: 0, cache_write: 0, output: 0 };

    fn new(prompt: u64, output: u64, cached: u64, cache_write: u64) -> Self {
        Self { prompt, output, cached: or(cached, prompt), cache_write: or(cache_write, prompt) }
    }
}

fn or(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// gpt-4o-mini's, then a model's with dearer long prompts and a price for writing.
    fn mini() -> pb::Prices {
        pb::Prices {
            prompt_nanousd_per_million_tokens: 150_000_000,
            output_nanousd_per_million_tokens: 600_000_000,
            cached_prompt_nanousd_per_million_tokens: 75_000_000,
            ..pb::Prices::default()
        }
    }

    fn long() -> pb::Prices {
        pb::Prices {
            prompt_nanousd_per_million_tokens: 3_000_000_000,
            output_nanousd_per_million_tokens: 15_000_000_000,
            cached_prompt_nanousd_per_million_tokens: 300_000_000,
            cache_write_nanousd_per_million_tokens: 3_750_000_000,
            revision: "2026-11".into(),
            request_nanousd: 7,
            long_prompt: vec![pb::LongPromptPrices {
                above_prompt_tokens: 200_000,
                prompt_nanousd_per_million_tokens: 6_000_000_000,
                ..pb::LongPromptPrices::default()
            }],
        }
    }

    fn cost(prices: &pb::Prices, used: TokenUse) -> u64 {
        cost_nanousd(&Prices::new(prices), &used)
    }

    fn used(prompt: u64, cached: u64, cache_write: u64, output: u64) -> TokenUse {
        TokenUse { prompt, cached, cache_write, output, reasoning: 0 }
    }

    #[test]
    fn a_cost_is_the_exact_sum_rounded_up() {
        assert_eq!(cost(&mini(), used(1_000, 0, 0, 100)), 150_000 + 60_000);
        assert_eq!(cost(&mini(), used(1_000, 400, 0, 100)), 90_000 + 30_000 + 60_000);
        let odd = pb::Prices { prompt_nanousd_per_million_tokens: 1, ..pb::Prices::default() };
        assert_eq!((cost(&odd, used(0, 0, 0, 9)), cost(&odd, used(1, 0, 0, 0))), (0, 1));
        assert_eq!((cost(&odd, used(1_000_000, 0, 0, 0)), cost(&odd, used(1_000_001, 0, 0, 0))), (1, 2));
        assert_eq!(cost(&pb::Prices::default(), used(5, 1, 1, 5)), 0);
    }

    #[test]
    fn what_is_not_given_costs_what_a_prompt_costs() {
        let plain = pb::Prices { cached_prompt_nanousd_per_million_tokens: 0, ..mini() };
        assert_eq!(cost(&plain, used(1_000, 400, 300, 0)), 150_000);
        let given_away = pb::Prices { cached_prompt_nanousd_per_million_tokens: 1, ..mini() };
        assert_eq!(cost(&given_away, used(1_000, 1_000, 0, 0)), 1);
    }

    #[test]
    fn long_prompts_have_their_own_prices_for_the_whole_request() {
        assert_eq!(cost(&long(), used(200_000, 0, 0, 1_000)), 600_000_000 + 15_000_000 + 7);
        assert_eq!(cost(&long(), used(200_001, 0, 0, 1_000)), 1_200_006_000 + 15_000_000 + 7);
        // The step gives no cache prices, so its own prompt price holds.
        assert_eq!(cost(&long(), used(300_000, 100_000, 100_000, 0)), 1_800_000_000 + 7);
        assert_eq!(cost(&long(), used(1_000, 100, 200, 0)), 2_100_000 + 30_000 + 750_000 + 7);
        assert_eq!(&**Prices::new(&long()).revision(), "2026-11");
    }

    #[test]
    fn a_bound_is_the_dearest_that_may_come() {
        let bound = |prompt, output| bound_nanousd(&Prices::new(&long()), prompt, output);
        assert_eq!(bound(1_000, 100), 3_750_000 + 1_500_000 + 7);
        assert_eq!(bound(0, 0), 7);
        assert_eq!(bound(200_001, 0), 1_200_006_000 + 7);
        // Long prompts that are cheaper: the shorter one is the dearest.
        let falling = pb::Prices {
            long_prompt: vec![pb::LongPromptPrices {
                above_prompt_tokens: 100,
                prompt_nanousd_per_million_tokens: 1,
                output_nanousd_per_million_tokens: 1,
                ..pb::LongPromptPrices::default()
            }],
            ..mini()
        };
        assert_eq!(bound_nanousd(&Prices::new(&falling), 1_000, 10), 100 * 150 + 10 * 600);
    }

    #[test]
    fn sums_end_at_the_largest_number() {
        let dear = pb::Prices {
            prompt_nanousd_per_million_tokens: u64::MAX,
            output_nanousd_per_million_tokens: u64::MAX,
            request_nanousd: u64::MAX,
            ..pb::Prices::default()
        };
        assert_eq!(cost(&dear, used(u64::MAX, u64::MAX, u64::MAX, u64::MAX)), u64::MAX);
        assert_eq!(bound_nanousd(&Prices::new(&dear), u64::MAX, u64::MAX), u64::MAX);
    }

    fn any_price() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 1_u64..10, 0_u64..20_000_000_000, any::<u64>()]
    }

    fn any_prices() -> impl Strategy<Value = pb::Prices> {
        let step = (0_u64..2_000, [any_price(), any_price(), any_price(), any_price()]).prop_map(
            |(above, [p, o, c, w])| pb::LongPromptPrices {
                above_prompt_tokens: above,
                prompt_nanousd_per_million_tokens: p,
                output_nanousd_per_million_tokens: o,
                cached_prompt_nanousd_per_million_tokens: c,
                cache_write_nanousd_per_million_tokens: w,
            },
        );
        let base = [any_price(), any_price(), any_price(), any_price(), any_price()];
        (base, prop::collection::vec(step, 0..4)).prop_map(|([p, o, c, w, request_nanousd], long_prompt)| {
            pb::Prices {
                prompt_nanousd_per_million_tokens: p,
                output_nanousd_per_million_tokens: o,
                cached_prompt_nanousd_per_million_tokens: c,
                cache_write_nanousd_per_million_tokens: w,
                request_nanousd,
                long_prompt,
                revision: String::new(),
            }
        })
    }

    proptest! {
        #[test]
        fn no_use_within_a_bound_costs_more(
            prices in any_prices(),
            bound in (prop_oneof![0_u64..3_000, any::<u64>()], prop_oneof![0_u64..3_000, any::<u64>()]),
            share in [0.0..=1.0, 0.0..=1.0, 0.0..=1.5, 0.0..=1.5],
        ) {
            let prices = Prices::new(&prices);
            let part = |of: u64, share: f64| (of as f64 * share) as u64;
            let prompt = part(bound.0, share[0]).min(bound.0);
            let used = TokenUse {
                prompt,
                cached: part(prompt, share[2]),
                cache_write: part(prompt, share[3]),
                output: part(bound.1, share[1]).min(bound.1),
                reasoning: 0,
            };
            prop_assert!(cost_nanousd(&prices, &used) <= bound_nanousd(&prices, bound.0, bound.1));
        }

        #[test]
        fn a_larger_bound_is_never_lower(
            prices in any_prices(), prompt in 0_u64..5_000, output in 0_u64..5_000, more in 0_u64..5_000,
        ) {
            let prices = Prices::new(&prices);
            let bound = bound_nanousd(&prices, prompt, output);
            prop_assert!(bound <= bound_nanousd(&prices, prompt + more, output));
            prop_assert!(bound <= bound_nanousd(&prices, prompt, output + more));
        }
    }
}
