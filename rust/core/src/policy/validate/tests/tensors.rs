//! The rules of tensors, priorities, shares and the routes that carry tensors.

use proptest::prelude::*;

use super::super::{pb, validate};
use super::{found, good, model, pool, route};
use pb::embedding_tensors::Input;
use pb::model::Capability;
use pb::route::{Match, Operation};

/// What stands in `tensors` of the model `bert`, which a tensor pool serves.
fn tensors(change: impl FnOnce(&mut pb::Tensors)) -> Vec<String> {
    found(|p| {
        let mut tensors = pb::Tensors {
            ragged_inputs: vec![pb::RaggedInput { name: "ids".into(), ..Default::default() }],
            mask_input: "mask".into(),
            ..Default::default()
        };
        change(&mut tensors);
        p.models[2].tensors = Some(tensors);
    })
}

fn ragged(name: &str) -> pb::RaggedInput {
    pb::RaggedInput { name: name.into(), ..Default::default() }
}

/// A model of a tensor pool that serves embeddings by token ids.
fn encoder(change: impl FnOnce(&mut pb::Model, &mut pb::TokenInputs)) -> Vec<String> {
    found(|p| {
        let mut tokens = pb::TokenInputs { ids: "ids".into(), mask: "mask".into(), ..Default::default() };
        let mut encoder = model("encoder", "triton", Capability::Embeddings);
        encoder.tokenizer = "cl100k_base".into();
        change(&mut encoder, &mut tokens);
        let input = Some(Input::Tokens(tokens));
        let embeddings = Some(pb::EmbeddingTensors { input, output: "embedding".into() });
        encoder.tensors = Some(pb::Tensors { embeddings, ..Default::default() });
        p.models.push(encoder);
    })
}

#[test]
fn good_tensors_have_no_finding() {
    let none: [&str; 0] = [];
    assert_eq!(tensors(|_| ()), none);
    assert_eq!(
        tensors(|t| {
            t.length_classes = vec![16, 64, 512];
            t.max_batch_rows = 64;
            t.preferred_rows = vec![8, 64];
            t.ragged_inputs.push(ragged("mask"));
            t.ragged_outputs = vec![pb::RaggedOutput { name: "out".into(), dim: 0 }];
        }),
        none
    );
    assert_eq!(encoder(|_, _| ()), none);
}

#[test]
fn tensors_are_named_bounded_and_in_order() {
    let cases: [(&str, Vec<String>); 14] = [
        (
            "error no_name models[2].tensors.ragged_inputs[0].name",
            tensors(|t| t.ragged_inputs[0].name.clear()),
        ),
        (
            "error duplicate_name models[2].tensors.ragged_inputs[1].name",
            tensors(|t| t.ragged_inputs.push(ragged("ids"))),
        ),
        (
            "error out_of_range models[2].tensors.ragged_inputs[0].dim",
            tensors(|t| t.ragged_inputs[0].dim = 32),
        ),
        (
            "error bad_number models[2].tensors.ragged_inputs[0].pad_value",
            tensors(|t| t.ragged_inputs[0].pad_value = f64::NAN),
        ),
        (
            "error bad_number models[2].tensors.ragged_inputs[1].pad_value",
            tensors(|t| t.ragged_inputs.push(pb::RaggedInput { pad_value: 1.0, ..ragged("mask") })),
        ),
        (
            "error mask_without_input models[2].tensors.mask_input",
            tensors(|t| t.ragged_inputs = vec![ragged("mask")]),
        ),
        ("error not_rising models[2].tensors.length_classes[1]", tensors(|t| t.length_classes = vec![8, 8])),
        ("error out_of_range models[2].tensors.length_classes[0]", tensors(|t| t.length_classes = vec![0])),
        (
            "warning field_not_used models[2].tensors.max_length_classes",
            tensors(|t| {
                t.length_classes = vec![8];
                t.max_length_classes = 4;
            }),
        ),
        (
            "error preferred_above_most models[2].tensors.preferred_rows",
            tensors(|t| {
                t.max_batch_rows = 32;
                t.preferred_rows = vec![16, 64];
            }),
        ),
        ("error unknown_value models[2].tensors.retry", tensors(|t| t.retry = 9)),
        ("error unknown_value models[2].tensors.answers", tensors(|t| t.answers = 9)),
        (
            "warning nothing_ragged models[2].tensors.length_classes",
            tensors(|t| *t = pb::Tensors { length_classes: vec![8], ..Default::default() }),
        ),
        (
            "error capability_mismatch models[2].tensors.generation",
            tensors(|t| t.generation = Some(pb::GenerationTensors::default())),
        ),
    ];
    for (expected, all) in cases {
        assert_eq!(all, [expected]);
    }
}

