//! Owns: the rules of `models[].tensors` and `pools[].queue`: what is batched, how far, and which requests become tensors.
//! Must not know: what the model server says of its model; that is held against the policy once it is known.
//! On failure: a finding.

use super::names;
use super::{Report, pb};
use crate::tokens::Tokenizer;
use pb::embedding_tensors::Input;
use pb::generation_tensors::Text;
use pb::model::Capability;
use pb::pool::Protocol;
use pb::tensors::{Answers, Retry};

/// Far above any tensor's, and what its shape still fits in.
const MOST_DIM: u64 = 31;
const MOST_ROWS: u64 = 65_536;
const MOST_TOKENS: u64 = 1 << 40;
const MOST_BYTES: u64 = 1 << 40;
const MOST_CLASSES: usize = 1_024;
const MOST_LISTED: usize = 256;
const MOST_NAME_BYTES: usize = 256;
const MOST_TEMPLATE_BYTES: usize = 65_536;
const DAY_MS: u64 = 86_400_000;
/// What stands for an input that the model does not have.
const NONE: &str = "none";

/// How the model's capabilities, pools and tensors go together. `pools` are those that exist.
pub(super) fn check(
    policy: &pb::Policy,
    model: &pb::Model,
    path: &str,
    pools: &[Protocol],
    report: &mut Report,
) {
    let has = |wanted: Capability| model.capabilities().any(|c| c == wanted);
    let Some(tensors) = &model.tensors else { return };
    let path = format!("{path}.tensors");
    if !pools.is_empty() && !pools.contains(&Protocol::KserveGrpc) {
        let message = "no pool of the model speaks `KSERVE_GRPC`, so nothing here is looked at";
        report.warn("tensors_unused", path.as_str(), message);
    }
    check_ragged(tensors, &path, report);
    check_bounds(tensors, &path, report);
    check_words(policy, tensors, &path, report);
    let written = [Capability::Chat, Capability::Completions];
    if let Some(embeddings) = &tensors.embeddings {
        let path = format!("{path}.embeddings");
        if !has(Capability::Embeddings) {
            let message = "the model lacks `EMBEDDINGS`, so nobody can ask for them; add the capability";
            report.error("capability_mismatch", path.as_str(), message);
        }
        check_embeddings(model, embeddings, &path, report);
    }
    if let Some(generation) = &tensors.generation {
        let path = format!("{path}.generation");
        if !written.into_iter().any(has) {
            let message =
                "the model has neither `CHAT` nor `COMPLETIONS`, so nobody can ask for text; add one";
            report.error("capability_mismatch", path.as_str(), message);
        }
        check_generation(generation, &path, report);
        for extra in [Capability::Tools, Capability::Vision, Capability::Json] {
            if has(extra) && pools.contains(&Protocol::KserveGrpc) {
                let message = format!(
                    "a generation by tensors takes text alone, and `{}` fails there",
                    extra.as_str_name()
                );
                report.warn("capability_unused", path.as_str(), message);
            }
        }
    }
}

/// What a `KSERVE_GRPC` pool needs of a model to serve a capability; `None`: nothing more, or it does not serve it.
pub(super) fn missing_mapping(model: &pb::Model, capability: Capability) -> Option<&'static str> {
    let tensors = model.tensors.as_ref();
    match capability {
        Capability::Embeddings if tensors.is_none_or(|t| t.embeddings.is_none()) => {
            Some("tensors.embeddings")
        }
        Capability::Chat | Capability::Completions if tensors.is_none_or(|t| t.generation.is_none()) => {
            Some("tensors.generation")
        }
        _ => None,
    }
}

/// What may wait in front of a pool.
pub(super) fn check_queue(pool: &pb::Pool, path: &str, report: &mut Report) {
    let Some(queue) = &pool.queue else { return };
    let path = format!("{path}.queue");
    if pool.protocol() != Protocol::KserveGrpc {
        let message = "only in front of a `KSERVE_GRPC` pool requests wait in a queue; remove it";
        report.error("field_not_used", path.as_str(), message);
    }
    report.within(&format!("{path}.max_rows"), queue.max_rows, 1, 1 << 32);
    report.within(&format!("{path}.max_tokens"), queue.max_tokens, 1, MOST_TOKENS);
    report.within(&format!("{path}.max_bytes"), queue.max_bytes, 1, MOST_BYTES);
    report.within(&format!("{path}.timeout_ms"), queue.timeout_ms, 1, DAY_MS);
}

