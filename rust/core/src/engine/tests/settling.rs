#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::books::{Books, sum_of, used};
use super::rig::{
    Ask, BudgetUnit as B, Capability, LimitScope as S, Operation, Protocol, Rig, SECOND, Unit as U, budget,
    chat, limit, prices, route, spending,
};
use crate::engine::{Clock as _, Endpoint, LogEntry, Logged, UsageText};
use crate::policy::pb;
use crate::policy::pb::ledger_record::Usage;
use crate::record::RecordEnd;

const TPM: u64 = 100_000;

/// Money for the tenant, tokens for the key, and a limit of tokens.
fn policy() -> pb::Policy {
    let budgets =
        vec![budget("money", S::Tenant, B::Nanousd, 1 << 40), budget("tokens", S::Key, B::Tokens, 1 << 30)];
    pb::Policy { limits: vec![limit("tpm", S::Tenant, U::Tokens, TPM)], ..spending(budgets) }
}

fn rig_of(policy: &pb::Policy) -> (Rig, Books) {
    let rig = Rig::new(policy);
    let books = Books::of(&rig);
    (rig, books)
}

fn rig() -> (Rig, Books) {
    rig_of(&policy())
}

/// Used of both budgets and of the limit.
fn taken(rig: &Rig) -> (u64, u64, u64) {
    (used(rig, "money", "acme"), used(rig, "tokens", "acme/acme"), TPM - rig.left("tpm", "acme"))
}

fn ended(end: RecordEnd) -> LogEntry<'static> {
    LogEntry { end, ..LogEntry::default() }
}

fn served(status: u16) -> RecordEnd {
    RecordEnd { status, duration_ns: SECOND, first_byte_ns: 9, attempts: 1, ..RecordEnd::default() }
}

fn expire(rig: &Rig) {
    rig.sleep(rig.engine.live().snapshot.timing.reservation_ns + 2 * SECOND);
    rig.engine.tick(rig.now());
}

/// The one record's words: outcome and where its numbers come from.
fn verdict(books: &mut Books, id: u128) -> (String, Usage) {
    let record = books.record(id);
    (record.outcome.clone(), record.usage())
}

#[test]
fn what_the_upstream_says_is_what_is_charged_everywhere() {
    let (rig, mut books) = rig();
    let forward = books.ask(&rig, &chat("small", "x").with("x-forebay-run", "r9")).forward();
    let reserved = rig.record(forward.id);
    assert_eq!(taken(&rig), (reserved.reserved_nanousd, reserved.bound_tokens, reserved.bound_tokens));
    let entry = LogEntry {
        end: served(200),
        usage: UsageText {
            last: Some(br#"{"prompt_tokens":8,"completion_tokens":4}"#),
            ..UsageText::default()
        },
        endpoint: Endpoint { host: "10.1.2.3", port: 8_000 },
        last_byte_ns: 77,
        ..LogEntry::default()
    };
    assert_eq!(rig.log_entry(forward.id, &entry), Logged::Settled);
    assert_eq!(taken(&rig), (16, 12, 12));
    let record = books.record(forward.id);
    assert_eq!((record.outcome.as_str(), record.usage(), record.status), ("ok", Usage::Exact, 200));
    assert_eq!((record.prompt_tokens, record.output_tokens, record.cost_nanousd), (8, 4, 16));
    assert!(record.cost_known);
    assert_eq!(
        (record.reserved_nanousd, record.reserved_tokens),
        (reserved.reserved_nanousd, reserved.bound_tokens)
    );
    assert_eq!((record.tenant.as_str(), record.key.as_str(), record.run.as_str()), ("acme", "acme", "r9"));
    assert_eq!((record.route.as_str(), record.operation.as_str()), ("chat", "chat_completions"));
    assert_eq!(
        (record.model_asked.as_str(), record.model.as_str(), record.pool.as_str()),
        ("small", "small", "a")
    );
    assert_eq!((record.provider.as_str(), record.endpoint.as_str()), ("provider-a", "10.1.2.3:8000"));
    assert_eq!((record.first_byte_ns, record.last_byte_ns, record.duration_ns), (9, 77, SECOND));
    assert_eq!((record.attempts, record.price_revision.as_str(), record.cache.as_str()), (1, "r1", "bypass"));
    assert_eq!(
        (record.saved_by_cache_nanousd, record.saved_by_routing_nanousd, record.code.as_str()),
        (0, 0, "")
    );
    assert_eq!(record.unix_ns, rig.clock.unix_ns());
    assert_eq!(record.owner, "forebay");
    assert!(!record.policy.is_empty() && !record.stage_ns.is_empty());
    let charges: Vec<_> =
        record.charges.iter().map(|c| (c.budget.as_str(), c.value.as_str(), c.amount)).collect();
    assert_eq!(charges, [("money", "acme", 16), ("tokens", "acme/acme", 12)]);
    assert_eq!(sum_of(&rig, "forebay_cost_nanousd_total"), 16);
    assert_eq!(books.written.len(), 1);
    rig.is_quiet();
}

#[test]
fn cached_tokens_are_paid_as_such() {
    let mut policy = policy();
    policy.models[0].prices.as_mut().unwrap().cached_prompt_nanousd_per_million_tokens = 500_000;
    let (rig, mut books) = rig_of(&policy);
    let id = books.ask(&rig, &chat("small", "x")).forward().id;
    let usage = r#"{"prompt_tokens":100,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":60},
        "completion_tokens_details":{"reasoning_tokens":7}}"#;
    rig.log_usage(id, usage);
    let record = books.record(id);
    assert_eq!((record.cached_prompt_tokens, record.reasoning_tokens), (60, 7));
    assert_eq!(record.cost_nanousd, 40 + 30 + 20);
    assert_eq!(taken(&rig), (90, 110, 110));
}

