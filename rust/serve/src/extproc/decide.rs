//! Owns: one decide stream: which message may come next, and what is answered to it.
//! Must not know: frames, the gRPC server.
//! On failure: closed; a message that does not fit, a panic, or an end before an answer is an error on the stream.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use forebay_core::engine::{Answer, BodyStep, Clock, FollowOutcome, HeadStep, Session, Waiter};
use forebay_core::refusal::Refusal;
use forebay_core::request::Head;
use tokio::sync::oneshot;
use tonic::{Status, Streaming};

use super::frames::{self, Phase};
use super::messages::{Headers, Message, Part};
use super::service::Runtime;
use super::wire::ProcessingResponse;
use crate::stage::StagePending;

/// Added to an announced hold, so that we end it and not Envoy.
const HOLD_MARGIN: Duration = Duration::from_millis(500);

/// Bodies above this are decided off the thread's queue.
const LONG_BODY_BYTES: usize = 64 << 10;

/// One request's stream.
pub struct DecideStream {
    runtime: Arc<Runtime>,
    inbound: Streaming<Bytes>,
    state: State,
    ready: VecDeque<ProcessingResponse>,
    body: Bytes,
    is_grpc: bool,
    held: bool,
    /// A decision or an error was said, so that an end of the stream is no reset
    settled: bool,
}

enum State {
    /// Nothing came yet
    Start,
    /// The body was asked for
    Body(Box<Session>),
    /// The body is here and the decision goes on
    Deciding(Box<Session>),
    /// An equal request is in flight; its end is told through the channel
    Following(Box<Session>, oneshot::Receiver<FollowOutcome>, Duration),
    /// A person's stage was asked
    Resolving(Box<Session>, StagePending, Duration),
    /// A budget's lease is on its way; Envoy need not be told, since it waits longer
    Leasing(Box<Session>, oneshot::Receiver<FollowOutcome>, Duration),
    /// Answered; the stream stays open until the response of this id ends
    Forwarded(u128),
    /// Nothing more will be said
    Over,
}

// === impl DecideStream ===

impl DecideStream {
    pub fn new(runtime: Arc<Runtime>, inbound: Streaming<Bytes>) -> Self {
        runtime.engine.metrics().counters.decide_streams.fetch_add(1, Relaxed);
        let (ready, body) = (VecDeque::new(), Bytes::new());
        Self {
            runtime,
            inbound,
            state: State::Start,
            ready,
            body,
            is_grpc: false,
            held: false,
            settled: false,
        }
    }

