//! Owns: the stages on a body, in their order: read, authorise, limit, resolve, recall, count, place, reserve, shape.
//! Must not know: how a body arrived, how a stage of a person is run.
//! On failure: closed; the first stage that fails names the refusal, and the session gives back what was taken.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::place::{Onward, full_status};
use super::recall::{Fill, FollowOutcome, Recall, Waiter};
use super::session::Session;
use super::take::{Part, Placed, Short};
use super::{Answer, Clock, Engine, Forward};
use crate::account::Outcome;
use crate::json::{Bounds, Document};
use crate::policy::pb::model::Capability;
use crate::policy::pb::resolve::OnFailure;
use crate::policy::pb::route::{Operation, WhenFull};
use crate::policy::{ModelPolicy, ResolvePolicy, WhenExhausted};
use crate::pool::NoPlace;
use crate::price::bound_nanousd;
use crate::record::{CacheState, Stage};
use crate::refusal::Refusal;
use crate::request::{Asked, Shape, UsageOption, shape};
use crate::tokens::{Count, count_chat, count_messages, count_prompt, count_responses};

/// What follows from the body.
#[derive(Debug)]
pub enum BodyStep {
    /// Answered by us
    Answer(Answer),
    /// On to the upstream
    Forward(Forward),
    /// Ask the person's stage, tell the session ([`Session::resolved`]), and call again with the same body
    Resolve(StageCall),
    /// Wait for the waiter to be called or for this time, tell the session ([`Session::followed`]), and call again
    Follow {
        /// The end of the wait, on the engine's clock
        until_ns: u64,
    },
    /// Wait for the waiter to be called or for this time, and call again: a budget's lease is on its way
    Lease {
        /// The end of the wait, on the engine's clock
        until_ns: u64,
    },
}

/// What a person's stage is asked, and how.
#[derive(Debug, Clone)]
pub struct StageCall {
    /// `package.module:function`
    pub target: Arc<str>,
    /// How long it may take
    pub deadline_ns: u64,
    /// Requests in one call
    pub max_batch: usize,
    /// Requests that may wait
    pub max_waiting: usize,
    /// The request's view: who, what for, which model it named
    pub view: StageView,
}

/// A request as a person's stage sees it. The body itself is passed beside it.
#[derive(Debug, Clone)]
pub struct StageView {
    /// The model as it was named
    pub model: String,
    /// The route
    pub route: Arc<str>,
    /// The tenant
    pub tenant: Arc<str>,
    /// The user; empty: none
    pub user: Arc<str>,
    /// The feature; empty: none
    pub feature: Arc<str>,
    /// Class of service; empty: none
    pub tier: Arc<str>,
    /// Tools are offered
    pub tools: bool,
    /// Images are sent
    pub vision: bool,
    /// JSON is demanded
    pub json: bool,
    /// A stream is asked for
    pub stream: bool,
}

/// What a person's stage answered.
#[derive(Debug, Clone)]
pub enum Resolution {
    /// This model, for this reason
    Model {
        /// A name or alias of the policy
        model: String,
        /// Any words, for the record's trace
        reason: String,
    },
    /// It was slow, failing or absent
    Failed(&'static str),
}

// === impl Engine ===

impl Engine {
    /// Decides on the whole body. `waiter` makes what a follower is told through; it is called only when needed.
    ///
    /// After [`BodyStep::Resolve`] and [`BodyStep::Follow`] it is called again with the same body; the stages before
    /// are passed over or give the same result.
    pub fn body(
        &self,
        session: &mut Session,
        body: &[u8],
        waiter: &mut dyn FnMut() -> Waiter,
        clock: &impl Clock,
    ) -> BodyStep {
        session.wake(clock);
        match self.decide(session, body, waiter, clock) {
            Ok(BodyStep::Answer(answer)) => {
                let reason = session.record.cache.name();
                BodyStep::Answer(self.answered(session, answer, reason, clock))
            }
            Ok(step) => step,
            Err(refusal) => BodyStep::Answer(self.refuse(session, &refusal)),
        }
    }

