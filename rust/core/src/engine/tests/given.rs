//! Owns: a valid policy for tests to vary, and its parts.
//! Must not know: what a test is about.
//! On failure: nothing here fails.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::rig::CHAT;
use crate::policy::pb;

pub use pb::budget::{Enforcement, Unit as BudgetUnit, WhenExhausted};
pub use pb::limit::{Scope as LimitScope, Unit};
pub use pb::model::Capability;
pub use pb::pool::Protocol;
pub use pb::route::{Match, Operation, WhenFull};

fn pool(name: &str, protocol: Protocol) -> pb::Pool {
    pb::Pool {
        name: name.into(),
        protocol: protocol as i32,
        endpoints: vec![pb::Endpoint { address: "127.0.0.1:9".into() }],
        provider: format!("provider-{name}"),
        ..pb::Pool::default()
    }
}

pub fn model(name: &str, pool: &str, capabilities: &[Capability]) -> pb::Model {
    pb::Model {
        name: name.into(),
        pools: vec![pool.into()],
        max_output_tokens: 100,
        capabilities: capabilities.iter().map(|c| *c as i32).collect(),
        ..pb::Model::default()
    }
}

pub fn key(id: &str, tenant: &str) -> pb::Key {
    let digest = Sha256::digest(format!("fbk_{id}"));
    let sha256 = digest.iter().fold(String::new(), |mut hex, b| {
        let _ = write!(hex, "{b:02x}");
        hex
    });
    pb::Key { id: id.into(), sha256, tenant: tenant.into(), ..pb::Key::default() }
}

pub fn route(name: &str, path: &str, operation: Operation) -> pb::Route {
    pb::Route {
        name: name.into(),
        r#match: Some(Match::Path(path.into())),
        operation: operation as i32,
        ..pb::Route::default()
    }
}

pub fn limit(name: &str, scope: LimitScope, unit: Unit, amount: u64) -> pb::Limit {
    pb::Limit {
        name: name.into(),
        scope: scope as i32,
        unit: unit as i32,
        amount,
        window_ms: if unit == Unit::Concurrency { 0 } else { 60_000 },
        ..pb::Limit::default()
    }
}

/// Two tenants, four pools, models for every operation, no limits, no cache.
pub fn policy() -> pb::Policy {
    use Capability as C;
    let tenant = |name: &str, models: &[&str]| pb::Tenant {
        name: name.into(),
        models: models.iter().map(|m| (*m).to_owned()).collect(),
        ..pb::Tenant::default()
    };
    let mut small = model("small", "a", &[C::Chat, C::Completions, C::Tools, C::Json]);
    small.aliases = vec!["mini".into()];
    small.tags = vec!["cheap".into()];
    let mut list = route("list", "/v1/models", Operation::ListModels);
    list.methods = vec!["GET".into()];
    let mut files = route("files", "", Operation::Forward);
    files.r#match = Some(Match::PathPrefix("/files/".into()));
    files.pool = "raw".into();
    let mut infer = route("infer", "", Operation::Kserve);
    infer.r#match = Some(Match::PathPrefix("/inference.GRPCInferenceService/".into()));
    let mut chat = route("chat", CHAT, Operation::ChatCompletions);
    chat.methods = vec!["POST".into()];
    pb::Policy {
        name: "test".into(),
        pools: vec![
            pool("a", Protocol::Openai),
            pool("b", Protocol::Openai),
            pool("raw", Protocol::Http),
            pool("triton", Protocol::KserveGrpc),
        ],
        models: vec![
            small,
            model("large", "b", &[C::Chat, C::Tools, C::Json, C::Vision]),
            model("vector", "a", &[C::Embeddings]),
            model("tensor", "triton", &[C::Tensors]),
        ],
        tenants: vec![tenant("acme", &["*"]), tenant("rival", &["*"])],
        keys: vec![key("acme", "acme"), key("rival", "rival")],
        features: vec![pb::Feature { name: "search".into(), ..pb::Feature::default() }],
        routes: vec![
            chat,
            route("text", "/v1/completions", Operation::TextCompletions),
            route("embed", "/v1/embeddings", Operation::Embedding),
            list,
            files,
            infer,
        ],
        ..pb::Policy::default()
    }
}

/// The same with a cache.
pub fn cached() -> pb::Policy {
    pb::Policy { cache: Some(pb::Cache::default()), ..policy() }
}

/// A budget of an hour, hard, which refuses at its end.
pub fn budget(name: &str, scope: LimitScope, unit: BudgetUnit, amount: u64) -> pb::Budget {
    pb::Budget {
        name: name.into(),
        scope: scope as i32,
        unit: unit as i32,
        amount,
        period: pb::budget::Period::Hour as i32,
        ..pb::Budget::default()
    }
}

/// Prices of whole nano-USD a token.
pub fn prices(prompt: u64, output: u64) -> pb::Prices {
    pb::Prices {
        prompt_nanousd_per_million_tokens: prompt * 1_000_000,
        output_nanousd_per_million_tokens: output * 1_000_000,
        revision: "r1".into(),
        ..pb::Prices::default()
    }
}

/// The first policy with a ledger and these budgets. Prompts are counted exactly; `small` costs 1 and 2 nano-USD a token,
/// `large` ten times that.
pub fn spending(budgets: Vec<pb::Budget>) -> pb::Policy {
    let mut policy = policy();
    for model in &mut policy.models {
        model.tokenizer = "o200k_base".into();
    }
    policy.models[0].prices = Some(prices(1, 2));
    policy.models[1].prices = Some(prices(10, 20));
    pb::Policy { ledger: Some(pb::Ledger::default()), budgets, ..policy }
}
