//! Owns: what a client may say about its own urgency: deadlines and classes, which only ever lower what it has.
//! Must not know: how the core orders what waits.
//! On failure: the test fails; every wait has a bound.

use std::time::Duration;

use forebay_core::batch::Priority;
use forebay_serve::kserve::Work;
use forebay_serve::kserve::pb::infer_parameter::ParameterChoice;
use forebay_serve::kserve::pb::{InferParameter, ModelInferRequest, ModelInferResponse};
use prost::Message;
use tonic::{Code, Request};

use super::rig::*;

fn with(mut request: ModelInferRequest, name: &str, value: i64) -> ModelInferRequest {
    let parameter_choice = Some(ParameterChoice::Int64Param(value));
    request.parameters.insert(name.to_owned(), InferParameter { parameter_choice });
    request
}

fn headed(mut request: Request<ModelInferRequest>, priority: &'static str) -> Request<ModelInferRequest> {
    request.metadata_mut().insert("x-forebay-priority", priority.parse().unwrap());
    request
}

async fn bench() -> (Bench, Work) {
    let bench = Bench::start().await;
    bench.queue.set_model(&lane("echo"), shape(), &one());
    let first = bench.begin(marked(ints("echo", 1, 100))).await;
    let held = bench.next_work().await;
    drop(first);
    (bench, held)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_has_passed_is_refused_at_once() {
    let bench = Bench::start().await;
    let mut request = marked(ints("echo", 1, 1));
    request.set_timeout(Duration::from_micros(10));
    let status = bench.client().await.call::<_, ModelInferResponse>("ModelInfer", request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    bench.until(|queue| queue.load("pool").requests == 0).await;
    assert_eq!(bench.queue.stats().requests, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timeout_parameter_ends_a_request_and_keeps_nobody_apart() {
    let (bench, held) = bench().await;
    let late = with(ints("echo", 1, 1), "timeout", 40_000);
    let status = bench.client().await.infer(late).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "no answer came within 40 ms"));
    let tasks = [
        bench.begin(marked(with(ints("echo", 1, 2), "timeout", 9_000_000))).await,
        bench.begin(marked(with(ints("echo", 1, 3), "priority", 2))).await,
        bench.begin(marked(ints("echo", 1, 4))).await,
    ];
    bench.until_waiting(3).await;
    bench.queue.complete(held.id, echo(&held));
    let work = bench.next_work().await;
    assert_eq!(work.requests, 3);
    let sent = ModelInferRequest::decode(work.request.clone()).unwrap();
    assert!(sent.parameters.is_empty(), "{:?}", sent.parameters);
    bench.queue.complete(work.id, echo(&work));
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_lower_its_class_and_never_raise_it() {
    let (bench, _held) = bench().await;
    let cases = [
        (Priority::P1, marked(with(ints("echo", 1, 1), "priority", 1)), "P1"),
        (Priority::P1, marked(with(ints("echo", 1, 2), "priority", 3)), "P2"),
        (Priority::P0, marked(with(ints("echo", 1, 3), "priority", 2)), "P1"),
        (Priority::P0, marked(with(ints("echo", 1, 4), "priority", 0)), "P0"),
        (Priority::P1, headed(marked(ints("echo", 1, 5)), "p0"), "P1"),
        (Priority::P0, headed(marked(ints("echo", 1, 6)), "P2"), "P2"),
        (Priority::P0, headed(marked(with(ints("echo", 1, 7), "priority", 1)), "P1"), "P1"),
        (Priority::P0, headed(marked(ints("echo", 1, 8)), "soon"), "P0"),
    ];
    for (waiting, (best, request, expected)) in (1_u64..).zip(cases) {
        *bench.desk.priority.lock().unwrap() = best;
        let before = bench.metric("queue_requests", expected);
        let _waits = bench.begin(request).await;
        bench.until_waiting(waiting).await;
        let now = bench.metric("queue_requests", expected);
        assert!((now - before - 1.0).abs() < 0.5, "request {waiting} does not wait as {expected}");
    }
}
