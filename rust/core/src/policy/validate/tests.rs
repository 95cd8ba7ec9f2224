#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod account;
mod tensors;

use proptest::prelude::*;
use prost::Message;

use super::pb::credential::Source;
use super::pb::{self, limit, model, pool, resolve, route};
use super::{Finding, Severity, validate};

fn pool(name: &str, protocol: pool::Protocol) -> pb::Pool {
    pb::Pool {
        name: name.into(),
        protocol: protocol.into(),
        endpoints: vec![pb::Endpoint { address: "127.0.0.1:8000".into() }],
        ..pb::Pool::default()
    }
}

fn model(name: &str, pool: &str, capability: model::Capability) -> pb::Model {
    pb::Model {
        name: name.into(),
        pools: vec![pool.into()],
        capabilities: vec![capability.into()],
        max_output_tokens: 4096,
        context_window_tokens: 128_000,
        prices: Some(pb::Prices::default()),
        tags: vec!["eu".into()],
        ..pb::Model::default()
    }
}

fn route(name: &str, path: &str, operation: route::Operation) -> pb::Route {
    pb::Route {
        name: name.into(),
        r#match: Some(route::Match::Path(path.into())),
        operation: operation.into(),
        ..pb::Route::default()
    }
}

/// A policy without any finding; every test breaks one thing of it.
fn good() -> pb::Policy {
    pb::Policy {
        name: "good".into(),
        pools: vec![
            pool("chat", pool::Protocol::Openai),
            pool("triton", pool::Protocol::KserveGrpc),
            pool("files", pool::Protocol::Http),
        ],
        models: vec![
            pb::Model {
                aliases: vec!["small".into()],
                ..model("org/chat-small:8b", "chat", model::Capability::Chat)
            },
            model("embed", "chat", model::Capability::Embeddings),
            model("bert", "triton", model::Capability::Tensors),
        ],
        tiers: vec![pb::Tier { name: "free".into(), ..pb::Tier::default() }],
        tenants: vec![pb::Tenant {
            name: "acme".into(),
            tier: "free".into(),
            models: vec!["*".into(), "tag:eu".into()],
            ..pb::Tenant::default()
        }],
        keys: vec![pb::Key {
            id: "acme-1".into(),
            sha256: "ab".repeat(32),
            tenant: "acme".into(),
            models: vec!["small".into()],
            features: vec!["search".into()],
            ..pb::Key::default()
        }],
        features: vec![pb::Feature { name: "search".into(), ..pb::Feature::default() }],
        limits: vec![pb::Limit {
            name: "per-key".into(),
            scope: limit::Scope::Key.into(),
            unit: limit::Unit::Tokens.into(),
            amount: 1000,
            window_ms: 60_000,
            ..pb::Limit::default()
        }],
        routes: vec![
            route("chat", "/v1/chat/completions", route::Operation::ChatCompletions),
            route("embed", "/v1/embeddings", route::Operation::Embedding),
            route("models", "/v1/models", route::Operation::ListModels),
            pb::Route {
                r#match: Some(route::Match::PathPrefix("/inference.GRPCInferenceService/".into())),
                ..route("triton", "", route::Operation::Kserve)
            },
            pb::Route { pool: "files".into(), ..route("files", "/v1/files", route::Operation::Forward) },
        ],
        cache: Some(pb::Cache::default()),
        ..pb::Policy::default()
    }
}

/// Changes the good policy and gives `severity slug path` of what is found.
fn found(change: impl FnOnce(&mut pb::Policy)) -> Vec<String> {
    let mut policy = good();
    change(&mut policy);
    let text = |f: &Finding| format!("{} {} {}", f.severity.as_str(), f.slug, f.path);
    validate(&policy).iter().map(text).collect()
}

fn gateway(change: impl FnOnce(&mut pb::Gateway)) -> pb::Gateway {
    let mut gateway = pb::Gateway::default();
    change(&mut gateway);
    gateway
}

#[test]
fn a_good_policy_has_no_finding() {
    assert_eq!(found(|_| ()), Vec::<String>::new());
}

