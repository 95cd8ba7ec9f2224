//! Owns: a model's tensors with the defaults that the message tells, and priorities by their index.
//! Must not know: model servers, what they tell of a model.
//! On failure: it cannot fail; what is neither given nor has a default stays empty.

use super::pb;
use crate::batch::Priority;

/// The most lengths that a model sees, where the policy says nothing.
const MAX_LENGTH_CLASSES: u32 = 32;

/// The model's tensors as they work. `none` for an input means that the model has none, and stays.
pub(super) fn with_defaults(model: &pb::Model) -> Option<pb::Tensors> {
    use pb::embedding_tensors::Input;
    let mut tensors = model.tensors.clone()?;
    if tensors.max_length_classes == 0 {
        tensors.max_length_classes = MAX_LENGTH_CLASSES;
    }
    if tensors.retry() == pb::tensors::Retry::Unspecified {
        tensors.set_retry(pb::tensors::Retry::Once);
    }
    if tensors.answers() == pb::tensors::Answers::Unspecified {
        tensors.set_answers(pb::tensors::Answers::Vary);
    }
    if let Some(Input::Tokens(tokens)) = tensors.embeddings.as_mut().and_then(|e| e.input.as_mut())
        && tokens.max_tokens == 0
    {
        tokens.max_tokens = u32::try_from(model.context_window_tokens).unwrap_or(u32::MAX);
    }
    if let Some(generation) = &mut tensors.generation {
        fill(&mut generation.text_input, "text_input");
        fill(&mut generation.stream_input, "stream");
        if generation.parameter_inputs.is_empty() {
            fill(&mut generation.parameters_input, "sampling_parameters");
        }
        fill(&mut generation.text_output, "text_output");
        if generation.text() == pb::generation_tensors::Text::Unspecified {
            generation.set_text(pb::generation_tensors::Text::Delta);
        }
    }
    Some(tensors)
}

fn fill(text: &mut String, default: &str) {
    if text.is_empty() {
        default.clone_into(text);
    }
}

/// The class of a priority; `None`: it is not given.
pub(super) fn priority(given: pb::Priority) -> Option<Priority> {
    match given {
        pb::Priority::Unspecified => None,
        pb::Priority::P0 => Some(Priority::P0),
        pb::Priority::P1 => Some(Priority::P1),
        pb::Priority::P2 => Some(Priority::P2),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn defaults_are_those_that_the_message_tells() {
        let generation = pb::GenerationTensors { stream_input: "none".into(), ..Default::default() };
        let input = pb::embedding_tensors::Input::Tokens(pb::TokenInputs::default());
        let embeddings = pb::EmbeddingTensors { input: Some(input), ..Default::default() };
        let tensors = pb::Tensors {
            generation: Some(generation),
            embeddings: Some(embeddings),
            ..pb::Tensors::default()
        };
        let model = pb::Model { tensors: Some(tensors), context_window_tokens: 256, ..pb::Model::default() };
        let filled = with_defaults(&model).unwrap();
        assert_eq!(filled.max_length_classes, 32);
        assert_eq!(filled.retry(), pb::tensors::Retry::Once);
        assert_eq!(filled.answers(), pb::tensors::Answers::Vary);
        let generation = filled.generation.unwrap();
        assert_eq!(
            [
                generation.text_input.as_str(),
                &generation.stream_input,
                &generation.parameters_input,
                &generation.text_output
            ],
            ["text_input", "none", "sampling_parameters", "text_output"]
        );
        assert_eq!(generation.text(), pb::generation_tensors::Text::Delta);
        let Some(pb::embedding_tensors::Input::Tokens(tokens)) = filled.embeddings.unwrap().input else {
            unreachable!()
        };
        assert_eq!(tokens.max_tokens, 256);
        assert!(with_defaults(&pb::Model::default()).is_none());
    }
}
