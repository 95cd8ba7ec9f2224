//! Owns: the record of what one request cost, made of its decision and its end, and counting it once.
//! Must not know: who keeps records; how an end was found.
//! On failure: without a keeper nothing is made; a keeper without room loses the record, counted.

use std::sync::atomic::Ordering::Relaxed;

use super::Engine;
use super::counted::Who;
use super::end::{LogEntry, Open};
use super::session::{BudgetNote, Session};
use crate::account::{Expected, Outcome, Settlement, Source, settle};
use crate::limit::Kind;
use crate::metrics::SettledAs;
use crate::policy::pb::ledger_record::Usage;
use crate::policy::pb::route::Operation;
use crate::policy::pb::{BudgetCharge, LedgerRecord, Trace};
use crate::policy::{BudgetPolicy, ModelPolicy, Snapshot};
use crate::price::cost_nanousd;
use crate::record::Record;
use crate::trace::TraceContext;
use crate::usage::TokenUse;

// === impl Open ===

impl Open {
    fn model(&self, at: Option<u32>) -> Option<&ModelPolicy> {
        at.and_then(|at| self.live.snapshot.models.get(at as usize))
    }

    pub(super) fn has_prices(&self) -> bool {
        self.model(self.model).is_some_and(|model| model.prices.is_some())
    }

    /// What that use costs at the model that served; `None`: it has no price.
    pub(super) fn cost(&self, used: &TokenUse) -> Option<u64> {
        self.model(self.model)?.prices.as_ref().map(|prices| cost_or_nothing(prices, used))
    }

    /// What the model that was asked for would have cost more.
    fn saved_by_routing(&self, used: &TokenUse, nanousd: Option<u64>) -> u64 {
        if self.named == self.model {
            return 0;
        }
        let asked = self.model(self.named).and_then(|m| m.prices.as_ref());
        match (asked, nanousd) {
            (Some(prices), Some(paid)) => cost_or_nothing(prices, used).saturating_sub(paid),
            _ => 0,
        }
    }
}

/// A request that used nothing costs nothing, also where each request has a price.
pub(super) fn cost_or_nothing(prices: &crate::price::Prices, used: &TokenUse) -> u64 {
    if *used == TokenUse::default() { 0 } else { cost_nanousd(prices, used) }
}

// === impl Engine ===

impl Engine {
    /// Counts a forwarded request. Counters only grow, so only when nothing can correct it any more.
    pub(super) fn count_settled(
        &self,
        open: &Open,
        entry: &LogEntry<'_>,
        settlement: &Settlement,
        nanousd: Option<u64>,
    ) {
        self.metrics.settled(&settled_as(&open.record, entry, settlement, nanousd));
        let saved = open.saved_by_routing(&settlement.used, nanousd);
        if saved > 0 {
            self.metrics.counters.saved_by_routing_nanousd.fetch_add(saved, Relaxed);
        }
    }

    /// Records a forwarded request. A later record of it takes the place of an earlier one.
    pub(super) fn write_record(
        &self,
        open: &Open,
        entry: &LogEntry<'_>,
        settlement: &Settlement,
        nanousd: Option<u64>,
    ) {
        let record = &open.record;
        let Some(outbox) = self.outbox.get() else { return };
        let saved = open.saved_by_routing(&settlement.used, nanousd);
        let mut written = self.written(record, settlement, nanousd);
        ended(&mut written, entry);
        written.saved_by_routing_nanousd = saved;
        written.price_revision =
            open.model(open.model).map_or_else(String::new, |m| m.price_revision.to_string());
        written.charges = match open.taken_for_tensors() {
            Some(taken) => taken.charges(settlement),
            None => charges(&open.charges, settlement, nanousd),
        };
        if let Some(batch) = &open.batch {
            written.saved_by_cache_nanousd = batch.saved_nanousd;
        }
        written.trace = open.tracing.map(traced);
        outbox.push(&written);
    }

