//! Owns: a real gRPC server of the protocol: `ModelInfer` echoes, `ModelStreamInfer` writes as often as it is told.
//! Must not know: the gateway.
//! On failure: the test fails.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use forebay_serve::kserve::pb::model_infer_response::InferOutputTensor;
use forebay_serve::kserve::pb::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
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

/// What a request's first value asks of a stream, beside a number of answers.
pub const COMPLAIN: i32 = -1;
pub const BREAK: i32 = -2;
pub const FOR_EVER: i32 = -3;

/// A server that ends when it is dropped.
pub struct ModelServer {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<ModelInferRequest>>>,
    /// Tells every stream that its client gave up
    pub given_up: mpsc::UnboundedReceiver<()>,
    /// Its own, so that its connections end with it
    runtime: Option<Runtime>,
}

#[derive(Clone)]
struct Model {
    seen: Arc<Mutex<Vec<ModelInferRequest>>>,
    gave_up: mpsc::UnboundedSender<()>,
}

impl ModelServer {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_at(at: SocketAddr) -> Self {
        let (gave_up, given_up) = mpsc::unbounded_channel();
        let seen = Arc::default();
        let model = Model { seen: Arc::clone(&seen), gave_up };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (bound, address) = oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind(at).await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Server::builder().serve_with_incoming(model, incoming).await.unwrap();
        });
        Self { address: address.await.unwrap(), seen, given_up, runtime: Some(runtime) }
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
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
            Ok(match request.uri().path() {
                "/inference.GRPCInferenceService/ModelInfer" => {
                    Grpc::new(ProstCodec::default()).unary(Echo, request).await
                }
                "/inference.GRPCInferenceService/ModelStreamInfer" => {
                    Grpc::new(ProstCodec::default()).streaming(model, request).await
                }
                _ => Status::unimplemented("no such call").into_http(),
            })
        })
    }
}

struct Echo;

impl Service<Request<ModelInferRequest>> for Echo {
    type Response = Response<ModelInferResponse>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ModelInferRequest>) -> Self::Future {
        let request = request.into_inner();
        std::future::ready(if request.model_name == "echo" {
            Ok(Response::new(answer(&request)))
        } else {
            Err(Status::not_found(format!("no model `{}`", request.model_name)))
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
        let Self { seen, gave_up } = self.clone();
        let mut requests = request.into_inner();
        Box::pin(async move {
            let (send, answers) = mpsc::channel(1);
            tokio::spawn(async move {
                while let Ok(Some(request)) = requests.message().await {
                    seen.lock().unwrap().push(request.clone());
                    let first = request.raw_input_contents[0].first_chunk().copied();
                    let times = match i32::from_le_bytes(first.unwrap()) {
                        COMPLAIN => {
                            let error_message = "the model complains".to_owned();
                            let told = ModelStreamInferResponse { error_message, infer_response: None };
                            let _ = send.send(Ok(told)).await;
                            continue;
                        }
                        BREAK => {
                            let _ = send.send(Err(Status::internal("the model broke"))).await;
                            return;
                        }
                        FOR_EVER => usize::MAX,
                        times => usize::try_from(times).unwrap(),
                    };
                    for _ in 0..times {
                        let infer_response = Some(answer(&request));
                        let told = ModelStreamInferResponse { infer_response, ..Default::default() };
                        if send.send(Ok(told)).await.is_err() {
                            let _ = gave_up.send(());
                            return;
                        }
                    }
                }
            });
            Ok(Response::new(Box::pin(ReceiverStream::new(answers)) as Answers))
        })
    }
}

/// What came in goes out.
fn answer(request: &ModelInferRequest) -> ModelInferResponse {
    let output = InferOutputTensor {
        name: "x".to_owned(),
        datatype: "INT32".to_owned(),
        shape: request.inputs[0].shape.clone(),
        ..InferOutputTensor::default()
    };
    ModelInferResponse {
        model_name: request.model_name.clone(),
        id: request.id.clone(),
        outputs: vec![output],
        raw_output_contents: request.raw_input_contents.clone(),
        ..ModelInferResponse::default()
    }
}
