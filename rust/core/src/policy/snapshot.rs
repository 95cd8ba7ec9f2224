//! Owns: the policy in the form that requests are decided with: indices instead of names, defaults filled in.
//! Must not know: how requests are read; anything that changes between two policies (counters, health).
//! On failure: closed; it is built from a validated policy only, a reference that does not resolve is left out, and a
//! limit that cannot be kept refuses the policy, since without it more would pass.

use std::collections::HashMap;
use std::sync::Arc;

use super::budgets::BudgetPolicy;
use super::limits::{LimitMatch, limit_spec};
use super::routes::RoutePolicy;
use super::{Finding, pb, tensors};
use crate::batch::Priority;
use crate::limit::{Kind, LimitSpec};
use crate::price::Prices;
use crate::tokens::{CountRules, ImageRule, Tokenizer};

pub(super) const MS: u64 = 1_000_000;

/// A compiled policy. Immutable; a new policy is a new snapshot.
#[derive(Debug)]
pub struct Snapshot {
    /// The policy's own name
    pub name: Arc<str>,
    /// First 8 bytes of BLAKE3 over the policy's bytes, as hex: which policy decided
    pub revision: Arc<str>,
    /// Waits and bounds of the gateway
    pub timing: Timing,
    /// Sizes of the tables, for the engine that begins with this policy
    pub sizes: Sizes,
    /// Where requests can go
    pub pools: Vec<PoolPolicy>,
    /// What requests can name
    pub models: Vec<ModelPolicy>,
    /// Who pays
    pub tenants: Vec<TenantPolicy>,
    /// What requests are for
    pub features: Vec<FeaturePolicy>,
    /// Limits, by their dense id
    pub limits: Vec<LimitSpec>,
    /// Which requests a limit counts, by the same index
    pub limit_matches: Vec<LimitMatch>,
    /// Budgets; their ids follow those of the limits
    pub budgets: Vec<BudgetPolicy>,
    /// Whether records are written down
    pub has_ledger: bool,
    /// Which traces are kept; `None`: nobody takes any
    pub tracing: Option<Tracing>,
    /// Routes in order
    pub routes: Vec<RoutePolicy>,
    /// The exact cache, if there is one
    pub cache: Option<CachePolicy>,
    keys: Vec<KeyRecord>,
    key_index: HashMap<u128, u32, ahash::RandomState>,
    key_ids: HashMap<Arc<str>, u32, ahash::RandomState>,
    model_index: HashMap<Arc<str>, u32, ahash::RandomState>,
    pool_index: HashMap<Arc<str>, u32, ahash::RandomState>,
    feature_index: HashMap<Arc<str>, u32, ahash::RandomState>,
}

/// Waits and bounds, defaults filled in.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Envoy's wait for one answer
    pub message_timeout_ns: u64,
    /// The longest announced hold
    pub max_message_timeout_ns: u64,
    /// A reservation that nothing ended expires after this
    pub reservation_ns: u64,
    /// The log's entry about a request that is over comes within this
    pub log_wait_ns: u64,
    /// Largest buffered body
    pub max_body_bytes: u64,
    /// Deepest nesting of a JSON body
    pub max_json_depth: usize,
}

/// Which traces are kept, defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracing {
    /// Of those that begin here
    pub sampled_per_million: u32,
}

/// Sizes of the engine's tables, defaults filled in.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Reservations open at once
    pub max_reservations: usize,
    /// Limit buckets at once
    pub max_buckets: usize,
    /// Decision records kept
    pub max_records: usize,
}

/// A pool, as far as deciding needs it.
#[derive(Debug)]
pub struct PoolPolicy {
    /// Envoy's cluster
    pub name: Arc<str>,
    /// What it speaks
    pub protocol: pb::pool::Protocol,
    /// Who is paid
    pub provider: Arc<str>,
    /// Requests in flight; 0: no bound
    pub max_concurrency: u32,
}

/// Abilities of a model as a bit set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u32);

