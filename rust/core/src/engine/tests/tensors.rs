//! Requests at the batch service: who they are, where they are placed, and what the tests about them share.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::rig::{Ask, Capability as C, Match, Operation as O, Rig, model, policy, prices, route};
use crate::account::Outcome;
use crate::batch::Priority;
use crate::engine::{BatchEnded, BatchRecall, BatchTake, LogEntry, Ran, TensorsUsed, Waiter};
use crate::policy::pb;
use crate::record::RecordEnd;
use crate::refusal::Refusal;

pub fn infer() -> Ask {
    Ask::post("/inference.GRPCInferenceService/ModelInfer", "").with("content-type", "application/grpc")
}

/// The policy of tests with a ledger; `tensor` is deterministic and costs 3 nano-USD a token.
pub fn tensor_policy() -> pb::Policy {
    let mut policy = policy();
    let tensors = pb::Tensors { answers: pb::tensors::Answers::Deterministic as i32, ..Default::default() };
    policy.models[3].tensors = Some(tensors);
    policy.models[3].prices = Some(prices(3, 0));
    policy.models[3].tags = vec!["vision".into()];
    let mut plain = model("plain", "triton", &[C::Tensors]);
    plain.upstream_name = "plain_v2".into();
    policy.models.push(plain);
    policy.cache = Some(pb::Cache::default());
    policy.ledger = Some(pb::Ledger::default());
    policy
}

pub fn ran(tokens: u64) -> BatchEnded {
    let padded_tokens = tokens + 7;
    BatchEnded {
        ran: Ran::Whole,
        rows: 1,
        batch_rows: 8,
        tokens,
        padded_tokens,
        queue_ns: 2_000,
        service_ns: 4_000,
        ..BatchEnded::default()
    }
}

pub fn failed(outcome: Outcome, ran: Ran) -> BatchEnded {
    BatchEnded { outcome, code: "batch_test", ran, ..BatchEnded::default() }
}

pub fn answered() -> LogEntry<'static> {
    LogEntry { end: RecordEnd { status: 200, ..RecordEnd::default() }, ..LogEntry::default() }
}

impl Rig {
    pub fn take(&self, id: u128, model: &str, tokens: u64) -> Result<BatchTake, Refusal> {
        let mut nobody = || -> Waiter { Box::new(|_| ()) };
        self.engine.batch_take(id, TensorsUsed { model, tokens }, &mut nobody, &self.clock)
    }

    pub fn taken(&self, id: u128, model: &str, tokens: u64) {
        assert_eq!(self.take(id, model, tokens).unwrap(), BatchTake::Taken);
    }

    pub fn finished(&self, id: u128, ended: BatchEnded) {
        self.engine.batch_finished(id, ended, self.now());
    }

    pub fn recall(&self, id: u128, parts: &[&[u8]]) -> BatchRecall {
        self.engine.batch_recall(id, "tensor", parts, self.now())
    }

    /// The last decision record, as JSON.
    pub fn last(&self) -> String {
        self.engine.records_json(1)
    }
}

#[test]
fn a_request_waits_in_its_feature_s_class_or_its_tier_s() {
    let mut policy = tensor_policy();
    policy.tiers = vec![pb::Tier { name: "free".into(), priority: pb::Priority::P2 as i32 }];
    policy.tenants[0].tier = "free".into();
    policy.tenants[0].weight = 3;
    policy.features[0].priority = pb::Priority::P0 as i32;
    let rig = Rig::new(&policy);
    let caller = |ask: &Ask| rig.engine.batch_caller(rig.forward(ask).id).unwrap();
    let plain = caller(&infer());
    assert_eq!((plain.priority, plain.weight, plain.placed.is_none()), (Priority::P2, 3, true));
    assert_eq!(caller(&infer().with("x-forebay-feature", "search")).priority, Priority::P0);
    let rival = caller(&infer().by("fbk_rival"));
    assert_eq!((rival.priority, rival.weight), (Priority::P1, 1));
}

