//! Owns: one gRPC call of the protocol from its method to its handler.
//! Must not know: tensors, queues, how the request was admitted.
//! On failure: closed; a call that is not offered is refused before its message is read.

use std::future::Future;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use bytes::Bytes;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::Grpc;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use super::infer::{Asked, infer};
use super::method::Treatment;
use super::pb::{ModelInferRequest, ModelInferResponse};
use super::service::Ending;
use super::{BatchEnd, Failure, forward, stream, wire};
use crate::codec::BytesCodec;

/// A call of the protocol and how it is treated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub method: &'static str,
    pub treatment: Treatment,
}

/// Answers one call.
pub(super) async fn answer(
    asked: Asked,
    mut ending: Ending,
    call: Call,
    request: http::Request<Body>,
) -> http::Response<Body> {
    let Call { method, treatment } = call;
    let told: OnceLock<BatchEnd> = OnceLock::new();
    let told_here = &told;
    let max_bytes = asked.max_message_bytes;
    let response = match treatment {
        Treatment::Infer => {
            let asked = &asked;
            let handler = move |message: ModelInferRequest| async move {
                let (response, end) = model_infer(asked, message).await;
                told_here.get_or_init(|| end);
                response.map(Response::new).map_err(Status::from)
            };
            let codec = ProstCodec::<ModelInferResponse, ModelInferRequest>::default();
            grpc(codec, max_bytes).unary(Handler(handler), request).await
        }
        Treatment::Server | Treatment::Model | Treatment::List | Treatment::ModelOrList => {
            let asked = &asked;
            let handler = move |message: Bytes| async move {
                let (response, end) = forward::forward(asked, method, treatment, message).await;
                told_here.get_or_init(|| end);
                response.map(Response::new).map_err(Status::from)
            };
            grpc(BytesCodec, max_bytes).unary(Handler(handler), request).await
        }
        Treatment::Stream => return stream::answer(asked, ending, request).await,
        Treatment::Control | Treatment::SharedMemory => {
            let failure = not_taken(method, treatment);
            told.get_or_init(|| failure.end());
            Status::from(failure).into_http()
        }
    };
    // The handler never ran when the message could not be read.
    let unread = BatchEnd::Failed { code: code_of(&response), slug: "batch_unreadable" };
    ending.ends(told.into_inner().unwrap_or(unread));
    response
}

/// The server's side of one call.
pub(super) fn grpc<C: tonic::codec::Codec>(codec: C, max_bytes: usize) -> Grpc<C> {
    Grpc::new(codec).max_decoding_message_size(max_bytes).max_encoding_message_size(usize::MAX)
}

/// Answers one `ModelInfer`, under the names that the client used.
async fn model_infer(
    asked: &Asked,
    mut request: ModelInferRequest,
) -> (Result<ModelInferResponse, Failure>, BatchEnd) {
    let (model, id) = (request.model_name.clone(), std::mem::take(&mut request.id));
    let ask = match wire::read_request(request) {
        Ok(ask) => ask,
        Err(error) => {
            let failure = Failure::from(error);
            let end = failure.end();
            return (Err(failure), end);
        }
    };
    let (answered, end) = infer(asked, ask).await;
    (answered.map(|answered| wire::write_answer(model, id, &answered.head, &answered.tensors)), end)
}

/// One async function as tonic wants its handlers.
struct Handler<F>(F);

impl<F, Fut, M, R> Service<Request<M>> for Handler<F>
where
    F: FnMut(M) -> Fut,
    Fut: Future<Output = Result<Response<R>, Status>>,
{
    type Response = Response<R>;
    type Error = Status;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<M>) -> Fut {
        (self.0)(request.into_inner())
    }
}

fn not_taken(method: &str, treatment: Treatment) -> Failure {
    match treatment {
        Treatment::SharedMemory => Failure::refused(
            "batch_shared_memory",
            Code::Unimplemented,
            format!(
                "`{method}` is not offered: a gateway cannot reach a client's memory; send tensors in the request"
            ),
        ),
        _ => Failure::refused(
            "batch_control",
            Code::PermissionDenied,
            format!("`{method}` changes or shows the server's own settings; call the model server itself"),
        ),
    }
}

/// The gRPC status of an answer without a body.
fn code_of(response: &http::Response<Body>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Unknown, |value| Code::from_bytes(value.as_bytes()))
}
