//! Owns: one copied response on its way into the cache, and telling those who follow it.
//! Must not know: how the copy arrives.
//! On failure: nothing is kept and the followers are freed; the client of the response notices nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Engine;
use super::live::CacheRuntime;
use super::recall::Fill;
use crate::answer::{BodyEnd, CollectLimits, Collector, Expect, NotStorable, ResponseHead};
use crate::cache::{Entry, StoreOutcome, Streams};

/// The largest event of a captured stream.
const MAX_EVENT_BYTES: usize = 1 << 20;
/// A stream is this much larger than the answer that it tells, at most.
const STREAM_FACTOR: u64 = 64;

/// A response that is being copied.
#[derive(Debug)]
pub struct Capture {
    cache: Arc<CacheRuntime>,
    fill: Fill,
    labels: Labels,
    collector: Option<Collector>,
}

#[derive(Debug)]
struct Labels {
    tenant: Arc<str>,
    model: Arc<str>,
    revision: Arc<str>,
    tags: Arc<[Arc<str>]>,
    ttl_ns: u64,
}

// === impl Engine ===

impl Engine {
    /// Begins the copy of the response of `id`, if decide asked for it and nobody began it before.
    pub fn capture(&self, id: u128) -> Option<Capture> {
        let (fill, live, model, feature, tenant) = self.open.amend(id, |reservation| {
            let open = &mut reservation.owner;
            let fill = open.fill.take()?;
            Some((
                fill,
                open.live.clone(),
                open.record.model.clone(),
                open.feature,
                open.record.tenant.clone(),
            ))
        })??;
        let cache = live.cache.clone()?;
        let policy = live.snapshot.model_named(&model).and_then(|m| live.snapshot.models.get(m as usize))?;
        let feature = live.snapshot.features.get(feature as usize)?;
        let tags = feature.tags.iter().chain(&policy.tags).cloned().collect();
        Some(Capture {
            labels: Labels { tenant, model, revision: policy.revision.clone(), tags, ttl_ns: feature.ttl_ns },
            cache,
            fill,
            collector: None,
        })
    }

    /// Ends a copy. A complete answer is kept and given to those who follow.
    pub fn captured(&self, capture: Capture, end: BodyEnd, now_ns: u64) -> Result<StoreOutcome, NotStorable> {
        let result = capture.end(end, now_ns);
        let counter = match &result {
            Ok(StoreOutcome::Stored | StoreOutcome::Replaced) => &self.metrics.counters.cache_stored,
            _ => &self.metrics.counters.cache_rejected,
        };
        counter.fetch_add(1, Relaxed);
        result
    }

    /// Removes answers: of a tag, of a model (and revision), of a tenant, or all.
    pub fn invalidate(&self, selector: &crate::cache::Selector) -> u64 {
        self.live.load().cache.as_ref().map_or(0, |c| c.exact.invalidate(selector))
    }
}

// === impl Capture ===

impl Capture {
    /// The response's head.
    pub fn head(&mut self, head: &ResponseHead<'_>) {
        let limits = CollectLimits {
            max_answer_bytes: self.cache.policy.capture_max_bytes as usize,
            max_event_bytes: MAX_EVENT_BYTES,
            max_stream_bytes: self.cache.policy.capture_max_bytes.saturating_mul(STREAM_FACTOR),
        };
        let expect = Expect { kind: self.fill.kind, items: self.fill.items };
        self.collector = Some(Collector::new(expect, head, limits, &self.cache.budget));
    }

    /// The next bytes of its body.
    pub fn body(&mut self, chunk: &[u8]) {
        if let Some(collector) = &mut self.collector {
            collector.push(chunk);
        }
    }

    fn end(self, end: BodyEnd, now_ns: u64) -> Result<StoreOutcome, NotStorable> {
        let Self { cache, mut fill, labels, collector } = self;
        fill.ends_at(now_ns);
        let answer = collector.ok_or(NotStorable::Cut)?.finish(end)?;
        let entry = Entry {
            body: answer.body,
            kind: answer.kind,
            tenant: labels.tenant,
            model: labels.model,
            revision: labels.revision,
            tags: labels.tags,
            usage: answer.usage,
            stored_ns: now_ns,
            expires_ns: now_ns.saturating_add(labels.ttl_ns),
            streams: Streams::default(),
        };
        let (outcome, entry) = cache.exact.store(fill.key, entry, fill.ticket, now_ns);
        if outcome.may_be_shared()
            && let Some(aboard) = fill.aboard.take()
        {
            for wake in cache.flights.complete(&aboard.key, aboard.id, &entry) {
                (wake.waiter)(wake.outcome);
            }
        }
        Ok(outcome)
    }
}
