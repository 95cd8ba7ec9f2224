//! Owns: the policy message, what makes it valid, and the snapshot that requests are decided with.
//! Must not know: where a policy came from (file, xDS), sockets, time.
//! On failure: closed; a policy that does not validate yields findings and no snapshot.

mod budgets;
mod limits;
mod routes;
mod snapshot;
mod tensors;
mod validate;

pub use budgets::{BudgetPolicy, WhenExhausted};
pub use limits::LimitMatch;
pub use routes::{ResolvePolicy, RoutePolicy};
pub use snapshot::{
    CachePolicy, Capabilities, FeaturePolicy, KeyRecord, ModelPolicy, Permitted, PoolPolicy, Sizes, Snapshot,
    TenantPolicy, Timing, Tracing,
};
pub use validate::{Finding, Severity, validate};

/// The protobuf message, as `proto/forebay/v1/policy.proto` defines it.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/forebay.v1.rs"));
}

use prost::Message;

/// Decodes, validates and compiles a policy.
///
/// Warnings do not prevent a snapshot; any error does, and then all findings come back.
pub fn compile(bytes: &[u8]) -> Result<Snapshot, Vec<Finding>> {
    let policy = pb::Policy::decode(bytes).map_err(|e| {
        vec![Finding {
            severity: Severity::Error,
            slug: "not_a_policy",
            path: String::new(),
            message: format!("the bytes are no forebay.v1.Policy message: {e}"),
        }]
    })?;
    let findings = validate(&policy);
    if findings.iter().any(|f| f.severity == Severity::Error) {
        return Err(findings);
    }
    Snapshot::build(policy, bytes).map_err(|finding| vec![finding])
}