/// A model, as far as deciding needs it.
#[derive(Debug)]
pub struct ModelPolicy {
    /// Its name
    pub name: Arc<str>,
    /// Part of every cache key
    pub revision: Arc<str>,
    /// The name that the pools know
    pub upstream_name: Arc<str>,
    /// How its tokens are counted
    pub rules: CountRules,
    /// Prompt and output together; 0: unknown
    pub context_window_tokens: u64,
    /// Output of one choice; 0: unknown
    pub max_output_tokens: u64,
    /// Unknown is not 0
    pub prices: Option<Prices>,
    /// Which price list that is
    pub price_revision: Arc<str>,
    /// What it can
    pub capabilities: Capabilities,
    /// Free labels
    pub tags: Vec<Arc<str>>,
    /// Pools in order of preference, as indices
    pub pools: Vec<u32>,
    /// How a model server's tensors are batched and mapped; `None`: nothing was said of them
    pub tensors: Option<Arc<pb::Tensors>>,
}

/// Which models somebody may use: one bit a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permitted(Arc<[u64]>);

/// A tenant.
#[derive(Debug)]
pub struct TenantPolicy {
    /// Its name
    pub name: Arc<str>,
    /// Its class of service; empty: none
    pub tier: Arc<str>,
    /// What its keys may use
    pub models: Permitted,
    /// Its share of a model server beside other tenants that wait
    pub weight: u32,
}

/// A key. The secret itself is never here.
#[derive(Debug)]
pub struct KeyRecord {
    /// Shown in records
    pub id: Arc<str>,
    /// SHA-256 of the secret
    pub digest: [u8; 32],
    /// Index of the tenant
    pub tenant: u32,
    /// The user that it stands for
    pub user: Option<Arc<str>>,
    /// Class of service; empty: none
    pub tier: Arc<str>,
    /// In which class its requests wait in the batch service
    pub priority: Priority,
    /// What it may use
    pub models: Permitted,
    /// Features that it may name, as indices; `None`: all
    pub features: Option<Arc<[u32]>>,
    /// 0: never
    pub expires_unix_ms: u64,
    /// Refused at once
    pub disabled: bool,
}

/// A feature, with the cache's defaults filled in.
#[derive(Debug)]
pub struct FeaturePolicy {
    /// Its name; empty for requests without a feature
    pub name: Arc<str>,
    /// Whether equal requests may share an answer, also where the policy has no cache
    pub shared: bool,
    /// Whether answers are looked up
    pub cached: bool,
    /// Whether answers are kept
    pub kept: bool,
    /// How long they are served
    pub ttl_ns: u64,
    /// Shared by the user alone, not by the tenant
    pub per_user: bool,
    /// Whether sampled answers (temperature above 0) are kept
    pub sampled: bool,
    /// Labels of its entries
    pub tags: Vec<Arc<str>>,
    /// Lowers the model's; 0: not
    pub max_output_tokens: u64,
    /// In which class its requests wait in the batch service; `None`: in the key's
    pub priority: Option<Priority>,
}

/// The exact cache, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePolicy {
    /// All entries together
    pub max_bytes: u64,
    /// One entry
    pub max_entry_bytes: u64,
    /// One captured response
    pub capture_max_bytes: u64,
    /// All captured responses together
    pub capture_total_bytes: u64,
    /// How long an equal request follows
    pub follow_ns: u64,
    /// Followers of one request
    pub max_followers: usize,
    /// Followers in all
    pub max_followers_total: usize,
}

// === impl Snapshot ===

