//! Owns: the rules of `routes`: a path means one operation, and what the operation needs is there.
//! Must not know: how a request is matched at run time.
//! On failure: a finding.

use super::addresses;
use super::gateway::Waits;
use super::names::{self, Alphabet, Names};
use super::{Report, pb};
use pb::model::Capability;
use pb::pool::Protocol;
use pb::resolve::OnFailure;
use pb::route::{Match, Operation, WhenFull};

const KSERVE_SERVICE: &str = "/inference.GRPCInferenceService/";
/// Where its HTTP form lives.
const KSERVE_HTTP: &str = "/v2";
/// The first route that matches decides, so a request may be held against all of them.
const MOST_ROUTES: usize = 1024;

pub(super) fn check(policy: &pb::Policy, names: &Names, report: &mut Report) {
    let routes = policy.routes.iter().enumerate();
    names::check_unique(routes.map(|(i, r)| (format!("routes[{i}].name"), &*r.name)), report);
    if policy.routes.is_empty() {
        report.warn("no_routes", "routes", "there is no route, so every path is refused with 404");
    }
    if policy.routes.len() > MOST_ROUTES {
        let message = format!("has {} routes; at most {MOST_ROUTES} are allowed", policy.routes.len());
        report.error("too_many", "routes", message);
        return;
    }
    for (i, route) in policy.routes.iter().enumerate() {
        let path = format!("routes[{i}]");
        check_match(route, &path, report);
        check_shadow(policy, i, route, &path, report);
        check_operation(policy, route, &path, names, report);
        check_when_full(route, &path, names, report);
        if !route.feature.is_empty() {
            names.check_feature(&route.feature, format!("{path}.feature"), report);
        }
        if let Some(resolve) = &route.resolve {
            check_resolve(resolve, route, &Waits::of(policy), &format!("{path}.resolve"), names, report);
        }
        check_fail_open(route, &path, names, report);
    }
}

fn check_match(route: &pb::Route, path: &str, report: &mut Report) {
    names::check_name(&route.name, &format!("{path}.name"), Alphabet::Plain, report);
    match &route.r#match {
        None => report.error("no_match", path, "must say what it matches: `path` or `path_prefix`"),
        Some(Match::Path(text)) => check_path(text, format!("{path}.path"), report),
        Some(Match::PathPrefix(text)) => check_path(text, format!("{path}.path_prefix"), report),
    }
    for (i, method) in route.methods.iter().enumerate() {
        if method.is_empty()
            || method.len() > 32
            || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
        {
            let message =
                format!("`{}` is no method; write it in capitals, such as `POST`", names::shown(method));
            report.error("bad_method", format!("{path}.methods[{i}]"), message);
        }
    }
}

fn check_path(text: &str, path: String, report: &mut Report) {
    if let Some(fault) = addresses::path_fault(text) {
        report.error("bad_path", path, format!("`{}` {fault}", names::shown(text)));
    }
}

/// A route that an earlier one hides for every method is never taken.
fn check_shadow(policy: &pb::Policy, at: usize, route: &pb::Route, path: &str, report: &mut Report) {
    let hidden = |earlier: &pb::Route| {
        let paths = match (&earlier.r#match, &route.r#match) {
            (Some(Match::PathPrefix(first)), Some(Match::Path(text) | Match::PathPrefix(text))) => {
                text.starts_with(first)
            }
            (Some(Match::Path(first)), Some(Match::Path(text))) => text == first,
            _ => false,
        };
        let mut own = route.methods.iter();
        paths
            && (earlier.methods.is_empty()
                || (!route.methods.is_empty() && own.all(|m| earlier.methods.contains(m))))
    };
    if let Some((j, earlier)) = policy.routes.iter().take(at).enumerate().find(|(_, earlier)| hidden(earlier))
    {
        let message =
            format!("is never reached: `{}` at `routes[{j}]` matches first", names::shown(&earlier.name));
        report.warn("route_shadowed", path, message);
    }
}

fn check_operation(policy: &pb::Policy, route: &pb::Route, path: &str, names: &Names, report: &mut Report) {
    let operation = Operation::try_from(route.operation).unwrap_or_default();
    let operation_path = format!("{path}.operation");
    let method = match operation {
        Operation::Unspecified => {
            let message = "must be given: `CHAT_COMPLETIONS`, `RESPONSES`, `MESSAGES`, `TEXT_COMPLETIONS`, `EMBEDDING`, \
                           `LIST_MODELS`, `KSERVE` or `FORWARD`";
            report.error("no_operation", operation_path, message);
            return;
        }
        Operation::Forward => {
            check_forward(route, path, names, report);
            return;
        }
        Operation::Kserve => {
            check_kserve(policy, route, path, names, report);
            return;
        }
        Operation::ListModels => "GET",
        Operation::ChatCompletions
        | Operation::TextCompletions
        | Operation::Embedding
        | Operation::Responses
        | Operation::Messages => "POST",
    };
    if !route.methods.is_empty() && !route.methods.iter().any(|m| m == method) {
        let message = format!("`{}` is asked with `{method}`, which is not listed", operation.as_str_name());
        report.error("bad_method", format!("{path}.methods"), message);
    }
    if !route.pool.is_empty() {
        let message = "only `FORWARD` and `KSERVE` name a pool; elsewhere the model's pools decide";
        report.error("field_not_used", format!("{path}.pool"), message);
    }
    let needed = capability_of(operation);
    if needed
        .is_some_and(|needed| !policy.models.iter().any(|model| model.capabilities().any(|c| c == needed)))
    {
        let name = needed.map_or("", |c| c.as_str_name());
        report.warn(
            "no_model",
            operation_path,
            format!("no model has `{name}`, so every request here is refused"),
        );
    }
}