fn check_ragged(tensors: &pb::Tensors, path: &str, report: &mut Report) {
    let inputs = tensors.ragged_inputs.iter().map(|r| (r.name.as_str(), r.dim));
    check_dims(inputs, &format!("{path}.ragged_inputs"), report);
    let outputs = tensors.ragged_outputs.iter().map(|r| (r.name.as_str(), r.dim));
    check_dims(outputs, &format!("{path}.ragged_outputs"), report);
    for (i, ragged) in tensors.ragged_inputs.iter().enumerate() {
        let path = format!("{path}.ragged_inputs[{i}].pad_value");
        if !ragged.pad_value.is_finite() {
            let message =
                format!("`{}` is no value to pad with; write a number, such as 0", ragged.pad_value);
            report.error("bad_number", path, message);
        } else if ragged.name == tensors.mask_input && ragged.pad_value != 0.0 {
            let message = format!("`{}` would call padding real; a mask is padded with 0", ragged.pad_value);
            report.error("bad_number", path, message);
        }
    }
    let is_told_of = tensors.ragged_inputs.iter().any(|r| r.name != tensors.mask_input);
    if !tensors.mask_input.is_empty() {
        let path = format!("{path}.mask_input");
        check_name(&tensors.mask_input, &path, report);
        if !is_told_of {
            let message = "there is no other input in `ragged_inputs` that a mask could tell of";
            report.error("mask_without_input", path, message);
        }
    }
    if tensors.ragged_inputs.is_empty() {
        let alone = [
            ("ragged_outputs", !tensors.ragged_outputs.is_empty()),
            ("length_classes", !tensors.length_classes.is_empty()),
            ("max_length_classes", tensors.max_length_classes != 0),
        ];
        for (field, given) in alone {
            if given {
                let message = "no input is padded, so this changes nothing; list some in `ragged_inputs`";
                report.warn("nothing_ragged", format!("{path}.{field}"), message);
            }
        }
    }
}

fn check_dims<'a>(tensors: impl Iterator<Item = (&'a str, u32)>, path: &str, report: &mut Report) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, (name, dim)) in tensors.enumerate() {
        if i == MOST_LISTED {
            let message = format!("has more than {MOST_LISTED} entries");
            report.error("too_many", path, message);
            return;
        }
        let path = format!("{path}[{i}]");
        check_name(name, &format!("{path}.name"), report);
        if seen.contains(&name) {
            let message =
                format!("`{}` is listed twice; one of its dimensions may differ", names::shown(name));
            report.error("duplicate_name", format!("{path}.name"), message);
        }
        seen.push(name);
        report.within(&format!("{path}.dim"), u64::from(dim), 0, MOST_DIM);
    }
}

fn check_name(name: &str, path: &str, report: &mut Report) {
    if name.is_empty() {
        report.error("no_name", path, "must be given: the tensor's name in the model");
    }
    report.text(path, name, MOST_NAME_BYTES);
}

fn check_bounds(tensors: &pb::Tensors, path: &str, report: &mut Report) {
    report.within(
        &format!("{path}.max_length_classes"),
        u64::from(tensors.max_length_classes),
        1,
        MOST_CLASSES as u64,
    );
    report.within(&format!("{path}.max_batch_rows"), u64::from(tensors.max_batch_rows), 1, MOST_ROWS);
    report.within(&format!("{path}.instances"), u64::from(tensors.instances), 1, 4_096);
    report.within(&format!("{path}.max_padded_tokens"), tensors.max_padded_tokens, 1, MOST_TOKENS);
    let classes = &tensors.length_classes;
    check_rising(classes.iter().copied(), &format!("{path}.length_classes"), MOST_TOKENS, report);
    if !classes.is_empty() && tensors.max_length_classes != 0 {
        let message = "classes are learned only where `length_classes` is empty; give one of the two";
        report.warn("field_not_used", format!("{path}.max_length_classes"), message);
    }
    let rows = format!("{path}.preferred_rows");
    check_rising(tensors.preferred_rows.iter().map(|r| u64::from(*r)), &rows, MOST_ROWS, report);
    if let Some(most) = tensors.preferred_rows.iter().max()
        && tensors.max_batch_rows != 0
        && *most > tensors.max_batch_rows
    {
        let message =
            format!("`{most}` is more than a batch has, max_batch_rows `{}`", tensors.max_batch_rows);
        report.error("preferred_above_most", rows, message);
    }
}

fn check_rising(numbers: impl Iterator<Item = u64>, path: &str, most: u64, report: &mut Report) {
    let mut before = 0;
    for (i, number) in numbers.enumerate() {
        if i == MOST_CLASSES {
            report.error("too_many", path, format!("has more than {MOST_CLASSES} entries"));
            return;
        }
        let path = format!("{path}[{i}]");
        if number == 0 {
            report.error("out_of_range", path, format!("`0` is outside 1 to {most}"));
        } else if number <= before {
            let message =
                format!("`{number}` does not rise above `{before}` before it; write each once, in order");
            report.error("not_rising", path, message);
        } else {
            report.within(&path, number, 1, most);
            before = number;
        }
    }
}

