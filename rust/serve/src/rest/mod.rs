//! Owns: the way of one HTTP request of the inference protocol: route, body, message, answer; a table of contents.
//! Must not know: queues, batches; it speaks to them in the gRPC protocol's messages.
//! On failure: closed; every refusal is `{"error": "..."}` with a status, and the request's end is told once.

mod body;
mod compression;
mod describe;
mod fault;
mod fields;
mod request;
mod response;
mod route;
mod text;
mod values;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::body::Body;

use crate::kserve::pb::{
    ModelReadyResponse, RepositoryIndexRequest, ServerLiveResponse, ServerReadyResponse,
};
use crate::kserve::{Asked, BatchEnd, Ending, Failure, Treatment, forward, infer, read_request};
use compression::Coding;
use fault::Fault;
use fields::Fields;
use route::{Named, Route};

/// Where the JSON ends and binary data begins.
const JSON_BYTES_HEADER: &str = "inference-header-content-length";
/// Work on larger bodies leaves its thread's other tasks to another thread.
const LONG_BODY_BYTES: usize = 64 << 10;

/// Answers a request for a path under `/v2`.
pub(crate) async fn answer(
    mut asked: Asked,
    mut ending: Ending,
    request: http::Request<Body>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    match handle(&mut asked, &parts, body).await {
        Ok((response, end)) => {
            ending.ends(end);
            response
        }
        Err(fault) => {
            ending.ends(fault.failure.end());
            fault.into_response()
        }
    }
}

type Outcome = Result<(Response<Body>, BatchEnd), Fault>;

async fn handle(asked: &mut Asked, parts: &Parts, body: Body) -> Outcome {
    match route::of(&parts.method, parts.uri.path())? {
        Route::Infer(named) => {
            let body = received(asked, &parts.headers, body).await?;
            infer_answer(asked, &parts.headers, named, &body).await
        }
        Route::Index => {
            let body = received(asked, &parts.headers, body).await?;
            let asks = RepositoryIndexRequest { ready: only_ready(&body)?, ..Default::default() };
            described(asked, Call("RepositoryIndex", Treatment::List), &asks.encode_to_vec(), describe::index)
                .await
        }
        Route::Live => {
            let call = Call("ServerLive", Treatment::Server);
            yes_or_no(asked, call, Vec::new(), "the server", |answer: ServerLiveResponse| answer.live).await
        }
        Route::Ready => {
            let call = Call("ServerReady", Treatment::Server);
            yes_or_no(asked, call, Vec::new(), "the server", |answer: ServerReadyResponse| answer.ready).await
        }
        Route::ModelReady(named) => {
            let what = format!("model `{}`", named.model);
            let call = Call("ModelReady", Treatment::Model);
            yes_or_no(asked, call, named.encoded(), &what, |answer: ModelReadyResponse| answer.ready).await
        }
        Route::Server => {
            let write = |answer| describe::message("ServerMetadataResponse", answer);
            described(asked, Call("ServerMetadata", Treatment::Server), &[], write).await
        }
        Route::Model(named) => {
            let write = |answer| describe::message("ModelMetadataResponse", answer);
            described(asked, Call("ModelMetadata", Treatment::Model), &named.encoded(), write).await
        }
        Route::Config(named) => {
            described(asked, Call("ModelConfig", Treatment::Model), &named.encoded(), describe::config).await
        }
        Route::Stats(named) => {
            let write = |answer| describe::message("ModelStatisticsResponse", answer);
            described(asked, Call("ModelStatistics", Treatment::ModelOrList), &named.encoded(), write).await
        }
    }
}

/// The body, whole and opened. What its coming took is taken from the request's time.
async fn received(asked: &mut Asked, headers: &HeaderMap, body: Body) -> Result<Bytes, Fault> {
    let coding = Coding::of_request(headers)?;
    let began = Instant::now();
    let limit_bytes = asked.max_message_bytes;
    let body = timeout(asked.time_left, body::read(body, limit_bytes)).await.map_err(|_| Fault::slow())??;
    asked.time_left = asked.time_left.saturating_sub(began.elapsed());
    match coding {
        None => Ok(body),
        Some(coding) => off_queue(body.len(), || coding.open(&body, limit_bytes)),
    }
}

