//! Owns: one decision told stage by stage, on a policy alone: no network, no other request in flight.
//! Must not know: how it is printed.
//! On failure: a policy that does not validate yields its findings; a refusal is an explanation like any other.

use std::fmt::Write as _;

use super::head::Told;
use super::{Answer, BodyStep, Clock, Engine, EngineConfig, Forward, HeadStep, Session};
use crate::policy::Finding;
use crate::record::Stage;
use crate::refusal::{Refusal, push_json_string};
use crate::request::Head;

/// The request to be explained.
#[derive(Debug, Clone, Copy)]
pub struct ExplainRequest<'a> {
    /// Headers with `:method` and `:path`, lower case
    pub headers: &'a [(String, String)],
    /// The body
    pub body: &'a [u8],
    /// Decide as this key, whatever the headers say; `None`: by the headers
    pub key_id: Option<&'a str>,
}

/// Explains the decision on one request as a JSON object: `stages` (name, ns, note) and `result`.
pub fn explain(
    policy: &[u8],
    request: ExplainRequest<'_>,
    clock: &impl Clock,
) -> Result<String, Vec<Finding>> {
    let snapshot = crate::policy::compile(policy)?;
    let engine = Engine::new(
        EngineConfig { max_reservations: 16, max_buckets: 4_096, max_records: 1, ..EngineConfig::default() },
        snapshot,
    );
    let pairs = request.headers.iter().map(|(k, v)| (k.as_str(), v.as_bytes()));
    let head = Head::read(pairs, request.body.is_empty());
    let told = Told::Explained { key_id: request.key_id };
    let mut out = String::from("{");
    let (outcome, session) = match engine.head_as(head, 1, told, clock) {
        (HeadStep::Answer(answer), session) => (Outcome::Answer(answer), session),
        (HeadStep::Forward(forward), session) => (Outcome::Forward(forward), session),
        (HeadStep::Body(mut session), _) => {
            let mut nobody = || -> super::Waiter { Box::new(|_| ()) };
            let step = engine.body(&mut session, request.body, &mut nobody, clock);
            let outcome = match step {
                BodyStep::Answer(answer) => Outcome::Answer(answer),
                BodyStep::Forward(forward) => Outcome::Forward(forward),
                BodyStep::Resolve(call) => Outcome::Stage(call.target.to_string()),
                BodyStep::Follow { .. } => Outcome::Stage("follow".to_owned()),
                BodyStep::Lease { .. } => Outcome::Answer(Answer::refusal(1, &Refusal::BudgetUnavailable)),
            };
            (outcome, Some(session))
        }
    };
    if let Some(session) = session {
        push(&mut out, &session, &outcome);
    }
    out.push('}');
    Ok(out)
}

enum Outcome {
    Answer(Answer),
    Forward(Forward),
    Stage(String),
}

fn push(out: &mut String, session: &Session, outcome: &Outcome) {
    out.push_str("\"stages\":[");
    let record = &session.record;
    let notes = session.trace.as_deref().unwrap_or_default();
    let mut first = true;
    for (stage, ns) in Stage::ALL.iter().zip(record.stage_ns) {
        let said: Vec<&str> = notes.iter().filter(|(s, _)| s == stage).map(|(_, n)| n.as_str()).collect();
        if said.is_empty() && ns == 0 {
            continue;
        }
        let comma = if first { "" } else { "," };
        let _ = write!(out, "{comma}{{\"stage\":\"{}\",\"ns\":{ns},\"note\":", stage.name());
        push_json_string(out, &said.join("; "));
        out.push('}');
        first = false;
    }
    out.push_str("],\"record\":");
    record.push_json(out);
    out.push_str(",\"result\":{\"action\":");
    match outcome {
        Outcome::Answer(answer) => {
            let _ =
                write!(out, "\"answer\",\"status\":{},\"code\":\"{}\",\"body\":", answer.status, answer.code);
            push_json_string(out, &String::from_utf8_lossy(&answer.body));
        }
        Outcome::Forward(forward) => {
            out.push_str("\"forward\",\"pool\":");
            push_json_string(out, &forward.pool);
            let _ =
                write!(out, ",\"capture\":{},\"body_rewritten\":{}", forward.capture, forward.body.is_some());
        }
        Outcome::Stage(target) => {
            out.push_str("\"stage\",\"target\":");
            push_json_string(out, target);
        }
    }
    out.push('}');
}