    /// Records a request that we answered ourselves. A stranger's is none: nobody could be charged for it.
    pub(super) fn write_answered(&self, session: &Session, outcome: Outcome, saved_nanousd: u64) {
        let record = &session.record;
        let settlement = Settlement { outcome, ..Settlement::default() };
        self.metrics.answered(record, outcome);
        let Some(outbox) = self.outbox.get().filter(|_| !record.tenant.is_empty()) else { return };
        let mut written = self.written(record, &settlement, Some(0));
        written.saved_by_cache_nanousd = saved_nanousd;
        written.status = u32::from(record.status);
        if outcome == Outcome::Refused {
            record.outcome.clone_into(&mut written.code);
        }
        written.duration_ns = record.total_ns();
        written.trace = session.tracing.map(traced);
        outbox.push(&written);
    }

    /// Settles a request that another process decided, out of what it left in the metadata. What it reserved died with
    /// it; here only the books are kept.
    pub fn logged_foreign<'a>(
        &self,
        id: u128,
        entry: &LogEntry<'_>,
        note: &dyn Fn(&str) -> Option<&'a str>,
        unix_ns: u64,
    ) {
        let text = |key: &str| note(key).unwrap_or_default();
        if text("owner") == &*self.owner {
            // Ours, and settled before.
            self.metrics.counters.settled_twice.fetch_add(1, Relaxed);
            return;
        }
        self.metrics.counters.settled_foreign.fetch_add(1, Relaxed);
        let live = self.live.load_full();
        let snapshot = &live.snapshot;
        let number = |key: &str| text(key).parse::<u64>().unwrap_or_default();
        let operation = snapshot.route_named(text("route")).map(|route| route.operation);
        let operation = operation.unwrap_or(Operation::Unspecified);
        let record = Record {
            id,
            unix_ns: if entry.started_unix_ns > 0 { entry.started_unix_ns } else { unix_ns },
            policy: snapshot.revision.clone(),
            route: text("route").into(),
            key: text("key").into(),
            tenant: text("tenant").into(),
            user: text("user").into(),
            feature: text("feature").into(),
            run: text("run").into(),
            eval: text("eval").into(),
            operation: super::head::operation_name(operation),
            stream: text("stream") == "1",
            model: text("model").into(),
            pool: text("pool").into(),
            provider: text("provider").into(),
            outcome: "forward",
            reason: "decided by a process that is gone",
            prompt_tokens: number("prompt_tokens"),
            reserved_nanousd: number("reserved_nanousd"),
            ..Record::default()
        };
        let model = snapshot.model_named(&record.model).and_then(|at| snapshot.models.get(at as usize));
        let expected = Expected {
            prompt_tokens: record.prompt_tokens,
            exact: false,
            // What was decided by headers alone was not counted, so nothing of it can be estimated.
            output_cap_tokens: match operation {
                Operation::Embedding | Operation::Kserve | Operation::Forward => 0,
                _ => u64::MAX,
            },
            stream: record.stream,
        };
        let told = self.told(operation, entry);
        let settlement = settle(&expected, &entry.ending(), told, &self.calibrations.of(&record.model));
        let prices = model.and_then(|m| m.prices.as_ref());
        let nanousd = prices.map(|prices| cost_or_nothing(prices, &settlement.used));
        self.metrics.settled(&settled_as(&record, entry, &settlement, nanousd));
        let Some(outbox) = self.outbox.get() else { return };
        let mut written = self.written(&record, &settlement, nanousd);
        text("owner").clone_into(&mut written.owner);
        text("price_revision").clone_into(&mut written.price_revision);
        ended(&mut written, entry);
        if model.is_some() {
            written.charges = charges(&foreign_notes(snapshot, &record), &settlement, nanousd);
        }
        outbox.push(&written);
    }

    fn written(&self, record: &Record, settlement: &Settlement, nanousd: Option<u64>) -> LedgerRecord {
        let Settlement { outcome, used, source } = *settlement;
        let batch = record.batch.unwrap_or_default();
        let stages = record.stage_ns.iter().rposition(|ns| *ns > 0).map_or(0, |last| last + 1);
        LedgerRecord {
            id: record.id.to_be_bytes().to_vec(),
            unix_ns: record.unix_ns,
            tenant: record.tenant.to_string(),
            user: record.user.to_string(),
            key: record.key.to_string(),
            feature: record.feature.to_string(),
            run: record.run.to_string(),
            eval: record.eval.to_string(),
            route: record.route.to_string(),
            operation: record.operation.to_owned(),
            model_asked: record.asked.clone(),
            model: record.model.to_string(),
            pool: record.pool.to_string(),
            provider: record.provider.to_string(),
            reason: record.reason.to_owned(),
            outcome: outcome.name().to_owned(),
            cache: record.cache.name().to_owned(),
            stream: record.stream,
            usage: match source {
                Source::Nothing => Usage::None,
                Source::Exact => Usage::Exact,
                Source::Estimated => Usage::Estimated,
            } as i32,
            prompt_tokens: used.prompt,
            cached_prompt_tokens: used.cached,
            cache_write_tokens: used.cache_write,
            output_tokens: used.output,
            reasoning_tokens: used.reasoning,
            cost_known: nanousd.is_some(),
            cost_nanousd: nanousd.unwrap_or_default(),
            reserved_nanousd: record.reserved_nanousd,
            reserved_tokens: record.bound_tokens,
            stage_ns: record.stage_ns.get(..stages).unwrap_or_default().to_vec(),
            code: batch.code.to_owned(),
            queue_ns: batch.queue_ns,
            rows: batch.rows,
            batch_rows: batch.batch_rows,
            tensor_tokens: batch.tokens,
            padded_tokens: batch.padded_tokens,
            service_ns: batch.service_ns,
            policy: record.policy.to_string(),
            owner: self.owner.to_string(),
            ..LedgerRecord::default()
        }
    }
}

