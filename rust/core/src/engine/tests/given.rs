//! Owns: a valid policy for tests to vary, and its parts.
//! Must not know: what a test is about.
//! On failure: nothing here fails.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::rig::CHAT;
use crate::policy::pb;

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
