#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::rig::{Ask, Rig, chat, policy};
use crate::engine::MetaValue;
use crate::json::{Bounds, Document, Json};
use crate::policy::pb;

/// A number of the body that goes to the upstream.
fn sent(body: Option<&Vec<u8>>, field: &str) -> Option<String> {
    let document = Document::parse(body.expect("a changed body"), Bounds::default()).unwrap();
    match document.get(field)? {
        Json::Number(text) => Some(text.to_string()),
        other => other.as_str().map(str::to_owned),
    }
}

#[test]
fn an_alias_is_the_model_and_the_upstream_has_its_own_name() {
    let mut policy = policy();
    policy.models[0].upstream_name = "org/small-8b".into();
    let rig = Rig::new(&policy);
    for name in ["small", "mini"] {
        let forward = rig.forward(&chat(name, "x"));
        assert_eq!(sent(forward.body.as_ref(), "model").unwrap(), "org/small-8b");
        assert!(forward.metadata.contains(&("model", MetaValue::Shared("small".into()))));
        assert_eq!(rig.record(forward.id).asked, name);
    }
    assert_eq!(rig.refused(&chat("org/small-8b", "x")), (404, "model_not_found"));
}

#[test]
fn what_a_model_cannot_do_is_refused() {
    let mut policy = policy();
    policy.models[0].capabilities.truncate(2);
    let rig = Rig::new(&policy);
    let image = r#"{"model":"small","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}]}"#;
    for ask in [
        chat("vector", "x"),
        chat("tensor", "x"),
        chat("small", "x").and(r#""tools":[{"type":"function","function":{"name":"f"}}]"#),
        chat("small", "x").and(r#""response_format":{"type":"json_object"}"#),
        Ask::post(super::rig::CHAT, image),
        Ask::post("/v1/completions", r#"{"model":"large","prompt":"x"}"#),
        Ask::post("/v1/embeddings", r#"{"model":"small","input":"x"}"#),
    ] {
        assert_eq!(rig.refused(&ask), (400, "unsupported_capability"), "{}", ask.body);
    }
    rig.is_quiet();
}

#[test]
fn bodies_that_are_no_request_are_refused() {
    let rig = Rig::new(&policy());
    for (body, code) in [
        ("{", "invalid_json"),
        ("[]", "invalid_json"),
        (r#"{"model":"small","model":"large"}"#, "invalid_json"),
        (r#"{"model":7}"#, "invalid_value"),
        (r#"{"model":"small"}"#, "invalid_value"),
        (r#"{"model":"nothing","messages":[{"role":"user"}]}"#, "model_not_found"),
    ] {
        assert_eq!(rig.refused(&Ask::post(super::rig::CHAT, body)).1, code, "{body}");
    }
    let deep = format!(r#"{{"model":"small","messages":{}{}}}"#, "[".repeat(100), "]".repeat(100));
    assert_eq!(rig.refused(&Ask::post(super::rig::CHAT, &deep)), (400, "invalid_json"));
    rig.is_quiet();
}

#[test]
fn the_output_is_bounded_by_the_smallest_of_request_model_and_feature() {
    let mut policy = policy();
    policy.features[0].max_output_tokens = 60;
    policy.models[1].max_output_tokens = 0;
    let rig = Rig::new(&policy);
    let cap = |ask: &Ask| {
        let forward = rig.forward(ask);
        let record = rig.record(forward.id);
        rig.log(forward.id);
        let body = forward.body.as_ref();
        let said =
            body.and_then(|_| sent(body, "max_tokens").or_else(|| sent(body, "max_completion_tokens")));
        (record.bound_tokens - record.prompt_tokens, said)
    };
    let margin = cap(&chat("large", "x")).0;
    let bound = |ask: &Ask, tokens: u64| {
        let (above, said) = cap(ask);
        assert_eq!((above - margin, said.as_deref()), (tokens, Some(&*tokens.to_string())), "{}", ask.body);
    };
    bound(&chat("small", "x"), 100);
    bound(&chat("small", "x").and(r#""max_tokens":700"#), 100);
    bound(&chat("small", "x").with("x-forebay-feature", "search"), 60);
    bound(&chat("large", "x").with("x-forebay-feature", "search"), 60);
    // What fits already goes on as it came.
    assert_eq!(cap(&chat("small", "x").and(r#""max_completion_tokens":7"#)), (margin + 7, None));
    assert_eq!(cap(&chat("large", "x")), (margin, None));
    // Every choice has its own output.
    assert_eq!(cap(&chat("small", "x").and(r#""max_tokens":10,"n":3"#)), (margin + 30, None));
}

#[test]
fn the_window_is_kept_and_says_both_numbers() {
    let mut policy = policy();
    for model in &mut policy.models[..3] {
        model.context_window_tokens = 120;
        model.max_output_tokens = 100;
        model.tokenizer = "estimate:generic".into();
    }
    policy.models[2].max_output_tokens = 0;
    let rig = Rig::new(&policy);
    let words = |n: usize| "word ".repeat(n);
    // The model's own bound gives way to the prompt.
    let forward = rig.forward(&chat("small", &words(40)));
    let prompt = rig.record(forward.id).prompt_tokens;
    assert!(prompt > 20, "{prompt}");
    assert_eq!(
        sent(forward.body.as_ref(), "max_tokens")
            .or_else(|| sent(forward.body.as_ref(), "max_completion_tokens"))
            .unwrap(),
        (120 - prompt).to_string()
    );
    // A bound that the client gave does not.
    let ask = |n: usize, cap: u64| chat("small", &words(n)).and(&format!(r#""max_tokens":{cap}"#));
    let answer = rig.ask(&ask(40, 100)).answer();
    assert_eq!((answer.status, answer.code), (400, "context_length_exceeded"));
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(text.contains(&prompt.to_string()) && text.contains("120"), "{text}");
    rig.forward(&ask(40, 120 - prompt));
    assert_eq!(rig.refused(&ask(40, 121 - prompt)), (400, "context_length_exceeded"));
    assert_eq!(rig.refused(&chat("small", &words(200))), (400, "context_length_exceeded"));
    // The same holds for one prompt with several outputs, and for texts that are embedded.
    let text = |prompt: &str| {
        Ask::post("/v1/completions", &format!(r#"{{"model":"small","prompt":{prompt},"n":2}}"#))
    };
    assert_eq!(rig.refused(&text(&format!("\"{}\"", words(200)))), (400, "context_length_exceeded"));
    let vector =
        |input: &str| Ask::post("/v1/embeddings", &format!(r#"{{"model":"vector","input":{input}}}"#));
    assert_eq!(rig.refused(&vector(&format!("\"{}\"", words(200)))), (400, "context_length_exceeded"));
    // Each of many texts has the window to itself.
    let many = format!("[{}]", vec![format!("\"{}\"", words(30)); 20].join(","));
    rig.forward(&vector(&many));
    rig.forward(&text(&many));
}

#[test]
fn pools_are_asked_only_in_their_own_protocol() {
    let mut policy = policy();
    policy.models[3].capabilities.push(pb::model::Capability::Chat as i32);
    policy.models[3].pools = vec!["triton".into(), "b".into()];
    match crate::policy::compile(&prost::Message::encode_to_vec(&policy)) {
        // A policy that mixes them is refused before a request could go astray.
        Err(findings) => assert!(findings.iter().any(|f| f.slug == "protocol_mismatch"), "{findings:#?}"),
        Ok(_) => assert_eq!(&*Rig::new(&policy).forward(&chat("tensor", "x")).pool, "b"),
    }
}

#[test]
fn tensors_go_to_the_batch_service_with_their_id() {
    let rig = Rig::new(&policy());
    let ask =
        Ask::post("/inference.GRPCInferenceService/ModelInfer", "").with("content-type", "application/grpc");
    let forward = rig.forward(&ask);
    assert!(forward.batch && !forward.capture && forward.body.is_none());
    assert_eq!(&*forward.pool, "triton");
    let caller = rig.engine.batch_caller(forward.id).unwrap();
    assert_eq!((&*caller.tenant, &*caller.key), ("acme", "acme"));
    assert_eq!(&*caller.may_use("tensor").unwrap(), "tensor");
    assert_eq!(caller.may_use("small").unwrap_err().code(), "unsupported_capability");
    assert_eq!(caller.may_use("nothing").unwrap_err().code(), "model_not_found");
    rig.log(forward.id);
    assert!(rig.engine.batch_caller(forward.id).is_none());
    let refused = rig.ask(&ask.by("fbk_nobody")).answer();
    assert_eq!(refused.grpc.unwrap().0, 16);
    rig.is_quiet();
}