#[test]
fn an_empty_policy_is_valid_and_says_that_it_refuses_everything() {
    let findings = validate(&pb::Policy::default());
    let slugs: Vec<_> = findings.iter().map(|f| (f.severity, f.slug)).collect();
    assert_eq!(slugs, [(Severity::Warning, "no_keys"), (Severity::Warning, "no_routes")]);
}

#[test]
fn names_and_aliases_are_unique_together() {
    assert_eq!(
        found(|p| p.models[1].aliases = vec!["org/chat-small:8b".into(), "small".into()]),
        ["error duplicate_name models[1].aliases[0]", "error duplicate_name models[1].aliases[1]"]
    );
    assert_eq!(found(|p| p.tenants.push(p.tenants[0].clone())), ["error duplicate_name tenants[1].name"]);
}

#[test]
fn names_keep_their_alphabet() {
    assert_eq!(
        found(|p| p.tiers.push(pb::Tier { name: "a b".into(), ..pb::Tier::default() })),
        ["error bad_name tiers[1].name"]
    );
    assert_eq!(
        found(|p| p.tiers.push(pb::Tier { name: String::new(), ..pb::Tier::default() })),
        ["error no_name tiers[1].name"]
    );
    assert_eq!(
        found(|p| p.tiers.push(pb::Tier { name: "x".repeat(65), ..pb::Tier::default() })),
        ["error too_long tiers[1].name"]
    );
    assert_eq!(found(|p| p.models[1].name = "tag:x".into()), ["error bad_name models[1].name"]);
    assert_eq!(found(|p| p.models[1].name = "é".into()), ["error bad_name models[1].name"]);
    assert!(
        found(|p| p.pools[2].name = "forebay".into()).contains(&"error reserved_name pools[2].name".into())
    );
}

#[test]
fn references_resolve() {
    assert_eq!(
        found(|p| {
            p.models[0].pools = vec!["cht".into()];
            p.tenants[0].tier = "fre".into();
            p.tenants[0].models = vec!["smal".into(), "tag:us".into()];
            p.keys[0].tenant = "acm".into();
            p.keys[0].tier = "gold".into();
            p.keys[0].features = vec!["searhc".into()];
            p.limits[0].models = vec!["small".into(), "*".into()];
            p.limits[0].keys = vec!["nobody".into()];
            p.routes[0].feature = "none".into();
        }),
        [
            "error unknown_pool models[0].pools[0]",
            "error unknown_tier tenants[0].tier",
            "error unknown_model tenants[0].models[0]",
            "error unknown_tag tenants[0].models[1]",
            "error unknown_tenant keys[0].tenant",
            "error unknown_tier keys[0].tier",
            "error unknown_feature keys[0].features[0]",
            "error unknown_key limits[0].keys[0]",
            "error unknown_model limits[0].models[0]",
            "error wildcard_refused limits[0].models[1]",
            "error unknown_feature routes[0].feature",
        ]
    );
}

#[test]
fn a_near_name_is_suggested() {
    let mut policy = good();
    policy.models[0].pools = vec!["cht".into()];
    policy.limits[0].models = vec!["small".into()];
    let messages: Vec<_> = validate(&policy).into_iter().map(|f| f.message).collect();
    assert!(messages[0].ends_with("did you mean `chat`?"), "{messages:?}");
    assert!(messages[1].contains("alias of `org/chat-small:8b`"), "{messages:?}");
}

#[test]
fn addresses_are_host_and_port() {
    let bad = [
        "",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:+80",
        "::1:80",
        "[::1]80",
        "[x]:1",
        "1.2.3.400:80",
    ];
    for address in bad.iter().chain(&["http://a:1", "a b:1", "0.0.0.0:80", "-a:1", "a..b:1"]) {
        let findings = found(|p| p.pools[0].endpoints[0].address = (*address).into());
        assert_eq!(findings, ["error bad_address pools[0].endpoints[0].address"], "{address}");
    }
    for address in
        ["host:80", "a-b.example.com:443", "[::1]:8000", "10.0.0.1:1", "my_service:65535", "a.b.:1"]
    {
        assert_eq!(found(|p| p.pools[0].endpoints[0].address = address.into()), [""; 0], "{address}");
    }
    let twice = found(|p| p.pools[0].endpoints = vec![pb::Endpoint { address: "a:1".into() }; 2]);
    assert_eq!(twice, ["error duplicate_endpoint pools[0].endpoints[1].address"]);
}