#[test]
fn a_mapped_model_is_placed_at_its_tensor_pool_and_the_service_is_told() {
    let mut policy = tensor_policy();
    let mut encoder = model("encoder", "triton", &[C::Embeddings]);
    encoder.upstream_name = "minilm".into();
    encoder.context_window_tokens = 256;
    let input = pb::embedding_tensors::Input::TextInput("text".into());
    let embeddings = Some(pb::EmbeddingTensors { input: Some(input), output: "embedding".into() });
    encoder.tensors = Some(pb::Tensors { embeddings, ..Default::default() });
    let mut writer = model("writer", "triton", &[C::Chat, C::Completions]);
    let generation = Some(pb::GenerationTensors::default());
    writer.tensors = Some(pb::Tensors { generation, ..Default::default() });
    policy.models.extend([encoder, writer]);
    let rig = Rig::new(&policy);

    let forward = rig.forward(&Ask::post("/v1/embeddings", r#"{"model":"encoder","input":"some words"}"#));
    assert!(forward.batch && forward.capture, "{forward:?}");
    assert_eq!(&*forward.pool, "triton");
    let placed = rig.engine.batch_caller(forward.id).unwrap().placed.unwrap();
    assert_eq!(placed.operation, O::Embedding);
    assert_eq!((&*placed.model, &*placed.upstream), ("encoder", "minilm"));
    assert_eq!((placed.tokenizer, placed.context_window_tokens), ("estimate:generic", 256));
    assert!(placed.tensors.embeddings.is_some());
    // Its decision took all; the service's asking takes nothing more.
    let before = rig.record(forward.id).bound_tokens;
    rig.taken(forward.id, "encoder", 1_000);
    assert_eq!(rig.record(forward.id).bound_tokens, before);

    for (path, body) in [
        ("/v1/chat/completions", r#"{"model":"writer","messages":[{"role":"user","content":"x"}]}"#),
        ("/v1/completions", r#"{"model":"writer","prompt":"x"}"#),
    ] {
        let forward = rig.forward(&Ask::post(path, body));
        let placed = rig.engine.batch_caller(forward.id).unwrap().placed.unwrap();
        assert_eq!(placed.tensors.generation.as_ref().unwrap().text_output, "text_output");
        rig.log_usage(forward.id, r#"{"prompt_tokens":3,"completion_tokens":2}"#);
    }
    // Its answer tells its use, as any upstream's does.
    rig.finished(forward.id, ran(9));
    rig.log_usage(forward.id, r#"{"prompt_tokens":2,"total_tokens":2}"#);
    assert!(rig.last().contains(r#""usage":"exact","prompt_tokens":2"#), "{}", rig.last());
    assert!(rig.last().contains(r#""batch_rows":8"#), "{}", rig.last());
    rig.is_quiet();
}

#[test]
fn models_are_seen_by_the_name_that_the_pool_knows() {
    let rig = Rig::new(&tensor_policy());
    let id = rig.forward(&infer()).id;
    let caller = rig.engine.batch_caller(id).unwrap();
    assert!(caller.may_see("plain_v2") && caller.may_see("tensor") && !caller.may_see("plain"));
    assert_eq!(&*rig.engine.batch_model(id, "plain").unwrap(), "plain_v2");
    assert_eq!(&*rig.record(id).model, "plain");
    assert_eq!(rig.engine.batch_model(id, "plain_v2").unwrap_err().code(), "model_not_found");
    assert_eq!(rig.engine.batch_model(77, "plain").unwrap_err(), Refusal::UnknownKey);
}

#[test]
fn a_route_may_name_its_tensor_pool() {
    let mut policy = tensor_policy();
    policy.pools.push(pb::Pool { name: "second".into(), ..policy.pools[3].clone() });
    policy.models[4].pools = vec!["second".into()];
    let mut second = route("second", "", O::Kserve);
    second.r#match = Some(Match::PathPrefix("/v2".into()));
    second.pool = "second".into();
    policy.routes.push(second);
    let rig = Rig::new(&policy);
    assert_eq!(&*rig.forward(&infer()).pool, "triton");
    let id = rig.forward(&Ask::post("/v2/models/plain/infer", "{}")).id;
    assert!(rig.engine.batch_model(id, "plain").is_ok());
    assert_eq!(rig.engine.batch_model(id, "tensor").unwrap_err().code(), "unsupported_capability");
}

#[test]
fn http_is_decided_by_headers_and_refused_in_its_own_shape() {
    let mut policy = tensor_policy();
    let mut v2 = route("v2", "", O::Kserve);
    v2.r#match = Some(Match::PathPrefix("/v2".into()));
    policy.routes.push(v2);
    let rig = Rig::new(&policy);
    let ready = Ask::post("/v2/health/ready", "").with(":method", "GET").with("content-type", "");
    let forward = rig.forward(&ready);
    assert!(forward.batch && forward.body.is_none());
    assert!(rig.forward(&Ask::post("/v2/models/tensor/infer", "{}")).batch);
    for (ask, status, words) in [
        (ready.clone().by("fbk_nobody"), 401, r#"{"error":"the API key is not known"}"#),
        (ready.with("authorization", ""), 401, r#"{"error":"no API key was sent; send it as"#),
    ] {
        let answer = rig.ask(&ask).answer();
        assert_eq!(answer.status, status);
        let body = String::from_utf8(answer.body.to_vec()).unwrap();
        assert!(body.starts_with(words) && !body.contains("\"code\""), "{body}");
    }
}

#[test]
fn a_tensor_request_that_envoy_never_took_frees_its_place_at_once() {
    let rig = Rig::new(&tensor_policy());
    let ask = infer().with("x-request-id", "0af76519-16cd-43dd-8448-eb211c80319c");
    let (left, other) = (rig.forward(&ask).id, rig.forward(&infer()).id);
    rig.engine.left_undecided(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, rig.now());
    rig.sleep(1_000_000_000);
    rig.engine.tick(rig.now());
    assert!(rig.engine.batch_caller(left).is_none());
    assert!(rig.engine.batch_caller(other).is_some());
    assert_eq!(rig.engine.open_reservations(), 1);
}
