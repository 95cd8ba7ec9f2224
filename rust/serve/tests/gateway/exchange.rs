//! What is said on a stream, frame by frame.

use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::{
    BodySendMode, HeaderSendMode,
};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpBody, ProcessingRequest};
use tonic::Code;

use super::rig::{BODY, Rig, Stream, asks, body, chat, common, headers, immediate, policy, said};

fn set(
    response: &envoy_types::pb::envoy::service::ext_proc::v3::ProcessingResponse,
) -> Vec<(String, String)> {
    let mutation = common(response).header_mutation.as_ref().unwrap();
    mutation
        .set_headers
        .iter()
        .filter_map(|option| option.header.as_ref())
        .map(|h| (h.key.clone(), String::from_utf8(h.raw_value.clone()).unwrap()))
        .collect()
}

#[test]
fn a_request_is_asked_for_its_body_and_goes_on() {
    let rig = Rig::new(&policy());
    rig.run(async {
        let mut stream = rig.decide().await;
        let first = stream.ask(chat()).await;
        assert!(common(&first).header_mutation.is_none() && first.dynamic_metadata.is_none());
        let mode = first.mode_override.unwrap();
        assert_eq!(mode.request_body_mode, BodySendMode::Buffered as i32);
        assert_eq!(mode.response_header_mode, HeaderSendMode::Skip as i32);

        let second = stream.ask(body(BODY)).await;
        let headers = set(&second);
        let value = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(value("x-forebay-internal-pool"), Some("fleet"));
        assert_eq!(value("x-forebay-internal-capture"), Some("1"));
        assert_eq!(value("x-forebay-internal-id"), None, "only the batch service needs it");
        let Some(Mutation::Body(sent)) = common(&second).body_mutation.clone().unwrap().mutation else {
            panic!("the body is not replaced")
        };
        assert_eq!(value("content-length"), Some(sent.len().to_string().as_str()));
        assert!(String::from_utf8(sent).unwrap().contains("100"), "the output is bounded");
        let removed = &common(&second).header_mutation.as_ref().unwrap().remove_headers;
        for credential in ["authorization", "x-api-key", "api-key"] {
            assert!(removed.iter().any(|r| r == credential), "{credential} reaches the upstream");
        }
        assert!(common(&second).clear_route_cache);
        assert_eq!(said(&second, "id").unwrap().len(), 32);
        assert_eq!(said(&second, "tenant").as_deref(), Some("acme"));
        assert_eq!(rig.in_flight("fleet"), 1);
        assert!(stream.close().await.unwrap().is_none(), "after an answer a clean end is right");
    });
    super::rig::until("the slot", || rig.in_flight("fleet") == 0);
    assert_eq!(rig.gateway.engine().open_reservations(), 1, "the log's entry is still to come");
}

#[test]
fn a_request_that_is_passed_on_needs_no_body() {
    let rig = Rig::new(&policy());
    rig.run(async {
        let mut stream = rig.decide().await;
        let only = stream.ask(asks("/files/x", "Bearer fbk_acme", "application/octet-stream")).await;
        assert!(only.mode_override.is_none() && common(&only).body_mutation.is_none());
        let headers = set(&only);
        assert!(headers.contains(&("x-forebay-internal-pool".into(), "raw".into())), "{headers:?}");
        assert!(headers.iter().all(|(n, _)| n != "content-length"));
        let removed = &common(&only).header_mutation.as_ref().unwrap().remove_headers;
        assert!(removed.iter().any(|r| r == "authorization"));
        assert!(stream.close().await.unwrap().is_none());
        assert_eq!(rig.in_flight("raw"), 1, "the end of this stream is no end of the request");
    });
}

#[test]
fn refusals_are_answers_in_the_callers_protocol() {
    let rig = Rig::new(&policy());
    rig.run(async {
        let mut stream = rig.decide().await;
        let (status, text, answer) =
            immediate(stream.ask(asks("/v1/chat/completions", "Bearer fbk_x", "application/json")).await);
        assert_eq!(status, 401);
        assert!(text.contains("\"code\":\"invalid_api_key\""), "{text}");
        assert!(answer.grpc_status.is_none());
        assert_eq!(answer.details, "forebay_invalid_api_key");
        assert!(stream.close().await.unwrap().is_none(), "nothing comes after an immediate answer");

        let mut stream = rig.decide().await;
        let (status, text, answer) =
            immediate(stream.ask(asks("/files/x", "Bearer fbk_x", "application/grpc+proto")).await);
        assert_eq!((status, answer.grpc_status.unwrap().status), (401, 16));
        assert_eq!(text, "the API key is not known");
        let headers = answer.headers.unwrap().set_headers;
        assert!(headers.iter().all(|h| h.header.as_ref().unwrap().key != "content-type"));

        let mut stream = rig.decide().await;
        stream.ask(chat()).await;
        let (status, text, _) =
            immediate(stream.ask(body(r#"{"model":"nothing","messages":[{"role":"user"}]}"#)).await);
        assert!(status == 404 && text.contains("model_not_found"), "{text}");
    });
}

#[test]
fn what_the_protocol_does_not_allow_is_an_error() {
    let rig = Rig::new(&policy());
    rig.run(async {
        let mut stream = rig.decide().await;
        stream.send(Part::ResponseHeaders(headers(&[(":status", "200")], false))).await;
        assert_eq!(stream.rx.message().await.unwrap_err().code(), Code::FailedPrecondition);

        let stream = rig.decide().await;
        stream.tx.send(ProcessingRequest::default()).await.unwrap();
        assert_eq!(stream.close().await.unwrap_err().code(), Code::InvalidArgument);

        let mut stream = rig.decide().await;
        stream.ask(chat()).await;
        stream.send(chat()).await;
        assert_eq!(stream.rx.message().await.unwrap_err().code(), Code::FailedPrecondition);

        // After a decision it is no less an error, and the slot is free.
        let mut stream = rig.decide().await;
        stream.ask(chat()).await;
        stream.ask(body(BODY)).await;
        stream.send(body(BODY)).await;
        assert_eq!(stream.rx.message().await.unwrap_err().code(), Code::FailedPrecondition);

        // A part of a body, where the whole was asked for.
        let mut stream = rig.decide().await;
        stream.ask(chat()).await;
        let part = HttpBody { body: BODY.into(), end_of_stream: false, ..HttpBody::default() };
        let (status, text, _) = immediate(stream.ask(Part::RequestBody(part)).await);
        assert!(status == 500 && text.contains("internal_error"), "{text}");
    });
    assert_eq!(rig.counter("forebay_protocol_errors_total"), 4);
    super::rig::until("the slot", || rig.in_flight("fleet") == 0);
}

#[test]
fn an_unknown_filter_is_refused() {
    let rig = Rig::new(&policy());
    rig.run(async {
        for filter in [None, Some("other"), Some("Decide")] {
            let refused = Stream::open(rig.channel().await, filter).await;
            assert_eq!(refused.err().unwrap().code(), Code::InvalidArgument, "{filter:?}");
        }
    });
}