impl Snapshot {
    pub(super) fn build(policy: pb::Policy, bytes: &[u8]) -> Result<Self, Finding> {
        let gateway = policy.gateway.unwrap_or_default();
        let envoy = policy.envoy.unwrap_or_default();
        let pools: Vec<PoolPolicy> = policy.pools.iter().map(PoolPolicy::new).collect();
        let pool_index = index(pools.iter().map(|p| p.name.clone()));
        let models: Vec<ModelPolicy> =
            policy.models.iter().map(|m| ModelPolicy::new(m, &pool_index)).collect();
        let mut model_index = index(models.iter().map(|m| m.name.clone()));
        for (i, model) in policy.models.iter().enumerate() {
            for alias in &model.aliases {
                model_index.entry(Arc::from(alias.as_str())).or_insert(i as u32);
            }
        }
        let tenants: Vec<TenantPolicy> = policy
            .tenants
            .iter()
            .map(|t| TenantPolicy {
                name: Arc::from(t.name.as_str()),
                tier: Arc::from(t.tier.as_str()),
                models: Permitted::of(&t.models, &models, &model_index),
                weight: t.weight.max(1),
            })
            .collect();
        let tenant_index = index(tenants.iter().map(|t| t.name.clone()));
        let cache_ttl_ns = or(policy.cache.as_ref().map_or(0, |c| c.ttl_ms), 3_600_000) * MS;
        let mut features: Vec<FeaturePolicy> = policy
            .features
            .iter()
            .map(|f| FeaturePolicy::new(f, cache_ttl_ns, policy.cache.is_some()))
            .collect();
        let feature_index = index(features.iter().map(|f| f.name.clone()));
        // The last one stands for requests without a feature.
        features.push(FeaturePolicy::new(&pb::Feature::default(), cache_ttl_ns, policy.cache.is_some()));

        let (mut limits, mut limit_matches) = (Vec::new(), Vec::new());
        for (i, limit) in policy.limits.iter().enumerate() {
            limits.push(limit_spec(i, limit)?);
            limit_matches.push(LimitMatch::new(limit));
        }
        let first = limits.len();
        let budgets = policy.budgets.iter().enumerate();
        let budgets = budgets.map(|(i, b)| BudgetPolicy::new(i, first + i, b, &model_index));
        let budgets = budgets.collect::<Result<Vec<_>, _>>()?;
        let tracing = policy.telemetry.as_ref().filter(|t| !t.otlp_endpoint.is_empty());
        let mut snapshot = Self {
            budgets,
            has_ledger: policy.ledger.is_some(),
            tracing: tracing.map(|t| Tracing {
                sampled_per_million: or(u64::from(t.sampled_per_million), 10_000) as u32,
            }),
            name: Arc::from(policy.name.as_str()),
            revision: Arc::from(&blake3::hash(bytes).to_hex()[..16]),
            timing: Timing::new(&gateway, &envoy),
            sizes: Sizes {
                max_reservations: or(gateway.max_reservations, 262_144) as usize,
                max_buckets: or(gateway.max_buckets, 1_048_576) as usize,
                max_records: or(gateway.max_records, 8_192) as usize,
            },
            routes: policy
                .routes
                .iter()
                .map(|r| RoutePolicy::new(r, &pool_index, &model_index, &feature_index))
                .collect(),
            limits,
            limit_matches,
            cache: policy.cache.as_ref().map(CachePolicy::new),
            keys: Vec::with_capacity(policy.keys.len()),
            key_index: HashMap::with_capacity_and_hasher(policy.keys.len(), ahash::RandomState::default()),
            key_ids: HashMap::with_capacity_and_hasher(policy.keys.len(), ahash::RandomState::default()),
            pools,
            models,
            tenants,
            features,
            model_index,
            pool_index,
            feature_index,
        };
        for key in &policy.keys {
            snapshot.add_key(key, &tenant_index, &policy.tiers);
        }
        Ok(snapshot)
    }

    fn add_key(
        &mut self,
        key: &pb::Key,
        tenants: &HashMap<Arc<str>, u32, ahash::RandomState>,
        tiers: &[pb::Tier],
    ) {
        let (Some(&tenant), Some(digest)) = (tenants.get(key.tenant.as_str()), digest_from_hex(&key.sha256))
        else {
            return;
        };
        let Some(owner) = self.tenants.get(tenant as usize) else { return };
        let models = if key.models.is_empty() {
            owner.models.clone()
        } else {
            Permitted::of(&key.models, &self.models, &self.model_index).and(&owner.models)
        };
        let features = (!key.features.is_empty()).then(|| {
            key.features.iter().filter_map(|f| self.feature_index.get(f.as_str()).copied()).collect()
        });
        let at = self.keys.len() as u32;
        let tier = if key.tier.is_empty() { owner.tier.clone() } else { Arc::from(key.tier.as_str()) };
        let priority = tiers.iter().find(|t| *t.name == *tier).and_then(|t| tensors::priority(t.priority()));
        let record = KeyRecord {
            id: Arc::from(key.id.as_str()),
            digest,
            tenant,
            user: (!key.user.is_empty()).then(|| Arc::from(key.user.as_str())),
            tier,
            priority: priority.unwrap_or_default(),
            models,
            features,
            expires_unix_ms: key.expires_unix_ms,
            disabled: key.disabled,
        };
        self.key_ids.insert(record.id.clone(), at);
        self.key_index.insert(first_half(&digest), at);
        self.keys.push(record);
    }