    /// The next message for Envoy. `None`: a clean end, which is only said after an answer.
    pub async fn next(&mut self) -> Option<Result<ProcessingResponse, Status>> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Some(Ok(response));
            }
            match std::mem::replace(&mut self.state, State::Over) {
                State::Deciding(session) => {
                    self.advance(session);
                    continue;
                }
                State::Following(session, told, wait) => {
                    if let Some(end) = self.follow(session, told, wait).await {
                        return end;
                    }
                    continue;
                }
                State::Leasing(session, told, wait) => {
                    // Whether or not it came, the decision says what follows.
                    let _ = tokio::time::timeout(wait, told).await;
                    self.state = State::Deciding(session);
                    continue;
                }
                State::Resolving(mut session, pending, wait) => {
                    session.resolved(pending.wait(wait).await);
                    self.state = State::Deciding(session);
                    continue;
                }
                state => self.state = state,
            }
            match self.inbound.message().await {
                Ok(Some(message)) => {
                    if let Err(status) = self.take(&message) {
                        // A forwarded request's stream is over: its slot is free.
                        let _ = self.ended();
                        self.settled = true;
                        return Some(Err(status));
                    }
                }
                // Envoy ended the stream: after an answer that is the normal end, before it the client left.
                Ok(None) | Err(_) => return self.ended(),
            }
        }
    }

    fn ended(&mut self) -> Option<Result<ProcessingResponse, Status>> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Over => None,
            State::Forwarded(id) => {
                self.runtime.engine.stream_closed(id, self.runtime.clock.now_ns());
                None
            }
            _ => Some(Err(Status::cancelled("the stream ended before a decision"))),
        }
    }

    fn take(&mut self, message: &Bytes) -> Result<(), Status> {
        let Message { part, body_mode, .. } =
            Message::read(message).inspect_err(|_| self.count_protocol_error())?;
        let state = std::mem::replace(&mut self.state, State::Over);
        match (state, part) {
            (State::Start, Some(Part::RequestHeaders(headers))) => {
                self.head(&headers);
                self.check_mode(body_mode);
                Ok(())
            }
            (State::Body(session), Some(Part::RequestBody(body))) if body.end_of_stream => {
                self.body = message.slice_ref(body.bytes);
                self.state = State::Deciding(session);
                Ok(())
            }
            (State::Body(session), Some(Part::RequestBody(_))) => {
                // Not the whole body: Envoy ignored our override.
                self.runtime.report.say("wrong_body_mode", "Envoy sent a part of a body where BUFFERED was asked for; allow_mode_override must be true");
                self.answer(Answer::refusal(session.id(), &Refusal::Internal));
                Ok(())
            }
            (State::Forwarded(id), Some(other)) => {
                self.state = State::Forwarded(id);
                self.unexpected(&other)
            }
            (_, Some(other)) => self.unexpected(&other),
            (_, None) => {
                self.count_protocol_error();
                Err(Status::invalid_argument("a message without a request"))
            }
        }
    }

    fn count_protocol_error(&self) {
        self.runtime.engine.metrics().counters.protocol_errors.fetch_add(1, Relaxed);
    }

    /// Whoever configures another body mode lets parts of a body through before the decision on the whole.
    fn check_mode(&mut self, mode: i32) {
        let right = [BodySendMode::None as i32, BodySendMode::Buffered as i32].contains(&mode);
        match std::mem::replace(&mut self.state, State::Over) {
            State::Body(session) if !right => {
                self.runtime.report.say(
                    "wrong_body_mode",
                    "the decide filter of Envoy has another request_body_mode than NONE; render its configuration again",
                );
                self.ready.clear();
                self.answer(Answer::refusal(session.id(), &Refusal::Internal));
            }
            state => self.state = state,
        }
    }

    /// A message that decide's processing mode never asks for. It cannot be answered, so the stream fails.
    fn unexpected(&mut self, part: &Part<'_>) -> Result<(), Status> {
        self.count_protocol_error();
        let name = match part {
            Part::RequestHeaders(_) => "request headers",
            Part::ResponseHeaders(_) => "response headers",
            Part::RequestBody(_) => "a request body",
            Part::ResponseBody(_) => {
                self.runtime.engine.metrics().counters.response_body_messages.fetch_add(1, Relaxed);
                "a response body"
            }
            Part::RequestTrailers => "request trailers",
            Part::ResponseTrailers => "response trailers",
        };
        self.runtime
            .report
            .say("unexpected_message", &format!("decide got {name} where its processing mode has none"));
        Err(Status::failed_precondition(format!(
            "decide does not take {name} here; check the processing mode"
        )))
    }

    fn head(&mut self, headers: &Headers<'_>) {
        let id = self.runtime.fresh_id();
        let runtime = self.runtime.clone();
        let step = caught(&runtime, || {
            let head = Head::read(headers.pairs.iter().copied(), headers.end_of_stream);
            let is_grpc = head.as_ref().is_ok_and(Head::is_grpc);
            (is_grpc, runtime.engine.head(head, id, &runtime.clock))
        });
        let Some((is_grpc, step)) = step else {
            self.answer(Answer::refusal(id, &Refusal::Internal));
            return;
        };
        self.is_grpc = is_grpc;
        match step {
            HeadStep::Answer(answer) => self.answer(answer),
            HeadStep::Forward(forward) => {
                // The stream of a request that is decided at its headers ends here; that is no end of the request.
                self.ready.push_back(frames::forward(forward, Phase::Headers));
                self.state = State::Over;
                self.settled = true;
            }
            HeadStep::Body(session) => {
                self.ready.push_back(frames::send_body());
                self.state = State::Body(session);
            }
        }
    }

    /// Decides on the body, as far as it goes without waiting.
    fn advance(&mut self, mut session: Box<Session>) {
        let runtime = self.runtime.clone();
        let body = self.body.clone();
        let mut told = None;
        let mut decide = || {
            caught(&runtime, || {
                let mut waiter = || -> Waiter {
                    let (tx, rx) = oneshot::channel();
                    told = Some(rx);
                    Box::new(move |outcome| {
                        // Whoever waited may be gone: its session leaves the flight by itself.
                        let _ = tx.send(outcome);
                    })
                };
                runtime.engine.body(&mut session, &body, &mut waiter, &runtime.clock)
            })
        };
        // A long prompt takes milliseconds to read and count: the requests behind it on this thread go to another.
        let step = if body.len() > LONG_BODY_BYTES { tokio::task::block_in_place(decide) } else { decide() };
        match (step, told) {
            (Some(BodyStep::Answer(answer)), _) => self.answer(answer),
            (Some(BodyStep::Forward(forward)), _) => {
                self.state = State::Forwarded(forward.id);
                self.settled = true;
                self.body = Bytes::new();
                self.ready.push_back(frames::forward(forward, Phase::Body));
            }
            // Envoy honours one announcement a message, so nobody is held twice.
            (Some(BodyStep::Follow { .. }), Some(_)) if self.held => {
                session.followed(FollowOutcome::GoAlone);
                self.state = State::Deciding(session);
            }
            (Some(BodyStep::Follow { until_ns }), Some(told)) => {
                let wait = Duration::from_nanos(until_ns.saturating_sub(runtime.clock.now_ns()));
                let wait = self.hold(wait, &session);
                self.state = State::Following(session, told, wait);
            }
            (Some(BodyStep::Lease { until_ns }), Some(told)) => {
                let wait = Duration::from_nanos(until_ns.saturating_sub(runtime.clock.now_ns()));
                self.state = State::Leasing(session, told, wait);
            }
            (Some(BodyStep::Resolve(call)), _) => {
                let mut wait = Duration::from_nanos(call.deadline_ns);
                if wait + HOLD_MARGIN > runtime.message_timeout(&session) {
                    wait = self.hold(wait, &session);
                }
                let pending = runtime.stages.ask(call, body);
                self.state = State::Resolving(session, pending, wait);
            }
            (None | Some(BodyStep::Follow { .. } | BodyStep::Lease { .. }), _) => {
                self.answer(Answer::refusal(session.id(), &Refusal::Internal));
            }
        }
    }

    /// Announces a wait, cut to what Envoy accepts: it ignores a longer announcement.
    fn hold(&mut self, wait: Duration, session: &Session) -> Duration {
        let most = self.runtime.max_message_timeout(session).saturating_sub(HOLD_MARGIN);
        let wait = wait.min(most);
        self.ready.push_back(frames::hold(wait + HOLD_MARGIN));
        self.held = true;
        wait
    }

    /// Waits for the leader, at most `wait`. Something is returned where the stream is over.
    async fn follow(
        &mut self,
        mut session: Box<Session>,
        told: oneshot::Receiver<FollowOutcome>,
        wait: Duration,
    ) -> Option<Option<Result<ProcessingResponse, Status>>> {
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(wait, told) => match outcome {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) | Err(_) => FollowOutcome::GoAlone,
            },
            // Anything from Envoy now is the end of the stream: the client left.
            _ = self.inbound.message() => {
                self.state = State::Body(session);
                return Some(self.ended());
            }
        };
        session.followed(outcome);
        self.state = State::Deciding(session);
        None
    }

    fn answer(&mut self, answer: Answer) {
        self.ready.push_back(frames::answer(answer, self.is_grpc));
        self.body = Bytes::new();
        self.state = State::Over;
        self.settled = true;
    }
}