    fn decide(
        &self,
        session: &mut Session,
        body: &[u8],
        waiter: &mut dyn FnMut() -> Waiter,
        clock: &impl Clock,
    ) -> Result<BodyStep, Refusal> {
        let live = session.live.clone();
        let snapshot = &live.snapshot;
        let route = snapshot.routes.get(session.route as usize).ok_or(Refusal::Internal)?;
        if body.len() as u64 > snapshot.timing.max_body_bytes {
            return Err(Refusal::TooLarge { limit_bytes: snapshot.timing.max_body_bytes });
        }
        let bounds = Bounds { depth: snapshot.timing.max_json_depth, ..Bounds::default() };
        let document = Document::parse(body, bounds).map_err(|e| Refusal::Json(e.to_string()))?;
        let asked = Asked::read(document, route.operation)?;
        session.record.asked.clone_from(&asked.model);
        session.record.stream = asked.stream;
        session.mark(Stage::Read, clock);
        session.note(Stage::Read, || format!("{} bytes ask `{}`", body.len(), asked.model));

        // A name that only the person's stage understands is not looked up before it.
        let named = match (snapshot.model_named(&asked.model), &route.resolve) {
            (Some(at), _) => {
                self.authorise(session, at)?;
                Some(at)
            }
            (None, Some(_)) => None,
            (None, None) => return Err(Refusal::UnknownModel(asked.model.clone())),
        };
        session.named = named;
        session.mark(Stage::Authorise, clock);
        session.note(Stage::Authorise, || match named {
            Some(_) => format!("the key may use `{}`", asked.model),
            None => format!("`{}` is for the stage to name", asked.model),
        });
        self.take_caller_limits(session, clock)?;

        let model = match (&route.resolve, session.resolution.take()) {
            (None, _) => named.ok_or_else(|| Refusal::UnknownModel(asked.model.clone()))?,
            (Some(resolve), None) => {
                return Ok(BodyStep::Resolve(self.stage_call(session, resolve, &asked)));
            }
            (Some(resolve), Some(resolution)) => {
                let model = self.resolve(session, resolve, &resolution, named)?;
                session.resolution = Some(resolution);
                model
            }
        };
        session.mark(Stage::Resolve, clock);

        let mut last: Option<NoPlace> = None;
        let mut spent: Option<Refusal> = None;
        let mut candidates = Candidates::of(model);
        while let Some(at) = candidates.next() {
            let Some(policy) = snapshot.models.get(at as usize) else { continue };
            let is_first = candidates.is_first();
            if is_first {
                capable(policy, &asked)?;
            } else {
                if self.authorise(session, at).and_then(|()| capable(policy, &asked)).is_err() {
                    continue;
                }
                session.record.reason = match (&spent, last) {
                    (Some(_), _) => "a budget had no room for the model before",
                    (None, Some(NoPlace::Full)) => "the model before was full",
                    (None, _) => "no pool of the model before was healthy",
                };
                // The answer would be another one's: whoever follows is freed.
                session.aboard = None;
            }
            session.record.model = policy.name.clone();
            match self.try_model(session, &asked, at, waiter, clock) {
                Ok(step) => return Ok(step),
                Err(Stop::Lease) => return Ok(BodyStep::Lease { until_ns: session.lease_until_ns }),
                Err(Stop::NoPlace(no)) => {
                    // One that is full may come free, whatever the others are.
                    last = if last == Some(NoPlace::Full) { last } else { Some(no) };
                    if route.when_full == WhenFull::NextModel {
                        candidates.add(&route.next_models);
                    }
                }
                Err(Stop::Refuse(refusal)) => match &refusal {
                    Refusal::Budget { name, .. } => {
                        let budget = snapshot.budgets.iter().find(|b| *b.name == **name);
                        if let Some(budget) = budget.filter(|b| b.when_exhausted == WhenExhausted::NextModel)
                        {
                            candidates.add(&budget.next_models);
                        }
                        spent.get_or_insert(refusal);
                    }
                    // A full table is full for every model, and what was taken for the request is given back already.
                    Refusal::Overloaded => return Err(refusal),
                    _ if is_first => return Err(refusal),
                    _ => {}
                },
            }
        }
        if let Some(spent) = spent {
            return Err(spent);
        }
        let name = snapshot.models.get(model as usize).map_or("", |m| &*m.name).to_owned();
        Err(match last {
            Some(NoPlace::Full) => Refusal::PoolFull { model: name, status: full_status(route.when_full) },
            _ => Refusal::NoPool(name),
        })
    }

