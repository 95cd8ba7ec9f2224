//! What requests take once their tensors are read, and how that is settled at every end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use parking_lot::Mutex;

use super::books::records_in;
use super::rig::{BudgetUnit as B, LimitScope as S, Rig, SECOND, Unit as U, budget, limit};
use super::tensors::{answered, failed, infer, ran, tensor_policy};
use crate::account::Outcome;
use crate::engine::{BatchEnded, BatchTake, FollowOutcome, LogEntry, Logged, Ran, TensorsUsed, Waiter};
use crate::record::RecordEnd;
use crate::refusal::Refusal;

#[test]
fn limits_are_taken_once_the_tensors_are_read() {
    let mut policy = tensor_policy();
    let mut of_model = limit("one-model", S::Tenant, U::Requests, 2);
    of_model.models = vec!["tensor".into()];
    policy.limits = vec![
        limit("tpm", S::Tenant, U::Tokens, 1_000),
        limit("model", S::Model, U::Concurrency, 2),
        limit("pool", S::Pool, U::Concurrency, 9),
        of_model,
        limit("rpm", S::Key, U::Requests, 9),
    ];
    let rig = Rig::new(&policy);
    let ids: Vec<u128> = (0..3).map(|_| rig.forward(&infer()).id).collect();
    assert_eq!((rig.left("rpm", "acme"), rig.left("pool", "triton")), (6, 6), "taken by headers");
    assert_eq!((rig.left("tpm", "acme"), rig.left("model", "tensor")), (1_000, 2), "not yet");
    rig.taken(ids[0], "tensor", 300);
    assert_eq!((rig.left("tpm", "acme"), rig.left("model", "tensor")), (700, 1));
    let refused = rig.take(ids[1], "tensor", 701).unwrap_err();
    assert_eq!((refused.code(), refused.wire().status), ("rate_limit_exceeded", 429));
    assert!(refused.retry_after_ns().unwrap() > SECOND, "{refused:?}");
    assert_eq!((rig.left("tpm", "acme"), rig.left("model", "tensor")), (700, 1), "all or none");
    rig.taken(ids[1], "tensor", 700);
    assert_eq!(rig.take(ids[2], "tensor", 1).unwrap_err().code(), "rate_limit_exceeded");
    assert_eq!(rig.left("one-model", "acme"), 0);

    // The first ran, the second did not: its tokens come back, its request stays counted.
    rig.finished(ids[0], ran(300));
    rig.finished(ids[1], failed(Outcome::Refused, Ran::Nothing));
    assert_eq!(rig.left("model", "tensor"), 2, "slots are free at once");
    for id in ids {
        assert_eq!(rig.log_entry(id, &answered()), Logged::Settled);
    }
    assert_eq!((rig.left("tpm", "acme"), rig.left("one-model", "acme")), (700, 0));
    rig.is_quiet();
}

#[test]
fn a_budget_is_settled_by_the_tokens_that_were_taken() {
    let mut policy = tensor_policy();
    policy.budgets = vec![budget("month", S::Tenant, B::Nanousd, 3_000_000)];
    let rig = Rig::new(&policy);
    let outbox = rig.engine.keep_records(1 << 20);
    let ids: Vec<u128> = (0..3).map(|_| rig.forward(&infer()).id).collect();
    let told = Arc::new(Mutex::new(None));
    let mut waiter = || -> Waiter {
        let told = told.clone();
        Box::new(move |outcome: FollowOutcome| *told.lock() = Some(outcome))
    };
    let used = TensorsUsed { model: "tensor", tokens: 100 };
    let waits = rig.engine.batch_take(ids[0], used, &mut waiter, &rig.clock).unwrap();
    assert!(matches!(waits, BatchTake::Lease { until_ns } if until_ns > rig.now()));
    assert_eq!(rig.record(ids[0]).bound_tokens, 0, "nothing is taken while it waits");
    let asks = rig.engine.take_lease_asks(9);
    assert_eq!(asks.len(), 1);
    rig.engine.grant_lease(asks[0].token, 3_000_000, 0, rig.now());
    assert!(told.lock().is_some(), "it is told");
    rig.taken(ids[0], "tensor", 100);
    rig.taken(ids[1], "tensor", 200);
    let used = || rig.engine.lease_balances(rig.now())[0].used;
    assert_eq!(used(), 900);
    assert_eq!(rig.take(ids[2], "plain", 1).unwrap_err().code(), "budget_unbounded", "it has no price");
    assert_eq!(rig.take(ids[2], "tensor", 1_000_000).unwrap_err().code(), "budget_exhausted");
    rig.finished(ids[0], ran(100));
    rig.finished(ids[1], failed(Outcome::UpstreamError, Ran::Nothing));
    for id in ids {
        rig.log_entry(id, &answered());
    }
    assert_eq!(used(), 300);

    let written = records_in(&outbox);
    let costs: Vec<_> =
        written.iter().map(|r| (r.outcome.as_str(), r.prompt_tokens, r.cost_nanousd)).collect();
    assert_eq!(costs, [("ok", 100, 300), ("upstream_error", 0, 0), ("ok", 0, 0)]);
    assert_eq!(written[0].charges[0].amount, 300);
    assert_eq!(written[1].charges[0].amount, 0);
    assert_eq!((written[0].queue_ns, written[1].code.as_str()), (2_000, "batch_test"));
    let batch = &written[0];
    assert_eq!((batch.rows, batch.batch_rows, batch.tensor_tokens, batch.padded_tokens), (1, 8, 100, 107));
    assert_eq!((batch.service_ns, written[1].batch_rows), (4_000, 0));
    rig.is_quiet();
}