#[test]
fn deterministic_answers_are_kept_only_in_a_cache() {
    let deterministic = |t: &mut pb::Tensors| t.set_answers(pb::tensors::Answers::Deterministic);
    let mut policy = good();
    let mut tensors = pb::Tensors::default();
    deterministic(&mut tensors);
    policy.models[2].tensors = Some(tensors);
    policy.cache = None;
    let told: Vec<_> = validate(&policy).into_iter().map(|f| (f.slug, f.path)).collect();
    assert!(told.contains(&("cache_missing", "models[2].tensors.answers".to_owned())), "{told:?}");
    policy.cache = Some(pb::Cache::default());
    assert!(!validate(&policy).iter().any(|f| f.path.contains("tensors")));
}

#[test]
fn tensors_without_a_tensor_pool_are_said() {
    assert_eq!(
        found(|p| p.models[0].tensors = Some(pb::Tensors::default())),
        ["warning tensors_unused models[0].tensors"]
    );
}

#[test]
fn a_tensor_pool_serves_what_the_model_maps() {
    let bare = |capability| found(|p| p.models.push(model("m", "triton", capability)));
    for capability in [Capability::Chat, Capability::Completions, Capability::Embeddings] {
        assert_eq!(bare(capability), ["error protocol_mismatch models[3].pools[0]"], "{capability:?}");
    }
    let written = |change: fn(&mut pb::Model)| {
        found(|p| {
            let mut writer = model("writer", "triton", Capability::Chat);
            let generation = Some(pb::GenerationTensors::default());
            writer.tensors = Some(pb::Tensors { generation, ..Default::default() });
            change(&mut writer);
            p.models.push(writer);
        })
    };
    assert_eq!(written(|_| ()), [""; 0]);
    assert_eq!(
        written(|m| m.capabilities.push(Capability::Tools.into())),
        ["warning capability_unused models[3].tensors.generation"]
    );
    assert_eq!(
        written(|m| m.capabilities.push(Capability::Responses.into())),
        ["error protocol_mismatch models[3].pools[0]"]
    );
    assert_eq!(
        written(|m| m.tensors.as_mut().unwrap().generation.as_mut().unwrap().text_input = "none".into()),
        ["error no_name models[3].tensors.generation.text_input"]
    );
    let no_chat = written(|m| m.capabilities = vec![Capability::Tensors.into()]);
    assert_eq!(no_chat, ["error capability_mismatch models[3].tensors.generation"]);
}

#[test]
fn token_ids_need_a_tokenizer_that_makes_some() {
    let at = "models[3].tensors.embeddings.tokens";
    assert_eq!(encoder(|m, _| m.tokenizer.clear()), [format!("error no_tokenizer {at}.tokenizer_file")]);
    assert_eq!(encoder(|m, _| m.tokenizer = "estimate:llama".into()).len(), 1);
    let by_file = encoder(|m, t| {
        m.tokenizer.clear();
        t.tokenizer_file = "minilm/tokenizer.json".into();
    });
    assert_eq!(by_file, [""; 0]);
    assert_eq!(encoder(|_, t| t.ids.clear()), [format!("error no_name {at}.ids")]);
    assert_eq!(encoder(|_, t| t.mask = "ids".into()), [format!("error duplicate_name {at}.mask")]);
    assert_eq!(encoder(|_, t| t.type_ids = "mask".into()), [format!("error duplicate_name {at}.type_ids")]);
    assert_eq!(encoder(|_, t| t.max_tokens = 200_000), [format!("error input_above_window {at}.max_tokens")]);
}

#[test]
fn queues_stand_before_tensor_pools() {
    let queue = |at: usize, queue: pb::TensorQueue| found(|p| p.pools[at].queue = Some(queue));
    assert_eq!(queue(1, pb::TensorQueue { max_rows: 64, ..Default::default() }), [""; 0]);
    assert_eq!(queue(0, pb::TensorQueue::default()), ["error field_not_used pools[0].queue"]);
    assert_eq!(
        queue(1, pb::TensorQueue { timeout_ms: u64::MAX, ..Default::default() }),
        ["error out_of_range pools[1].queue.timeout_ms"]
    );
}

#[test]
fn priorities_and_shares_are_known() {
    assert_eq!(found(|p| p.tiers[0].priority = 4), ["error unknown_value tiers[0].priority"]);
    assert_eq!(found(|p| p.features[0].priority = -1), ["error unknown_value features[0].priority"]);
    assert_eq!(found(|p| p.tenants[0].weight = 2_000_000), ["error out_of_range tenants[0].weight"]);
    assert_eq!(found(|p| p.tenants[0].weight = 3), [""; 0]);
}

