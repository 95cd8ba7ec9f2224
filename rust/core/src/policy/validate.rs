//! Owns: what a policy must satisfy beyond its types: names, references, addresses, bounds, and what cannot be kept.
//! Must not know: files and lines (the caller has them), Envoy's configuration, the snapshot.
//! On failure: closed; an `Error` refuses the policy whole, a `Warning` says what will surprise its author.

mod access;
mod addresses;
mod budgets;
mod gateway;
mod ledger;
mod limits;
mod models;
mod names;
mod pools;
mod routes;
mod tensors;
#[cfg(test)]
mod tests;

use super::pb;
use names::Names;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The policy is refused.
    Error,
    /// The policy is taken, and does something that its author may not expect.
    Warning,
}

/// One thing to say about a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it refuses the policy
    pub severity: Severity,
    /// Stable name of the rule, such as `unknown_pool`
    pub slug: &'static str,
    /// The field, such as `models[2].pools[0]`; it may name a field that the policy leaves out
    pub path: String,
    /// What is wrong, the value, and what to do
    pub message: String,
}

/// Everything that is wrong or surprising about a policy, in the order of its fields.
///
/// It looks at every rule and never stops at the first finding. It does not panic on any message.
/// Cost: linear in the policy, apart from the search for shadowed routes (quadratic in the number of routes).
pub fn validate(policy: &pb::Policy) -> Vec<Finding> {
    let names = Names::of(policy);
    let mut report = Report::default();
    report.text("name", &policy.name, 128);
    gateway::check(policy, &mut report);
    pools::check(policy, &names, &mut report);
    models::check(policy, &names, &mut report);
    access::check(policy, &names, &mut report);
    limits::check(policy, &names, &mut report);
    budgets::check(policy, &names, &mut report);
    ledger::check(policy, &mut report);
    routes::check(policy, &names, &mut report);
    report.findings
}

/// Collects findings; its methods are the checks that several rules share.
#[derive(Debug, Default)]
struct Report {
    findings: Vec<Finding>,
}

// === impl Severity ===

impl Severity {
    /// `error` or `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

// === impl Report ===

impl Report {
    fn error(&mut self, slug: &'static str, path: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Error, slug, path.into(), message.into());
    }

    fn warn(&mut self, slug: &'static str, path: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Warning, slug, path.into(), message.into());
    }

    fn push(&mut self, severity: Severity, slug: &'static str, path: String, message: String) {
        self.findings.push(Finding { severity, slug, path, message });
    }

    /// A number that is given (not 0) must lie in the range. The bounds keep every product of the engine within `u64`.
    fn within(&mut self, path: &str, value: u64, least: u64, most: u64) {
        if value != 0 && !(least..=most).contains(&value) {
            self.error("out_of_range", path, format!("`{value}` is outside {least} to {most}"));
        }
    }

    /// Free text that ends up in headers, records and labels: bounded, without control characters.
    fn text(&mut self, path: &str, value: &str, most: usize) {
        if value.len() > most {
            self.error("too_long", path, format!("has {} bytes; at most {most} are allowed", value.len()));
        } else if value.chars().any(char::is_control) {
            self.error("bad_text", path, format!("`{}` holds a control character", names::shown(value)));
        }
    }

    /// 64 hex digits; says whether it is.
    fn digest(&mut self, path: &str, value: &str) -> bool {
        let good = value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
        if !good {
            let message = if value.starts_with("fbk_") {
                // A key in plain sight is not repeated into a log.
                "this is a key itself; write its SHA-256 (`forebay key new` prints both), and replace the key"
                    .to_owned()
            } else {
                format!("must be the 64 hex digits of a SHA-256, has {} characters", value.chars().count())
            };
            self.error("bad_sha256", path, message);
        }
        good
    }
}