    /// Everything that depends on the model: recall, count, place, reserve, shape.
    fn try_model(
        &self,
        session: &mut Session,
        asked: &Asked<'_>,
        at: u32,
        waiter: &mut dyn FnMut() -> Waiter,
        clock: &impl Clock,
    ) -> Result<BodyStep, Stop> {
        let live = session.live.clone();
        let model = live.snapshot.models.get(at as usize).ok_or(Refusal::Internal)?;
        let feature = live.snapshot.features.get(session.caller.feature as usize);
        let cap = output_cap(asked, model.max_output_tokens, feature.map_or(0, |f| f.max_output_tokens));
        let fill = match self.recall(session, asked, at, cap, waiter, clock) {
            Recall::Answer(answer) => return Ok(BodyStep::Answer(answer)),
            Recall::Follow { until_ns } => return Ok(BodyStep::Follow { until_ns }),
            Recall::Ask(fill) => fill,
        };
        let count = match asked.operation {
            Operation::ChatCompletions => count_chat(&model.rules, Some(&self.memo), &asked.document),
            Operation::TextCompletions => count_field(model, &self.memo, asked, "prompt"),
            Operation::Responses => count_responses(&model.rules, Some(&self.memo), &asked.document),
            Operation::Messages => count_messages(&model.rules, Some(&self.memo), &asked.document),
            _ => count_field(model, &self.memo, asked, "input"),
        };
        session.record.prompt_tokens = count.tokens;
        session.record.exact = count.exact;
        let cap = fit_window(model, asked, cap, count.tokens)?;
        let prompt_bound = count.tokens.saturating_add(count.margin_tokens);
        let output_bound = cap.unwrap_or(0).saturating_mul(asked.choices);
        let bound = prompt_bound.saturating_add(output_bound);
        let is_embedding = asked.operation == Operation::Embedding;
        let is_bounded = is_embedding || cap.is_some();
        let bound_nanousd = model.prices.as_ref().map(|p| bound_nanousd(p, prompt_bound, output_bound));
        session.record.output_cap_tokens = if is_bounded { output_bound } else { u64::MAX };
        session.record.bound_tokens = bound;
        session.record.reserved_nanousd = bound_nanousd.unwrap_or_default();
        session.mark(Stage::Count, clock);
        session.note(Stage::Count, || {
            let how = if count.exact { "exactly" } else { "by estimate" };
            format!("{} prompt tokens {how}, margin {}, bound {bound}", count.tokens, count.margin_tokens)
        });
        let (lease, pool) =
            self.place(session, asked.operation, model, bound, clock).map_err(Stop::NoPlace)?;
        let unbounded = if is_bounded {
            asked.uncounted
        } else {
            Some("nothing bounds the output; send a bound of your own")
        };
        let placed =
            Placed { part: Part::All, model: Some(at), pool, bound_tokens: bound, bound_nanousd, unbounded };
        if let Err(short) = self.take_placed_limits(session, &placed, waiter, clock) {
            if let Short::Lease = short {
                stay_aboard(session, fill);
            }
            return Err(short.into());
        }
        if session.is_soft {
            self.metrics.counters.budget_soft.fetch_add(1, Relaxed);
        }
        let output_tokens = if is_embedding { None } else { cap };
        let usage = if live.snapshot.accounts() { UsageOption::Ask } else { UsageOption::Leave };
        let shaped = shape(asked, Shape { model: &model.upstream_name, output_tokens, usage });
        let onward = Onward {
            body: shaped.body,
            drop_usage: shaped.drop_usage,
            fill,
            buffered: true,
            model: Some(at),
            price_revision: model.price_revision.clone(),
        };
        let forward = self.forward(session, lease, onward, clock)?;
        let counters = &self.metrics.counters;
        counters.prompt_tokens.fetch_add(count.tokens, Relaxed);
        counters.bound_tokens.fetch_add(bound, Relaxed);
        Ok(BodyStep::Forward(forward))
    }

