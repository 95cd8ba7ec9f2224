//! Owns: one decision told stage by stage, on a policy alone: no network, no other request in flight.
//! Must not know: how it is printed.
//! On failure: a policy that does not validate yields its findings; a refusal is an explanation like any other.

use std::fmt::Write as _;

use super::{Answer, BodyStep, Clock, Engine, EngineConfig, Forward, HeadStep, Session};
use crate::policy::Finding;
use crate::record::{Record, Stage};
use crate::refusal::push_json_string;
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
pub fn explain(policy: &[u8], request: ExplainRequest<'_>, clock: &impl Clock) -> Result<String, Vec<Finding>> {
    let snapshot = crate::policy::compile(policy)?;
    let engine = Engine::new(
        EngineConfig { max_reservations: 16, max_buckets: 4_096, max_records: 1, ..EngineConfig::default() },
        snapshot,
    );
    let pairs = request.headers.iter().map(|(k, v)| (k.as_str(), v.as_bytes()));
    let head = Head::read(pairs, request.body.is_empty());
    let step = engine.head_as(head, 1, Some(request.key_id.unwrap_or_default()).filter(|k| !k.is_empty()), clock);
    let mut out = String::from("{");
    match step {
        HeadStep::Answer(answer) => push(&mut out, &engine, None, &Outcome::Answer(&answer)),
        HeadStep::Forward(forward) => push(&mut out, &engine, None, &Outcome::Forward(&forward)),
        HeadStep::Body(mut session) => {
            session.trace.get_or_insert_default();
            let mut nobody = || -> super::Waiter { Box::new(|_| ()) };
            match engine.body(&mut session, request.body, &mut nobody, clock) {
                BodyStep::Answer(a) => push(&mut out, &engine, Some(&session), &Outcome::Answer(&a)),
                BodyStep::Forward(f) => push(&mut out, &engine, Some(&session), &Outcome::Forward(&f)),
                BodyStep::Resolve(call) => push(&mut out, &engine, Some(&session), &Outcome::Stage(&call.target)),
                BodyStep::Follow { .. } => push(&mut out, &engine, Some(&session), &Outcome::Stage("follow")),
            }
        }
    }
    out.push('}');
    Ok(out)
}

enum Outcome<'a> {
    Answer(&'a Answer),
    Forward(&'a Forward),
    Stage(&'a str),
}

fn push(out: &mut String, engine: &Engine, session: Option<&Session>, outcome: &Outcome<'_>) {
    out.push_str("\"stages\":[");
    let empty = Vec::new();
    let notes = session.and_then(|s| s.trace.as_ref()).unwrap_or(&empty);
    let record = session.map(|s| (*s.record).clone()).unwrap_or_default();
    let mut first = true;
    for (i, stage) in Stage::ALL.iter().enumerate() {
        let said: Vec<&str> = notes.iter().filter(|(s, _)| s == stage).map(|(_, n)| n.as_str()).collect();
        if said.is_empty() && record.stage_ns[i] == 0 {
            continue;
        }
        let _ = write!(out, "{}{{\"stage\":\"{}\",\"ns\":{}", if first { "" } else { "," }, stage.name(), record.stage_ns[i]);
        out.push_str(",\"note\":");
        push_json_string(out, &said.join("; "));
        out.push('}');
        first = false;
    }
    out.push_str("],\"record\":");
    push_record(out, engine, &record);
    out.push_str(",\"result\":{\"action\":");
    match outcome {
        Outcome::Answer(answer) => {
            let _ = write!(out, "\"answer\",\"status\":{},\"code\":\"{}\",\"body\":", answer.status, answer.code);
            push_json_string(out, &String::from_utf8_lossy(&answer.body));
        }
        Outcome::Forward(forward) => {
            out.push_str("\"forward\",\"pool\":");
            push_json_string(out, &forward.pool);
            let _ = write!(out, ",\"capture\":{},\"body_rewritten\":{}", forward.capture, forward.body.is_some());
        }
        Outcome::Stage(target) => {
            out.push_str("\"stage\",\"target\":");
            push_json_string(out, target);
        }
    }
    out.push('}');
}

fn push_record(out: &mut String, engine: &Engine, record: &Record) {
    if record.id == 0 {
        // Decided at the head: the session is gone, the ring has the record if it was answered.
        let json = engine.records_json(1);
        out.push_str(json.trim_start_matches('[').trim_end_matches(']').get(..).filter(|j| !j.is_empty()).unwrap_or("{}"));
    } else {
        record.push_json(out);
    }
}
