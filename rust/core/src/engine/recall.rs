//! Owns: asking the exact cache and joining a request in flight, and the words for how a follower's wait ended.
//! Must not know: how one waits.
//! On failure: a miss; the request is decided as if there were no cache.

use std::borrow::Cow;
use std::sync::atomic::Ordering::Relaxed;

use super::session::{Aboard, Session};
use super::{Answer, Clock, Engine};
use crate::answer::{AnswerKind, StreamUsage};
use crate::cache::{CacheKey, Entry, FillTicket};
use crate::flight::{Join, Outcome};
use crate::key::Identity;
use crate::names;
use crate::policy::pb::route::Operation;
use crate::price::cost_nanousd;
use crate::record::{CacheState, Stage};
use crate::request::Asked;
use crate::usage::TokenUse;

/// How a follower's wait ended.
pub type FollowOutcome = Outcome;
/// What a follower leaves to be told how its wait ended. Called at most once, outside any lock.
pub type Waiter = Box<dyn FnOnce(FollowOutcome) + Send>;

/// A fill that a miss began.
#[derive(Debug)]
pub(super) struct Fill {
    pub key: CacheKey,
    pub ticket: FillTicket,
    pub kind: AnswerKind,
    pub items: Option<u32>,
    pub aboard: Option<Aboard>,
}

/// What the cache said.
#[derive(Debug)]
pub(super) enum Recall {
    Answer(Answer),
    /// Ask upstream; keep the answer if there is a fill
    Ask(Option<Fill>),
    /// Wait for the equal request in flight, until this time
    Follow {
        until_ns: u64,
    },
}

// === impl Fill ===

impl Fill {
    /// Who leads after a failure has its time from now on.
    pub fn ends_at(&mut self, now_ns: u64) {
        if let Some(aboard) = &mut self.aboard {
            aboard.now_ns = now_ns;
        }
    }
}

// === impl Engine ===

impl Engine {
    /// Asks the cache about a request for the model at `model`.
    pub(super) fn recall(
        &self,
        session: &mut Session,
        asked: &Asked<'_>,
        model: u32,
        output_tokens: Option<u64>,
        waiter: &mut dyn FnMut() -> Waiter,
        clock: &impl Clock,
    ) -> Recall {
        let live = session.live.clone();
        let (Some(cache), Some(feature), Some(policy)) = (
            live.cache.as_ref(),
            live.snapshot.features.get(session.caller.feature as usize),
            live.snapshot.models.get(model as usize),
        ) else {
            session.note(Stage::Recall, || "no cache in this policy".into());
            return Recall::Ask(None);
        };
        let reason = if matches!(asked.operation, Operation::Responses | Operation::Messages) {
            Some("answers of this operation are not kept")
        } else if !feature.cached {
            Some("the feature is not cached")
        } else if session.cache_control.no_store {
            Some("the request says no-store")
        } else if asked.stateful {
            Some("the request is stateful")
        } else if feature.per_user && session.caller.user.is_empty() {
            Some("the feature shares by user and the request has none")
        } else if asked.sampled && !feature.sampled {
            Some("the temperature is above 0 and the feature does not share sampled answers")
        } else {
            None
        };
        if let Some(reason) = reason {
            session.note(Stage::Recall, || reason.to_owned());
            return Recall::Ask(None);
        }
        // Before the look-up, so that no invalidation falls between the two.
        let ticket = cache.exact.begin_fill();
        let key = self.secret.cache_key(
            &Identity {
                tenant: &session.record.tenant,
                user: feature.per_user.then_some(&*session.caller.user),
                feature: &feature.name,
                model: &policy.name,
                revision: &policy.revision,
            },
            asked,
            output_tokens,
        );
        session.mark(Stage::Key, clock);
        let now_ns = clock.now_ns();
        // A wait for a request of another model, tried after this one before, says nothing about this one's answer.
        if session.aboard.as_ref().is_some_and(|a| a.key != key) {
            session.aboard = None;
            session.followed = Some(Outcome::GoAlone);
        }
        if let Some(Outcome::Answered(entry)) =
            session.followed.take_if(|f| matches!(f, Outcome::Answered(_)))
        {
            session.aboard = None;
            if let Some(answer) = self.serve_entry(session, asked, &key, &entry, CacheState::Follow, clock) {
                return Recall::Answer(answer);
            }
        }
        if !session.cache_control.no_cache {
            let max_age_ns = session.cache_control.max_age_s.map(|s| s.saturating_mul(1_000_000_000));
            if let Some(entry) = cache.exact.lookup(&key, now_ns, max_age_ns)
                && let Some(answer) = self.serve_entry(session, asked, &key, &entry, CacheState::Hit, clock)
            {
                return Recall::Answer(answer);
            }
        }
        session.record.cache = CacheState::Miss;
        if !feature.kept {
            session.mark(Stage::Recall, clock);
            session.note(Stage::Recall, || "not in the cache, and the feature keeps nothing".into());
            return Recall::Ask(None);
        }
        let aboard = |now_ns| Aboard { cache: cache.clone(), key, id: session.record.id, now_ns };
        let boarded = match session.followed.take() {
            // Promoted: it is aboard already, as the leader.
            Some(Outcome::Lead) => session.aboard.take(),
            Some(_) => None,
            // A revalidation must not be answered by a request that began before it.
            None if session.cache_control != crate::request::CacheControl::default() => None,
            None if asked.stream => match cache.flights.lead(key, session.record.id, now_ns) {
                Join::Lead => Some(aboard(now_ns)),
                _ => None,
            },
            None => {
                let until_ns = now_ns.saturating_add(cache.policy.follow_ns);
                match cache.flights.join(key, session.record.id, now_ns, until_ns, waiter) {
                    Join::Lead => Some(aboard(now_ns)),
                    Join::Follow => {
                        session.aboard = Some(aboard(now_ns));
                        session.mark(Stage::Recall, clock);
                        session.note(Stage::Recall, || "an equal request is in flight: follow it".into());
                        return Recall::Follow { until_ns };
                    }
                    Join::Full => None,
                }
            }
        };
        session.mark(Stage::Recall, clock);
        session.note(Stage::Recall, || match &boarded {
            Some(_) => "not in the cache; this request leads".into(),
            None => "not in the cache".into(),
        });
        Recall::Ask(Some(Fill {
            key,
            ticket,
            kind: match asked.operation {
                Operation::ChatCompletions => AnswerKind::Chat,
                Operation::TextCompletions => AnswerKind::Completion,
                _ => AnswerKind::Embedding,
            },
            items: match asked.operation {
                Operation::ChatCompletions => u32::try_from(asked.choices).ok(),
                _ => None,
            },
            aboard: boarded,
        }))
    }

