//! Owns: equal requests: run once while they wait together, answered from the cache later, never across tenants.
//! Must not know: what makes a key.
//! On failure: the test fails; every wait has a bound.

use std::time::Duration;

use forebay_core::batch::Priority;
use forebay_serve::kserve::pb::ModelInferResponse;
use forebay_serve::kserve::{BatchEnd, Failure};
use tonic::Code;

use super::rig::*;

/// A model without room, so that what comes waits.
async fn full() -> (Bench, u64) {
    let bench = Bench::deterministic().await;
    bench.queue.set_model(&lane("echo"), shape(), &one());
    let first = bench.begin(marked(ints("echo", 1, 100))).await;
    let held = bench.next_work().await;
    drop(first);
    (bench, held.id)
}

fn free(bench: &Bench, id: u64) {
    bench.queue.fail(id, &Failure::upstream(Code::Unavailable, "gone".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_requests_run_once_and_then_come_from_the_cache() {
    let (bench, held) = full().await;
    let tasks =
        [bench.begin(marked(ints("echo", 2, 7))).await, bench.begin(marked(ints("echo", 2, 7))).await];
    let other = bench.begin(marked(ints("echo", 2, 8))).await;
    let foreign = bench.begin(marked_as(FOREIGN, ints("echo", 2, 7))).await;
    bench.until_waiting(3).await;
    while bench.desk.taken.lock().unwrap().len() < 5 {
        tokio::task::yield_now().await;
    }
    free(&bench, held);
    let work = bench.next_work().await;
    let mut sent = values(&work);
    sent.sort_unstable();
    assert_eq!(sent, [7, 7, 7, 7, 8, 8], "two tenants shared a request, or one ran twice");
    bench.queue.complete(work.id, echo(&work));
    for task in tasks.into_iter().chain([foreign]) {
        assert_eq!(task.await.unwrap().unwrap().raw_output_contents, [raw(2, 7)]);
    }
    assert_eq!(other.await.unwrap().unwrap().raw_output_contents, [raw(2, 8)]);
    let mut same = ints("echo", 2, 7);
    same.id = "same".to_owned();
    let answer = bench.client().await.infer(same).await.unwrap();
    assert_eq!((answer.raw_output_contents, answer.id.as_str()), (vec![raw(2, 7)], "same"));
    assert_eq!((answer.model_name.as_str(), answer.model_version.as_str()), ("echo", "7"));
    let ends = bench.ends();
    let count = |is: fn(&BatchEnd) -> bool| ends.iter().filter(|end| is(end)).count();
    assert_eq!(count(|end| matches!(end, BatchEnd::Followed { rows: 2 })), 1);
    assert_eq!(count(|end| matches!(end, BatchEnd::Recalled { rows: 2 })), 1);
    assert_eq!(count(|end| matches!(end, BatchEnd::Answered { .. })), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_may_leave_and_the_others_get_the_answer() {
    let (bench, held) = full().await;
    let mut short = marked(ints("echo", 1, 7));
    short.set_timeout(Duration::from_millis(80));
    let leader = bench.begin(short).await;
    bench.until_waiting(1).await;
    let follower = bench.begin(marked(ints("echo", 1, 7))).await;
    let left = leader.await.unwrap().unwrap_err();
    assert!(matches!(left.code(), Code::DeadlineExceeded | Code::Cancelled), "{left}");
    bench.until_waiting(1).await;
    free(&bench, held);
    let work = bench.next_work().await;
    assert_eq!(values(&work), [7]);
    assert!(work.timeout > Duration::from_secs(1), "the request dies with its first client");
    bench.queue.complete(work.id, echo(&work));
    assert_eq!(follower.await.unwrap().unwrap().raw_output_contents, [raw(1, 7)]);
    assert_eq!(bench.desk.kept.lock().unwrap().as_ref().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_nobody_waits_for_leaves_the_queue() {
    let (bench, _held) = full().await;
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let mut short = marked(ints("echo", 1, 7));
        short.set_timeout(Duration::from_millis(60));
        tasks.push(bench.begin(short).await);
    }
    for task in tasks {
        task.await.unwrap().unwrap_err();
    }
    bench.until_waiting(0).await;
    // The key is free for a new flight.
    let _again = bench.begin(marked(ints("echo", 1, 7))).await;
    bench.until_waiting(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_more_urgent_equal_request_takes_the_other_along() {
    let (bench, held) = full().await;
    *bench.desk.priority.lock().unwrap() = Priority::P2;
    let slow = bench.begin(marked(ints("echo", 1, 7))).await;
    bench.until_waiting(1).await;
    *bench.desk.priority.lock().unwrap() = Priority::P0;
    let fast = bench.begin(marked(ints("echo", 1, 7))).await;
    bench.until(|queue| queue.metrics_text().contains("model=\"echo\",priority=\"P0\"} 1")).await;
    bench.until_waiting(1).await;
    free(&bench, held);
    let work = bench.next_work().await;
    bench.queue.complete(work.id, echo(&work));
    for task in [slow, fast] {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_everybodys_and_is_not_kept() {
    let (bench, held) = full().await;
    let tasks =
        [bench.begin(marked(ints("echo", 1, 7))).await, bench.begin(marked(ints("echo", 1, 7))).await];
    while bench.desk.taken.lock().unwrap().len() < 3 {
        tokio::task::yield_now().await;
    }
    free(&bench, held);
    let work = bench.next_work().await;
    bench.queue.fail(work.id, &Failure::upstream(Code::InvalidArgument, "no".to_owned()));
    for task in tasks {
        let status: Result<ModelInferResponse, _> = task.await.unwrap();
        assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
    }
    assert!(bench.desk.kept.lock().unwrap().as_ref().unwrap().is_empty());
}