fn check_kserve(policy: &pb::Policy, route: &pb::Route, path: &str, names: &Names, report: &mut Report) {
    let (is_http, text) = match &route.r#match {
        None => return,
        Some(Match::Path(text) | Match::PathPrefix(text)) => {
            let is_below = text.strip_prefix(KSERVE_HTTP).is_some_and(|rest| rest.starts_with('/'));
            (text == KSERVE_HTTP || is_below, text)
        }
    };
    if !is_http && !text.starts_with(KSERVE_SERVICE) {
        let message = format!(
            "`KSERVE` is the gRPC service `{KSERVE_SERVICE}` or HTTP below `{KSERVE_HTTP}`, not `{}`",
            names::shown(text)
        );
        report.error("bad_path", path, message);
    }
    if !is_http && !route.methods.is_empty() && !route.methods.iter().any(|m| m == "POST") {
        let message = "`KSERVE` over gRPC is asked with `POST`, which is not listed";
        report.error("bad_method", format!("{path}.methods"), message);
    }
    let pool_path = format!("{path}.pool");
    let is_kserve = |pool: &&pb::Pool| pool.protocol() == Protocol::KserveGrpc;
    if !route.pool.is_empty() {
        let Some(pool) = names.check_pool(&route.pool, pool_path.clone(), report) else { return };
        if !is_kserve(&pool) && pool.protocol() != Protocol::Unspecified {
            let message = format!(
                "`{}` speaks `{}`; `KSERVE` needs a pool of `KSERVE_GRPC`",
                names::shown(&route.pool),
                pool.protocol().as_str_name()
            );
            report.error("protocol_mismatch", pool_path, message);
        }
        return;
    }
    let mut pools = policy.pools.iter().filter(is_kserve);
    match (pools.next(), pools.next()) {
        (None, _) => {
            let message = "there is no pool of `KSERVE_GRPC`, so every request here is refused";
            report.warn("no_pool", pool_path, message);
        }
        (Some(first), Some(_)) => {
            let message = format!(
                "headers do not tell the model, so every request here goes to `{}`, the first of several pools; name one",
                names::shown(&first.name)
            );
            report.warn("first_pool", pool_path, message);
        }
        (Some(_), None) => {}
    }
}

fn check_forward(route: &pb::Route, path: &str, names: &Names, report: &mut Report) {
    let path = format!("{path}.pool");
    if route.pool.is_empty() {
        report.error("no_pool", path, "`FORWARD` must name the pool that it forwards to");
        return;
    }
    let Some(pool) = names.check_pool(&route.pool, path.clone(), report) else { return };
    if !matches!(pool.protocol(), Protocol::Http | Protocol::Grpc | Protocol::Unspecified) {
        let message = format!(
            "`{}` speaks `{}`; `FORWARD` needs a pool of `HTTP` or `GRPC`, because nothing is read or counted on the way",
            names::shown(&route.pool),
            pool.protocol().as_str_name()
        );
        report.error("protocol_mismatch", path, message);
    }
}

fn check_when_full(route: &pb::Route, path: &str, names: &Names, report: &mut Report) {
    let when_full = WhenFull::try_from(route.when_full);
    if when_full.is_err() {
        let message = format!("`{}` is no value of `when_full`", route.when_full);
        report.error("unknown_value", format!("{path}.when_full"), message);
    }
    let list = format!("{path}.next_models");
    match (when_full == Ok(WhenFull::NextModel), route.next_models.is_empty()) {
        (true, true) => {
            report.error("no_next_model", list.as_str(), "`NEXT_MODEL` must list the models to try");
        }
        (false, false) => {
            let message = "is looked at only with `when_full: NEXT_MODEL`; give that, or remove the list";
            report.error("field_not_used", list.as_str(), message);
        }
        _ => {}
    }
    let needed = capability_of(route.operation());
    if needed.is_none() && !route.next_models.is_empty() {
        let message = "this operation names no model that could be changed";
        report.error("field_not_used", list.as_str(), message);
    }
    for (i, name) in route.next_models.iter().enumerate() {
        let path = format!("{list}[{i}]");
        let Some(model) = names.check_model(name, path.clone(), report) else { continue };
        let Some(needed) = needed else { continue };
        if !model.capabilities().any(|c| c == needed) {
            let message = format!(
                "`{}` lacks `{}`, which this route asks for",
                names::shown(name),
                needed.as_str_name()
            );
            report.error("capability_mismatch", path, message);
        } else if needed == Capability::Embeddings {
            let message =
                format!("vectors of `{}` are not comparable with those of another model", names::shown(name));
            report.warn("embedding_changes", path, message);
        }
    }
}

