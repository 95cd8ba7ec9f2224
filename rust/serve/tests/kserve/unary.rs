//! Owns: `ModelInfer` from end to end: rows come back to whom they belong, also beside a bad answer or a new model.
//! Must not know: priorities, equal requests, other calls.
//! On failure: the test fails; every wait has a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use forebay_core::batch::Datatype;
use forebay_serve::kserve::pb::{InferTensorContents, ModelInferResponse};
use forebay_serve::kserve::{BatchEnd, WorkKind};
use prost::Message;
use tonic::Code;

use super::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_gets_its_own_rows() {
    let bench = Bench::start().await;
    let largest = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&largest);
    let thread = sender(&bench.queue, move |queue, work| {
        let until = Instant::now() + BOUND;
        // A batch of one is held until others wait behind it, so that some must share the next.
        while work.kind == WorkKind::Infer
            && work.requests == 1
            && seen.load(Ordering::Relaxed) <= 1
            && queue.load("pool").rows < 2
            && Instant::now() < until
        {
            std::thread::yield_now();
        }
        seen.fetch_max(work.requests as u64, Ordering::Relaxed);
        echoing(queue, work);
    });
    let client = bench.client().await;
    // All of their rows together have room in the queue, however late the sender comes.
    let tasks: Vec<_> = (0..30)
        .map(|value| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let rows = 1 + value as usize % 3;
                let answer = client.infer(ints("alias", rows, value)).await.unwrap();
                assert_eq!(answer.raw_output_contents, [raw(rows, value)]);
                assert_eq!(answer.outputs[0].shape, [rows as i64, 2]);
                assert_eq!((answer.id, answer.model_name), (format!("request {value}"), "alias".to_owned()));
                assert_eq!(answer.model_version, "7");
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(largest.load(Ordering::Relaxed) > 1, "no two requests shared a batch");
    assert_eq!(bench.ends().len(), 30);
    assert!(bench.ends().iter().all(|end| matches!(end, BatchEnd::Answered { .. })));
    let stats = bench.queue.stats();
    assert_eq!((stats.requests, stats.in_flight), (30, 0));
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_contents_are_taken_as_raw_ones() {
    let bench = Bench::start().await;
    let thread = sender(&bench.queue, echoing);
    let mut request = ints("echo", 1, 5);
    request.raw_input_contents.clear();
    request.inputs[0].contents =
        Some(InferTensorContents { int_contents: vec![5, 5], ..InferTensorContents::default() });
    let answer = bench.client().await.infer(request).await.unwrap();
    assert_eq!(answer.raw_output_contents, [raw(1, 5)]);
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_answer_is_an_internal_error_for_all_and_for_them_alone() {
    let bench = Bench::start().await;
    bench.queue.set_model(&lane("echo"), shape(), &one());
    let mut turn = 0;
    let thread = sender(&bench.queue, move |queue, work| {
        turn += 1;
        let answer = match turn {
            1 => Bytes::from_static(b"\xff\xff"),
            2 => {
                let mut answer = ModelInferResponse::decode(echo(&work)).unwrap();
                answer.outputs[0].shape = vec![1, 4];
                answer.encode_to_vec().into()
            }
            _ => echo(&work),
        };
        queue.complete(work.id, answer);
    });
    let mut client = bench.client().await;
    for expected in ["cannot be used", "first dimension must be the rows"] {
        let status = client.infer(ints("echo", 2, 1)).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().contains(expected), "{}", status.message());
    }
    client.infer(ints("echo", 2, 1)).await.unwrap();
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_changed_is_learned_anew() {
    let bench = Bench::start().await;
    let thread = sender(&bench.queue, echoing);
    let mut old = shape();
    old.inputs[0].datatype = Datatype::Fp64;
    bench.queue.set_model(&lane("echo"), old, &one());
    bench.client().await.infer(ints("echo", 1, 1)).await.unwrap();
    bench.queue.close();
    thread.join().unwrap();
}
