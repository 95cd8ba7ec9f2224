//! Owns: `/v1/chat/completions` and `/v1/completions` by a decoupled model: a stream upstream, events or one answer back.
//! Must not know: sockets; how servers are reached.
//! On failure: closed; until the model's first answer an error has its own status.

mod chunk;
mod events;
mod prompt;
mod read;
mod request;
mod response;
mod run;
mod sampling;
mod template;
mod text;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use forebay_core::batch::LaneKey;
use forebay_core::engine::Clock;
use http::Response;
use tokio::time::timeout;
use tonic::body::Body;

use self::chunk::{AnswerHead, Voice};
use self::read::Reader;
use self::run::{Run, Start, Step, TimeLeft};
use super::fault::Fault;
use super::{failed, json};
use crate::SystemClock;
use crate::kserve::{Asked, BatchEnd, Ending, Failure, Placed};

pub(crate) use self::template::Templates;

/// Bodies above this are read away from this thread, which others wait for.
const INLINE_BYTES: usize = 64 << 10;

/// A generation whose first step is known.
struct Begun {
    run: Run,
    first: Step,
    voice: Voice,
    streamed: bool,
}

/// Answers one request.
pub(super) async fn answer(
    asked: &Asked,
    placed: &Placed,
    mut ending: Ending,
    body: Bytes,
    until: Instant,
) -> Response<Body> {
    let time = TimeLeft { until, whole: asked.time_left };
    let begun = match begin(asked, placed, body, time).await {
        Ok(begun) => begun,
        Err(fault) => return failed(&mut ending, &fault),
    };
    if begun.streamed {
        return events::response(begun.run, begun.first, begun.voice, ending);
    }
    match whole(begun).await {
        Ok(body) => {
            ending.ends(BatchEnd::Forwarded);
            json(body)
        }
        Err(fault) => failed(&mut ending, &fault),
    }
}

async fn begin(asked: &Asked, placed: &Placed, body: Bytes, time: TimeLeft) -> Result<Begun, Fault> {
    let Some(mapping) = &placed.tensors.generation else {
        return Err(Fault::mapping(format!("no `generation` tensors are set for `{}`", placed.model)));
    };
    let key = LaneKey {
        pool: Arc::clone(&asked.admitted.pool),
        model: Arc::clone(&placed.upstream),
        version: "".into(),
    };
    let left = time.until.saturating_duration_since(Instant::now());
    let Ok(shape) = timeout(left, asked.queue.shape(&key, body.len() as u64)).await else {
        return Err(Failure::deadline(time.whole).into());
    };
    let reader = Reader {
        placed: placed.clone(),
        id: asked.id,
        shape: shape?,
        loaded: Arc::clone(&asked.loaded),
        max_prompt_bytes: asked.max_message_bytes,
    };
    let read = if body.len() > INLINE_BYTES {
        let read = tokio::task::spawn_blocking(move || reader.read(&body)).await;
        read.unwrap_or_else(|error| Err(Fault::answer(error)))?
    } else {
        reader.read(&body)?
    };
    let start =
        Start { request: read.request, mapping, counter: read.counter, max_tokens: read.max_tokens, time };
    let mut run = Run::start(asked, start).await?;
    // Awaited here, so that what the server refuses has its own status.
    let first = run.step().await?;
    let answer = AnswerHead {
        operation: placed.operation,
        id: asked.id,
        model: &placed.model,
        created_unix_s: SystemClock::default().unix_ns() / 1_000_000_000,
        prompt_tokens: read.prompt_tokens,
    };
    Ok(Begun { run, first, voice: Voice::new(&answer, read.usage), streamed: read.streamed })
}

/// All of a generation as one answer.
async fn whole(begun: Begun) -> Result<Vec<u8>, Fault> {
    let Begun { mut run, first, voice, .. } = begun;
    let mut text = String::new();
    let mut step = first;
    loop {
        match step {
            Step::Text(more) => text.push_str(&more),
            Step::End { finish_reason, completion_tokens } => {
                return Ok(voice.whole(&text, &finish_reason, completion_tokens));
            }
        }
        step = run.step().await?;
    }
}