#[test]
fn listeners_are_addresses_and_apart() {
    assert_eq!(
        found(|p| p.gateway = Some(gateway(|g| g.ext_proc_address = "localhost:1".into()))),
        ["error bad_address gateway.ext_proc_address"]
    );
    assert_eq!(
        found(|p| p.gateway = Some(gateway(|g| g.batch_address = "127.0.0.1:9300".into()))),
        ["error address_taken gateway.batch_address"]
    );
}

#[test]
fn an_admin_port_beyond_loopback_needs_a_token() {
    let open = |token: &str| {
        found(|p| {
            p.gateway = Some(gateway(|g| {
                g.admin_address = "0.0.0.0:9301".into();
                g.admin_token_sha256 = token.into();
            }));
        })
    };
    assert_eq!(open(""), ["error admin_exposed gateway.admin_address"]);
    assert_eq!(open("secret"), ["error bad_sha256 gateway.admin_token_sha256"]);
    assert_eq!(open(&"0f".repeat(32)), [""; 0]);
    assert_eq!(
        found(|p| p.gateway = Some(gateway(|g| g.ext_proc_address = "[::]:9300".into()))),
        ["warning address_exposed gateway.ext_proc_address"]
    );
}

#[test]
fn keys_are_digests() {
    assert_eq!(found(|p| p.keys[0].sha256 = "ab".into()), ["error bad_sha256 keys[0].sha256"]);
    assert_eq!(found(|p| p.keys[0].sha256 = "g".repeat(64)), ["error bad_sha256 keys[0].sha256"]);
    let nothing = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855";
    assert_eq!(found(|p| p.keys[0].sha256 = nothing.into()), ["error empty_key keys[0].sha256"]);
    let doubled = |p: &mut pb::Policy| {
        let other = pb::Key { id: "other".into(), sha256: "AB".repeat(32), ..p.keys[0].clone() };
        p.keys.push(other);
    };
    assert_eq!(found(doubled), ["error duplicate_key keys[1].sha256"]);
    assert_eq!(found(|p| p.keys[0].tenant = String::new()), ["error no_tenant keys[0].tenant"]);
    assert_eq!(
        found(|p| p.keys[0].expires_unix_ms = 1_900_000_000),
        ["error bad_time keys[0].expires_unix_ms"]
    );
}

#[test]
fn a_key_in_plain_sight_is_not_repeated() {
    let mut policy = good();
    policy.keys[0].sha256 = "fbk_veryverysecret".into();
    assert!(validate(&policy).iter().all(|f| !f.message.contains("veryvery")));
    policy.pools[0].credential = Some(pb::Credential {
        source: Some(Source::Env("sk-veryverysecret".into())),
        ..pb::Credential::default()
    });
    assert!(validate(&policy).iter().all(|f| !f.message.contains("veryvery")));
}

#[test]
fn a_feature_that_wants_a_cache_needs_one() {
    use super::pb::feature_cache::Mode;
    let feature = |mode: Mode, cache: Option<pb::Cache>| {
        found(move |p| {
            p.cache = cache;
            p.features[0].cache = Some(pb::FeatureCache { mode: mode.into(), ..pb::FeatureCache::default() });
        })
    };
    for mode in [Mode::Exact, Mode::Lookup] {
        assert_eq!(feature(mode, None), ["warning cache_missing features[0].cache.mode"]);
        assert_eq!(feature(mode, Some(pb::Cache::default())), [""; 0]);
    }
    assert_eq!(feature(Mode::Off, None), [""; 0]);
}

#[test]
fn a_key_cannot_widen_its_tenant() {
    let narrow = |p: &mut pb::Policy| p.tenants[0].models = vec!["embed".into()];
    assert_eq!(found(narrow), ["warning key_widens_tenant keys[0].models[0]"]);
    let none =
        |p: &mut pb::Policy| p.tenants.push(pb::Tenant { name: "idle".into(), ..pb::Tenant::default() });
    assert_eq!(found(none), ["warning tenant_without_models tenants[1].models"]);
}

