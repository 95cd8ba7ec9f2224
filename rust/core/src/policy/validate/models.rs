//! Owns: the rules of `models`: names and aliases, what a model can, where it is served, what it costs.
//! Must not know: who may use it.
//! On failure: a finding.

use super::names::{self, Alphabet, Names};
use super::{Report, pb, tensors};
use crate::tokens::Tokenizer;
use pb::image_tokens::Rule;
use pb::model::Capability;
use pb::pool::Protocol;

/// Far above any model, and small enough that tokens × price × choices stays within the engine's integers.
const MOST_TOKENS: u64 = 1_000_000_000;
/// A million USD for a million tokens.
const MOST_PRICE: u64 = 1_000_000_000_000_000;
const MOST_PRICE_STEPS: usize = 16;

pub(super) fn check(policy: &pb::Policy, names: &Names, report: &mut Report) {
    let all = policy.models.iter().enumerate().flat_map(|(i, model)| {
        let aliases = model.aliases.iter().enumerate();
        let aliases = aliases.map(move |(j, alias)| (format!("models[{i}].aliases[{j}]"), alias.as_str()));
        std::iter::once((format!("models[{i}].name"), model.name.as_str())).chain(aliases)
    });
    names::check_unique(all, report);
    for (i, model) in policy.models.iter().enumerate() {
        let path = format!("models[{i}]");
        check_model(model, &path, names, report);
        let pools = model.pools.iter().filter_map(|name| names.pools.get(name.as_str()));
        let protocols: Vec<Protocol> = pools.map(|pool| pool.protocol()).collect();
        tensors::check(policy, model, &path, &protocols, report);
    }
}

fn check_model(model: &pb::Model, path: &str, names: &Names, report: &mut Report) {
    names::check_name(&model.name, &format!("{path}.name"), Alphabet::Model, report);
    for (field, list) in [("aliases", &model.aliases), ("tags", &model.tags)] {
        for (i, name) in list.iter().enumerate() {
            names::check_name(name, &format!("{path}.{field}[{i}]"), Alphabet::Model, report);
        }
    }
    report.text(&format!("{path}.revision"), &model.revision, 128);
    report.text(&format!("{path}.upstream_name"), &model.upstream_name, 256);
    report.text(&format!("{path}.price_id"), &model.price_id, 256);
    check_tokens(model, path, report);
    check_prices(model, path, report);
    check_capabilities(model, path, report);
    check_pools(model, path, names, report);
}

/// Whether a model produces text, so that its output needs a bound.
pub(super) fn writes_text(model: &pb::Model) -> bool {
    let writes = |c| {
        matches!(c, Capability::Chat | Capability::Completions | Capability::Responses | Capability::Messages)
    };
    model.capabilities().any(writes)
}

/// Whether requests name the model in a body that is read.
pub(super) fn names_a_model(model: &pb::Model) -> bool {
    writes_text(model) || model.capabilities().any(|c| c == Capability::Embeddings)
}

fn check_tokens(model: &pb::Model, path: &str, report: &mut Report) {
    let tokenizer = model.tokenizer.as_str();
    if !tokenizer.is_empty() && Tokenizer::from_name(tokenizer).is_err() {
        let known: Vec<String> = Tokenizer::names().map(|name| format!("`{name}`")).collect();
        let message = format!("`{}` is no tokenizer; one of {}", names::shown(tokenizer), known.join(", "));
        report.error("unknown_tokenizer", format!("{path}.tokenizer"), message);
    }
    let image = format!("{path}.image_tokens");
    match model.image_tokens.as_ref().map(|tokens| tokens.rule.as_ref()) {
        None => {}
        Some(None) => report.error("no_rule", image, "must be one of `tiles`, `patches` or `flat_tokens`"),
        Some(Some(Rule::Tiles(rule))) => {
            report.within(&format!("{image}.tiles.base_tokens"), rule.base_tokens, 1, 1_000_000);
            report.within(&format!("{image}.tiles.tile_tokens"), rule.tile_tokens, 1, 1_000_000);
        }
        Some(Some(Rule::Patches(rule))) => {
            if rule.cap == 0 {
                report.error("no_cap", format!("{image}.patches.cap"), "must be given, such as 1536");
            }
            report.within(&format!("{image}.patches.cap"), rule.cap, 1, 1_000_000);
            report.within(&format!("{image}.patches.multiplier_milli"), rule.multiplier_milli, 1, 1_000_000);
        }
        Some(Some(Rule::FlatTokens(tokens))) => {
            report.within(&format!("{image}.flat_tokens"), *tokens, 1, 1_000_000);
        }
    }
    report.within(&format!("{path}.context_window_tokens"), model.context_window_tokens, 1, MOST_TOKENS);
    report.within(&format!("{path}.max_output_tokens"), model.max_output_tokens, 1, MOST_TOKENS);
    if model.context_window_tokens != 0 && model.max_output_tokens > model.context_window_tokens {
        let message = format!(
            "`{}` is more than the whole window, context_window_tokens `{}`",
            model.max_output_tokens, model.context_window_tokens
        );
        report.error("output_above_window", format!("{path}.max_output_tokens"), message);
    }
}

