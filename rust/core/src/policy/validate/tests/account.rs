//! What a policy says about money: budgets, prices, the ledger, telemetry, and the operations that came with them.

use super::pb::budget::{Enforcement, Period, Unit, WhenExhausted};
use super::pb::{self, limit};
use super::{Finding, Severity, found, good, model, pool, route, validate};

const NONE: [&str; 0] = [];

fn budget() -> pb::Budget {
    pb::Budget {
        name: "per-tenant".into(),
        scope: limit::Scope::Tenant.into(),
        unit: Unit::Nanousd.into(),
        amount: 25_000_000_000,
        period: Period::Month.into(),
        ..pb::Budget::default()
    }
}

/// The findings on the good policy with a ledger and one budget.
fn budgeted(change: impl FnOnce(&mut pb::Policy)) -> Vec<String> {
    found(|p| {
        p.ledger = Some(pb::Ledger::default());
        p.budgets = vec![budget()];
        change(p);
    })
}

#[test]
fn a_budget_says_what_of_whom_how_much_and_how_long() {
    assert_eq!(budgeted(|_| ()), NONE);
    assert_eq!(
        budgeted(|p| p.budgets[0] = pb::Budget { name: "x".into(), ..pb::Budget::default() }),
        [
            "error no_scope budgets[0].scope",
            "error no_unit budgets[0].unit",
            "error no_amount budgets[0].amount",
            "error no_period budgets[0].period"
        ]
    );
    assert_eq!(budgeted(|p| p.budgets[0].amount = 1 << 62), NONE);
    assert_eq!(budgeted(|p| p.budgets[0].amount = (1 << 62) + 1), ["error out_of_range budgets[0].amount"]);
    assert_eq!(budgeted(|p| p.budgets[0].enforcement = 9), ["error unknown_value budgets[0].enforcement"]);
    assert_eq!(
        budgeted(|p| p.budgets[0].when_exhausted = 9),
        ["error unknown_value budgets[0].when_exhausted"]
    );
    assert_eq!(budgeted(|p| p.budgets.push(budget())), ["error duplicate_name budgets[1].name"]);
    assert_eq!(budgeted(|p| p.budgets[0].name = "a b".into()), ["error bad_name budgets[0].name"]);
    assert_eq!(
        budgeted(|p| p.budgets = (0..257).map(|i| pb::Budget { name: format!("b{i}"), ..budget() }).collect()),
        ["error too_many budgets"]
    );
    assert_eq!(budgeted(|p| p.ledger = None), ["error no_ledger ledger"]);
}

#[test]
fn runs_evaluations_and_providers_are_scopes() {
    for scope in [limit::Scope::Run, limit::Scope::Eval] {
        assert_eq!(budgeted(|p| p.budgets[0].scope = scope.into()), NONE);
        assert_eq!(found(|p| p.limits[0].scope = scope.into()), NONE);
    }
    assert_eq!(
        budgeted(|p| p.budgets[0].scope = limit::Scope::Provider.into()),
        ["warning scope_empty budgets[0].scope"]
    );
    assert_eq!(budgeted(|p| p.budgets[0].scope = 99), ["error no_scope budgets[0].scope"]);
}

#[test]
fn periods_begin_in_a_timezone_that_exists() {
    for zone in ["UTC", "Europe/Berlin", "America/St_Johns"] {
        assert_eq!(budgeted(|p| p.budgets[0].timezone = zone.into()), NONE, "{zone}");
    }
    for zone in ["Mars/Base", "+02:00", "../etc/passwd", " ", "é"] {
        let findings = budgeted(|p| p.budgets[0].timezone = zone.into());
        assert_eq!(findings, ["error unknown_timezone budgets[0].timezone"], "{zone}");
    }
}

#[test]
fn what_follows_the_end_is_there() {
    let next = |when: WhenExhausted, models: &'static [&'static str]| {
        budgeted(move |p| {
            p.budgets[0].when_exhausted = when.into();
            p.budgets[0].next_models = models.iter().map(|&m| m.into()).collect();
        })
    };
    assert_eq!(next(WhenExhausted::NextModel, &["small"]), NONE);
    assert_eq!(next(WhenExhausted::NextModel, &[]), ["error no_next_model budgets[0].next_models"]);
    assert_eq!(next(WhenExhausted::NextModel, &["gone"]), ["error unknown_model budgets[0].next_models[0]"]);
    assert_eq!(
        next(WhenExhausted::NextModel, &["small", "small"]),
        ["error duplicate_reference budgets[0].next_models[1]"]
    );
    assert_eq!(next(WhenExhausted::Refuse, &["small"]), ["error field_not_used budgets[0].next_models"]);
    assert_eq!(next(WhenExhausted::CachedOnly, &[]), NONE);
    let soft = |p: &mut pb::Policy| {
        p.budgets[0].enforcement = Enforcement::Soft.into();
        p.budgets[0].when_exhausted = WhenExhausted::CachedOnly.into();
    };
    assert_eq!(budgeted(soft), ["error field_not_used budgets[0].when_exhausted"]);
}

