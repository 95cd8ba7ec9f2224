#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::books::{Books, sum_of, used};
use super::rig::{
    Ask, BudgetUnit as B, Enforcement, LimitScope as S, Rig, SECOND, Unit as U, WhenExhausted, budget, chat,
    limit, spending,
};
use crate::engine::LogEntry;
use crate::policy::pb;
use crate::record::RecordEnd;

type Change = fn(&mut pb::Policy);

/// The clock of tests stands 2 799 s before the hour's end.
const LEFT_S: u64 = 2_799;
const HOUR_S: i64 = 1_699_999_200;

fn rig(budgets: Vec<pb::Budget>) -> (Rig, Books) {
    let rig = Rig::new(&spending(budgets));
    let books = Books::of(&rig);
    (rig, books)
}

/// What one chat with the model reserves, in nano-USD and tokens.
fn bound(model: &str) -> (u64, u64) {
    let rig = Rig::new(&spending(Vec::new()));
    let record = rig.record(rig.forward(&chat(model, "x")).id);
    (record.reserved_nanousd, record.bound_tokens)
}

fn money(amount: u64) -> pb::Budget {
    budget("money", S::Tenant, B::Nanousd, amount)
}

fn header(answer: &crate::engine::Answer, name: &str) -> Option<String> {
    answer.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string())
}

#[test]
fn limits_and_budgets_are_taken_together_or_not_at_all() {
    let (nanousd, tokens) = bound("small");
    let mut policy = spending(vec![
        money(100 * nanousd),
        budget("tokens", S::Key, B::Tokens, 2 * tokens),
        budget("soft", S::Tenant, B::Tokens, 1_000_000),
    ]);
    policy.budgets[2].enforcement = Enforcement::Soft as i32;
    policy.limits = vec![limit("tpm", S::Tenant, U::Tokens, 100_000)];
    let rig = Rig::new(&policy);
    let mut books = Books::of(&rig);
    let ids: Vec<u128> = (0..2).map(|_| books.ask(&rig, &chat("small", "x")).forward().id).collect();
    let before = || {
        let of = |name, value| used(&rig, name, value);
        (of("money", "acme"), of("tokens", "acme/acme"), of("soft", "acme"), rig.left("tpm", "acme"))
    };
    let taken = before();
    assert_eq!(taken, (2 * nanousd, 2 * tokens, 2 * tokens, 100_000 - 2 * tokens));
    assert_eq!(books.ask(&rig, &chat("small", "x")).refused(), (429, "budget_exhausted"));
    assert_eq!(before(), taken, "the other budgets and the limit have what was tried back");
    for id in ids {
        rig.log(id);
    }
    rig.is_quiet();
}

#[test]
fn a_limit_that_refuses_leaves_budgets_alone_and_asks_for_no_lease() {
    let mut policy = spending(vec![money(1_000_000)]);
    policy.limits = vec![limit("tpm", S::Tenant, U::Tokens, 10)];
    let rig = Rig::new(&policy);
    assert_eq!(rig.refused(&chat("small", "x")), (429, "rate_limit_exceeded"));
    assert!(rig.engine.take_lease_asks(9).is_empty());
    assert_eq!(used(&rig, "money", "acme"), 0);
}

