//! Owns: the alphabet of names, their uniqueness, and the tables that references resolve against.
//! Must not know: what a named thing is for.
//! On failure: a finding; a name that is given twice resolves to its first owner.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::{Report, pb};

/// All names of a policy, for references.
pub(super) struct Names<'a> {
    /// Pool by name
    pub pools: HashMap<&'a str, &'a pb::Pool>,
    /// Model by name
    pub models: HashMap<&'a str, &'a pb::Model>,
    /// Model by alias
    pub aliases: HashMap<&'a str, &'a pb::Model>,
    /// Labels of models
    pub tags: HashSet<&'a str>,
    /// Tier names
    pub tiers: HashSet<&'a str>,
    /// Tenant by name
    pub tenants: HashMap<&'a str, &'a pb::Tenant>,
    /// Key ids
    pub keys: HashSet<&'a str>,
    /// Feature names
    pub features: HashSet<&'a str>,
}

/// What a list of models (`tenants[].models`, `keys[].models`) may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wildcards {
    /// Names, aliases, `tag:NAME` and `*`
    Allowed,
    /// Names alone
    Refused,
}

/// Which characters a name may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// Letters, digits, `-`, `_`, `.`: pools, tenants, keys, limits, routes
    Plain,
    /// The same and `/`, `:`, `@`, `+`: models and tags, as hubs write them (`org/model:8b`)
    Model,
}

// === impl Names ===

impl<'a> Names<'a> {
    pub(super) fn of(policy: &'a pb::Policy) -> Self {
        let mut names = Self {
            pools: HashMap::with_capacity(policy.pools.len()),
            models: HashMap::with_capacity(policy.models.len()),
            aliases: HashMap::new(),
            tags: HashSet::new(),
            tiers: policy.tiers.iter().map(|t| t.name.as_str()).collect(),
            tenants: HashMap::with_capacity(policy.tenants.len()),
            keys: policy.keys.iter().map(|k| k.id.as_str()).collect(),
            features: policy.features.iter().map(|f| f.name.as_str()).collect(),
        };
        for pool in &policy.pools {
            names.pools.entry(&pool.name).or_insert(pool);
        }
        for model in &policy.models {
            names.models.entry(&model.name).or_insert(model);
            names.tags.extend(model.tags.iter().map(String::as_str));
            for alias in &model.aliases {
                names.aliases.entry(alias).or_insert(model);
            }
        }
        for tenant in &policy.tenants {
            names.tenants.entry(&tenant.name).or_insert(tenant);
        }
        names
    }

    /// The model that a name or an alias means.
    pub(super) fn model(&self, name: &str) -> Option<&'a pb::Model> {
        self.models.get(name).or_else(|| self.aliases.get(name)).copied()
    }

    /// Whether a list of models, as tenants and keys have it, names this model.
    pub(super) fn lists(&self, list: &[String], model: &pb::Model) -> bool {
        list.iter().any(|item| match item.strip_prefix("tag:") {
            Some(tag) => model.tags.iter().any(|t| t == tag),
            None => item == "*" || self.model(item).is_some_and(|found| found.name == model.name),
        })
    }

    /// Every item of a list of models must mean something.
    pub(super) fn check_models(
        &self,
        list: &[String],
        path: &str,
        wildcards: Wildcards,
        report: &mut Report,
    ) {
        for (i, item) in list.iter().enumerate() {
            let path = format!("{path}[{i}]");
            let tag = item.strip_prefix("tag:");
            if wildcards == Wildcards::Refused && (tag.is_some() || item == "*") {
                report.error(
                    "wildcard_refused",
                    path,
                    format!("`{}` is no name of a model; list the models", shown(item)),
                );
            } else if let Some(tag) = tag {
                if !self.tags.contains(tag) {
                    report.error("unknown_tag", path, format!("no model has the tag `{}`", shown(tag)));
                }
            } else if wildcards == Wildcards::Refused && !self.models.contains_key(item.as_str()) {
                let hint = self.aliases.get(item.as_str()).map_or_else(
                    || nearest(item, self.models.keys().copied()),
                    |model| {
                        format!(
                            "; it is an alias of `{}`, which is counted by its own name",
                            shown(&model.name)
                        )
                    },
                );
                report.error("unknown_model", path, format!("no model is named `{}`{hint}", shown(item)));
            } else if item != "*" && self.model(item).is_none() {
                self.unknown_model(item, path, report);
            }
        }
    }

    /// One reference to a model by its name or alias; says which it is.
    pub(super) fn check_model(&self, name: &str, path: String, report: &mut Report) -> Option<&'a pb::Model> {
        let model = self.model(name);
        if model.is_none() {
            self.unknown_model(name, path, report);
        }
        model
    }

    /// One reference to a pool; says which it is.
    pub(super) fn check_pool(&self, name: &str, path: String, report: &mut Report) -> Option<&'a pb::Pool> {
        let pool = self.pools.get(name).copied();
        if pool.is_none() {
            let hint = nearest(name, self.pools.keys().copied());
            report.error("unknown_pool", path, format!("no pool is named `{}`{hint}", shown(name)));
        }
        pool
    }

    /// A reference to a feature.
    pub(super) fn check_feature(&self, name: &str, path: String, report: &mut Report) {
        if !self.features.contains(name) {
            let hint = nearest(name, self.features.iter().copied());
            report.error("unknown_feature", path, format!("no feature is named `{}`{hint}", shown(name)));
        }
    }

    /// A reference to a tier.
    pub(super) fn check_tier(&self, name: &str, path: String, report: &mut Report) {
        if !self.tiers.contains(name) {
            let hint = nearest(name, self.tiers.iter().copied());
            report.error("unknown_tier", path, format!("no tier is named `{}`{hint}", shown(name)));
        }
    }

    /// A reference to a tenant; says which it is.
    pub(super) fn check_tenant(
        &self,
        name: &str,
        path: String,
        report: &mut Report,
    ) -> Option<&'a pb::Tenant> {
        let tenant = self.tenants.get(name).copied();
        if tenant.is_none() {
            let hint = nearest(name, self.tenants.keys().copied());
            report.error("unknown_tenant", path, format!("no tenant is named `{}`{hint}", shown(name)));
        }
        tenant
    }

    fn unknown_model(&self, name: &str, path: String, report: &mut Report) {
        let hint = nearest(name, self.models.keys().chain(self.aliases.keys()).copied());
        report.error(
            "unknown_model",
            path,
            format!("no model has the name or alias `{}`{hint}", shown(name)),
        );
    }
}