#[test]
fn thresholds_rise() {
    let thresholds =
        |percents: &'static [u32]| budgeted(move |p| p.budgets[0].threshold_percents = percents.to_vec());
    assert_eq!(thresholds(&[1, 50, 100, 1_000]), NONE);
    assert_eq!(thresholds(&[0]), ["error out_of_range budgets[0].threshold_percents[0]"]);
    assert_eq!(thresholds(&[1_001]), ["error out_of_range budgets[0].threshold_percents[0]"]);
    for wrong in [&[80, 50][..], &[50, 50]] {
        assert_eq!(thresholds(wrong), ["error thresholds_not_rising budgets[0].threshold_percents[1]"]);
    }
    assert_eq!(thresholds(&[7; 17]), ["error too_many budgets[0].threshold_percents"]);
}

#[test]
fn a_budget_counts_only_what_exists() {
    let narrow = |p: &mut pb::Policy| {
        let budget = &mut p.budgets[0];
        budget.tenants = vec!["acme".into(), "nobody".into()];
        budget.tiers = vec!["gold".into()];
        budget.keys = vec!["acme-2".into()];
        budget.features = vec!["serach".into()];
        budget.models = vec!["org/chat-small:8b".into(), "*".into(), "small".into()];
    };
    assert_eq!(
        budgeted(narrow),
        [
            "error unknown_tenant budgets[0].tenants[1]",
            "error unknown_tier budgets[0].tiers[0]",
            "error unknown_key budgets[0].keys[0]",
            "error unknown_feature budgets[0].features[0]",
            "error wildcard_refused budgets[0].models[1]",
            "error unknown_model budgets[0].models[2]"
        ]
    );
}

#[test]
fn what_a_hard_budget_would_refuse_is_said() {
    let unpriced = |p: &mut pb::Policy| p.models[1].prices = None;
    let both = ["warning no_prices models[1].prices", "warning budget_without_prices budgets[0]"];
    assert_eq!(budgeted(unpriced), both);
    let elsewhere = |p: &mut pb::Policy| {
        unpriced(p);
        p.budgets[0].models = vec!["org/chat-small:8b".into()];
    };
    assert_eq!(budgeted(elsewhere), both[..1]);
    let tokens = |p: &mut pb::Policy| {
        unpriced(p);
        p.budgets[0].unit = Unit::Tokens.into();
    };
    assert_eq!(budgeted(tokens), both[..1]);
    let uncapped = |p: &mut pb::Policy| {
        p.limits.clear();
        p.models[0].max_output_tokens = 0;
    };
    assert_eq!(budgeted(uncapped), ["warning budget_without_cap budgets[0]"]);
    let soft = |p: &mut pb::Policy| {
        uncapped(p);
        unpriced(p);
        p.budgets[0].enforcement = Enforcement::Soft.into();
    };
    assert_eq!(budgeted(soft), both[..1]);
    // Tensors are not counted, and never have prices.
    assert_eq!(budgeted(|p| p.models[2].prices = None), NONE);
}

#[test]
fn a_budget_below_one_answer_is_said() {
    let amount = |unit: Unit, amount: u64| {
        budgeted(move |p| {
            p.budgets[0].unit = unit.into();
            p.budgets[0].amount = amount;
            p.models[0].prices =
                Some(pb::Prices { output_nanousd_per_million_tokens: 1_000_000, ..pb::Prices::default() });
        })
    };
    let small = ["warning budget_too_small budgets[0].amount"];
    assert_eq!((amount(Unit::Nanousd, 4_096), amount(Unit::Tokens, 4_096)), (vec![], vec![]));
    assert_eq!(amount(Unit::Nanousd, 4_095), small);
    assert_eq!(amount(Unit::Tokens, 4_095), small);
}