    fn authorise(&self, session: &Session, model: u32) -> Result<(), Refusal> {
        let allowed = session.key().is_some_and(|k| k.models.allows(model));
        if allowed {
            return Ok(());
        }
        let name = session.live.snapshot.models.get(model as usize).map_or("", |m| &*m.name);
        Err(Refusal::ModelForbidden(name.to_owned()))
    }

    fn stage_call(&self, session: &Session, resolve: &ResolvePolicy, asked: &Asked<'_>) -> StageCall {
        StageCall {
            target: resolve.target.clone(),
            deadline_ns: resolve.deadline_ns,
            max_batch: resolve.max_batch,
            max_waiting: resolve.max_waiting,
            view: StageView {
                model: asked.model.clone(),
                route: session.record.route.clone(),
                tenant: session.record.tenant.clone(),
                user: session.record.user.clone(),
                feature: session.record.feature.clone(),
                tier: session.key().map(|k| k.tier.clone()).unwrap_or_default(),
                tools: asked.tools,
                vision: asked.vision,
                json: asked.json,
                stream: asked.stream,
            },
        }
    }

    fn resolve(
        &self,
        session: &mut Session,
        resolve: &ResolvePolicy,
        resolution: &Resolution,
        named: Option<u32>,
    ) -> Result<u32, Refusal> {
        let failure = match resolution {
            Resolution::Model { model, reason } => match session.live.snapshot.model_named(model) {
                Some(at) => {
                    self.authorise(session, at)?;
                    session.record.reason = "the stage named the model";
                    session
                        .note(Stage::Resolve, || format!("`{}` named `{model}`: {reason}", resolve.target));
                    return Ok(at);
                }
                None => "the stage named a model that does not exist",
            },
            Resolution::Failed(why) => why,
        };
        // A follower's decision passes here again with the same resolution.
        if session.record.reason != failure {
            self.metrics.counters.stage_failures.fetch_add(1, Relaxed);
        }
        session.record.reason = failure;
        session.note(Stage::Resolve, || format!("`{}` failed: {failure}", resolve.target));
        match resolve.on_failure {
            OnFailure::KeepModel => named.ok_or(Refusal::Stage),
            OnFailure::FallbackModel => {
                let at = resolve.fallback.ok_or(Refusal::Stage)?;
                self.authorise(session, at)?;
                Ok(at)
            }
            OnFailure::Refuse | OnFailure::Unspecified => Err(Refusal::Stage),
        }
    }

    /// Ends a session with an answer of ours.
    pub(super) fn answered(
        &self,
        session: &mut Session,
        mut answer: Answer,
        reason: &'static str,
        clock: &impl Clock,
    ) -> Answer {
        self.push_rate_headers(session, &mut answer, clock);
        session.taken.answered(clock.now_ns());
        session.record.outcome = "answer";
        session.record.reason = reason;
        session.record.status = answer.status;
        self.metrics.decided(&session.record);
        let outcome = match session.record.cache {
            CacheState::Hit => Outcome::Hit,
            CacheState::Follow => Outcome::Follow,
            CacheState::Miss | CacheState::Bypass => Outcome::Ok,
        };
        self.write_answered(session, outcome, session.saved_nanousd);
        self.records.push((*session.record).clone());
        answer
    }

    /// Ends a session with a refusal.
    pub(super) fn refuse(&self, session: &mut Session, refusal: &Refusal) -> Answer {
        session.aboard = None;
        let answer = Answer::refusal_in(session.errors, session.id(), refusal);
        session.record.outcome = refusal.code();
        session.record.status = answer.status;
        self.metrics.decided(&session.record);
        self.write_answered(session, Outcome::Refused, 0);
        self.records.push((*session.record).clone());
        answer
    }
}

/// The models that a request may have, in the order in which they are tried: the one that it is for, and others where
/// that one has no place or a budget no room.
struct Candidates {
    models: Vec<u32>,
    tried: usize,
}

// === impl Candidates ===

impl Candidates {
    fn of(model: u32) -> Self {
        Self { models: vec![model], tried: 0 }
    }

