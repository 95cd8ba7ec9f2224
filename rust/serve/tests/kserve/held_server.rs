//! Owns: a real gRPC server whose every `ModelInfer` waits until the test answers it.
//! Must not know: the gateway.
//! On failure: the test fails; a request whose `Asked` is dropped is answered UNAVAILABLE.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use forebay_serve::kserve::pb::model_infer_response::InferOutputTensor;
use forebay_serve::kserve::pb::{ModelInferRequest, ModelInferResponse};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::Grpc;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::rig::within;

/// A server that ends when it is dropped.
pub struct HeldServer {
    pub address: SocketAddr,
    pub asked: mpsc::UnboundedReceiver<Asked>,
    /// Its own, so that its connections end with it
    runtime: Option<Runtime>,
}

/// A request that waits for its answer.
pub struct Asked {
    pub request: ModelInferRequest,
    answer: oneshot::Sender<Result<(), Status>>,
}

impl HeldServer {
    pub async fn start() -> Self {
        let (tell, asked) = mpsc::unbounded_channel();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (bound, address) = oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Server::builder().serve_with_incoming(Model(tell), incoming).await.unwrap();
        });
        Self { address: address.await.unwrap(), asked, runtime: Some(runtime) }
    }

    /// The next request.
    pub async fn asked(&mut self) -> Asked {
        within(self.asked.recv()).await.unwrap()
    }

    /// Whether there is no request that nobody took.
    pub fn is_idle(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }
}

impl Drop for HeldServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Asked {
    /// What came in goes out. Whether anyone still waited.
    pub fn echo(self) -> bool {
        self.answer.send(Ok(())).is_ok()
    }

    pub fn fail(self, status: Status) {
        let _ = self.answer.send(Err(status));
    }

    pub fn rows(&self) -> i64 {
        self.request.inputs[0].shape[0]
    }

    /// Returns once nobody waits for the answer.
    pub async fn given_up(mut self) {
        within(self.answer.closed()).await;
    }
}

#[derive(Clone)]
struct Model(mpsc::UnboundedSender<Asked>);

impl Service<http::Request<Body>> for Model {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let model = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(model, request).await) })
    }
}

impl Service<Request<ModelInferRequest>> for Model {
    type Response = Response<ModelInferResponse>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<ModelInferRequest>) -> Self::Future {
        let request = request.into_inner();
        let (answer, told) = oneshot::channel();
        let sent = self.0.send(Asked { request: request.clone(), answer });
        Box::pin(async move {
            let gone = || Status::unavailable("the test is over");
            sent.map_err(|_| gone())?;
            told.await.unwrap_or_else(|_| Err(gone()))?;
            let input = &request.inputs[0];
            let output = InferOutputTensor {
                name: input.name.clone(),
                datatype: input.datatype.clone(),
                shape: input.shape.clone(),
                ..InferOutputTensor::default()
            };
            Ok(Response::new(ModelInferResponse {
                model_name: request.model_name,
                outputs: vec![output],
                raw_output_contents: request.raw_input_contents,
                ..ModelInferResponse::default()
            }))
        })
    }
}