async fn infer_answer(asked: &Asked, headers: &HeaderMap, named: Named, body: &Bytes) -> Outcome {
    let json_bytes = json_bytes(headers)?;
    let model = named.model.clone();
    let parsed = off_queue(json_bytes.unwrap_or(body.len()), || request::read(named, json_bytes, body))?;
    let request::Parsed { mut message, forms } = parsed;
    let id = std::mem::take(&mut message.id);
    let ask = read_request(message).map_err(Failure::from)?;
    let (answered, end) = infer(asked, ask).await;
    let answered = answered?;
    let answer_bytes = answered.tensors.iter().map(|tensor| tensor.data().len()).sum();
    let coding = Coding::of_answer(headers);
    let written = off_queue(answer_bytes, || {
        let response::Written { parts, json_bytes } = response::write(&model, &id, &answered, &forms)?;
        let (parts, encoding) = match coding {
            Some(coding) => coding.close(parts),
            None => (parts, None),
        };
        let mut response = body::parts(parts);
        let headers = response.headers_mut();
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, encoding);
        }
        let media = if json_bytes.is_some() { "application/octet-stream" } else { "application/json" };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        if let Some(bytes) = json_bytes {
            headers.insert(JSON_BYTES_HEADER, HeaderValue::from(bytes));
        }
        Ok(response)
    });
    // The batch was answered and is counted so, also when this answer cannot be written as the client wants it.
    Ok((written.unwrap_or_else(Fault::into_response), end))
}

/// A call of the gRPC protocol, and how it is treated.
#[derive(Clone, Copy)]
struct Call(&'static str, Treatment);

/// Forwards `call` and writes its answer as JSON.
async fn described(
    asked: &Asked,
    call: Call,
    request: &[u8],
    write: impl Fn(Bytes) -> Result<Vec<u8>, Fault>,
) -> Outcome {
    let Call(method, treatment) = call;
    let (answer, end) = forward(asked, method, treatment, Bytes::copy_from_slice(request)).await;
    Ok((body::json(StatusCode::OK, write(answer?)?), end))
}

/// Forwards `call` and answers with a status alone, if the answer is yes.
async fn yes_or_no<M: Message + Default>(
    asked: &Asked,
    call: Call,
    request: Vec<u8>,
    what: &str,
    is_yes: impl Fn(M) -> bool,
) -> Outcome {
    let Call(method, treatment) = call;
    let (answer, end) = forward(asked, method, treatment, request.into()).await;
    let yes = M::decode(answer?).is_ok_and(is_yes);
    let response = if yes { body::empty(StatusCode::OK) } else { Fault::not_ready(what).into_response() };
    Ok((response, end))
}

/// Where the JSON ends, if binary data follows it.
fn json_bytes(headers: &HeaderMap) -> Result<Option<usize>, Fault> {
    let mut values = headers.get_all(JSON_BYTES_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bytes = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match bytes.and_then(|text| text.parse().ok()) {
        Some(0) => Err(Fault::unreadable(format!(
            "`{JSON_BYTES_HEADER}` is 0: a body without JSON is not read here; describe the tensor in JSON"
        ))),
        Some(bytes) if values.next().is_none() => Ok(Some(bytes)),
        _ => Err(Fault::unreadable(format!("`{JSON_BYTES_HEADER}` must be one count of bytes"))),
    }
}

/// Whether an index request asks for ready models alone.
fn only_ready(body: &[u8]) -> Result<bool, Fault> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(false);
    }
    let (mut ready, mut fields) = (false, Fields::of(body));
    fields.object("the request", |fields, key| {
        if key == "ready" {
            ready = fields.boolean("`ready`")?;
        } else {
            fields.skip()?;
        }
        Ok(())
    })?;
    fields.finish()?;
    Ok(ready)
}

/// Does `work` on so many bytes without making other requests of this thread wait for it.
fn off_queue<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > LONG_BODY_BYTES { tokio::task::block_in_place(work) } else { work() }
}
