//! Owns: `ModelStreamInfer` through the service to a real gRPC server and back.
//! Must not know: batches.
//! On failure: the test fails; every wait has a bound.

use std::time::Duration;

use forebay_serve::kserve::pb::infer_parameter::ParameterChoice;
use forebay_serve::kserve::pb::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};
use forebay_serve::kserve::{BatchEnd, ServerAddress};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Streaming;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::rig::*;
use super::server::{BREAK, COMPLAIN, FOR_EVER, ModelServer};

/// One stream of a client.
struct Talk {
    requests: mpsc::Sender<ModelInferRequest>,
    answers: Streaming<ModelStreamInferResponse>,
}

impl Talk {
    async fn begin(bench: &Bench, timeout: Option<Duration>) -> Self {
        let (requests, incoming) = mpsc::channel(16);
        let mut request = marked(ReceiverStream::new(incoming));
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let answers = open(bench, request).await.unwrap();
        Self { requests, answers }
    }

    async fn say(&self, request: ModelInferRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn hear(&mut self) -> Result<Option<ModelStreamInferResponse>, Status> {
        within(self.answers.message()).await
    }

    async fn answer(&mut self) -> ModelInferResponse {
        let heard = self.hear().await.unwrap().expect("the stream ended");
        assert_eq!(heard.error_message, "");
        heard.infer_response.unwrap()
    }

    async fn error(&mut self) -> ModelStreamInferResponse {
        let heard = self.hear().await.unwrap().expect("the stream ended");
        assert_ne!(heard.error_message, "");
        heard
    }
}

async fn open(
    bench: &Bench,
    request: Request<ReceiverStream<ModelInferRequest>>,
) -> Result<Streaming<ModelStreamInferResponse>, Status> {
    let mut client = bench.client().await;
    client.0.ready().await.unwrap();
    let path = "/inference.GRPCInferenceService/ModelStreamInfer".parse().unwrap();
    let answers = client.0.streaming(request, path, ProstCodec::default()).await?;
    Ok(answers.into_inner())
}

async fn bench() -> (Bench, ModelServer) {
    let (bench, server) = (Bench::start().await, ModelServer::start().await);
    serve_by(&bench, &[&server]);
    (bench, server)
}

fn serve_by(bench: &Bench, servers: &[&ModelServer]) {
    let address = |server: &&ModelServer| ServerAddress { address: server.address.to_string(), tls: None };
    let servers = servers.iter().map(|server| (address(server), true)).collect();
    bench.queue.upstreams().set("pool", servers).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_one_by_one_under_the_clients_names() {
    let (bench, server) = bench().await;
    let ended = bench.expect_end();
    let mut talk = Talk::begin(&bench, None).await;
    talk.say(ints("alias", 1, 3)).await;
    for _ in 0..3 {
        let answer = talk.answer().await;
        assert_eq!((answer.model_name.as_str(), answer.id.as_str()), ("alias", "request 3"));
        assert_eq!(answer.raw_output_contents, [raw(1, 3)]);
    }
    talk.say(ints("other", 1, 1)).await;
    assert_eq!(talk.answer().await.model_name, "other");
    assert_eq!(bench.ends(), []);
    drop(talk.requests);
    assert_eq!(within(talk.answers.message()).await.unwrap(), None);
    ended.recv_timeout(BOUND).unwrap();
    assert_eq!(bench.ends(), [BatchEnd::Forwarded]);
    let seen: Vec<String> = server.seen.lock().unwrap().iter().map(|seen| seen.model_name.clone()).collect();
    assert_eq!(seen, ["echo", "other"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_request_is_told_inside_the_stream_which_goes_on() {
    let (bench, server) = bench().await;
    let mut talk = Talk::begin(&bench, None).await;
    talk.say(ints("secret", 1, 1)).await;
    let told = talk.error().await;
    assert_eq!(told.error_message, "the key may not use `secret`");
    assert_eq!(told.infer_response.unwrap().id, "request 1");
    let mut shared = ints("echo", 1, 1);
    let region = ParameterChoice::StringParam("r".to_owned());
    let region = InferParameter { parameter_choice: Some(region) };
    shared.inputs[0].parameters.insert("shared_memory_region".to_owned(), region);
    talk.say(shared).await;
    assert!(talk.error().await.error_message.contains("shared memory"));
    talk.say(ints("limited", 1, 1)).await;
    assert_eq!(talk.error().await.error_message, "the limit is reached");
    talk.say(ints("echo", 1, COMPLAIN)).await;
    assert_eq!(talk.error().await.error_message, "the model complains");
    talk.say(ints("echo", 1, 1)).await;
    assert_eq!(talk.answer().await.raw_output_contents, [raw(1, 1)]);
    assert_eq!(server.seen.lock().unwrap().len(), 2);
    // A refusal that comes last is told before the stream ends.
    talk.say(ints("secret", 1, 2)).await;
    drop(talk.requests);
    let told = within(talk.answers.message()).await.unwrap().unwrap();
    assert_eq!(told.infer_response.unwrap().id, "request 2");
    assert_eq!(within(talk.answers.message()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_ends_the_stream_upstream() {
    let (bench, mut server) = bench().await;
    let ended = bench.expect_end();
    let mut talk = Talk::begin(&bench, None).await;
    talk.say(ints("echo", 1, FOR_EVER)).await;
    talk.answer().await;
    drop(talk);
    within(server.given_up.recv()).await.unwrap();
    ended.recv_timeout(BOUND).unwrap();
    assert_eq!(bench.ends(), [BatchEnd::Cancelled]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_stream_on_both_sides() {
    let (bench, mut server) = bench().await;
    let mut talk = Talk::begin(&bench, Some(Duration::from_millis(150))).await;
    talk.say(ints("echo", 1, FOR_EVER)).await;
    let status = loop {
        if let Err(status) = talk.hear().await {
            break status;
        }
    };
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    within(server.given_up.recv()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_breaks_a_stream_ends_it_with_its_own_words() {
    let (bench, _server) = bench().await;
    let ended = bench.expect_end();
    let mut talk = Talk::begin(&bench, None).await;
    talk.say(ints("echo", 1, BREAK)).await;
    let status = talk.hear().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "the model broke"));
    ended.recv_timeout(BOUND).unwrap();
    assert_eq!(bench.ends(), [BatchEnd::Failed { code: Code::Internal, slug: "batch_upstream" }]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_and_one_that_is_away_are_unavailable_and_unnamed() {
    let (bench, server) = bench().await;
    let mut talk = Talk::begin(&bench, None).await;
    talk.say(ints("echo", 1, 1)).await;
    talk.answer().await;
    let address = server.address;
    drop(server);
    let status = talk.hear().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.metadata().get("retry-after").unwrap(), "1");
    let mut talk = Talk::begin(&bench, None).await;
    let again = talk.hear().await.unwrap_err();
    for status in [status, again] {
        assert_eq!(status.message(), "no server of pool `pool` is available; try again");
    }
    let _server = ModelServer::start_at(address).await;
    let mut talk = Talk::begin(&bench, None).await;
    talk.say(ints("echo", 1, 1)).await;
    talk.answer().await;
    bench.queue.upstreams().set("pool", Vec::new()).unwrap();
    let (_requests, incoming) = mpsc::channel(1);
    let status = open(&bench, marked(ReceiverStream::new(incoming))).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "pool `pool` has no server; try again later")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_spread_and_pass_over_a_server_that_is_away() {
    let (bench, first) = bench().await;
    let second = ModelServer::start().await;
    let away = ModelServer::start().await;
    serve_by(&bench, &[&away, &first, &second]);
    drop(away);
    let mut talks = Vec::new();
    for _ in 0..4 {
        let mut talk = Talk::begin(&bench, None).await;
        talk.say(ints("echo", 1, 1)).await;
        talk.answer().await;
        talks.push(talk);
    }
    let seen = [&first, &second].map(|server| server.seen.lock().unwrap().len());
    assert_eq!(seen, [2, 2]);
}
