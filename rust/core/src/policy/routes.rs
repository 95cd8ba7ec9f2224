//! Owns: routes as deciding needs them: what matches, and what happens there.
//! Must not know: how a request is read.
//! On failure: a reference that does not resolve is left out (closed).

use std::collections::HashMap;
use std::sync::Arc;

use super::pb;
use super::snapshot::{MS, or};

/// A route.
#[derive(Debug)]
pub struct RoutePolicy {
    /// Its name, for records
    pub name: Arc<str>,
    path: String,
    is_prefix: bool,
    methods: Vec<String>,
    /// What is asked there
    pub operation: pb::route::Operation,
    /// `FORWARD`: where to, as an index
    pub pool: Option<u32>,
    /// What happens when every pool is full
    pub when_full: pb::route::WhenFull,
    /// `NEXT_MODEL`: which, as indices
    pub next_models: Vec<u32>,
    /// Fixed feature, as an index
    pub feature: Option<u32>,
    /// A person's own stage
    pub resolve: Option<ResolvePolicy>,
}

/// A person's own stage, defaults filled in.
#[derive(Debug)]
pub struct ResolvePolicy {
    /// `package.module:function`
    pub target: Arc<str>,
    /// Past it, `on_failure`
    pub deadline_ns: u64,
    /// Requests in one call
    pub max_batch: usize,
    /// Requests that may wait
    pub max_waiting: usize,
    /// What happens then
    pub on_failure: pb::resolve::OnFailure,
    /// `FALLBACK_MODEL`: which, as an index
    pub fallback: Option<u32>,
}

// === impl RoutePolicy ===

impl RoutePolicy {
    pub(super) fn new(
        route: &pb::Route,
        pools: &HashMap<Arc<str>, u32, ahash::RandomState>,
        models: &HashMap<Arc<str>, u32, ahash::RandomState>,
        features: &HashMap<Arc<str>, u32, ahash::RandomState>,
    ) -> Self {
        use pb::route::Match;
        let (path, is_prefix) = match &route.r#match {
            Some(Match::PathPrefix(p)) => (p.clone(), true),
            Some(Match::Path(p)) => (p.clone(), false),
            None => (String::new(), false),
        };
        Self {
            name: Arc::from(route.name.as_str()),
            path,
            is_prefix,
            methods: route.methods.clone(),
            operation: route.operation(),
            pool: pools.get(route.pool.as_str()).copied(),
            when_full: route.when_full(),
            next_models: route.next_models.iter().filter_map(|m| models.get(m.as_str()).copied()).collect(),
            feature: features.get(route.feature.as_str()).copied(),
            resolve: route.resolve.as_ref().map(|r| ResolvePolicy {
                target: Arc::from(r.python.as_str()),
                deadline_ns: or(r.deadline_ms, 50) * MS,
                max_batch: or(u64::from(r.max_batch), 16) as usize,
                max_waiting: or(u64::from(r.max_waiting), 256) as usize,
                on_failure: r.on_failure(),
                fallback: models.get(r.fallback_model.as_str()).copied(),
            }),
        }
    }

    pub(super) fn path_matches(&self, path: &str) -> bool {
        if self.is_prefix { path.starts_with(&self.path) } else { path == self.path }
    }

    pub(super) fn matches(&self, method: &str, path: &str) -> bool {
        self.path_matches(path) && (self.methods.is_empty() || self.methods.iter().any(|m| m == method))
    }
}
