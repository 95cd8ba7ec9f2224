//! Owns: the queue as clients feel it: leaving, bounds, closing, parts, halves.
//! Must not know: which requests may share a batch; the core proves that.
//! On failure: the test fails; every wait has a bound.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_core::batch::Bounds;
use forebay_serve::kserve::pb::ModelInferResponse;
use forebay_serve::kserve::{Failure, Next};
use tonic::Code;

use super::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_its_rows_out() {
    let bench = Bench::start().await;
    let key = lane("echo");
    // No slot is free before the first batch ends, so the second request waits.
    bench.queue.set_model(&key, shape(), &one());
    let mut first = bench.client().await;
    let first = tokio::spawn(async move { first.infer(ints("echo", 1, 1)).await });
    let work = bench.next_work().await;
    let ended = bench.expect_end();
    let mut client = bench.client().await;
    let mut request = marked(ints("echo", 3, 2));
    request.set_timeout(Duration::from_millis(60));
    let late = client.call::<_, ModelInferResponse>("ModelInfer", request).await.unwrap_err();
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late}");
    ended.recv_timeout(BOUND).unwrap();
    assert_eq!(bench.queue.load("pool").requests, 0);
    assert_eq!(bench.queue.stats().cancelled, 1);
    bench.queue.complete(work.id, echo(&work));
    first.await.unwrap().unwrap();
    assert!(matches!(next_within(&bench.queue, Duration::from_millis(1)).await, Next::Idle));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_at_once_and_a_closing_one_answers_all() {
    let bench = Bench::start().await;
    bench.queue.set_model(&lane("echo"), shape(), &one());
    let mut tasks = Vec::new();
    let client = bench.client().await;
    for value in 0..8 {
        let mut client = client.clone();
        tasks.push(tokio::spawn(async move { client.infer(ints("echo", 8, value)).await }));
    }
    // 60 rows of this class may wait and nobody sends: of eight requests of 8 rows, exactly one is refused.
    let (refused, waiting) = first_of(tasks).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("56 of 60 rows"), "{}", status.message());
    assert_eq!(status.metadata().get("retry-after").unwrap(), "1");
    bench.queue.close();
    for task in waiting {
        assert_eq!(task.await.unwrap().unwrap_err().code(), Code::Unavailable);
    }
    assert!(matches!(next_within(&bench.queue, BOUND).await, Next::Closed));
    let mut late = bench.client().await;
    assert_eq!(late.infer(ints("echo", 1, 1)).await.unwrap_err().code(), Code::Unavailable);
    bench.stop.send(()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_more_rows_than_a_batch_goes_in_parts_and_comes_back_whole() {
    let bench = Bench::start().await;
    bench.queue.set_model(&lane("echo"), shape(), &one());
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sizes);
    let thread = sender(&bench.queue, move |queue, work| {
        seen.lock().unwrap().push(work.rows);
        echoing(queue, work);
    });
    let mut request = ints("echo", 19, 0);
    let data: Vec<u8> = (0..19_i32 * 2).flat_map(i32::to_le_bytes).collect();
    request.raw_input_contents = vec![data.clone().into()];
    let answer = bench.client().await.infer(request).await.unwrap();
    assert_eq!(answer.outputs[0].shape, [19, 2]);
    assert_eq!(answer.raw_output_contents, [data]);
    let mut sizes = sizes.lock().unwrap().clone();
    sizes.sort_unstable();
    assert_eq!(sizes, [3, 8, 8]);
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_fails_fails_its_request_and_the_others_leave_the_queue() {
    let bench = Bench::start().await;
    bench.queue.set_model(&lane("echo"), shape(), &one());
    let whole = bench.begin(marked(ints("echo", 30, 1))).await;
    let work = bench.next_work().await;
    bench.queue.fail(work.id, &Failure::upstream(Code::Unavailable, "gone".to_owned()));
    let status = whole.await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "gone"));
    bench.until_waiting(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_request_fails_alone() {
    let bench = Bench::start().await;
    bench.queue.set_model(&lane("echo"), shape(), &one());
    let first = bench.begin(marked(ints("echo", 1, 100))).await;
    let held = bench.next_work().await;
    let mut tasks = Vec::new();
    for value in 0..8 {
        tasks.push((value, bench.begin(marked(ints("echo", 1, value))).await));
    }
    bench.until_waiting(8).await;
    let batches = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&batches);
    let thread = sender(&bench.queue, move |queue, work| {
        let values = values(&work);
        seen.lock().unwrap().push(values.len());
        if values.contains(&5) {
            queue.fail(work.id, &Failure::upstream(Code::InvalidArgument, "no 5".to_owned()));
        } else {
            queue.complete(work.id, echo(&work));
        }
    });
    bench.queue.complete(held.id, echo(&held));
    first.await.unwrap().unwrap();
    for (value, task) in tasks {
        match task.await.unwrap() {
            Ok(answer) => assert_eq!(answer.raw_output_contents, [raw(1, value)]),
            Err(status) => {
                assert_eq!((value, status.code(), status.message()), (5, Code::InvalidArgument, "no 5"));
            }
        }
    }
    assert_eq!(*batches.lock().unwrap(), [8, 4, 4, 2, 2, 1, 1]);
    assert_eq!(bench.metric("bisected_total", "echo") as u64, 3);
    // The slot is free again.
    bench.client().await.infer(ints("echo", 1, 9)).await.unwrap();
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_that_wait_are_told_when_the_queue_closes() {
    let bench = Bench::start().await;
    bench.queue.set_model(&lane("echo"), shape(), &one());
    let first = bench.begin(marked(ints("echo", 1, 100))).await;
    let held = bench.next_work().await;
    let tasks =
        [bench.begin(marked(ints("echo", 1, 1))).await, bench.begin(marked(ints("echo", 1, 2))).await];
    bench.until_waiting(2).await;
    bench.queue.complete(held.id, echo(&held));
    first.await.unwrap().unwrap();
    let work = bench.next_work().await;
    assert_eq!(work.requests, 2);
    bench.queue.fail(work.id, &Failure::upstream(Code::InvalidArgument, "no".to_owned()));
    bench.queue.close();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap_err().code(), Code::Unavailable);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_may_have_bounds_and_patience_of_its_own() {
    let bench = Bench::start().await;
    bench.queue.set_model(&lane("echo"), shape(), &one());
    bench.queue.set_bounds("pool", Bounds { max_rows: 2, ..BOUNDS }, Duration::from_millis(30));
    let status = bench.client().await.infer(ints("echo", 3, 1)).await.unwrap_err();
    assert!(status.message().contains("at most 2"), "{}", status.message());
    let status = bench.client().await.infer(ints("echo", 1, 1)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "no answer came within 30 ms"));
}
