//! Owns: the calls beside `ModelInfer`: forwarded as bytes, with names and lists held against what the key may use.
//! Must not know: HTTP; fields other than a model's name and version.
//! On failure: closed; a name that is not permitted is refused, and an answer that cannot be read is not passed on.

use bytes::Bytes;
use prost::Message;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::Code;

use super::infer::Asked;
use super::method::Treatment;
use super::work::PendingCall;
use super::{BatchEnd, Failure};

/// Any request that names a model: `name` is 1 and `version` is 2 in all of them.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

/// Any answer that lists models: they are field 1 in all of them.
#[derive(Clone, PartialEq, Message)]
struct Listed {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    models: Vec<Bytes>,
}

/// Answers one call by asking a server of the pool.
pub(crate) async fn forward(
    asked: &Asked,
    method: &'static str,
    treatment: Treatment,
    request: Bytes,
) -> (Result<Bytes, Failure>, BatchEnd) {
    let outcome = match timeout(asked.time_left, answer(asked, method, treatment, request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::deadline(asked.time_left)),
    };
    let end = match &outcome {
        Ok(_) => BatchEnd::Forwarded,
        Err(failure) => failure.end(),
    };
    (outcome, end)
}

async fn answer(
    asked: &Asked,
    method: &'static str,
    treatment: Treatment,
    request: Bytes,
) -> Result<Bytes, Failure> {
    let named = match treatment {
        Treatment::Model | Treatment::ModelOrList => {
            Named::decode(request.clone()).map_err(|error| unreadable(&error))?
        }
        _ => Named::default(),
    };
    if named.name.is_empty() {
        let answer = ask(asked, method, "", request).await?;
        return if matches!(treatment, Treatment::List | Treatment::ModelOrList) {
            permitted_of(asked, &answer)
        } else {
            Ok(answer)
        };
    }
    let upstream = asked.admission.model(asked.id, &named.name)?;
    let renamed = Named { name: upstream.to_string(), version: named.version };
    let answer = ask(asked, method, &upstream, renamed.encode_to_vec().into()).await?;
    if *upstream == *named.name { Ok(answer) } else { under_name(method, &answer, named.name) }
}

/// The answer under the client's name of the model. A field that comes again at the end of a message counts in place of
/// the first, and a message that comes again is merged into it, so that nothing else has to be read.
fn under_name(method: &'static str, answer: &Bytes, name: String) -> Result<Bytes, Failure> {
    let name = Named { name, version: String::new() }.encode_to_vec();
    let mut renamed = answer.to_vec();
    match method {
        "ModelMetadata" => renamed.extend_from_slice(&name),
        "ModelConfig" => Listed { models: vec![name.into()] }.encode_raw(&mut renamed),
        "ModelStatistics" => {
            let mut listed = Listed::decode(answer.clone()).map_err(|error| Failure::answer(&error))?;
            for model in &mut listed.models {
                *model = [model.as_ref(), &name].concat().into();
            }
            renamed = listed.encode_to_vec();
        }
        _ => {}
    }
    Ok(renamed.into())
}

async fn ask(asked: &Asked, method: &'static str, model: &str, request: Bytes) -> Result<Bytes, Failure> {
    let (caller, reply) = oneshot::channel();
    let left_ns = u64::try_from(asked.time_left.as_nanos()).unwrap_or(u64::MAX);
    let deadline_ns = asked.queue.now_ns().saturating_add(left_ns);
    let pool = std::sync::Arc::clone(&asked.admitted.pool);
    asked.queue.call(PendingCall { method, pool, model: model.into(), request, deadline_ns, caller })?;
    reply.await.unwrap_or_else(|_| Err(Failure::closing()))
}

/// The answer without the models that the key may not use.
fn permitted_of(asked: &Asked, answer: &Bytes) -> Result<Bytes, Failure> {
    let mut listed = Listed::decode(answer.clone()).map_err(|error| Failure::answer(&error))?;
    listed
        .models
        .retain(|entry| Named::decode(entry.clone()).is_ok_and(|model| (asked.admitted.models)(&model.name)));
    Ok(listed.encode_to_vec().into())
}

fn unreadable(error: &prost::DecodeError) -> Failure {
    Failure::refused(
        "batch_unreadable",
        Code::InvalidArgument,
        format!("the request cannot be read: {error}"),
    )
}
