//! Owns: `ModelStreamInfer`: both directions of one client's stream, forwarded message by message.
//! Must not know: tensors, batches; which server answers.
//! On failure: closed; a request that is refused is answered inside the stream and never forwarded, and a client that
//! leaves ends the stream upstream.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Sleep, sleep};
use tonic::body::Body;
use tonic::codec::Streaming;
use tonic::codegen::Service;
use tonic::{Code, Request, Response, Status};

use super::grpc::grpc;
use super::infer::Asked;
use super::pb::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use super::service::Ending;
use super::upstream::UpstreamStream;
use super::{BatchEnd, Failure, TensorUse, deadline, wire};
use crate::codec::BytesCodec;

/// Requests that were read from the client and not yet taken by the connection upstream.
const AHEAD: usize = 4;

/// Answers a stream. Its end is told when the last answer was taken, or by the client's leaving.
pub(super) async fn answer(
    asked: Asked,
    ending: Ending,
    request: http::Request<Body>,
) -> http::Response<Body> {
    let time_left = deadline::asked(request.headers());
    let max_bytes = asked.max_message_bytes;
    let mut handler = Some((asked, ending, time_left));
    grpc(BytesCodec, max_bytes).streaming(Handler(move || handler.take()), request).await
}

/// Client's names of the models of one stream, by their names upstream. Empty as long as all names are the same.
type Names = Arc<Mutex<HashMap<String, String>>>;

/// The way to the client.
struct Answers {
    upstream: UpstreamStream,
    refusals: Receiver<Bytes>,
    names: Names,
    ending: Ending,
    pool: Arc<str>,
    deadline: Option<Pin<Box<Sleep>>>,
    over: bool,
}

async fn open(
    asked: Asked,
    mut ending: Ending,
    time_left: Option<Duration>,
    incoming: Streaming<Bytes>,
) -> Result<Response<impl Stream<Item = Result<Bytes, Status>>>, Status> {
    let (outgoing, messages) = channel(AHEAD);
    let pool = Arc::clone(&asked.admitted.pool);
    let upstream = match asked.upstreams.stream_infer(&pool, messages).await {
        Ok(upstream) => upstream,
        Err(failure) => {
            ending.ends(failure.end());
            return Err(failure.into());
        }
    };
    let (refuse, refusals) = channel(AHEAD);
    let names = Names::default();
    let requests = Requests { asked, incoming, outgoing, refuse, names: Arc::clone(&names) };
    tokio::spawn(requests.pass());
    let deadline = time_left.map(|left| Box::pin(sleep(left)));
    let answers = Answers { upstream, refusals, names, ending, pool, deadline, over: false };
    Ok(Response::new(unfold(answers, |mut answers| async move {
        let answer = answers.next().await?;
        Some((answer, answers))
    })))
}

async fn over(deadline: &mut Option<Pin<Box<Sleep>>>) {
    match deadline {
        Some(sleep) => sleep.as_mut().await,
        None => std::future::pending().await,
    }
}

// === impl Answers ===

impl Answers {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        if self.over {
            return None;
        }
        let answered = tokio::select! {
            biased;
            () = over(&mut self.deadline) => {
                let message = format!("the stream to pool `{}` took longer than its deadline", self.pool);
                Some(Err(Failure::refused("batch_deadline", Code::DeadlineExceeded, message)))
            }
            Some(refusal) = self.refusals.recv() => return Some(Ok(refusal)),
            answer = self.upstream.next() => answer,
        };
        match answered {
            Some(Ok(answer)) => Some(self.named(answer).map_err(|failure| self.fail(failure))),
            Some(Err(failure)) => Some(Err(self.fail(failure))),
            // The client's half ended before the server's did, so that every refusal is here by now.
            None => {
                if let Ok(refusal) = self.refusals.try_recv() {
                    return Some(Ok(refusal));
                }
                self.over = true;
                self.ending.ends(BatchEnd::Forwarded);
                None
            }
        }
    }

    fn fail(&mut self, failure: Failure) -> Status {
        self.over = true;
        self.upstream.cancel();
        self.ending.ends(failure.end());
        failure.into()
    }

    /// The answer under the client's name of the model. It is read only where a name differs.
    fn named(&self, answer: Bytes) -> Result<Bytes, Failure> {
        let names = self.names.lock();
        if names.is_empty() {
            return Ok(answer);
        }
        let mut answer = ModelStreamInferResponse::decode(answer).map_err(|error| Failure::answer(&error))?;
        if let Some(inner) = &mut answer.infer_response
            && let Some(name) = names.get(&inner.model_name)
        {
            inner.model_name.clone_from(name);
        }
        Ok(answer.encode_to_vec().into())
    }
}

/// The way to the server.
struct Requests {
    asked: Asked,
    incoming: Streaming<Bytes>,
    outgoing: Sender<Bytes>,
    refuse: Sender<Bytes>,
    names: Names,
}

// === impl Requests ===

impl Requests {
    /// Until the client's half ends or nobody takes what it sends.
    async fn pass(mut self) {
        loop {
            let message = tokio::select! {
                biased;
                () = self.outgoing.closed() => return,
                message = self.incoming.message() => message,
            };
            // An error here is the client's connection, whose answers end by themselves.
            let Ok(Some(message)) = message else { return };
            let id = wire::id_of(&message);
            let sent = match self.permitted(message).await {
                Ok(request) => self.outgoing.send(request).await.is_ok(),
                Err(failure) => self.refuse.send(refusal(id, failure)).await.is_ok(),
            };
            if !sent {
                return;
            }
        }
    }

    /// The request under the pool's name of its model, if the client may use it and it can be forwarded.
    async fn permitted(&self, message: Bytes) -> Result<Bytes, Failure> {
        let mut request = ModelInferRequest::decode(message.clone()).map_err(|error| {
            Failure::refused(
                "batch_unreadable",
                Code::InvalidArgument,
                format!("the request cannot be read: {error}"),
            )
        })?;
        wire::refuse_regions(&request)?;
        let model = std::mem::take(&mut request.model_name);
        let upstream = self.asked.admission.model(self.asked.id, &model)?;
        let rows = wire::first_dim(&request);
        self.asked.take(&TensorUse { model: &model, rows, tokens: rows }).await?;
        if *upstream == *model {
            return Ok(message);
        }
        self.names.lock().insert(upstream.to_string(), model);
        request.model_name = upstream.to_string();
        Ok(request.encode_to_vec().into())
    }
}

/// A refusal as a model server tells one inside a stream.
fn refusal(id: String, failure: Failure) -> Bytes {
    let inner = ModelInferResponse { id, ..ModelInferResponse::default() };
    ModelStreamInferResponse { error_message: failure.message, infer_response: Some(inner) }
        .encode_to_vec()
        .into()
}

/// What tonic wants its handlers of streams to be.
struct Handler<F>(F);

impl<F> Service<Request<Streaming<Bytes>>> for Handler<F>
where
    F: FnMut() -> Option<(Asked, Ending, Option<Duration>)>,
{
    type Response = Response<Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let taken = (self.0)();
        Box::pin(async move {
            let Some((asked, ending, time_left)) = taken else {
                return Err(Status::internal("the stream was answered already"));
            };
            let answers = open(asked, ending, time_left, request.into_inner()).await?;
            Ok(answers.map(|answers| Box::pin(answers) as _))
        })
    }
}