    /// The entry as an answer; `None` where it cannot be said in the form that was asked for.
    fn serve_entry(
        &self,
        session: &mut Session,
        asked: &Asked<'_>,
        key: &CacheKey,
        entry: &std::sync::Arc<Entry>,
        state: CacheState,
        clock: &impl Clock,
    ) -> Option<Answer> {
        let live = session.live.clone();
        let cache = live.cache.as_ref()?;
        let mut answer = if asked.stream {
            let usage = if asked.include_usage { StreamUsage::Include } else { StreamUsage::Omit };
            let body = cache.exact.stream(key, entry, usage).ok()?;
            let mut answer = Answer::json(session.id(), 200, body);
            if let Some((_, value)) = answer.headers.first_mut() {
                *value = Cow::Borrowed("text/event-stream");
            }
            answer
        } else {
            Answer::json(session.id(), 200, entry.body.clone())
        };
        session.record.cache = state;
        session.record.model = entry.model.clone();
        answer.headers.push((names::CACHE, Cow::Borrowed(state.name())));
        answer.headers.push((names::MODEL, Cow::Owned(entry.model.to_string())));
        let age_s = clock.now_ns().saturating_sub(entry.stored_ns) / 1_000_000_000;
        answer.headers.push(("age", Cow::Owned(age_s.to_string())));
        session.saved_nanousd = self.count_saved(&live.snapshot, entry);
        session.mark(Stage::Recall, clock);
        session.note(Stage::Recall, || format!("answered from the cache, {age_s} s old"));
        Some(answer)
    }

    /// Counts what the answer would have used again, and gives what that would have cost.
    pub(super) fn count_saved(&self, snapshot: &crate::policy::Snapshot, entry: &Entry) -> u64 {
        let Some(usage) = entry.usage else { return 0 };
        let used =
            TokenUse { prompt: usage.prompt_tokens, output: usage.completion_tokens, ..TokenUse::default() };
        self.metrics.counters.saved_tokens.fetch_add(used.total(), Relaxed);
        let model = snapshot.model_named(&entry.model).and_then(|m| snapshot.models.get(m as usize));
        let saved = model.and_then(|m| m.prices.as_ref()).map_or(0, |prices| cost_nanousd(prices, &used));
        self.metrics.counters.saved_nanousd.fetch_add(saved, Relaxed);
        saved
    }
}