#[test]
fn a_lease_that_does_not_come_refuses() {
    let mut policy = tensor_policy();
    policy.budgets = vec![budget("month", S::Tenant, B::Nanousd, 3_000_000)];
    let rig = Rig::new(&policy);
    let id = rig.forward(&infer()).id;
    let BatchTake::Lease { until_ns } = rig.take(id, "tensor", 1).unwrap() else { panic!("no lease") };
    rig.sleep(until_ns - rig.now());
    assert_eq!(rig.take(id, "tensor", 1).unwrap_err(), Refusal::BudgetUnavailable);
    rig.finished(id, failed(Outcome::Refused, Ran::Nothing));
    rig.log_entry(id, &answered());
    rig.is_quiet();
}

#[test]
fn every_end_settles_what_was_taken() {
    let aborted = || {
        let end = RecordEnd { aborted: true, ..RecordEnd::default() };
        LogEntry { end, ..LogEntry::default() }
    };
    // How it ended there, how the log tells it, what is charged of 100 tokens, and the words.
    let cases: [(Option<BatchEnded>, LogEntry<'_>, u64, &str); 8] = [
        (Some(ran(100)), answered(), 100, r#""outcome":"ok","usage":"exact""#),
        (Some(ran(100)), aborted(), 100, r#""outcome":"aborted","usage":"exact""#),
        (Some(failed(Outcome::Hit, Ran::Nothing)), answered(), 0, r#""outcome":"hit","usage":"none""#),
        (Some(failed(Outcome::Follow, Ran::Nothing)), answered(), 0, r#""outcome":"follow","usage":"none""#),
        (
            Some(failed(Outcome::Timeout, Ran::Unknown)),
            answered(),
            100,
            r#""outcome":"timeout","usage":"estimated""#,
        ),
        (Some(failed(Outcome::Aborted, Ran::Nothing)), aborted(), 0, r#""outcome":"aborted","usage":"none""#),
        (None, aborted(), 100, r#""outcome":"aborted","usage":"estimated""#),
        (None, answered(), 100, r#""outcome":"ok","usage":"exact""#),
    ];
    let mut policy = tensor_policy();
    policy.limits = vec![limit("tpm", S::Tenant, U::Tokens, 1_000)];
    for (ended, entry, charged, words) in cases {
        let rig = Rig::new(&policy);
        let id = rig.forward(&infer()).id;
        rig.taken(id, "tensor", 100);
        if let Some(ended) = ended {
            rig.finished(id, ended);
        }
        assert_eq!(rig.log_entry(id, &entry), Logged::Settled);
        assert_eq!(rig.left("tpm", "acme"), 1_000 - charged, "{words}");
        assert!(rig.last().contains(words), "{words}: {}", rig.last());
        // Whoever comes later changes nothing.
        rig.finished(id, ran(100));
        assert_eq!(rig.log_entry(id, &entry), Logged::Unknown);
        assert_eq!(rig.take(id, "tensor", 5).unwrap_err(), Refusal::UnknownKey);
        assert_eq!(rig.left("tpm", "acme"), 1_000 - charged, "{words}");
        rig.is_quiet();
    }
}

#[test]
fn what_nobody_logs_is_settled_by_the_batch_service_s_word() {
    let mut policy = tensor_policy();
    policy.limits = vec![limit("tpm", S::Tenant, U::Tokens, 1_000)];
    for (ended, spent, word) in [
        (Some(ran(100)), 300, "\"outcome\":\"ok\""),
        (Some(failed(Outcome::Refused, Ran::Nothing)), 0, "\"outcome\":\"refused\""),
        (None, 300, "\"outcome\":\"forward\""),
    ] {
        let rig = Rig::new(&policy);
        let outbox = rig.engine.keep_records(1 << 20);
        let id = rig.forward(&infer()).id;
        rig.taken(id, "tensor", 100);
        if let Some(ended) = ended {
            rig.finished(id, ended);
        }
        rig.sleep(2_000 * SECOND);
        rig.engine.tick(rig.now());
        assert!(rig.last().contains(word), "{}", rig.last());
        assert_eq!(records_in(&outbox)[0].cost_nanousd, spent);
        rig.is_quiet();
    }
}

#[test]
fn inferences_of_one_stream_add_up() {
    let mut policy = tensor_policy();
    policy.limits = vec![limit("tpm", S::Tenant, U::Tokens, 1_000)];
    policy.budgets = vec![budget("hour", S::Tenant, B::Tokens, 1_000)];
    let rig = Rig::new(&policy);
    let outbox = rig.engine.keep_records(1 << 20);
    let id = rig.forward(&infer()).id;
    let _ = rig.take(id, "tensor", 10).unwrap();
    for ask in rig.engine.take_lease_asks(9) {
        rig.engine.grant_lease(ask.token, 1_000, 0, rig.now());
    }
    for tokens in [10, 20, 30] {
        rig.taken(id, "tensor", tokens);
    }
    assert_eq!(rig.left("tpm", "acme"), 940);
    rig.finished(id, BatchEnded { ran: Ran::Whole, ..BatchEnded::default() });
    rig.log_entry(id, &answered());
    assert_eq!(rig.left("tpm", "acme"), 940);
    let written = records_in(&outbox).remove(0);
    assert_eq!((written.prompt_tokens, written.cost_nanousd, written.charges.len()), (60, 180, 1));
    assert_eq!(written.charges[0].amount, 60);
    rig.is_quiet();
}