fn messages() -> (Rig, Books, Ask) {
    let mut policy = policy();
    policy.pools[0].protocol = Protocol::Anthropic as i32;
    policy.models[0].capabilities = vec![Capability::Messages as i32];
    policy.models[2].pools = vec!["b".into()];
    policy.routes.push(route("messages", "/v1/messages", Operation::Messages));
    let prices = policy.models[0].prices.as_mut().unwrap();
    prices.cached_prompt_nanousd_per_million_tokens = 500_000;
    prices.cache_write_nanousd_per_million_tokens = 3_000_000;
    let (rig, books) = rig_of(&policy);
    let body =
        r#"{"model":"small","max_tokens":50,"stream":true,"messages":[{"role":"user","content":"x"}]}"#;
    (rig, books, Ask::post("/v1/messages", body))
}

#[test]
fn a_messages_stream_is_its_start_and_its_last_delta() {
    let (rig, mut books, ask) = messages();
    let id = books.ask(&rig, &ask).forward().id;
    let usage = UsageText {
        start: Some(
            br#"{"input_tokens":10,"cache_read_input_tokens":20,"cache_creation_input_tokens":5,"output_tokens":1}"#,
        ),
        last: Some(br#"{"output_tokens":15}"#),
        ..UsageText::default()
    };
    rig.log_entry(id, &LogEntry { end: served(200), usage, ..LogEntry::default() });
    let record = books.record(id);
    assert_eq!(record.operation, "messages");
    assert_eq!((record.prompt_tokens, record.cached_prompt_tokens, record.cache_write_tokens), (35, 20, 5));
    assert_eq!((record.output_tokens, record.cost_nanousd), (15, 10 + 10 + 15 + 30));
    assert_eq!((record.usage(), taken(&rig)), (Usage::Exact, (65, 50, 50)));
}

#[test]
fn a_messages_stream_that_broke_off_keeps_what_its_start_said() {
    let (rig, mut books, ask) = messages();
    let id = books.ask(&rig, &ask).forward().id;
    let usage =
        UsageText { start: Some(br#"{"input_tokens":11,"output_tokens":1}"#), ..UsageText::default() };
    let end = RecordEnd { aborted: true, ..served(200) };
    rig.log_entry(id, &LogEntry { end, usage, answer_bytes: 1_000_000, ..LogEntry::default() });
    let record = books.record(id);
    assert_eq!((record.outcome.as_str(), record.usage()), ("aborted", Usage::Estimated));
    assert_eq!((record.prompt_tokens, record.output_tokens), (11, 50), "the output is at most its bound");
    assert_eq!(taken(&rig), (111, 61, 61));
    assert!(sum_of(&rig, "forebay_wasted_nanousd_total") == 111);
}

#[test]
fn what_was_not_said_is_estimated() {
    let (rig, mut books) = rig();
    let id = books.ask(&rig, &chat("small", "x")).forward().id;
    let prompt = rig.record(id).prompt_tokens;
    rig.log_entry(id, &LogEntry { answer_bytes: 90, ..ended(served(200)) });
    let record = books.record(id);
    assert_eq!((record.usage(), record.prompt_tokens), (Usage::Estimated, prompt));
    assert!((1..100).contains(&record.output_tokens), "{record:?}");
    let cost = prompt + 2 * record.output_tokens;
    assert_eq!((record.cost_nanousd, taken(&rig).0), (cost, cost));
}

#[test]
fn a_bad_usage_is_counted_and_estimated() {
    for (usage, is_bad) in [
        (Some(&br#"{"prompt_tokens":-1,"completion_tokens":2}"#[..]), false),
        (Some(&b"{"[..]), false),
        (None, true),
    ] {
        let (rig, mut books) = rig();
        let id = books.ask(&rig, &chat("small", "x")).forward().id;
        let usage = UsageText { last: usage, is_bad, ..UsageText::default() };
        rig.log_entry(id, &LogEntry { answer_bytes: 90, usage, ..ended(served(200)) });
        assert_eq!(verdict(&mut books, id), ("ok".to_owned(), Usage::Estimated));
        assert_eq!(rig.counter("forebay_usage_invalid_total"), 1);
        let (money, tokens, limit) = taken(&rig);
        assert!(money > 0 && tokens == limit);
    }
}

#[test]
fn what_reached_no_model_costs_nothing() {
    let local = RecordEnd { local_reply: true, attempts: 0, ..served(503) };
    for (end, outcome) in
        [(local, "local_reply"), (served(500), "upstream_error"), (served(429), "upstream_error")]
    {
        let (rig, mut books) = rig();
        let id = books.ask(&rig, &chat("small", "x")).forward().id;
        rig.log_entry(id, &LogEntry { answer_bytes: 5_000, ..ended(end) });
        assert_eq!(verdict(&mut books, id), (outcome.to_owned(), Usage::None));
        let record = books.record(id);
        assert_eq!((record.cost_known, record.cost_nanousd), (true, 0));
        assert_eq!(record.charges.iter().map(|c| c.amount).sum::<u64>(), 0);
        assert_eq!(taken(&rig), (0, 0, 0));
        rig.is_quiet();
    }
}

#[test]
fn a_request_price_is_not_paid_where_nothing_was_used() {
    let mut policy = policy();
    policy.models[0].prices.as_mut().unwrap().request_nanousd = 1_000;
    let (rig, mut books) = rig_of(&policy);
    let failed = books.ask(&rig, &chat("small", "x")).forward().id;
    rig.log_entry(failed, &ended(served(500)));
    assert_eq!((books.record(failed).cost_nanousd, taken(&rig).0), (0, 0));
    let paid = books.ask(&rig, &chat("small", "x")).forward().id;
    rig.log_usage(paid, r#"{"prompt_tokens":1,"completion_tokens":1}"#);
    assert_eq!((books.record(paid).cost_nanousd, taken(&rig).0), (1_003, 1_003));
}

#[test]
fn a_late_entry_corrects_everything_once() {
    let (rig, mut books) = rig();
    let id = books.ask(&rig, &chat("small", "x")).forward().id;
    let bound = rig.record(id);
    expire(&rig);
    rig.is_quiet();
    assert_eq!(verdict(&mut books, id), ("expired".to_owned(), Usage::Estimated));
    let charged: Vec<u64> = books.record(id).charges.iter().map(|c| c.amount).collect();
    assert_eq!(charged, [bound.reserved_nanousd, bound.bound_tokens], "what is reserved");
    assert_eq!(books.record(id).cost_nanousd, bound.reserved_nanousd);
    assert_eq!((taken(&rig).0, taken(&rig).1), (bound.reserved_nanousd, bound.bound_tokens));
    assert_eq!(sum_of(&rig, "forebay_settled_total"), 0, "counters cannot be corrected, so they wait");
    rig.log_usage(id, r#"{"prompt_tokens":3,"completion_tokens":1}"#);
    assert_eq!((taken(&rig).0, taken(&rig).1), (5, 4));
    assert_eq!(verdict(&mut books, id), ("ok".to_owned(), Usage::Exact));
    assert_eq!((books.records.len(), books.written.len()), (1, 2));
    assert_eq!(books.charged().into_values().collect::<Vec<_>>(), [5, 4]);
    let counted =
        |rig: &Rig| (sum_of(rig, "forebay_settled_total"), sum_of(rig, "forebay_cost_nanousd_total"));
    assert_eq!(counted(&rig), (1, 5));
    assert_eq!(rig.counter("forebay_settled_late_total"), 1);
    expire(&rig);
    expire(&rig);
    assert_eq!((counted(&rig), taken(&rig).0), ((1, 5), 5));
}

#[test]
fn without_a_late_entry_the_bound_stays_and_is_counted_once() {
    let (rig, mut books) = rig();
    let id = books.ask(&rig, &chat("small", "x")).forward().id;
    let bound = rig.record(id).reserved_nanousd;
    for _ in 0..4 {
        expire(&rig);
    }
    assert_eq!((taken(&rig).0, books.record(id).cost_nanousd), (bound, bound));
    assert_eq!(sum_of(&rig, "forebay_settled_total"), 1);
    assert_eq!(sum_of(&rig, "forebay_cost_nanousd_total"), bound);
    assert_eq!(sum_of(&rig, "forebay_wasted_nanousd_total"), bound);
    rig.log_usage(id, r#"{"prompt_tokens":3,"completion_tokens":1}"#);
    assert_eq!((taken(&rig).0, sum_of(&rig, "forebay_settled_total")), (bound, 1), "it came too late");
}

#[test]
fn what_envoy_never_took_because_its_client_left_costs_nothing() {
    let name = "0af76519-16cd-43dd-8448-eb211c80319c";
    let (rig, mut books) = rig();
    let left = books.ask(&rig, &chat("small", "x").with("x-request-id", name)).forward().id;
    let other = books.ask(&rig, &chat("small", "x")).forward().id;
    let bound = rig.record(other).reserved_nanousd;
    rig.engine.stream_closed(left, rig.now());
    rig.engine.left_undecided(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, rig.now());
    let wait_ns = rig.engine.live().snapshot.timing.log_wait_ns;
    rig.sleep(wait_ns + 2 * SECOND);
    rig.engine.tick(rig.now());
    assert_eq!(verdict(&mut books, left), ("aborted".to_owned(), Usage::None));
    assert_eq!((books.record(left).cost_nanousd, taken(&rig).0), (0, bound), "the other one is still open");
    assert_eq!(sum_of(&rig, "forebay_settled_total"), 1);
    expire(&rig);
    assert_eq!(verdict(&mut books, other), ("expired".to_owned(), Usage::Estimated));
    assert_eq!(taken(&rig).0, bound);
}

#[test]
fn an_estimated_count_expires_at_its_bound_with_the_margin() {
    let mut policy = policy();
    policy.models[0].tokenizer = "estimate:generic".into();
    let (rig, mut books) = rig_of(&policy);
    let id = books.ask(&rig, &chat("small", &"word and another ".repeat(50))).forward().id;
    let record = rig.record(id);
    assert!(record.bound_tokens > record.prompt_tokens + 100, "there is a margin");
    expire(&rig);
    let charged: Vec<u64> = books.record(id).charges.iter().map(|c| c.amount).collect();
    assert_eq!(charged, [record.reserved_nanousd, record.bound_tokens]);
    assert_eq!((taken(&rig).0, taken(&rig).1), (charged[0], charged[1]));
}

#[test]
fn a_free_model_that_expires_costs_a_known_nothing() {
    let mut policy = policy();
    policy.models[0].prices = Some(prices(0, 0));
    let (rig, mut books) = rig_of(&policy);
    let id = books.ask(&rig, &chat("small", "x")).forward().id;
    expire(&rig);
    let record = books.record(id);
    assert_eq!((record.cost_known, record.cost_nanousd), (true, 0));
    expire(&rig);
    assert_eq!(sum_of(&rig, "forebay_cost_unknown_total"), 0);
}

/// The words that the metadata of a forwarded request hold, as another process would have left them.
fn note<'a>(owner: &'a str) -> impl Fn(&str) -> Option<&'a str> {
    move |key| {
        Some(match key {
            "owner" => owner,
            "tenant" | "key" => "acme",
            "route" => "chat",
            "model" => "small",
            "pool" => "a",
            "provider" => "provider-a",
            "prompt_tokens" => "9",
            "price_revision" => "r0",
            "reserved_nanousd" => "500",
            _ => return None,
        })
    }
}

#[test]
fn an_entry_told_twice_changes_nothing() {
    let (rig, mut books) = rig();
    let id = books.ask(&rig, &chat("small", "x")).forward().id;
    rig.log_usage(id, r#"{"prompt_tokens":3,"completion_tokens":1}"#);
    let before = (taken(&rig), sum_of(&rig, "forebay_settled_total"), books.read().written.len());
    assert_eq!(rig.log_entry(id, &ended(served(200))), Logged::Unknown);
    rig.engine.logged_foreign(id, &ended(served(200)), &note("forebay"), rig.clock.unix_ns());
    assert_eq!(rig.counter("forebay_settled_twice_total"), 1);
    assert_eq!(rig.counter("forebay_settled_foreign_total"), 0);
    assert_eq!((taken(&rig), sum_of(&rig, "forebay_settled_total"), books.read().written.len()), before);
}

#[test]
fn an_entry_of_a_process_that_is_gone_is_booked() {
    let (rig, mut books) = rig();
    let usage =
        UsageText { last: Some(br#"{"prompt_tokens":8,"completion_tokens":4}"#), ..UsageText::default() };
    let started_unix_ns = rig.clock.unix_ns() - 3_600 * SECOND;
    let entry = LogEntry { end: served(200), usage, started_unix_ns, ..LogEntry::default() };
    rig.engine.logged_foreign(77, &entry, &note("another"), rig.clock.unix_ns());
    let record = books.record(77);
    assert_eq!((record.owner.as_str(), record.price_revision.as_str()), ("another", "r0"));
    assert_eq!((record.outcome.as_str(), record.usage(), record.cost_nanousd), ("ok", Usage::Exact, 16));
    assert_eq!((record.unix_ns, record.reserved_nanousd), (started_unix_ns, 500));
    let charges: Vec<_> =
        record.charges.iter().map(|c| (c.value.as_str(), c.period_start_s, c.amount)).collect();
    let start_s = 1_699_999_200 - 3_600;
    assert_eq!(
        charges,
        [("acme", start_s, 16), ("acme/acme", start_s, 12)],
        "in the period in which it began"
    );
    assert_eq!((taken(&rig), rig.counter("forebay_settled_foreign_total")), ((0, 0, 0), 1));
    assert_eq!(sum_of(&rig, "forebay_cost_nanousd_total"), 16);
    rig.is_quiet();
}

#[test]
fn a_foreign_entry_of_a_model_that_is_gone_has_no_cost_and_charges_nobody() {
    let (rig, mut books) = rig();
    let words = note("another");
    let gone = |key: &str| if key == "model" { Some("gone") } else { words(key) };
    rig.engine.logged_foreign(78, &LogEntry { answer_bytes: 10, ..ended(served(200)) }, &gone, 5);
    let record = books.record(78);
    assert_eq!((record.cost_known, record.charges.len(), record.usage()), (false, 0, Usage::Estimated));
    // Nor does metadata that is empty or odd do any harm.
    rig.engine.logged_foreign(79, &ended(served(200)), &|_| None, 5);
    rig.engine.logged_foreign(80, &ended(served(200)), &|_| Some("-1"), 5);
    books.read();
}

#[test]
fn hits_and_refusals_have_records_and_strangers_have_none() {
    let mut policy = policy();
    policy.cache = Some(pb::Cache::default());
    let (rig, mut books) = rig_of(&policy);
    let forward = books.ask(&rig, &chat("small", "x")).forward();
    rig.fill(&forward, "hi").unwrap();
    rig.log_usage(forward.id, r#"{"prompt_tokens":3,"completion_tokens":2}"#);
    let before = taken(&rig);
    assert_eq!(books.ask(&rig, &chat("small", "x")).cache_state(), "hit");
    assert_eq!(rig.refused(&chat("nothing", "x")).0, 404);
    assert_eq!(rig.refused(&chat("small", "x").by("fbk_wrong")).0, 401);
    let records = books.read().written.clone();
    let hit = records.iter().find(|r| r.outcome == "hit").expect("the hit's");
    assert_eq!((hit.cost_known, hit.cost_nanousd, hit.saved_by_cache_nanousd), (true, 0, 3 + 2 * 2));
    assert_eq!((hit.model.as_str(), hit.cache.as_str(), hit.status), ("small", "hit", 200));
    assert!(hit.charges.is_empty() && hit.usage() == Usage::None);
    let refused: Vec<_> = records.iter().filter(|r| r.outcome == "refused").collect();
    assert_eq!(
        refused.iter().map(|r| (r.code.as_str(), r.status)).collect::<Vec<_>>(),
        [("model_not_found", 404)]
    );
    assert_eq!(taken(&rig), before);
    assert_eq!(sum_of(&rig, "forebay_cost_nanousd_total"), 7, "what was saved is not spent");
}

#[test]
fn a_cheaper_model_by_route_saves_the_difference() {
    let mut policy = policy();
    policy.pools[1].max_concurrency = 1;
    policy.routes[0].when_full = super::rig::WhenFull::NextModel as i32;
    policy.routes[0].next_models = vec!["small".into()];
    let (rig, mut books) = rig_of(&policy);
    let first = books.ask(&rig, &chat("large", "x")).forward().id;
    let second = books.ask(&rig, &chat("large", "x")).forward().id;
    rig.log_usage(first, r#"{"prompt_tokens":10,"completion_tokens":1}"#);
    rig.log_usage(second, r#"{"prompt_tokens":10,"completion_tokens":1}"#);
    let (first, second) = (books.record(first), books.record(second));
    assert_eq!((first.cost_nanousd, first.saved_by_routing_nanousd), (120, 0));
    assert_eq!((second.cost_nanousd, second.saved_by_routing_nanousd), (12, 108));
    assert_eq!(second.reason, "the model before was full");
}

#[test]
fn more_than_was_reserved_is_owed() {
    let (rig, mut books) = rig();
    let id = books.ask(&rig, &chat("small", "x")).forward().id;
    rig.log_usage(id, r#"{"prompt_tokens":40000,"completion_tokens":1000}"#);
    assert_eq!(taken(&rig), (42_000, 41_000, 41_000));
    assert_eq!(books.charged().len(), 0);
    assert_eq!(books.read().charged().into_values().collect::<Vec<_>>(), [42_000, 41_000]);
}

#[test]
fn a_time_out_says_nothing_good_of_its_pool() {
    let (rig, mut books) = rig();
    for _ in 0..5 {
        let id = books.ask(&rig, &chat("small", "x")).forward().id;
        rig.log_unreachable(id);
        if rig.engine.pool_views(rig.now())[0].healthy {
            let id = books.ask(&rig, &chat("small", "x")).forward().id;
            rig.log_entry(id, &LogEntry { timed_out: true, ..ended(served(504)) });
            assert_eq!(verdict(&mut books, id).0, "timeout");
        }
    }
    assert!(!rig.engine.pool_views(rig.now())[0].healthy);
}

#[test]
fn nobody_who_keeps_records_changes_what_is_counted() {
    let rig = Rig::new(&super::rig::policy());
    let id = rig.forward(&chat("small", "x")).id;
    rig.log_usage(id, r#"{"prompt_tokens":3,"completion_tokens":1}"#);
    assert_eq!(sum_of(&rig, "forebay_tokens_total"), 4);
    assert_eq!(sum_of(&rig, "forebay_cost_unknown_total"), 1);
}