// === impl Alphabet ===

impl Alphabet {
    fn has(self, byte: u8) -> bool {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        plain || (self == Self::Model && matches!(byte, b'/' | b':' | b'@' | b'+'))
    }

    fn described(self) -> &'static str {
        match self {
            Self::Plain => "letters, digits, `-`, `_` and `.`",
            Self::Model => "letters, digits, `-`, `_`, `.`, `/`, `:`, `@` and `+`",
        }
    }
}

/// A name must be given, short, and of the alphabet; it begins with a letter or a digit.
pub(super) fn check_name(name: &str, path: &str, alphabet: Alphabet, report: &mut Report) {
    let most = if alphabet == Alphabet::Model { 128 } else { 64 };
    if name.is_empty() {
        report.error("no_name", path, "must be given");
    } else if name.len() > most {
        report.error("too_long", path, format!("has {} bytes; a name has at most {most}", name.len()));
    } else if !name.bytes().all(|b| alphabet.has(b))
        || !name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
    {
        let allowed = alphabet.described();
        report.error(
            "bad_name",
            path,
            format!("`{}` is no name; use {allowed}, a letter or digit first", shown(name)),
        );
    } else if name.starts_with("tag:") {
        report.error(
            "bad_name",
            path,
            "a name cannot begin with `tag:`, which stands for all models with a tag",
        );
    }
}

/// Names of one kind must be unique. `paths` are given beside the names.
pub(super) fn check_unique<'a>(items: impl Iterator<Item = (String, &'a str)>, report: &mut Report) {
    let mut seen: HashMap<&str, String> = HashMap::new();
    for (path, name) in items {
        if name.is_empty() {
            continue;
        }
        if let Some(first) = seen.get(name) {
            report.error(
                "duplicate_name",
                path,
                format!("`{}` is already the name at `{first}`", shown(name)),
            );
        } else {
            seen.insert(name, path);
        }
    }
}

/// A value for a message: bounded, and without characters that would break a line of a log.
pub(super) fn shown(value: &str) -> String {
    let mut out: String =
        value.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if value.chars().nth(80).is_some() {
        out.push_str("...");
    }
    out
}

/// Names for a message: the first few, and how many more; `None`: there are none.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    const SHOWN: usize = 5;
    let all: Vec<&str> = names.collect();
    let mut text =
        all.iter().take(SHOWN).map(|name| format!("`{}`", shown(name))).collect::<Vec<_>>().join(", ");
    if all.len() > SHOWN {
        let _ = write!(text, " and {} more", all.len() - SHOWN);
    }
    (!all.is_empty()).then_some(text)
}

/// `; did you mean ...?` when a choice is near enough, else nothing.
fn nearest<'a>(name: &str, choices: impl Iterator<Item = &'a str>) -> String {
    let bound = (name.len() / 3).clamp(1, 3);
    choices
        .filter(|choice| !choice.is_empty())
        .filter_map(|choice| Some((distance(name, choice, bound)?, choice)))
        .min()
        .map_or_else(String::new, |(_, choice)| format!("; did you mean `{}`?", shown(choice)))
}

/// Edits between two short names, if there are at most `bound`.
fn distance(a: &str, b: &str, bound: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > bound || a.len() > 128 || b.len() > 128 {
        return None;
    }
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let changed = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = changed.min(*cell + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().filter(|edits| *edits <= bound)
}