    fn next(&mut self) -> Option<u32> {
        let model = self.models.get(self.tried).copied()?;
        self.tried += 1;
        Some(model)
    }

    /// Whether the one that was given last is the one that the request is for.
    fn is_first(&self) -> bool {
        self.tried == 1
    }

    fn add(&mut self, models: &[u32]) {
        for model in models {
            if !self.models.contains(model) {
                self.models.push(*model);
            }
        }
    }
}

/// Why a model was not taken.
enum Stop {
    NoPlace(NoPlace),
    Refuse(Refusal),
    Lease,
}

impl From<Short> for Stop {
    fn from(short: Short) -> Self {
        match short {
            Short::Refuse(refusal) => Self::Refuse(refusal),
            Short::Lease => Self::Lease,
        }
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// Who leads a flight leads on while it waits for a lease: its followers wait on, instead of asking upstream each. Who
/// goes alone follows nobody afterwards either.
fn stay_aboard(session: &mut Session, fill: Option<Fill>) {
    let Some(fill) = fill else { return };
    session.followed = Some(if fill.aboard.is_some() { FollowOutcome::Lead } else { FollowOutcome::GoAlone });
    session.aboard = fill.aboard;
}

fn count_field(model: &ModelPolicy, memo: &crate::tokens::Memo, asked: &Asked<'_>, field: &str) -> Count {
    asked.document.get(field).map(|value| count_prompt(&model.rules, Some(memo), value)).unwrap_or_default()
}

fn capable(model: &ModelPolicy, asked: &Asked<'_>) -> Result<(), Refusal> {
    let (base, name) = match asked.operation {
        Operation::ChatCompletions => (Capability::Chat, "chat completions"),
        Operation::TextCompletions => (Capability::Completions, "text completions"),
        Operation::Responses => (Capability::Responses, "responses"),
        Operation::Messages => (Capability::Messages, "messages"),
        _ => (Capability::Embeddings, "embeddings"),
    };
    let needs = [
        (true, base, name),
        (asked.tools, Capability::Tools, "tools"),
        (asked.vision, Capability::Vision, "images"),
        (asked.json, Capability::Json, "a JSON response format"),
    ];
    for (needed, capability, what) in needs {
        if needed && !model.capabilities.has(capability) {
            return Err(Refusal::Incapable { model: model.name.to_string(), what });
        }
    }
    Ok(())
}

/// The smallest of what was asked, what the model and what the feature allow; `None`: nobody says.
fn output_cap(asked: &Asked<'_>, model: u64, feature: u64) -> Option<u64> {
    if asked.operation == Operation::Embedding {
        return None;
    }
    [asked.output_cap.map_or(0, |c| c.tokens), model, feature].into_iter().filter(|&t| t > 0).min()
}

/// Prompt and output must fit the window. A bound that the request did not ask for is lowered to fit.
fn fit_window(
    model: &ModelPolicy,
    asked: &Asked<'_>,
    cap: Option<u64>,
    prompt_tokens: u64,
) -> Result<Option<u64>, Refusal> {
    let window = model.context_window_tokens;
    // Many prompts in one request have a window each; their sum is no prompt.
    if window == 0 || asked.prompts > 1 {
        return Ok(cap);
    }
    let output = match asked.output_cap {
        _ if asked.operation == Operation::Embedding => 0,
        Some(_) => cap.unwrap_or(1),
        None => 1,
    };
    let needed = prompt_tokens.saturating_add(output);
    if needed > window {
        return Err(Refusal::Window {
            model: model.name.to_string(),
            asked_tokens: needed,
            window_tokens: window,
            prompt_tokens,
        });
    }
    Ok(cap.map(|c| c.min(window - prompt_tokens)))
}