fn check_prices(model: &pb::Model, path: &str, report: &mut Report) {
    let path = format!("{path}.prices");
    let Some(prices) = &model.prices else {
        let only_tensors = model.capabilities().all(|c| c == Capability::Tensors);
        if !only_tensors {
            report.warn(
                "no_prices",
                path,
                "the model has no prices, so its cost is unknown and never counted",
            );
        }
        return;
    };
    report.within(&format!("{path}.request_nanousd"), prices.request_nanousd, 1, MOST_PRICE);
    let base = pb::LongPromptPrices {
        above_prompt_tokens: 0,
        prompt_nanousd_per_million_tokens: prices.prompt_nanousd_per_million_tokens,
        output_nanousd_per_million_tokens: prices.output_nanousd_per_million_tokens,
        cached_prompt_nanousd_per_million_tokens: prices.cached_prompt_nanousd_per_million_tokens,
        cache_write_nanousd_per_million_tokens: prices.cache_write_nanousd_per_million_tokens,
    };
    check_rates(&base, &base, &path, report);
    if prices.long_prompt.len() > MOST_PRICE_STEPS {
        let message =
            format!("has {} steps; at most {MOST_PRICE_STEPS} are allowed", prices.long_prompt.len());
        report.error("too_many", format!("{path}.long_prompt"), message);
    }
    for (i, long) in prices.long_prompt.iter().enumerate() {
        let path = format!("{path}.long_prompt[{i}]");
        check_step(prices, i, &path, report);
        check_rates(long, &base, &path, report);
    }
    report.text(&format!("{path}.revision"), &prices.revision, 128);
}

/// Steps of a price list begin at a bound of their own and change something.
fn check_step(prices: &pb::Prices, at: usize, path: &str, report: &mut Report) {
    let Some(step) = prices.long_prompt.get(at) else { return };
    let above = step.above_prompt_tokens;
    let above_path = format!("{path}.above_prompt_tokens");
    report.within(&above_path, above, 1, MOST_TOKENS);
    if above == 0 {
        report.error("no_bound", above_path, "must be given, such as 200000");
    } else if prices.long_prompt.iter().take(at).any(|earlier| earlier.above_prompt_tokens >= above) {
        let message = format!("`{above}` does not rise above the steps before it; write each once, in order");
        report.error("steps_not_rising", above_path, message);
    }
    if *step == (pb::LongPromptPrices { above_prompt_tokens: above, ..pb::LongPromptPrices::default() }) {
        report.warn("step_without_price", path, "gives no price, so it changes nothing");
    }
}

/// `base` is where a step takes what it does not give.
fn check_rates(rates: &pb::LongPromptPrices, base: &pb::LongPromptPrices, path: &str, report: &mut Report) {
    let cached_path = format!("{path}.cached_prompt_nanousd_per_million_tokens");
    let (prompt, cached) =
        (rates.prompt_nanousd_per_million_tokens, rates.cached_prompt_nanousd_per_million_tokens);
    report.within(&format!("{path}.prompt_nanousd_per_million_tokens"), prompt, 1, MOST_PRICE);
    let output = rates.output_nanousd_per_million_tokens;
    report.within(&format!("{path}.output_nanousd_per_million_tokens"), output, 1, MOST_PRICE);
    report.within(&cached_path, cached, 1, MOST_PRICE);
    let written = rates.cache_write_nanousd_per_million_tokens;
    report.within(&format!("{path}.cache_write_nanousd_per_million_tokens"), written, 1, MOST_PRICE);
    let prompt = if prompt == 0 { base.prompt_nanousd_per_million_tokens } else { prompt };
    if cached > prompt {
        let message = format!("`{cached}` is dearer than an uncached prompt, `{prompt}`");
        report.warn("cached_dearer", cached_path, message);
    }
}

