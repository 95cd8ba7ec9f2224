//! What waits: followers of an equal request, and a person's stage.

use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpBody, ProcessingRequest};
use forebay_core::engine::Resolution;
use forebay_core::policy::pb;

use super::rig::{BODY, Rig, Stream, body, chat, headers, immediate, metadata, policy, said, until};

const ANSWER: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi there"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;

/// The copy of a response, in two parts.
async fn capture(rig: &Rig, id: &str, text: &str) {
    let stream = Stream::open(rig.channel().await, Some("capture")).await.unwrap();
    let (first, second) = text.split_at(text.len() / 2);
    let body = |text: &str, end_of_stream| {
        Part::ResponseBody(HttpBody { body: text.into(), end_of_stream, ..HttpBody::default() })
    };
    let head = headers(&[(":status", "200"), ("content-type", "application/json")], false);
    for part in [Part::ResponseHeaders(head), body(first, false), body(second, true)] {
        let request = ProcessingRequest {
            request: Some(part),
            metadata_context: Some(metadata(id)),
            ..ProcessingRequest::default()
        };
        // Once it has the whole copy, the other side may be gone before ours is.
        let _ = stream.tx.send(request).await;
    }
    assert!(stream.close().await.unwrap().is_none(), "nothing is ever answered to a copy");
}

#[test]
fn an_equal_request_waits_and_gets_the_captured_answer() {
    let rig = Rig::new(&policy());
    rig.run(async {
        let mut leader = rig.decide().await;
        leader.ask(chat()).await;
        let id = said(&leader.ask(body(BODY)).await, "id").unwrap();
        let mut follower = rig.decide().await;
        follower.ask(chat()).await;
        let hold = follower.ask(body(BODY)).await;
        let wait = hold.override_message_timeout.expect("an announced hold");
        assert!((30..60).contains(&wait.seconds) && hold.response.is_none(), "{wait:?}");
        capture(&rig, &id, ANSWER).await;
        let (status, text, _) = immediate(follower.answer().await);
        assert!(status == 200 && text == ANSWER, "{text}");
        let mut later = rig.decide().await;
        later.ask(chat()).await;
        assert_eq!(immediate(later.ask(body(BODY)).await).0, 200);
    });
    assert_eq!(rig.counter("forebay_cache_stored_total"), 1);
    assert_eq!(rig.counter("forebay_response_body_messages_total"), 2);
}

#[test]
fn a_follower_leads_where_the_copy_is_broken() {
    let rig = Rig::new(&policy());
    rig.run(async {
        let mut leader = rig.decide().await;
        leader.ask(chat()).await;
        let id = said(&leader.ask(body(BODY)).await, "id").unwrap();
        let mut follower = rig.decide().await;
        follower.ask(chat()).await;
        follower.ask(body(BODY)).await;
        let mut gone = rig.decide().await;
        gone.ask(chat()).await;
        gone.ask(body(BODY)).await;
        drop(gone);
        capture(&rig, &id, &ANSWER[..60]).await;
        let next = follower.answer().await;
        assert_eq!(said(&next, "pool").as_deref(), Some("fleet"));
        assert_ne!(said(&next, "id").unwrap(), id);
    });
    assert_eq!(rig.counter("forebay_cache_rejected_total"), 1);
}

fn staged() -> Rig {
    let mut policy = policy();
    policy.routes[0].resolve = Some(pb::Resolve {
        python: "mine:pick".into(),
        deadline_ms: 400,
        on_failure: pb::resolve::OnFailure::Refuse as i32,
        ..pb::Resolve::default()
    });
    Rig::new(&policy)
}

#[test]
fn a_stage_is_asked_on_a_thread_of_its_own() {
    let rig = staged();
    let stages = rig.gateway.stages().clone();
    let stage = std::thread::spawn(move || {
        let mut batch = stages.next(super::rig::BOUND).unwrap();
        let request = batch.pop().unwrap();
        assert_eq!((&*request.call.target, request.call.view.model.as_str()), ("mine:pick", "auto"));
        request.answer(Resolution::Model { model: "small".into(), reason: "short".into() });
    });
    rig.run(async {
        let mut stream = rig.decide().await;
        stream.ask(chat()).await;
        let answer = stream.ask(body(&BODY.replace("small", "auto"))).await;
        assert_eq!(said(&answer, "model").as_deref(), Some("small"));
    });
    stage.join().unwrap();
}

#[test]
fn a_stage_that_is_absent_or_gone_fails_the_request() {
    let rig = staged();
    rig.run(async {
        for _ in 0..2 {
            let mut stream = rig.decide().await;
            stream.ask(chat()).await;
            let (status, text, _) = immediate(stream.ask(body(BODY)).await);
            assert!(status == 503 && text.contains("stage_failed"), "{text}");
            // The second time there is not even a queue.
            rig.gateway.stages().close();
        }
    });
    until("the failures", || rig.counter("forebay_stage_failures_total") == 2);
    assert!(rig.gateway.stages().next(Duration::ZERO).is_none());
}