    /// The key whose secret has this SHA-256. The whole digest is compared in constant time.
    pub fn key_by_digest(&self, digest: &[u8; 32]) -> Option<u32> {
        let at = *self.key_index.get(&first_half(digest))?;
        let record = self.keys.get(at as usize)?;
        constant_time_eq::constant_time_eq_32(&record.digest, digest).then_some(at)
    }

    /// The key with this id.
    pub fn key_by_id(&self, id: &str) -> Option<u32> {
        self.key_ids.get(id).copied()
    }

    /// The key at an index that this snapshot gave.
    pub fn key(&self, at: u32) -> Option<&KeyRecord> {
        self.keys.get(at as usize)
    }

    /// How many keys there are.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The model that a name or an alias means.
    pub fn model_named(&self, name: &str) -> Option<u32> {
        self.model_index.get(name).copied()
    }

    /// The pool of this name.
    pub fn pool_named(&self, name: &str) -> Option<u32> {
        self.pool_index.get(name).copied()
    }

    /// The route of this name.
    pub fn route_named(&self, name: &str) -> Option<&RoutePolicy> {
        self.routes.iter().find(|r| *r.name == *name)
    }

    /// Whether it matters what requests really use: there is a ledger, or a limit on tokens.
    pub fn accounts(&self) -> bool {
        self.has_ledger || self.limits.iter().any(|l| l.kind == Kind::Tokens)
    }

    /// The feature of this name.
    pub fn feature_named(&self, name: &str) -> Option<u32> {
        self.feature_index.get(name).copied()
    }

    /// The index that stands for requests without a feature.
    pub fn no_feature(&self) -> u32 {
        (self.features.len() - 1) as u32
    }

    /// The first route that matches. `path` is without its query.
    pub fn route(&self, method: &str, path: &str) -> Option<u32> {
        self.routes.iter().position(|r| r.matches(method, path)).map(|i| i as u32)
    }

    /// Whether a route lists the path under another method (405 instead of 404).
    pub fn path_is_listed(&self, path: &str) -> bool {
        self.routes.iter().any(|r| r.path_matches(path))
    }
}

// === impl Timing ===

impl Timing {
    fn new(gateway: &pb::Gateway, envoy: &pb::Envoy) -> Self {
        let stream_ms = or(gateway.max_stream_duration_ms, 600_000);
        let flush_ms = or(envoy.log_flush_ms, 200);
        Self {
            message_timeout_ns: or(gateway.message_timeout_ms, 1_000) * MS,
            max_message_timeout_ns: or(gateway.max_message_timeout_ms, 60_000) * MS,
            // Later than the longest stream, the log's flush and the longest hold before it.
            reservation_ns: (stream_ms + or(gateway.max_message_timeout_ms, 60_000) + 2 * flush_ms + 5_000)
                * MS,
            log_wait_ns: (2 * flush_ms + 5_000) * MS,
            max_body_bytes: or(gateway.max_body_bytes, 32 << 20),
            max_json_depth: or(u64::from(gateway.max_json_depth), 64) as usize,
        }
    }
}

// === impl PoolPolicy ===

impl PoolPolicy {
    fn new(pool: &pb::Pool) -> Self {
        Self {
            name: Arc::from(pool.name.as_str()),
            protocol: pool.protocol(),
            provider: Arc::from(pool.provider.as_str()),
            max_concurrency: pool.max_concurrency,
        }
    }
}

// === impl Capabilities ===