#[test]
fn what_is_exhausted_is_refused_until_the_period_ends() {
    let (nanousd, _) = bound("small");
    let (rig, mut books) = rig(vec![money(nanousd + 1)]);
    let id = books.ask(&rig, &chat("small", "x")).forward().id;
    let answer = books.ask(&rig, &chat("small", "y")).answer();
    assert_eq!((answer.status, answer.code), (429, "budget_exhausted"));
    assert_eq!(header(&answer, "retry-after"), Some(LEFT_S.to_string()));
    // What was reserved and not used is there again.
    rig.log_usage(id, r#"{"prompt_tokens":1,"completion_tokens":0}"#);
    assert_eq!(used(&rig, "money", "acme"), 1);
    books.ask(&rig, &chat("small", "y")).forward();
    assert_eq!(books.drawn.values().sum::<u64>(), nanousd + 1, "never more than the budget is drawn");
}

#[test]
fn a_request_above_the_whole_budget_is_told_never_to_come_back() {
    let (nanousd, _) = bound("small");
    let (rig, mut books) = rig(vec![money(nanousd - 1)]);
    let answer = books.ask(&rig, &chat("small", "x")).answer();
    assert_eq!((answer.status, answer.code), (429, "budget_exhausted"));
    assert_eq!(header(&answer, "retry-after"), None);
}

#[test]
fn the_next_model_is_one_that_fits() {
    let (large, _) = bound("large");
    let mut spare = money(large - 1);
    spare.when_exhausted = WhenExhausted::NextModel as i32;
    spare.next_models = vec!["small".into()];
    let (rig, mut books) = rig(vec![spare]);
    let forward = books.ask(&rig, &chat("large", "x")).forward();
    let record = rig.record(forward.id);
    assert_eq!(&*record.model, "small");
    rig.log_usage(forward.id, r#"{"prompt_tokens":5,"completion_tokens":10}"#);
    let told = books.record(forward.id);
    assert_eq!((told.model_asked.as_str(), told.model.as_str()), ("large", "small"));
    assert_eq!(told.reason, "a budget had no room for the model before");
    assert_eq!((told.cost_nanousd, told.saved_by_routing_nanousd), (25, 225));
    assert_eq!(used(&rig, "money", "acme"), 25);
}

#[test]
fn without_a_next_model_that_fits_the_first_refusal_stands() {
    let (small, _) = bound("small");
    let mut spare = money(small - 1);
    spare.when_exhausted = WhenExhausted::NextModel as i32;
    spare.next_models = vec!["small".into()];
    let (rig, mut books) = rig(vec![spare]);
    let answer = books.ask(&rig, &chat("large", "x")).answer();
    assert_eq!((answer.status, answer.code), (429, "budget_exhausted"));
    let (large, _) = bound("large");
    assert!(
        String::from_utf8_lossy(&answer.body).contains(&large.to_string()),
        "it speaks of the model asked for"
    );
    assert_eq!(used(&rig, "money", "acme"), 0);
}

/// A budget of one chat, whose answer is in the cache and whose rest is spent.
fn drained(when: WhenExhausted) -> (Rig, Books) {
    let (nanousd, _) = bound("small");
    let mut all = money(nanousd);
    all.when_exhausted = when as i32;
    let policy = pb::Policy { cache: Some(pb::Cache::default()), ..spending(vec![all]) };
    let rig = Rig::new(&policy);
    let mut books = Books::of(&rig);
    let forward = books.ask(&rig, &chat("small", "x")).forward();
    rig.fill(&forward, "hi").unwrap();
    rig.log_usage(forward.id, &format!(r#"{{"prompt_tokens":{nanousd},"completion_tokens":0}}"#));
    assert_eq!(used(&rig, "money", "acme"), nanousd);
    (rig, books)
}

#[test]
fn cached_only_still_gives_hits() {
    let (rig, mut books) = drained(WhenExhausted::CachedOnly);
    assert_eq!(books.ask(&rig, &chat("small", "x")).cache_state(), "hit");
    assert_eq!(books.ask(&rig, &chat("small", "y")).refused(), (429, "budget_exhausted"));
    rig.is_quiet();
}

#[test]
fn refuse_gives_no_hits_once_nothing_is_left() {
    let (rig, mut books) = drained(WhenExhausted::Refuse);
    let answer = books.ask(&rig, &chat("small", "x")).answer();
    assert_eq!((answer.status, answer.code), (429, "budget_exhausted"));
    assert_eq!(header(&answer, "retry-after"), Some(LEFT_S.to_string()));
    // Another tenant has a budget of its own.
    assert_eq!(books.ask(&rig, &chat("small", "x").by("fbk_rival")).forward().id, 3);
    rig.sleep(LEFT_S * SECOND);
    assert_eq!(books.ask(&rig, &chat("small", "x")).cache_state(), "hit", "another period");
}

#[test]
fn a_hard_budget_refuses_what_has_no_bound() {
    let with = |change: Change, hard: bool| {
        let mut all = money(1_000_000_000);
        all.enforcement = if hard { Enforcement::Hard } else { Enforcement::Soft } as i32;
        let mut policy = spending(vec![all]);
        change(&mut policy);
        let rig = Rig::new(&policy);
        let books = Books::of(&rig);
        (rig, books)
    };
    let uncounted = chat("small", "x").and(r#""service_tier":"priority""#);
    let ways: [(&str, Change, Ask); 3] = [
        ("no price", |p| p.models[0].prices = None, chat("small", "x")),
        ("no bound on the output", |p| p.models[0].max_output_tokens = 0, chat("small", "x")),
        ("a body that cannot be counted", |_| (), uncounted),
    ];
    for (what, change, ask) in ways {
        let (rig, mut books) = with(change, true);
        assert_eq!(books.ask(&rig, &ask).refused(), (400, "budget_unbounded"), "{what}");
        assert_eq!(rig.counter("forebay_budget_refused_total"), 1, "{what}");
        rig.is_quiet();
        let (rig, mut books) = with(change, false);
        let id = books.ask(&rig, &ask).forward().id;
        assert_eq!(rig.counter("forebay_budget_soft_total"), 1, "{what}");
        rig.log_usage(id, r#"{"prompt_tokens":7,"completion_tokens":3}"#);
        let record = books.record(id);
        let cost = if what == "no price" { 0 } else { 13 };
        assert_eq!((record.cost_known, record.cost_nanousd), (cost > 0, cost), "{what}");
        assert_eq!(record.charges[0].amount, cost, "{what}");
        books.serve_all(&rig);
        assert_eq!(used(&rig, "money", "acme"), cost, "{what}");
        rig.is_quiet();
    }
}

#[test]
fn a_bound_of_the_clients_own_is_one() {
    let mut policy = spending(vec![money(1_000_000)]);
    policy.models[0].max_output_tokens = 0;
    let rig = Rig::new(&policy);
    let mut books = Books::of(&rig);
    books.ask(&rig, &chat("small", "x").and(r#""max_tokens":5"#)).forward();
}

#[test]
fn a_soft_budget_lets_pass_and_counts() {
    let (nanousd, _) = bound("small");
    let mut soft = money(nanousd);
    soft.enforcement = Enforcement::Soft as i32;
    let (rig, mut books) = rig(vec![soft]);
    for over in 0..4 {
        let id = books.ask(&rig, &chat("small", "x")).forward().id;
        assert_eq!(rig.counter("forebay_budget_soft_total"), over);
        rig.log_usage(id, &format!(r#"{{"prompt_tokens":{nanousd},"completion_tokens":0}}"#));
        books.serve_all(&rig);
    }
    assert_eq!(used(&rig, "money", "acme"), 4 * nanousd);
    assert_eq!(books.drawn.values().sum::<u64>(), nanousd);
    assert_eq!(rig.counter("forebay_lease_waits_total"), 0, "nobody waits for a soft budget");
}

#[test]
fn a_model_that_was_only_tried_makes_no_request_soft() {
    let (_, tokens) = bound("small");
    let mut hard = budget("tokens", S::Tenant, B::Tokens, tokens);
    hard.when_exhausted = WhenExhausted::NextModel as i32;
    hard.next_models = vec!["small".into()];
    let mut soft = money(1_000);
    soft.enforcement = Enforcement::Soft as i32;
    soft.models = vec!["large".into()];
    let mut policy = spending(vec![soft, hard]);
    policy.models[1].prices = None;
    policy.models[1].max_output_tokens = 1_000;
    let rig = Rig::new(&policy);
    let mut books = Books::of(&rig);
    let id = books.ask(&rig, &chat("large", "x")).forward().id;
    assert_eq!(&*rig.record(id).model, "small");
    assert_eq!(rig.counter("forebay_budget_soft_total"), 0);
    assert_eq!(used(&rig, "money", "acme"), 0);
}

#[test]
fn an_absurd_bound_does_not_make_a_soft_budget_forget() {
    let mut soft = money(1 << 40);
    soft.enforcement = Enforcement::Soft as i32;
    let mut policy = spending(vec![soft]);
    policy.models[0].max_output_tokens = 0;
    policy.models[0].prices.as_mut().unwrap().output_nanousd_per_million_tokens = 1_000_000_000_000_000;
    let rig = Rig::new(&policy);
    let mut books = Books::of(&rig);
    let first = books.ask(&rig, &chat("small", "x")).forward().id;
    rig.log_usage(first, r#"{"prompt_tokens":1000,"completion_tokens":0}"#);
    let absurd = chat("small", "x").and(r#""max_tokens":4000000000,"n":128"#);
    let second = books.ask(&rig, &absurd).forward().id;
    rig.log_usage(second, r#"{"prompt_tokens":10,"completion_tokens":0}"#);
    books.serve_all(&rig);
    assert_eq!(used(&rig, "money", "acme"), 1_010);
}

#[test]
fn runs_and_evaluations_have_budgets_of_their_own() {
    let (_, tokens) = bound("small");
    let (rig, mut books) =
        rig(vec![budget("run", S::Run, B::Tokens, tokens), budget("eval", S::Eval, B::Tokens, 3 * tokens)]);
    let ask =
        |run: &str, eval: &str| chat("small", "x").with("x-forebay-run", run).with("x-forebay-eval", eval);
    let first = books.ask(&rig, &ask("r1", "e")).forward().id;
    assert_eq!(books.ask(&rig, &ask("r1", "e")).refused(), (429, "budget_exhausted"));
    books.ask(&rig, &ask("r2", "e")).forward();
    books.ask(&rig, &ask("r3", "e")).forward();
    assert_eq!(
        books.ask(&rig, &ask("r4", "e")).refused(),
        (429, "budget_exhausted"),
        "the evaluation's is used up"
    );
    books.ask(&rig, &ask("", "")).forward();
    // The same names of another tenant are others.
    books.ask(&rig, &ask("r1", "e").by("fbk_rival")).forward();
    assert_eq!((used(&rig, "run", "acme/r1"), used(&rig, "run", "rival/r1")), (tokens, tokens));
    assert_eq!((used(&rig, "eval", "acme/e"), used(&rig, "eval", "rival/e")), (3 * tokens, tokens));
    rig.log_usage(first, r#"{"prompt_tokens":2,"completion_tokens":3}"#);
    let record = books.record(first);
    let charged: Vec<_> =
        record.charges.iter().map(|c| (c.budget.as_str(), c.value.as_str(), c.amount)).collect();
    assert_eq!(charged, [("run", "acme/r1", 5), ("eval", "acme/e", 5)]);
    assert_eq!((record.run.as_str(), record.eval.as_str()), ("r1", "e"));
}

#[test]
fn a_budget_counts_only_what_it_is_narrowed_to() {
    let mut narrow = money(1);
    narrow.models = vec!["large".into()];
    let mut other = budget("rivals", S::Tenant, B::Nanousd, 1);
    other.tenants = vec!["rival".into()];
    let (rig, mut books) = rig(vec![narrow, other]);
    books.ask(&rig, &chat("small", "x")).forward();
    assert_eq!(books.ask(&rig, &chat("large", "x")).refused().1, "budget_exhausted");
    assert_eq!(books.ask(&rig, &chat("small", "x").by("fbk_rival")).refused().1, "budget_exhausted");
}

#[test]
fn each_period_has_a_bucket_of_its_own() {
    let (nanousd, _) = bound("small");
    let (rig, mut books) = rig(vec![money(nanousd)]);
    let old = books.ask(&rig, &chat("small", "x")).forward().id;
    assert_eq!(books.ask(&rig, &chat("small", "y")).refused().1, "budget_exhausted");
    rig.sleep(LEFT_S * SECOND);
    let new = books.ask(&rig, &chat("small", "y")).forward().id;
    assert_eq!(used(&rig, "money", "acme"), nanousd);
    // The old one's settlement neither frees nor charges the new period.
    rig.log_usage(old, r#"{"prompt_tokens":1,"completion_tokens":0}"#);
    assert_eq!(used(&rig, "money", "acme"), nanousd);
    rig.log_usage(new, &format!(r#"{{"prompt_tokens":{},"completion_tokens":0}}"#, nanousd + 5));
    assert_eq!(used(&rig, "money", "acme"), nanousd + 5);
    let periods = |id, books: &mut Books| books.record(id).charges[0].period_start_s;
    assert_eq!((periods(old, &mut books), periods(new, &mut books)), (HOUR_S, HOUR_S + 3_600));
    let charged: Vec<u64> = books.charged().into_values().collect();
    assert_eq!(charged, [1, nanousd + 5]);
    rig.is_quiet();
}

#[test]
fn a_clock_that_is_set_back_refills_nothing() {
    let (nanousd, _) = bound("small");
    let (rig, mut books) = rig(vec![money(nanousd)]);
    books.ask(&rig, &chat("small", "x")).forward();
    rig.set_clock(-3_600 * SECOND as i64);
    for _ in 0..2 {
        let answer = books.ask(&rig, &chat("small", "x")).answer();
        assert_eq!((answer.status, answer.code), (429, "budget_exhausted"));
        assert_eq!(header(&answer, "retry-after"), Some((LEFT_S + 3_600).to_string()));
    }
    assert_eq!(rig.counter("forebay_clock_steps_total"), 1);
    rig.set_clock(3_600 * SECOND as i64);
    assert_eq!(books.ask(&rig, &chat("small", "x")).refused().1, "budget_exhausted");
    assert_eq!(books.drawn.len(), 1, "one period was drawn from");
}

#[test]
fn a_policy_may_change_between_reserving_and_settling() {
    let (nanousd, _) = bound("small");
    let first = || vec![money(10 * nanousd)];
    let changes: [(&str, Change); 6] = [
        ("removed", |p| p.budgets.clear()),
        ("raised", |p| p.budgets[0].amount *= 4),
        ("lowered", |p| p.budgets[0].amount /= 5),
        ("model removed", |p| {
            p.models.remove(0);
        }),
        ("dearer", |p| p.models[0].prices = Some(super::rig::prices(100, 100))),
        ("soft", |p| p.budgets[0].enforcement = Enforcement::Soft as i32),
    ];
    for (what, change) in changes {
        let (rig, mut books) = rig(first());
        let ids: Vec<u128> = (0..3).map(|_| books.ask(&rig, &chat("small", "x")).forward().id).collect();
        let mut policy = spending(first());
        change(&mut policy);
        rig.swap(&policy);
        let over = 2 * nanousd;
        for (id, prompt) in ids.iter().zip([0, 7, over]) {
            rig.log_usage(*id, &format!(r#"{{"prompt_tokens":{prompt},"completion_tokens":0}}"#));
            assert_eq!(books.record(*id).cost_nanousd, prompt, "{what}: the price at which it was reserved");
        }
        rig.swap(&spending(first()));
        assert_eq!(used(&rig, "money", "acme"), 7 + over, "{what}");
        assert_eq!(books.charged().into_values().collect::<Vec<_>>(), [7 + over], "{what}");
        // Exactly what is left can be spent: 10 chats less what is used.
        let fits =
            (0..20).filter(|_| matches!(books.ask(&rig, &chat("small", "x")), super::rig::Told::Forward(_)));
        assert_eq!(fits.count() as u64, (10 * nanousd - 7 - over) / nanousd, "{what}");
        assert_eq!(books.drawn.values().sum::<u64>(), 10 * nanousd, "{what}");
    }
}

#[test]
fn a_lowered_budget_holds_at_once() {
    let (nanousd, _) = bound("small");
    let (rig, mut books) = rig(vec![money(10 * nanousd)]);
    books.ask(&rig, &chat("small", "x")).forward();
    books.ask(&rig, &chat("small", "x")).forward();
    rig.swap(&spending(vec![money(2 * nanousd)]));
    assert_eq!(books.ask(&rig, &chat("small", "x")).refused(), (429, "budget_exhausted"));
    rig.swap(&spending(vec![money(3 * nanousd)]));
    books.ask(&rig, &chat("small", "x")).forward();
    assert_eq!(books.ask(&rig, &chat("small", "x")).refused(), (429, "budget_exhausted"));
}

#[test]
fn a_refusal_by_a_later_check_gives_budgets_back() {
    let (rig, mut books) = rig(vec![money(1_000_000)]);
    let config = crate::engine::EngineConfig { max_reservations: 1, max_buckets: 64, ..Default::default() };
    let full = Rig::with(&spending(vec![money(1_000_000)]), config);
    let mut full_books = Books::of(&full);
    let id = full_books.ask(&full, &chat("small", "x")).forward().id;
    let before = used(&full, "money", "acme");
    assert_eq!(full_books.ask(&full, &chat("small", "x")).refused().0, 503, "the table is full");
    assert_eq!(used(&full, "money", "acme"), before);
    full.log(id);
    full.is_quiet();
    // A local reply of Envoy costs nothing.
    let id = books.ask(&rig, &chat("small", "x")).forward().id;
    let end = RecordEnd { status: 503, local_reply: true, ..RecordEnd::default() };
    rig.log_entry(id, &LogEntry { end, ..LogEntry::default() });
    assert_eq!((used(&rig, "money", "acme"), sum_of(&rig, "forebay_cost_nanousd_total")), (0, 0));
}