#[test]
fn pools_speak_what_models_need() {
    assert_eq!(
        found(|p| p.models[0].pools = vec!["triton".into()]),
        ["error protocol_mismatch models[0].pools[0]"]
    );
    assert_eq!(
        found(|p| p.models[2].pools = vec!["chat".into()]).first().unwrap(),
        "warning pool_unused pools[1].name"
    );
    assert_eq!(found(|p| p.models[2].pools.clear())[1], "error no_pool models[2].pools");
    assert!(found(|p| p.pools[0].protocol = 77).contains(&"error no_protocol pools[0].protocol".into()));
}

#[test]
fn models_are_bounded() {
    assert_eq!(
        found(|p| p.models[0].max_output_tokens = 200_000),
        ["error output_above_window models[0].max_output_tokens"]
    );
    assert_eq!(
        found(|p| p.models[0].tokenizer = "gpt2".into()),
        ["error unknown_tokenizer models[0].tokenizer"]
    );
    assert_eq!(
        found(|p| p.models[0].tokenizer = "estimate:".into()),
        ["error unknown_tokenizer models[0].tokenizer"]
    );
    assert_eq!(found(|p| p.models[0].tokenizer = "estimate:llama".into()), [""; 0]);
    assert_eq!(
        found(|p| p.models[0].tokenizer = "estimate:lama".into()),
        ["error unknown_tokenizer models[0].tokenizer"]
    );
    assert_eq!(found(|p| p.models[0].prices = None), ["warning no_prices models[0].prices"]);
    assert_eq!(found(|p| p.models[2].prices = None), [""; 0]);
    assert_eq!(
        found(|p| p.models[0].image_tokens = Some(pb::ImageTokens::default())),
        ["error no_rule models[0].image_tokens"]
    );
    assert_eq!(
        found(|p| p.models[0].context_window_tokens = u64::MAX),
        ["error out_of_range models[0].context_window_tokens"]
    );
}

#[test]
fn credentials_name_their_source() {
    let with = |header: &str, source: Option<Source>| {
        let (header, mut policy) = (header.to_owned(), good());
        policy.pools[0].credential = Some(pb::Credential { header, source, ..pb::Credential::default() });
        validate(&policy).into_iter().map(|f| format!("{} {}", f.slug, f.path)).collect::<Vec<_>>()
    };
    assert_eq!(with("", None), ["no_secret pools[0].credential"]);
    assert_eq!(with("", Some(Source::Env("OPENAI_API_KEY".into()))), [""; 0]);
    assert_eq!(with("api-key", Some(Source::File("/run/secrets/key".into()))), [""; 0]);
    assert_eq!(with("", Some(Source::Env("1 bad".into()))), ["bad_variable pools[0].credential.env"]);
    assert_eq!(with("", Some(Source::File(String::new()))), ["no_file pools[0].credential.file"]);
    for header in ["Authorization", "host", "x-forebay-internal-pool", ":path", "a b"] {
        let findings = with(header, Some(Source::Env("KEY".into())));
        assert_eq!(findings, ["bad_header pools[0].credential.header"], "{header}");
    }
    let remote = |p: &mut pb::Policy| {
        p.pools[0].endpoints[0].address = "api.example.com:80".into();
        p.pools[0].credential =
            Some(pb::Credential { source: Some(Source::Env("K".into())), ..pb::Credential::default() });
    };
    assert_eq!(found(remote), ["warning credential_in_clear pools[0].credential"]);
    let kserve = |p: &mut pb::Policy| {
        p.pools[1].credential =
            Some(pb::Credential { source: Some(Source::Env("K".into())), ..pb::Credential::default() });
        p.pools[1].path_prefix = "/x/".into();
    };
    assert_eq!(
        found(kserve),
        [
            "error bad_path pools[1].path_prefix",
            "error field_not_used pools[1].credential",
            "error field_not_used pools[1].path_prefix"
        ]
    );
}

