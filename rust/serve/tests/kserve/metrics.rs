//! Owns: that the queue's metrics say what happened.
//! Must not know: their text's form; that is tested beside it.
//! On failure: the test fails; every wait has a bound.

use std::time::Duration;

use super::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_is_counted_once_under_its_model() {
    let bench = Bench::start().await;
    let thread = sender(&bench.queue, echoing);
    let mut client = bench.client().await;
    for value in 0..3 {
        client.infer(ints("alias", 2, value)).await.unwrap();
    }
    client.infer(ints("echo", 0, 1)).await.unwrap_err();
    client.infer(ints("nowhere", 1, 1)).await.unwrap_err();
    client.infer(ints("secret", 1, 1)).await.unwrap_err();
    let value = |name: &str, with: &str| bench.metric(name, with) as u64;
    assert_eq!(value("requests_total", "model=\"echo\",priority=\"P1\""), 3);
    assert_eq!(value("answered_requests_total", "model=\"echo\""), 3);
    assert_eq!((value("rows_total", "echo"), value("tokens_total", "echo")), (6, 6));
    assert_eq!(value("padded_tokens_total", "echo"), 6);
    assert_eq!(value("size_rows_count", "echo"), value("batches_total", "echo"));
    assert_eq!(value("service_seconds_count", "echo"), value("batches_total", "echo"));
    assert_eq!(value("queue_wait_seconds_count", "echo\",priority=\"P1\""), 3);
    assert_eq!(value("rejected_requests_total", "reason=\"batch_zero_rows\""), 1);
    assert_eq!(value("rejected_requests_total", "model=\"nowhere\",reason=\"batch_upstream\""), 1);
    assert!(!bench.queue.metrics_text().contains("secret"), "a model that nobody may use became a label");
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_and_what_leaves_unanswered_is_seen() {
    let bench = Bench::start().await;
    bench.queue.set_model(&lane("echo"), shape(), &one());
    let _first = bench.begin(marked(ints("echo", 1, 1))).await;
    let _held = bench.next_work().await;
    let mut late = marked(ints("echo", 3, 2));
    late.set_timeout(Duration::from_millis(80));
    let late = bench.begin(late).await;
    bench.until_waiting(1).await;
    assert_eq!(bench.metric("queue_rows", "priority=\"P1\"") as u64, 3);
    assert_eq!(bench.metric("in_flight", "echo") as u64, 1);
    late.await.unwrap().unwrap_err();
    bench.until_waiting(0).await;
    bench.until(|queue| queue.stats().cancelled == 1).await;
    assert_eq!(bench.metric("queue_rows", "priority=\"P1\"") as u64, 0);
}