impl Drop for DecideStream {
    fn drop(&mut self) {
        if !self.settled {
            // A reset drops the stream wherever it stands: reading, following or waiting for a stage.
            self.runtime.engine.metrics().counters.streams_reset.fetch_add(1, Relaxed);
        }
        // Envoy reset the stream: the response of a buffered request is over all the same.
        if let State::Forwarded(id) = self.state {
            self.runtime.engine.stream_closed(id, self.runtime.clock.now_ns());
        }
    }
}

/// Runs a part of the decision; `None` if it panicked, which is counted and said.
fn caught<T>(runtime: &Runtime, decide: impl FnOnce() -> T) -> Option<T> {
    if let Ok(value) = catch_unwind(AssertUnwindSafe(decide)) {
        Some(value)
    } else {
        runtime.engine.metrics().counters.panics.fetch_add(1, Relaxed);
        runtime.report.say("panic", "a decision panicked and was answered with 500");
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use forebay_core::engine::{Engine, EngineConfig};

    use super::super::wire::Response;
    use super::*;
    use crate::clock::SystemClock;
    use crate::report::Report;
    use crate::stage::Stages;

    #[test]
    fn a_panic_is_counted_and_becomes_an_answer() {
        let runtime = Runtime {
            engine: Arc::new(Engine::new(
                EngineConfig::default(),
                forebay_core::policy::compile(b"").unwrap(),
            )),
            clock: SystemClock::default(),
            stages: Arc::new(Stages::default()),
            report: Arc::new(Report::default()),
            journal: None,
        };
        assert_eq!(caught(&runtime, || 7), Some(7));
        assert_eq!(caught(&runtime, || -> u8 { panic!("in a decision") }), None);
        assert_eq!(runtime.engine.metrics().counters.panics.load(Relaxed), 1);
        // What both callers say then.
        let answer = frames::answer(Answer::refusal(1, &Refusal::Internal), false);
        let Some(Response::Immediate(answer)) = answer.response else { panic!("no answer") };
        assert_eq!(answer.status.unwrap().code, 500);
        assert!(String::from_utf8_lossy(&answer.body).contains("internal_error"));
    }
}