impl Capabilities {
    fn of(capabilities: impl Iterator<Item = pb::model::Capability>) -> Self {
        Self(capabilities.fold(0, |bits, c| bits | (1 << c as u32)))
    }

    /// Whether `capability` is in the set.
    pub fn has(self, capability: pb::model::Capability) -> bool {
        self.0 & (1 << capability as u32) != 0
    }
}

// === impl ModelPolicy ===

impl ModelPolicy {
    fn new(model: &pb::Model, pools: &HashMap<Arc<str>, u32, ahash::RandomState>) -> Self {
        let name: Arc<str> = Arc::from(model.name.as_str());
        let tokenizer =
            if model.tokenizer.is_empty() { "estimate:generic" } else { model.tokenizer.as_str() };
        let upstream_name = if model.upstream_name.is_empty() {
            name.clone()
        } else {
            Arc::from(model.upstream_name.as_str())
        };
        Self {
            upstream_name,
            name,
            revision: Arc::from(model.revision.as_str()),
            rules: CountRules {
                tokenizer: Tokenizer::from_name(tokenizer).unwrap_or_default(),
                image: image_rule(model.image_tokens.as_ref()),
            },
            context_window_tokens: model.context_window_tokens,
            max_output_tokens: model.max_output_tokens,
            prices: model.prices.as_ref().map(Prices::new),
            price_revision: Arc::from(model.prices.as_ref().map_or("", |p| p.revision.as_str())),
            capabilities: Capabilities::of(model.capabilities()),
            tags: model.tags.iter().map(|t| Arc::from(t.as_str())).collect(),
            pools: model.pools.iter().filter_map(|p| pools.get(p.as_str()).copied()).collect(),
            tensors: tensors::with_defaults(model).map(Arc::new),
        }
    }
}

fn image_rule(rule: Option<&pb::ImageTokens>) -> ImageRule {
    use pb::image_tokens::Rule;
    match rule.and_then(|r| r.rule.as_ref()) {
        Some(Rule::Tiles(t)) => ImageRule::Tiles { base_tokens: t.base_tokens, tile_tokens: t.tile_tokens },
        Some(Rule::Patches(p)) => ImageRule::Patches { cap: p.cap, multiplier_milli: p.multiplier_milli },
        Some(Rule::FlatTokens(tokens)) => ImageRule::Flat { tokens: *tokens },
        None => ImageRule::Tiles { base_tokens: 85, tile_tokens: 170 },
    }
}

// === impl Permitted ===

impl Permitted {
    fn of(
        list: &[String],
        models: &[ModelPolicy],
        names: &HashMap<Arc<str>, u32, ahash::RandomState>,
    ) -> Self {
        let mut bits = vec![0u64; models.len().div_ceil(64)];
        let mut set = |i: usize| {
            if let Some(word) = bits.get_mut(i / 64) {
                *word |= 1 << (i % 64);
            }
        };
        for item in list {
            if item == "*" {
                (0..models.len()).for_each(&mut set);
            } else if let Some(tag) = item.strip_prefix("tag:") {
                models
                    .iter()
                    .enumerate()
                    .filter(|(_, m)| m.tags.iter().any(|t| &**t == tag))
                    .for_each(|(i, _)| set(i));
            } else if let Some(&i) = names.get(item.as_str()) {
                set(i as usize);
            }
        }
        Self(bits.into())
    }

    fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(other.0.iter()).map(|(a, b)| a & b).collect())
    }

    /// Whether the model at this index may be used.
    pub fn allows(&self, model: u32) -> bool {
        self.0.get(model as usize / 64).is_some_and(|word| word >> (model % 64) & 1 == 1)
    }
}

// === impl FeaturePolicy ===