#[test]
fn tls_needs_a_name_to_verify() {
    let tls = |address: &'static str, sni: &'static str| {
        found(move |p| {
            p.pools[0].endpoints[0].address = address.into();
            p.pools[0].tls = Some(pb::ClientTls { sni: sni.into(), ..pb::ClientTls::default() });
        })
    };
    assert_eq!(tls("10.0.0.1:443", ""), ["error no_server_name pools[0].tls.sni"]);
    assert_eq!(tls("10.0.0.1:443", "api.example.com"), [""; 0]);
    assert_eq!(tls("api.example.com:443", ""), [""; 0]);
    assert_eq!(tls("api.example.com:443", "no name"), ["error bad_host_name pools[0].tls.sni"]);
}

#[test]
fn limits_say_what_of_whom_how_much_and_how_long() {
    assert_eq!(
        found(|p| p.limits[0] = pb::Limit { name: "x".into(), ..pb::Limit::default() }),
        [
            "error no_scope limits[0].scope",
            "error no_amount limits[0].amount",
            "error no_unit limits[0].unit"
        ]
    );
    assert_eq!(found(|p| p.limits[0].window_ms = 0), ["error no_window limits[0].window_ms"]);
    assert_eq!(
        found(|p| p.limits[0].unit = limit::Unit::Concurrency.into()),
        ["error field_not_used limits[0].window_ms"]
    );
    assert_eq!(found(|p| p.limits[0].amount = u64::MAX), ["error out_of_range limits[0].amount"]);
    assert_eq!(
        found(|p| p.limits[0].scope = limit::Scope::Provider.into()),
        ["warning scope_empty limits[0].scope"]
    );
}

#[test]
fn a_token_limit_without_an_output_cap_is_said() {
    assert_eq!(found(|p| p.models[0].max_output_tokens = 0), ["warning no_output_cap limits[0]"]);
    // A model that writes no text has no output to bound.
    assert_eq!(found(|p| p.models[1].max_output_tokens = 0), [""; 0]);
    let elsewhere = |p: &mut pb::Policy| {
        p.models[0].max_output_tokens = 0;
        p.limits[0].models = vec!["embed".into()];
    };
    assert_eq!(found(elsewhere), [""; 0]);
}

