//! Owns: `/v1/embeddings`: texts or token numbers in, one row of a batch for each, vectors out.
//! Must not know: HTTP; how rows share batches.
//! On failure: closed; one text that fails fails the request, and the others' rows are taken back.

mod input;
mod row;
mod vector;
mod write;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use forebay_core::batch::{LaneKey, ModelShape, Tensor};
use forebay_core::json::{Bounds, Document};
use forebay_core::policy::pb::EmbeddingTensors;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use prost::Message;

use self::input::EmbeddingAsk;
use self::row::{Reader, Row};
use super::fault::Fault;
use crate::kserve::pb::ModelInferRequest;
use crate::kserve::pb::model_infer_request::InferRequestedOutputTensor;
use crate::kserve::{Ask, Asked, BatchEnd, Placed, Wishes, infer};

/// Rows of one request that wait at once: more than a batch holds, so that a large request fills batches.
const ROWS_AT_ONCE: usize = 256;
/// Texts above this are cut into tokens away from this thread, which others wait for.
const INLINE_BYTES: usize = 16 << 10;

/// Answers one request.
pub(super) async fn answer(
    asked: &Asked,
    placed: &Placed,
    body: Bytes,
    until: Instant,
) -> Result<(Vec<u8>, BatchEnd), Fault> {
    let Some(mapping) = &placed.tensors.embeddings else {
        return Err(Fault::mapping(format!("no `embeddings` tensors are set for `{}`", placed.model)));
    };
    let reader = Reader::of(asked, placed, mapping).await?;
    let (ask, rows) = read_rows(body, reader).await?;
    let key = LaneKey {
        pool: Arc::clone(&asked.admitted.pool),
        model: Arc::clone(&placed.upstream),
        version: "".into(),
    };
    let held_bytes = rows.iter().map(Row::bytes).sum();
    let shape = asked.queue.shape(&key, held_bytes).await?;
    let (shape, mapping) = (&*shape, mapping);
    let prompt_tokens = rows.iter().map(|row| row.tokens).sum();
    let vectors: Vec<_> = stream::iter(rows)
        .map(|row| vector_of(asked, placed, mapping, shape, row, until))
        .buffered(ROWS_AT_ONCE)
        .try_collect()
        .await?;
    let end = joined_end(vectors.iter().map(|(_, end)| end));
    let vectors: Vec<Tensor> = vectors.into_iter().map(|(vector, _)| vector).collect();
    Ok((write::answer(&placed.model, &ask, &vectors, prompt_tokens)?, end))
}

/// What the body asks, and its texts as the model reads them.
async fn read_rows(body: Bytes, reader: Reader) -> Result<(EmbeddingAsk, Vec<Row>), Fault> {
    let large = body.len() > INLINE_BYTES;
    let read = move || {
        let document = Document::parse(&body, Bounds::default())?;
        let (ask, inputs) = input::read(&document)?;
        let rows = inputs.iter().map(|input| reader.row(input)).collect::<Result<Vec<_>, _>>()?;
        Ok((ask, rows))
    };
    if !large {
        return read();
    }
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(Fault::answer(error)))
}

/// The vector of one row.
async fn vector_of(
    asked: &Asked,
    placed: &Placed,
    mapping: &EmbeddingTensors,
    shape: &ModelShape,
    row: Row,
    until: Instant,
) -> Result<(Tensor, BatchEnd), Fault> {
    let ask = Ask {
        model: placed.model.to_string(),
        version: String::new(),
        inputs: row.tensors(mapping, shape)?,
        outputs: vec![mapping.output.clone()],
        options: requested(&mapping.output),
        wishes: Wishes::default(),
    };
    let asked = Asked { time_left: until.saturating_duration_since(Instant::now()), ..asked.clone() };
    let (answered, end) = infer(&asked, ask).await;
    let output = answered?.tensors.into_iter().find(|tensor| **tensor.name() == *mapping.output);
    output.map(|output| (output, end)).ok_or_else(|| Fault::answer(format!("it has no `{}`", mapping.output)))
}

/// The one output that is wanted, as all requests of a batch say it.
fn requested(output: &str) -> Bytes {
    let output =
        InferRequestedOutputTensor { name: output.to_owned(), ..InferRequestedOutputTensor::default() };
    ModelInferRequest { outputs: vec![output], ..ModelInferRequest::default() }.encode_to_vec().into()
}

/// One end for all rows: sums of what was used, and the slowest row's times.
fn joined_end<'a>(ends: impl Iterator<Item = &'a BatchEnd>) -> BatchEnd {
    let mut joined: Option<BatchEnd> = None;
    for end in ends {
        joined = Some(match (joined, end) {
            (
                Some(BatchEnd::Answered { rows, tokens, batch_rows, padded_tokens, queue_ns, service_ns }),
                BatchEnd::Answered {
                    rows: more_rows,
                    tokens: more_tokens,
                    batch_rows: its_rows,
                    padded_tokens: more_padded,
                    queue_ns: its_queue,
                    service_ns: its_service,
                },
            ) => BatchEnd::Answered {
                rows: rows + more_rows,
                tokens: tokens + more_tokens,
                batch_rows: batch_rows.max(*its_rows),
                padded_tokens: padded_tokens + more_padded,
                queue_ns: queue_ns.max(*its_queue),
                service_ns: service_ns.max(*its_service),
            },
            (Some(BatchEnd::Recalled { rows }), BatchEnd::Recalled { rows: more }) => {
                BatchEnd::Recalled { rows: rows + more }
            }
            (Some(BatchEnd::Followed { rows }), BatchEnd::Followed { rows: more }) => {
                BatchEnd::Followed { rows: rows + more }
            }
            // What a batch brought says more than what came without one.
            (Some(answered @ BatchEnd::Answered { .. }), _) => answered,
            (_, end) => end.clone(),
        });
    }
    joined.unwrap_or(BatchEnd::Forwarded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_joined() {
        let answered = |rows, tokens, batch_rows, queue_ns| BatchEnd::Answered {
            rows,
            tokens,
            batch_rows,
            padded_tokens: 2 * tokens,
            queue_ns,
            service_ns: 7,
        };
        let ends = [answered(1, 5, 8, 20), BatchEnd::Recalled { rows: 1 }, answered(1, 3, 4, 30)];
        assert_eq!(joined_end(ends.iter()), answered(2, 8, 8, 30));
        assert_eq!(joined_end(ends[1..2].iter().chain(&ends[1..2])), BatchEnd::Recalled { rows: 2 });
        assert_eq!(joined_end([].iter()), BatchEnd::Forwarded);
    }
}