fn check_words(policy: &pb::Policy, tensors: &pb::Tensors, path: &str, report: &mut Report) {
    let known = [
        ("retry", tensors.retry, Retry::try_from(tensors.retry).is_ok()),
        ("answers", tensors.answers, Answers::try_from(tensors.answers).is_ok()),
    ];
    for (field, number, good) in known {
        if !good {
            let message = format!("`{number}` is no value of `{field}`");
            report.error("unknown_value", format!("{path}.{field}"), message);
        }
    }
    if tensors.answers() == Answers::Deterministic && policy.cache.is_none() {
        let message =
            "the policy has no `cache`, so answers are shared in flight and never kept; add `cache: {}`";
        report.warn("cache_missing", format!("{path}.answers"), message);
    }
}

fn check_embeddings(model: &pb::Model, embeddings: &pb::EmbeddingTensors, path: &str, report: &mut Report) {
    check_name(&embeddings.output, &format!("{path}.output"), report);
    match &embeddings.input {
        None => {
            let message = "must say what takes the text: `text_input` or `tokens`";
            report.error("no_input", path, message);
        }
        Some(Input::TextInput(name)) => check_name(name, &format!("{path}.text_input"), report),
        Some(Input::Tokens(tokens)) => check_token_inputs(model, tokens, &format!("{path}.tokens"), report),
    }
}

fn check_token_inputs(model: &pb::Model, tokens: &pb::TokenInputs, path: &str, report: &mut Report) {
    check_name(&tokens.ids, &format!("{path}.ids"), report);
    for (field, name) in [("mask", &tokens.mask), ("type_ids", &tokens.type_ids)] {
        let path = format!("{path}.{field}");
        report.text(&path, name, MOST_NAME_BYTES);
        if !name.is_empty() && (*name == tokens.ids || (field == "type_ids" && *name == tokens.mask)) {
            let message = format!("`{}` is already another of these inputs", names::shown(name));
            report.error("duplicate_name", path, message);
        }
    }
    let file = format!("{path}.tokenizer_file");
    report.text(&file, &tokens.tokenizer_file, 1_024);
    let is_exact = matches!(Tokenizer::from_name(&model.tokenizer), Ok(Tokenizer::Exact(_)));
    if tokens.tokenizer_file.is_empty() && !is_exact {
        let name = if model.tokenizer.is_empty() { "estimate:generic" } else { &model.tokenizer };
        let message = format!(
            "the model's tokenizer, `{}`, is an estimate and makes no token ids; give a `tokenizer.json`",
            names::shown(name)
        );
        report.error("no_tokenizer", file, message);
    }
    let window = model.context_window_tokens;
    if window != 0 && u64::from(tokens.max_tokens) > window {
        let message = format!(
            "`{}` is more than the whole window, context_window_tokens `{window}`",
            tokens.max_tokens
        );
        report.error("input_above_window", format!("{path}.max_tokens"), message);
    }
}

fn check_generation(generation: &pb::GenerationTensors, path: &str, report: &mut Report) {
    let texts = [
        ("text_input", &generation.text_input),
        ("stream_input", &generation.stream_input),
        ("parameters_input", &generation.parameters_input),
        ("text_output", &generation.text_output),
        ("finish_reason_output", &generation.finish_reason_output),
        ("output_tokens_output", &generation.output_tokens_output),
    ];
    for (field, name) in texts {
        report.text(&format!("{path}.{field}"), name, MOST_NAME_BYTES);
    }
    for (field, name) in [("text_input", &generation.text_input), ("text_output", &generation.text_output)] {
        if name == NONE {
            report.error("no_name", format!("{path}.{field}"), "a generation cannot do without it");
        }
    }
    let inputs = format!("{path}.parameter_inputs");
    if generation.parameter_inputs.len() > MOST_LISTED {
        report.error("too_many", inputs.as_str(), format!("has more than {MOST_LISTED} entries"));
    }
    // In one order, whatever the map's is.
    let mut named: Vec<_> = generation.parameter_inputs.iter().collect();
    named.sort_unstable();
    for (parameter, input) in named {
        let path = format!("{inputs}[{}]", names::shown(parameter));
        if parameter.is_empty() || input.is_empty() {
            report.error("no_name", path.as_str(), "must be given: `max_tokens: max_tokens`");
        }
        report.text(&path, input, MOST_NAME_BYTES);
    }
    if Text::try_from(generation.text).is_err() {
        let message = format!("`{}` is no value of `text`", generation.text);
        report.error("unknown_value", format!("{path}.text"), message);
    }
    if generation.chat_template.len() > MOST_TEMPLATE_BYTES {
        let message = format!(
            "has {} bytes; at most {MOST_TEMPLATE_BYTES} are allowed",
            generation.chat_template.len()
        );
        report.error("too_long", format!("{path}.chat_template"), message);
    }
}