fn settled_as<'a>(
    record: &'a Record,
    entry: &LogEntry<'_>,
    settlement: &'a Settlement,
    nanousd: Option<u64>,
) -> SettledAs<'a> {
    SettledAs {
        record,
        settlement,
        nanousd,
        status: entry.end.status,
        duration_ns: entry.end.duration_ns,
        first_byte_ns: entry.end.first_byte_ns,
        first_token_ns: entry.first_token_ns,
    }
}

fn ended(written: &mut LedgerRecord, entry: &LogEntry<'_>) {
    written.status = u32::from(entry.end.status);
    written.first_byte_ns = entry.end.first_byte_ns;
    written.first_token_ns = entry.first_token_ns;
    written.last_byte_ns = entry.last_byte_ns;
    written.duration_ns = entry.end.duration_ns;
    written.attempts = entry.end.attempts;
    if entry.endpoint.port > 0 {
        written.endpoint = format!("{}:{}", entry.endpoint.host, entry.endpoint.port);
    }
}

fn charges(notes: &[BudgetNote], settlement: &Settlement, nanousd: Option<u64>) -> Vec<BudgetCharge> {
    let tokens = settlement.used.total();
    notes
        .iter()
        .map(|note| BudgetCharge {
            budget: note.budget.to_string(),
            value: note.value.to_string(),
            period_start_s: note.period_start_s,
            amount: if note.kind == Kind::Money { nanousd.unwrap_or_default() } else { tokens },
        })
        .collect()
}

fn traced(context: TraceContext) -> Trace {
    Trace {
        trace_id: context.trace_id.to_be_bytes().to_vec(),
        span_id: context.span_id.to_be_bytes().to_vec(),
        parent_span_id: if context.parent_span_id == 0 {
            Vec::new()
        } else {
            context.parent_span_id.to_be_bytes().to_vec()
        },
        sampled: context.sampled,
    }
}

/// The budgets of the policy in force that count such a request.
fn foreign_notes(snapshot: &Snapshot, record: &Record) -> Vec<BudgetNote> {
    let key = snapshot.key_by_id(&record.key).and_then(|at| snapshot.key(at));
    let tier = key.map_or("", |k| &*k.tier);
    let counts = |budget: &&BudgetPolicy| {
        budget.matches.caller(&record.tenant, tier, &record.key, &record.feature)
            && budget.matches.model(&record.model)
    };
    let who = Who {
        tenant: &record.tenant,
        key: &record.key,
        user: &record.user,
        feature: &record.feature,
        run: &record.run,
        eval: &record.eval,
        tier,
        model: &record.model,
        pool: &record.pool,
        provider: &record.provider,
        // It is not in the metadata.
        address: None,
    };
    let note = |budget: &BudgetPolicy| {
        Some(BudgetNote {
            budget: budget.name.clone(),
            value: who.under(budget.limit.scope)?.name().into(),
            period_start_s: budget.calendar.period_at(record.unix_ns).start_s,
            kind: budget.limit.kind,
        })
    };
    snapshot.budgets.iter().filter(counts).filter_map(note).collect()
}