#[test]
fn tensors_have_routes_in_both_forms() {
    let with = |name: &str, change: fn(&mut pb::Route)| {
        let mut made = route(name, "/v2", Operation::Kserve);
        change(&mut made);
        found(|p| p.routes.push(made))
    };
    let at = good().routes.len();
    let prefix = |text: &str| Some(Match::PathPrefix(text.into()));
    assert_eq!(with("v2", |r| r.r#match = Some(Match::PathPrefix("/v2".into()))), [""; 0]);
    assert_eq!(with("ready", |r| r.r#match = Some(Match::Path("/v2/health/ready".into()))), [""; 0]);
    assert_eq!(with("get", |r| r.methods = vec!["GET".into()]), [""; 0]);
    assert_eq!(
        with("no", |r| r.r#match = Some(Match::PathPrefix("/v2beta".into()))),
        [format!("error bad_path routes[{at}]")]
    );
    assert_eq!(with("pool", |r| r.pool = "triton".into()), [""; 0]);
    assert_eq!(
        with("pool", |r| r.pool = "chat".into()),
        [format!("error protocol_mismatch routes[{at}].pool")]
    );
    let grpc = found(|p| {
        let mut grpc = route("grpc", "", Operation::Kserve);
        grpc.r#match = prefix("/inference.GRPCInferenceService/");
        grpc.methods = vec!["GET".into()];
        p.routes = vec![grpc];
    });
    assert!(grpc.contains(&"error bad_method routes[0].methods".to_owned()), "{grpc:?}");
    let two = found(|p| {
        p.pools.push(pool("second", pb::pool::Protocol::KserveGrpc));
        p.models.push(model("other", "second", Capability::Tensors));
        p.routes.push(route("v2", "/v2", Operation::Kserve));
    });
    assert!(two.contains(&format!("warning first_pool routes[{at}].pool")), "{two:?}");
}

#[test]
fn its_messages_keep_the_house_style() {
    let mut policy = good();
    policy.models[2].tensors = Some(pb::Tensors {
        ragged_inputs: vec![pb::RaggedInput { pad_value: f64::INFINITY, ..Default::default() }],
        mask_input: "m\n".into(),
        length_classes: vec![2, 1],
        answers: 2,
        embeddings: Some(pb::EmbeddingTensors::default()),
        generation: Some(pb::GenerationTensors { text: 9, ..Default::default() }),
        ..Default::default()
    });
    policy.pools[0].queue = Some(pb::TensorQueue::default());
    let findings = validate(&policy);
    assert!(findings.len() >= 8, "{findings:#?}");
    for finding in findings {
        assert!(!finding.message.ends_with('.') && !finding.message.contains('\n'), "{}", finding.message);
        assert!(!finding.message.starts_with(|c: char| c.is_uppercase()), "{}", finding.message);
    }
}

proptest! {
    #[test]
    fn no_tensors_make_it_panic(
        texts in proptest::collection::vec(super::text(), 10),
        numbers in proptest::collection::vec(any::<u32>(), 8),
        enums in proptest::collection::vec(any::<i32>(), 4),
        pad_value in any::<f64>(),
    ) {
        let (t, n) = (|i: usize| texts[i].clone(), |i: usize| numbers[i]);
        let mut policy = good();
        let tokens = pb::TokenInputs { ids: t(0), mask: t(1), type_ids: t(2), tokenizer_file: t(3), max_tokens: n(0) };
        policy.models[2].tensors = Some(pb::Tensors {
            ragged_inputs: vec![pb::RaggedInput { name: t(4), dim: n(1), pad_value }; 2],
            ragged_outputs: vec![pb::RaggedOutput { name: t(5), dim: n(2) }],
            mask_input: t(6),
            length_classes: vec![u64::from(n(3)), u64::from(n(4))],
            max_length_classes: n(5),
            max_batch_rows: n(6),
            preferred_rows: vec![n(7), n(0)],
            retry: enums[0],
            answers: enums[1],
            embeddings: Some(pb::EmbeddingTensors { input: Some(Input::Tokens(tokens)), output: t(7) }),
            generation: Some(pb::GenerationTensors {
                text_input: t(8),
                parameter_inputs: [(t(9), t(0))].into(),
                text: enums[2],
                ..Default::default()
            }),
            ..Default::default()
        });
        policy.tiers[0].priority = enums[3];
        for finding in validate(&policy) {
            prop_assert!(!finding.message.contains('\n'));
        }
    }
}
