//! Owns: what is refused before it is queued, and in which words.
//! Must not know: batches.
//! On failure: the test fails; every wait has a bound.

use forebay_serve::kserve::pb::{
    InferParameter, ModelInferRequest, ModelInferResponse, ServerLiveRequest, ServerLiveResponse,
    infer_parameter,
};
use tonic::{Code, Request};

use super::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_with_the_models_expectation() {
    let bench = Bench::start().await;
    let thread = sender(&bench.queue, echoing);
    let mut client = bench.client().await;
    let good = ints("echo", 2, 1);
    let with = |change: fn(&mut ModelInferRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let parameter = |text: &str| InferParameter {
        parameter_choice: Some(infer_parameter::ParameterChoice::StringParam(text.to_owned())),
    };
    let mut shared = good.clone();
    shared.inputs[0].parameters.insert("shared_memory_region".to_owned(), parameter("r"));
    let takes = "`x` INT32 [1 to 8 rows, any]";
    let cases = [
        (with(|r| r.inputs[0].datatype = "INT33".into()), "datatype `INT33`".to_owned()),
        (with(|r| r.inputs[0].datatype = "FP32".into()), "is FP32, but the model takes INT32".to_owned()),
        (with(|r| r.inputs[0].shape = vec![3, 2]), "needs 24 bytes, but 16 came".to_owned()),
        (with(|r| r.inputs[0].shape = vec![4]), format!("has the shape [4], but the model takes {takes}")),
        (with(|r| r.inputs[0].shape = vec![-1, 2]), "none below 0".to_owned()),
        (with(|r| r.inputs[0].name = "y".into()), format!("no input `y`; it takes {takes}")),
        (with(|r| r.inputs.clear()), "0 tensors and 1 raw buffers".to_owned()),
        (
            with(|r| {
                r.inputs.clear();
                r.raw_input_contents.clear();
            }),
            format!("`x` is missing; the model takes {takes}"),
        ),
        (ints("echo", 0, 1), "has no rows".to_owned()),
        (ints("echo", 65, 1), "has 65 rows, but a whole queue has at most 64".to_owned()),
        (shared, "lies in shared memory".to_owned()),
    ];
    for (request, expected) in cases {
        let status = client.infer(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(&expected), "{}", status.message());
    }
    let status = client.infer(ints("nowhere", 1, 1)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no model `nowhere`"));
    let status = client.infer(ints("secret", 1, 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let status = client.infer(ints("limited", 1, 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.metadata().get("retry-after").unwrap(), "3");
    client.infer(ints("leased", 3, 1)).await.unwrap();
    let used = bench.desk.taken.lock().unwrap().clone();
    assert_eq!(used, [("leased".to_owned(), 3, 3), ("leased".to_owned(), 3, 3)]);
    bench.queue.close();
    thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_passes_without_a_known_mark() {
    let bench = Bench::start().await;
    let mut client = bench.client().await;
    let mut marks = vec![Request::new(ints("echo", 1, 1))];
    for id in ["abc", "00000000000000000000000000000fff", "+0000000000000000000000000000abc"] {
        let mut request = Request::new(ints("echo", 1, 1));
        request.metadata_mut().insert("x-forebay-internal-id", id.parse().unwrap());
        marks.push(request);
    }
    let mut twice = marked(ints("echo", 1, 1));
    twice.metadata_mut().append("x-forebay-internal-id", format!("{ID:032x}").parse().unwrap());
    marks.push(twice);
    for request in marks {
        let refused = client.call::<_, ModelInferResponse>("ModelInfer", request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    assert!(bench.ends().is_empty(), "an end was told for a request that nobody admitted");
    let control =
        client.call::<_, ServerLiveResponse>("RepositoryModelUnload", marked(ServerLiveRequest {})).await;
    assert_eq!(control.unwrap_err().code(), Code::PermissionDenied);
    let unknown = client.call::<_, ServerLiveResponse>("Nothing", marked(ServerLiveRequest {})).await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
}
