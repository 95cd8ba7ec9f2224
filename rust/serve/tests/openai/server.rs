//! Owns: a real gRPC server with one decoupled model, which says what it is told.
//! Must not know: the gateway.
//! On failure: the test fails.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use forebay_serve::kserve::pb::infer_parameter::ParameterChoice;
use forebay_serve::kserve::pb::model_infer_response::InferOutputTensor;
use forebay_serve::kserve::pb::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::Streaming;
use tonic::codegen::Service;
use tonic::server::Grpc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// What the model does next.
#[derive(Debug, Clone)]
pub enum Line {
    /// An answer with a piece of text
    Say(Vec<u8>),
    /// An answer with text, tokens and a reason
    Report(&'static str, u32, &'static str),
    /// The answer without outputs that ends a request
    Last,
    /// An answer with an error
    Complain(&'static str),
    /// The stream breaks
    Break(&'static str),
    /// Nothing, as long as the client stays
    Wait,
}

/// A server that ends when it is dropped.
pub struct ModelServer {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<ModelInferRequest>>>,
    /// Bytes of text that were taken from the model
    pub said_bytes: Arc<AtomicUsize>,
    /// Tells every request whose client gave it up
    pub given_up: mpsc::UnboundedReceiver<()>,
    _stop: oneshot::Sender<()>,
}

#[derive(Clone)]
struct Model {
    lines: Arc<Vec<Line>>,
    seen: Arc<Mutex<Vec<ModelInferRequest>>>,
    said_bytes: Arc<AtomicUsize>,
    gave_up: mpsc::UnboundedSender<()>,
}

impl ModelServer {
    pub async fn start(lines: Vec<Line>) -> Self {
        let (gave_up, given_up) = mpsc::unbounded_channel();
        let (seen, said_bytes) = (Arc::default(), Arc::default());
        let model = Model {
            lines: Arc::new(lines),
            seen: Arc::clone(&seen),
            said_bytes: Arc::clone(&said_bytes),
            gave_up,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            tokio::select! {
                served = Server::builder().serve_with_incoming(model, incoming) => served.unwrap(),
                _ = stopped => {}
            }
        });
        Self { address, seen, said_bytes, given_up, _stop: stop }
    }

    /// What the model was asked: its inputs by name, as text without the length in front.
    pub fn asked(&self, input: &str) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        let request = seen.last()?;
        let at = request.inputs.iter().position(|tensor| tensor.name == input)?;
        let raw = &request.raw_input_contents[at];
        let text = if request.inputs[at].datatype == "BYTES" { &raw[4..] } else { &raw[..] };
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

impl Model {
    async fn write(self, answers: mpsc::Sender<Result<ModelStreamInferResponse, Status>>) {
        for line in self.lines.iter() {
            let (bytes, answer) = match line {
                Line::Say(text) => (text.len(), Ok(told(&[("text_output", "BYTES", string(text))], false))),
                Line::Report(text, tokens, reason) => {
                    let outputs = [
                        ("text_output", "BYTES", string(text.as_bytes())),
                        ("num_output_tokens", "UINT32", Bytes::copy_from_slice(&tokens.to_le_bytes())),
                        ("finish_reason", "BYTES", string(reason.as_bytes())),
                    ];
                    (text.len(), Ok(told(&outputs, false)))
                }
                Line::Last => (0, Ok(told(&[], true))),
                Line::Complain(why) => (
                    0,
                    Ok(ModelStreamInferResponse { error_message: (*why).to_owned(), infer_response: None }),
                ),
                Line::Break(why) => (0, Err(Status::internal(*why))),
                Line::Wait => {
                    answers.closed().await;
                    break;
                }
            };
            if answers.send(answer).await.is_err() {
                break;
            }
            self.said_bytes.fetch_add(bytes, Ordering::SeqCst);
        }
        if answers.is_closed() {
            let _ = self.gave_up.send(());
        }
    }
}

fn string(text: &[u8]) -> Bytes {
    [&(text.len() as u32).to_le_bytes(), text].concat().into()
}

fn told(outputs: &[(&str, &str, Bytes)], is_last: bool) -> ModelStreamInferResponse {
    let last = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(is_last)) };
    let described = |(name, datatype, _): &(&str, &str, Bytes)| InferOutputTensor {
        name: (*name).to_owned(),
        datatype: (*datatype).to_owned(),
        shape: vec![1],
        ..InferOutputTensor::default()
    };
    let response = ModelInferResponse {
        parameters: [("triton_final_response".to_owned(), last)].into(),
        outputs: outputs.iter().map(described).collect(),
        raw_output_contents: outputs.iter().map(|(_, _, raw)| raw.clone()).collect(),
        ..ModelInferResponse::default()
    };
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
}

impl Service<http::Request<Body>> for Model {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let model = self.clone();
        Box::pin(async move {
            assert_eq!(request.uri().path(), "/inference.GRPCInferenceService/ModelStreamInfer");
            Ok(Grpc::new(ProstCodec::default()).streaming(model, request).await)
        })
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

impl Service<Request<Streaming<ModelInferRequest>>> for Model {
    type Response = Response<Answers>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<ModelInferRequest>>) -> Self::Future {
        let model = self.clone();
        let mut requests = request.into_inner();
        Box::pin(async move {
            let (send, answers) = mpsc::channel(1);
            tokio::spawn(async move {
                let Ok(Some(request)) = requests.message().await else { return };
                model.seen.lock().unwrap().push(request);
                model.write(send).await;
            });
            Ok(Response::new(Box::pin(ReceiverStream::new(answers)) as Answers))
        })
    }
}