impl FeaturePolicy {
    fn new(feature: &pb::Feature, ttl_ns: u64, has_cache: bool) -> Self {
        use pb::feature_cache::{Mode, Sampled, Sharing};
        let cache = feature.cache.clone().unwrap_or_default();
        Self {
            name: Arc::from(feature.name.as_str()),
            shared: cache.mode() != Mode::Off,
            cached: has_cache && cache.mode() != Mode::Off,
            kept: has_cache && !matches!(cache.mode(), Mode::Off | Mode::Lookup),
            ttl_ns: if cache.ttl_ms == 0 { ttl_ns } else { cache.ttl_ms * MS },
            per_user: cache.sharing() == Sharing::User,
            sampled: cache.sampled() == Sampled::Share,
            tags: cache.tags.iter().map(|t| Arc::from(t.as_str())).collect(),
            max_output_tokens: feature.max_output_tokens,
            priority: tensors::priority(feature.priority()),
        }
    }
}

// === impl CachePolicy ===

impl CachePolicy {
    fn new(cache: &pb::Cache) -> Self {
        Self {
            max_bytes: or(cache.max_bytes, 64 << 20),
            max_entry_bytes: or(cache.max_entry_bytes, 1 << 20),
            capture_max_bytes: or(cache.capture_max_bytes, 1 << 20),
            capture_total_bytes: or(cache.capture_total_bytes, 64 << 20),
            follow_ns: or(cache.follow_ms, 30_000) * MS,
            max_followers: or(u64::from(cache.max_followers), 64) as usize,
            max_followers_total: or(u64::from(cache.max_followers_total), 4_096) as usize,
        }
    }
}

pub(super) fn or(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}

fn index(names: impl Iterator<Item = Arc<str>>) -> HashMap<Arc<str>, u32, ahash::RandomState> {
    names.enumerate().map(|(i, n)| (n, i as u32)).collect()
}

fn first_half(digest: &[u8; 32]) -> u128 {
    let mut half = [0u8; 16];
    half.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(half)
}

fn digest_from_hex(hex: &str) -> Option<[u8; 32]> {
    let hex = hex.as_bytes();
    if hex.len() != 64 {
        return None;
    }
    let mut digest = [0u8; 32];
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |c: u8| (c as char).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::policy::Severity;

    #[test]
    fn a_limit_that_cannot_be_kept_refuses_the_policy() {
        // Validation says so before; this is the second lock on the door.
        let limit = pb::Limit {
            name: "rpm".into(),
            unit: pb::limit::Unit::Requests as i32,
            amount: 1,
            ..pb::Limit::default()
        };
        let policy = pb::Policy { limits: vec![limit], ..pb::Policy::default() };
        let finding = Snapshot::build(policy, b"").unwrap_err();
        assert_eq!(
            (finding.slug, &*finding.path, finding.severity),
            ("limit_no_window", "limits[0]", Severity::Error)
        );
    }

    #[test]
    fn digests_are_read_in_either_case_and_whole() {
        let hex = "00ff".repeat(16);
        assert_eq!(digest_from_hex(&hex).unwrap()[..2], [0, 255]);
        assert_eq!(digest_from_hex(&hex.to_uppercase()), digest_from_hex(&hex));
        assert_eq!(digest_from_hex(&hex[1..]), None);
        assert_eq!(digest_from_hex(&hex.replace('f', "g")), None);
        assert_eq!(digest_from_hex(&"é".repeat(32)), None);
    }

    #[test]
    fn defaults_are_those_that_the_message_tells() {
        let snapshot =
            Snapshot::build(pb::Policy { cache: Some(pb::Cache::default()), ..pb::Policy::default() }, b"")
                .unwrap();
        assert_eq!(snapshot.timing.message_timeout_ns, 1_000 * MS);
        assert_eq!(snapshot.timing.max_body_bytes, 32 << 20);
        assert_eq!(snapshot.timing.max_json_depth, 64);
        assert!(snapshot.timing.reservation_ns > (600_000 + 60_000) * MS);
        assert_eq!((snapshot.sizes.max_reservations, snapshot.sizes.max_buckets), (262_144, 1_048_576));
        let cache = snapshot.cache.as_ref().unwrap();
        assert_eq!(
            (cache.max_bytes, cache.max_entry_bytes, cache.follow_ns),
            (64 << 20, 1 << 20, 30_000 * MS)
        );
        let none = &snapshot.features[snapshot.no_feature() as usize];
        assert!(none.cached && !none.per_user && !none.sampled && none.ttl_ns == 3_600_000 * MS);
    }
}