fn check_capabilities(model: &pb::Model, path: &str, report: &mut Report) {
    let path = format!("{path}.capabilities");
    for (i, number) in model.capabilities.iter().enumerate() {
        if Capability::try_from(*number).unwrap_or_default() == Capability::Unspecified {
            report.error("unknown_value", format!("{path}[{i}]"), format!("`{number}` is no capability"));
        }
    }
    let has = |wanted: Capability| model.capabilities().any(|c| c == wanted);
    let talks = [Capability::Chat, Capability::Responses, Capability::Messages];
    let others = [Capability::Completions, Capability::Embeddings, Capability::Tensors];
    if !talks.into_iter().chain(others).any(has) {
        let message = "must list what the model serves: `CHAT`, `RESPONSES`, `MESSAGES`, `COMPLETIONS`, `EMBEDDINGS` or \
                       `TENSORS`";
        report.error("no_capability", path, message);
        return;
    }
    for extra in [Capability::Tools, Capability::Vision, Capability::Json] {
        if has(extra) && !talks.into_iter().any(has) {
            let name = extra.as_str_name();
            report.warn(
                "capability_unused",
                path.as_str(),
                format!("`{name}` means something only with `CHAT`, `RESPONSES` or `MESSAGES`"),
            );
        }
    }
}

fn check_pools(model: &pb::Model, path: &str, names: &Names, report: &mut Report) {
    if model.pools.is_empty() {
        report.error("no_pool", format!("{path}.pools"), "must list at least one pool that serves the model");
    }
    for (i, name) in model.pools.iter().enumerate() {
        let path = format!("{path}.pools[{i}]");
        if model.pools.iter().take(i).any(|earlier| earlier == name) {
            report.error("duplicate_reference", path, format!("`{}` is listed twice", names::shown(name)));
            continue;
        }
        let Some(pool) = names.check_pool(name, path.clone(), report) else { continue };
        let protocol = pool.protocol();
        for capability in model.capabilities() {
            if protocol == Protocol::KserveGrpc
                && let Some(mapping) = tensors::missing_mapping(model, capability)
            {
                let message = format!(
                    "`{}` takes tensors, and nothing says how `{}` becomes some; give the model `{mapping}`",
                    names::shown(name),
                    capability.as_str_name()
                );
                report.error("protocol_mismatch", path.as_str(), message);
                continue;
            }
            let speaks = speakers(capability);
            if !speaks.is_empty() && !speaks.contains(&protocol) && protocol != Protocol::Unspecified {
                let needed: Vec<_> = speaks.iter().map(|p| format!("`{}`", p.as_str_name())).collect();
                let message = format!(
                    "`{}` speaks `{}`, and `{}` needs {}; give the model a pool that speaks it",
                    names::shown(name),
                    protocol.as_str_name(),
                    capability.as_str_name(),
                    needed.join(" or ")
                );
                report.error("protocol_mismatch", path.as_str(), message);
            }
        }
    }
}

/// The protocols that serve a capability; empty: any does.
fn speakers(capability: Capability) -> &'static [Protocol] {
    match capability {
        // A tensor server serves those that the model maps.
        Capability::Chat | Capability::Completions | Capability::Embeddings => {
            &[Protocol::Openai, Protocol::KserveGrpc]
        }
        Capability::Responses => &[Protocol::Openai],
        // Servers of the `OpenAI` protocol, such as vLLM, serve Messages beside it.
        Capability::Messages => &[Protocol::Anthropic, Protocol::Openai],
        Capability::Tensors => &[Protocol::KserveGrpc],
        Capability::Unspecified | Capability::Tools | Capability::Vision | Capability::Json => &[],
    }
}