#[test]
fn prices_have_steps_that_rise() {
    let steps = |steps: &'static [(u64, u64)]| {
        found(move |p| {
            let step = |&(above_prompt_tokens, prompt): &(u64, u64)| pb::LongPromptPrices {
                above_prompt_tokens,
                prompt_nanousd_per_million_tokens: prompt,
                ..pb::LongPromptPrices::default()
            };
            let long_prompt = steps.iter().map(step).collect();
            p.models[0].prices = Some(pb::Prices { long_prompt, ..pb::Prices::default() });
        })
    };
    assert_eq!(steps(&[(128_000, 1), (200_000, 2)]), NONE);
    let path = "models[0].prices.long_prompt";
    assert_eq!(steps(&[(0, 1)]), [format!("error no_bound {path}[0].above_prompt_tokens")]);
    for wrong in [&[(2, 1), (2, 2)][..], &[(2, 1), (1, 2)]] {
        assert_eq!(steps(wrong), [format!("error steps_not_rising {path}[1].above_prompt_tokens")]);
    }
    assert_eq!(steps(&[(9, 0)]), [format!("warning step_without_price {path}[0]")]);
    assert_eq!(
        steps(&[(9, u64::MAX)]),
        [format!("error out_of_range {path}[0].prompt_nanousd_per_million_tokens")]
    );
    let many: &'static [(u64, u64)] = &[(1, 1); 17];
    assert!(steps(many).contains(&format!("error too_many {path}")));
    let given = |prices: pb::Prices| found(|p| p.models[0].prices = Some(prices));
    assert_eq!(
        given(pb::Prices {
            request_nanousd: u64::MAX,
            cache_write_nanousd_per_million_tokens: u64::MAX,
            ..pb::Prices::default()
        }),
        [
            "error out_of_range models[0].prices.request_nanousd",
            "error out_of_range models[0].prices.cache_write_nanousd_per_million_tokens"
        ]
    );
    let dearer = pb::Prices {
        prompt_nanousd_per_million_tokens: 5,
        long_prompt: vec![pb::LongPromptPrices {
            above_prompt_tokens: 9,
            cached_prompt_nanousd_per_million_tokens: 6,
            ..pb::LongPromptPrices::default()
        }],
        ..pb::Prices::default()
    };
    assert_eq!(
        given(dearer),
        [format!("warning cached_dearer {path}[0].cached_prompt_nanousd_per_million_tokens")]
    );
    assert_eq!(found(|p| p.models[0].price_id = "x".repeat(257)), ["error too_long models[0].price_id"]);
}

#[test]
fn the_ledger_is_bounded() {
    let ledger = |change: fn(&mut pb::Ledger)| {
        found(move |p| {
            let mut ledger = pb::Ledger::default();
            change(&mut ledger);
            p.ledger = Some(ledger);
        })
    };
    assert_eq!(ledger(|_| ()), NONE);
    assert_eq!(ledger(|l| l.directory = "a\0b".into()), ["error bad_text ledger.directory"]);
    assert_eq!(ledger(|l| l.retention_days = 36_501), ["error out_of_range ledger.retention_days"]);
    assert_eq!(ledger(|l| l.max_journal_bytes = 1 << 20), ["error out_of_range ledger.max_journal_bytes"]);
    assert_eq!(ledger(|l| l.on_failure = 7), ["error unknown_value ledger.on_failure"]);
}

#[test]
fn telemetry_goes_to_a_collector() {
    let to = |endpoint: &str| {
        let otlp_endpoint = endpoint.to_owned();
        found(|p| p.telemetry = Some(pb::Telemetry { otlp_endpoint, ..pb::Telemetry::default() }))
    };
    for good in [
        "http://127.0.0.1:4317",
        "http://localhost:4317",
        "http://[::1]:4317",
        "https://otel.example.com:4317",
    ] {
        assert_eq!(to(good), NONE, "{good}");
    }
    assert_eq!(to("http://otel.example.com:4317"), ["warning telemetry_in_clear telemetry.otlp_endpoint"]);
    assert_eq!(to(""), ["warning no_collector telemetry.otlp_endpoint"]);
    for bad in
        ["127.0.0.1:4317", "grpc://x:1", "http://", "http://x", "http://x:4317/v1/traces", "http://x:0"]
    {
        assert_eq!(to(bad), ["error bad_endpoint telemetry.otlp_endpoint"], "{bad}");
    }
    let bounds = pb::Telemetry {
        otlp_endpoint: "http://127.0.0.1:4317".into(),
        sampled_per_million: 1_000_001,
        slow_ms: u64::MAX,
        metrics_interval_ms: 1,
    };
    assert_eq!(
        found(|p| p.telemetry = Some(bounds)),
        [
            "error out_of_range telemetry.sampled_per_million",
            "error out_of_range telemetry.slow_ms",
            "error out_of_range telemetry.metrics_interval_ms"
        ]
    );
}

