//! Owns: `OpenAI`'s operations served by tensors: embeddings through batches, completions through streams.
//! Must not know: which requests may come (a decision let them in), how batches are made, how servers are reached.
//! On failure: closed; an error before the first byte has its HTTP status, one behind it ends a stream as an event.

mod body;
mod embeddings;
mod fault;
mod generation;
mod loaded;
mod tensors;
#[cfg(test)]
mod testing;
mod tokenizers;

use std::time::Instant;

use bytes::Bytes;
use forebay_core::policy::pb::route::Operation;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use tokio::time::timeout;
use tonic::Code;
use tonic::body::Body;

use self::fault::Fault;
use crate::kserve::{Asked, Ending, Failure, Placed};

pub(crate) use self::loaded::Loaded;

/// Answers a request that was decided by its body. A stream's answer takes the `ending` with it.
pub(crate) async fn answer(asked: Asked, mut ending: Ending, request: Request<Body>) -> Response<Body> {
    let until = Instant::now() + asked.time_left;
    let Some(placed) = asked.admitted.placed.clone() else {
        return failed(&mut ending, &Failure::undecided().into());
    };
    let body = match body::read(request.into_body(), asked.max_message_bytes, asked.time_left).await {
        Ok(body) => body,
        Err(fault) => return failed(&mut ending, &fault),
    };
    match placed.operation {
        Operation::Embedding => embedded(&asked, &placed, ending, body, until).await,
        Operation::ChatCompletions | Operation::TextCompletions => {
            generation::answer(&asked, &placed, ending, body, until).await
        }
        other => {
            let message = format!("{} is not served by tensors", other.as_str_name());
            let failure = Failure {
                code: Code::Unimplemented,
                slug: "openai_operation",
                message,
                retry_after_ns: None,
            };
            failed(&mut ending, &failure.into())
        }
    }
}

async fn embedded(
    asked: &Asked,
    placed: &Placed,
    mut ending: Ending,
    body: Bytes,
    until: Instant,
) -> Response<Body> {
    let left = until.saturating_duration_since(Instant::now());
    let answered = timeout(left, embeddings::answer(asked, placed, body, until)).await;
    match answered.unwrap_or_else(|_| Err(Failure::deadline(asked.time_left).into())) {
        Ok((body, end)) => {
            ending.ends(end);
            json(body)
        }
        Err(fault) => failed(&mut ending, &fault),
    }
}

/// A whole answer.
fn json(body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn failed(ending: &mut Ending, fault: &Fault) -> Response<Body> {
    ending.ends(fault.end());
    fault.response()
}