fn check_resolve(
    resolve: &pb::Resolve,
    route: &pb::Route,
    waits: &Waits,
    path: &str,
    names: &Names,
    report: &mut Report,
) {
    let needed = capability_of(route.operation());
    if needed.is_none() {
        report.error("field_not_used", path, "this operation names no model that a stage could choose");
    }
    if !is_python_target(&resolve.python) {
        let message = format!("`{}` is not `package.module:function`", names::shown(&resolve.python));
        report.error("bad_target", format!("{path}.python"), message);
    }
    report.within(&format!("{path}.deadline_ms"), resolve.deadline_ms, 1, 600_000);
    report.within(&format!("{path}.max_batch"), u64::from(resolve.max_batch), 1, 4_096);
    report.within(&format!("{path}.max_waiting"), u64::from(resolve.max_waiting), 1, 1 << 20);
    let deadline_ms = if resolve.deadline_ms == 0 { 50 } else { resolve.deadline_ms };
    if deadline_ms >= waits.message_timeout_ms {
        let message = format!(
            "`{deadline_ms}` is not below gateway.message_timeout_ms, `{}`: Envoy would answer 504 first",
            waits.message_timeout_ms
        );
        report.error("deadline_too_long", format!("{path}.deadline_ms"), message);
    }
    let fallback = format!("{path}.fallback_model");
    match OnFailure::try_from(resolve.on_failure) {
        Err(_) => {
            let message = format!("`{}` is no value of `on_failure`", resolve.on_failure);
            report.error("unknown_value", format!("{path}.on_failure"), message);
        }
        Ok(OnFailure::FallbackModel) if resolve.fallback_model.is_empty() => {
            report.error("no_fallback_model", fallback, "`FALLBACK_MODEL` must name the model to go on with");
        }
        Ok(OnFailure::FallbackModel) => {
            let model = names.check_model(&resolve.fallback_model, fallback.clone(), report);
            let lacks = |needed: Capability| model.is_some_and(|m| !m.capabilities().any(|c| c == needed));
            if let Some(needed) = needed.filter(|needed| lacks(*needed)) {
                let model = names::shown(&resolve.fallback_model);
                let message =
                    format!("`{model}` lacks `{}`, which this route asks for", needed.as_str_name());
                report.error("capability_mismatch", fallback, message);
            }
        }
        Ok(_) if !resolve.fallback_model.is_empty() => {
            let message = "is looked at only with `on_failure: FALLBACK_MODEL`; give that, or remove it";
            report.error("field_not_used", fallback, message);
        }
        Ok(_) => {}
    }
}

fn check_fail_open(route: &pb::Route, path: &str, names: &Names, report: &mut Report) {
    if route.fail_open_pool.is_empty() {
        return;
    }
    let path = format!("{path}.fail_open_pool");
    let Some(pool) = names.check_pool(&route.fail_open_pool, path.clone(), report) else { return };
    let fits = match route.operation() {
        Operation::ChatCompletions
        | Operation::TextCompletions
        | Operation::Embedding
        | Operation::Responses => pool.protocol() == Protocol::Openai,
        Operation::Messages => matches!(pool.protocol(), Protocol::Openai | Protocol::Anthropic),
        Operation::Forward => matches!(pool.protocol(), Protocol::Http | Protocol::Grpc),
        Operation::ListModels | Operation::Kserve | Operation::Unspecified => false,
    };
    if fits {
        let message = format!(
            "while the gateway is away, requests reach `{}` without a key, a limit or a record; Envoy counts them",
            names::shown(&route.fail_open_pool)
        );
        report.warn("fails_open", path, message);
    } else {
        let message = format!(
            "`{}` cannot serve this operation without the gateway",
            names::shown(&route.fail_open_pool)
        );
        report.error("protocol_mismatch", path, message);
    }
}

/// What a model must have for an operation that names a model.
fn capability_of(operation: Operation) -> Option<Capability> {
    match operation {
        Operation::ChatCompletions => Some(Capability::Chat),
        Operation::TextCompletions => Some(Capability::Completions),
        Operation::Embedding => Some(Capability::Embeddings),
        Operation::Responses => Some(Capability::Responses),
        Operation::Messages => Some(Capability::Messages),
        Operation::Unspecified | Operation::ListModels | Operation::Kserve | Operation::Forward => None,
    }
}

/// `package.module:function`, each part an identifier in ASCII.
fn is_python_target(target: &str) -> bool {
    let identifier = |part: &str| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    target.len() <= 256
        && target
            .split_once(':')
            .is_some_and(|(module, function)| module.split('.').all(identifier) && identifier(function))
}