/// The good policy with a pool of Anthropic's protocol and a model of each new capability.
fn with_messages(policy: &mut pb::Policy) {
    policy.pools.push(pool("claude", pool::Protocol::Anthropic));
    policy.models.push(model("claude", "claude", model::Capability::Messages));
    policy.models.push(model("gpt", "chat", model::Capability::Responses));
    policy.routes.push(route("messages", "/v1/messages", route::Operation::Messages));
    policy.routes.push(route("responses", "/v1/responses", route::Operation::Responses));
}

#[test]
fn responses_and_messages_have_routes_models_and_pools() {
    assert_eq!(found(with_messages), NONE);
    let models = |change: fn(&mut pb::Policy)| {
        found(move |p| {
            with_messages(p);
            change(p);
        })
    };
    for (at, operation) in [(5, "messages"), (6, "responses")] {
        let only_route = move |p: &mut pb::Policy| {
            with_messages(p);
            let kept = p.routes.remove(at);
            assert_eq!(kept.name, operation);
            p.routes.truncate(5);
            p.routes.push(kept);
            p.models.truncate(3);
            p.pools.truncate(3);
        };
        assert_eq!(found(only_route), ["warning no_model routes[5].operation"]);
    }
    // Messages may come from a server of the OpenAI protocol, and nothing else from Anthropic's.
    assert_eq!(models(|p| p.models[3].pools = vec!["chat".into()]), ["warning pool_unused pools[3].name"]);
    for capability in [
        model::Capability::Chat,
        model::Capability::Completions,
        model::Capability::Embeddings,
        model::Capability::Responses,
        model::Capability::Tensors,
    ] {
        let findings = found(|p| {
            with_messages(p);
            p.models[3].capabilities.push(capability.into());
        });
        assert_eq!(findings, ["error protocol_mismatch models[3].pools[0]"], "{capability:?}");
    }
    for extra in [model::Capability::Tools, model::Capability::Vision, model::Capability::Json] {
        let findings = found(|p| {
            with_messages(p);
            p.models[3].capabilities.push(extra.into());
            p.models[4].capabilities.push(extra.into());
        });
        assert_eq!(findings, NONE, "{extra:?}");
    }
    assert_eq!(models(|p| p.routes[5].methods = vec!["GET".into()]), ["error bad_method routes[5].methods"]);
    assert_eq!(models(|p| p.routes[6].pool = "chat".into()), ["error field_not_used routes[6].pool"]);
    // A token limit needs their output to have a bound, too.
    assert_eq!(models(|p| p.models[3].max_output_tokens = 0), ["warning no_output_cap limits[0]"]);
    assert_eq!(models(|p| p.models[4].max_output_tokens = 0), ["warning no_output_cap limits[0]"]);
}

#[test]
fn only_messages_fail_open_to_anthropic() {
    let open = |route: usize, pool: &'static str| {
        found(move |p| {
            with_messages(p);
            p.routes[route].fail_open_pool = pool.into();
        })
    };
    assert_eq!(open(5, "claude"), ["warning fails_open routes[5].fail_open_pool"]);
    assert_eq!(open(5, "chat"), ["warning fails_open routes[5].fail_open_pool"]);
    assert_eq!(open(6, "chat"), ["warning fails_open routes[6].fail_open_pool"]);
    assert_eq!(open(6, "claude"), ["error protocol_mismatch routes[6].fail_open_pool"]);
    assert_eq!(open(0, "claude"), ["error protocol_mismatch routes[0].fail_open_pool"]);
    let forward = |p: &mut pb::Policy| {
        with_messages(p);
        p.routes[4].pool = "claude".into();
    };
    assert_eq!(
        found(forward),
        ["warning pool_unused pools[2].name", "error protocol_mismatch routes[4].pool"]
    );
}

#[test]
fn messages_about_money_keep_the_house_style() {
    let mut policy = good();
    policy.budgets = vec![
        pb::Budget { timezone: "Mars\n".into(), threshold_percents: vec![0, 5, 5], ..pb::Budget::default() },
        pb::Budget { amount: 1, scope: limit::Scope::Tier.into(), when_exhausted: 3, ..budget() },
    ];
    policy.tiers.clear();
    policy.models[0].prices = None;
    policy.models[1].max_output_tokens = 0;
    policy.telemetry =
        Some(pb::Telemetry { otlp_endpoint: "http://Ä\n:1".into(), ..pb::Telemetry::default() });
    let findings: Vec<Finding> = validate(&policy);
    assert!(findings.len() >= 8 && findings.iter().any(|f| f.severity == Severity::Warning));
    for finding in findings {
        assert!(!finding.message.ends_with('.') && !finding.message.contains('\n'), "{}", finding.message);
        assert!(!finding.message.starts_with(|c: char| c.is_uppercase()), "{}", finding.message);
    }
}