#[test]
fn routes_have_a_path_and_an_operation() {
    assert_eq!(found(|p| p.routes[0].r#match = None), ["error no_match routes[0]"]);
    for bad in ["", "v1", "/v1?x", "/a//b", "/a/../b", "/ä"] {
        let findings = found(|p| p.routes[0].r#match = Some(route::Match::Path(bad.into())));
        assert_eq!(findings, ["error bad_path routes[0].path"], "{bad}");
    }
    assert_eq!(found(|p| p.routes[0].operation = 0), ["error no_operation routes[0].operation"]);
    assert_eq!(
        found(|p| p.routes[0].methods = vec!["post".into()])[0],
        "error bad_method routes[0].methods[0]"
    );
    assert_eq!(found(|p| p.routes[0].methods = vec!["GET".into()]), ["error bad_method routes[0].methods"]);
    assert_eq!(
        found(|p| p.routes[3].r#match = Some(route::Match::Path("/x".into()))),
        ["error bad_path routes[3]"]
    );
}

#[test]
fn a_hidden_route_is_said() {
    let prefix = |methods: &'static [&'static str]| {
        found(move |p| {
            let hiding = pb::Route {
                r#match: Some(route::Match::PathPrefix("/v1/em".into())),
                methods: methods.iter().map(|&m| m.into()).collect(),
                ..route("first", "", route::Operation::Embedding)
            };
            p.routes.insert(0, hiding);
        })
    };
    assert_eq!(prefix(&[]), ["warning route_shadowed routes[2]"]);
    assert_eq!(prefix(&["POST"]), [""; 0]);
}

#[test]
fn forward_names_a_pool_that_nobody_reads() {
    assert_eq!(found(|p| p.routes[4].pool.clear())[1], "error no_pool routes[4].pool");
    assert_eq!(found(|p| p.routes[4].pool = "chat".into())[1], "error protocol_mismatch routes[4].pool");
    assert_eq!(found(|p| p.routes[0].pool = "chat".into()), ["error field_not_used routes[0].pool"]);
}

#[test]
fn next_models_are_there_and_able() {
    let next = |models: &'static [&'static str]| {
        found(move |p| {
            p.routes[0].when_full = route::WhenFull::NextModel.into();
            p.routes[0].next_models = models.iter().map(|&m| m.into()).collect();
        })
    };
    assert_eq!(next(&[]), ["error no_next_model routes[0].next_models"]);
    assert_eq!(next(&["small"]), [""; 0]);
    assert_eq!(next(&["embed"]), ["error capability_mismatch routes[0].next_models[0]"]);
    assert_eq!(
        found(|p| p.routes[0].next_models = vec!["small".into()]),
        ["error field_not_used routes[0].next_models"]
    );
}

#[test]
fn a_stage_is_a_python_function_with_a_deadline_that_fits() {
    let stage = |change: fn(&mut pb::Resolve)| {
        found(move |p| {
            let mut resolve = pb::Resolve { python: "shop.routing:choose".into(), ..pb::Resolve::default() };
            change(&mut resolve);
            p.routes[0].resolve = Some(resolve);
        })
    };
    assert_eq!(stage(|_| ()), [""; 0]);
    for bad in ["", "shop", "shop:", ":f", "shop..x:f", "shop:f.g", "shop:f()", "1a:f", "a b:c"] {
        let findings = found(|p| {
            p.routes[0].resolve = Some(pb::Resolve { python: bad.into(), ..pb::Resolve::default() });
        });
        assert_eq!(findings, ["error bad_target routes[0].resolve.python"], "{bad}");
    }
    assert_eq!(stage(|r| r.deadline_ms = 1000), ["error deadline_too_long routes[0].resolve.deadline_ms"]);
    let fallback: i32 = resolve::OnFailure::FallbackModel.into();
    assert_eq!(fallback, 3);
    assert_eq!(stage(|r| r.on_failure = 3), ["error no_fallback_model routes[0].resolve.fallback_model"]);
    assert_eq!(
        stage(|r| r.fallback_model = "small".into()),
        ["error field_not_used routes[0].resolve.fallback_model"]
    );
}

#[test]
fn a_hold_fits_into_what_envoy_waits() {
    let follow = |follow_ms: u64, longest: u64| {
        found(move |p| {
            p.cache = Some(pb::Cache { follow_ms, ..pb::Cache::default() });
            p.gateway = Some(gateway(|g| g.max_message_timeout_ms = longest));
        })
    };
    assert_eq!(follow(20_000, 0), [""; 0]);
    assert_eq!(follow(20_000, 10_000), ["error hold_too_long cache.follow_ms"]);
    assert_eq!(follow(0, 10_000), ["warning hold_shortened cache.follow_ms"]);
    assert_eq!(follow(1, 500), ["error timeouts_reversed gateway.max_message_timeout_ms"]);
}

#[test]
fn parts_of_the_cache_fit_into_the_whole() {
    let cache = |max_bytes, max_entry_bytes| {
        found(move |p| p.cache = Some(pb::Cache { max_bytes, max_entry_bytes, ..pb::Cache::default() }))
    };
    assert_eq!(cache(1 << 20, 1 << 21)[0], "error part_above_whole cache.max_entry_bytes");
    assert_eq!(cache(0, 1 << 21), ["warning entry_above_capture cache.max_entry_bytes"]);
    assert_eq!(cache(1 << 19, 0), ["error part_above_whole cache.max_entry_bytes"]);
}

#[test]
fn failing_open_is_said() {
    assert_eq!(
        found(|p| p.routes[0].fail_open_pool = "chat".into()),
        ["warning fails_open routes[0].fail_open_pool"]
    );
    assert_eq!(
        found(|p| p.routes[3].fail_open_pool = "triton".into()),
        ["error protocol_mismatch routes[3].fail_open_pool"]
    );
}

#[test]
fn messages_keep_the_house_style() {
    let mut policy = good();
    policy.models[0].pools = vec!["nowhere\nerror".into()];
    policy.keys[0].sha256.clear();
    policy.cache = Some(pb::Cache { follow_ms: 3_600_000, ..pb::Cache::default() });
    let findings = validate(&policy);
    assert!(findings.len() >= 3);
    for finding in findings {
        assert!(!finding.message.ends_with('.') && !finding.message.contains('\n'), "{}", finding.message);
        assert!(!finding.message.starts_with(|c: char| c.is_uppercase()), "{}", finding.message);
    }
}

/// Text that tends to hit the rules: names of the good policy, odd characters, long runs.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("chat".to_owned()),
        Just("tag:".to_owned()),
        Just("*".to_owned()),
        Just("[::1]:1".to_owned()),
        ".{0,12}",
        "[a-z:\\[\\].0-9]{0,24}",
        Just("é".repeat(200)),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(policy) = pb::Policy::decode(bytes.as_slice()) {
            validate(&policy);
        }
    }

    #[test]
    fn no_values_make_it_panic(
        texts in proptest::collection::vec(text(), 24),
        numbers in proptest::collection::vec(any::<u64>(), 12),
        enums in proptest::collection::vec(any::<i32>(), 8),
    ) {
        let (t, n, e) = (|i: usize| texts[i].clone(), |i: usize| numbers[i], |i: usize| enums[i]);
        let mut policy = good();
        policy.name = t(0);
        policy.gateway = Some(pb::Gateway {
            ext_proc_address: t(1), admin_address: t(2), message_timeout_ms: n(0), max_message_timeout_ms: n(1),
            workers: n(2) as u32, max_body_bytes: n(3), ..pb::Gateway::default()
        });
        policy.pools.push(pb::Pool {
            name: t(3), protocol: e(0), endpoints: vec![pb::Endpoint { address: t(4) }], path_prefix: t(5),
            tls: Some(pb::ClientTls { sni: t(6), ca_file: t(7) }),
            health: Some(pb::HealthCheck { path: t(8), interval_ms: n(4), timeout_ms: n(5) }),
            credential: Some(pb::Credential { header: t(9), prefix: t(10), source: Some(Source::Env(t(11))) }),
            ..pb::Pool::default()
        });
        policy.models.push(pb::Model {
            name: t(12), aliases: vec![t(13)], tokenizer: t(14), pools: vec![t(15), t(3)], capabilities: vec![e(1), e(2)],
            context_window_tokens: n(6), max_output_tokens: n(7), ..pb::Model::default()
        });
        policy.tenants.push(pb::Tenant { name: t(16), tier: t(17), models: vec![t(18), t(13)], ..pb::Tenant::default() });
        policy.limits.push(pb::Limit {
            name: t(19), scope: e(3), unit: e(4), amount: n(8), window_ms: n(9), models: vec![t(20)], ..pb::Limit::default()
        });
        policy.routes.push(pb::Route {
            name: t(21), r#match: Some(route::Match::PathPrefix(t(22))), operation: e(5), when_full: e(6),
            next_models: vec![t(12)], pool: t(3), fail_open_pool: t(3),
            resolve: Some(pb::Resolve { python: t(23), on_failure: e(7), deadline_ms: n(10), ..pb::Resolve::default() }),
            ..pb::Route::default()
        });
        policy.cache = Some(pb::Cache { follow_ms: n(11), max_bytes: n(0), max_entry_bytes: n(1), ..pb::Cache::default() });
        policy.budgets.push(pb::Budget {
            name: t(19), scope: e(3), unit: e(4), amount: n(8), period: e(5), timezone: t(6), enforcement: e(6),
            when_exhausted: e(7), next_models: vec![t(12), t(13)], threshold_percents: vec![n(0) as u32, n(1) as u32],
            models: vec![t(20)], ..pb::Budget::default()
        });
        policy.ledger = Some(pb::Ledger {
            directory: t(7), retention_days: n(2) as u32, max_journal_bytes: n(3), on_failure: e(0),
        });
        policy.telemetry = Some(pb::Telemetry {
            otlp_endpoint: t(4), sampled_per_million: n(4) as u32, slow_ms: n(5), metrics_interval_ms: n(6),
        });
        let step = pb::LongPromptPrices { above_prompt_tokens: n(7), prompt_nanousd_per_million_tokens: n(8), ..pb::LongPromptPrices::default() };
        policy.models[0].prices = Some(pb::Prices {
            request_nanousd: n(9), output_nanousd_per_million_tokens: n(10), long_prompt: vec![step; 2], ..pb::Prices::default()
        });
        for finding in validate(&policy) {
            prop_assert!(!finding.message.contains('\n'));
        }
    }
}
