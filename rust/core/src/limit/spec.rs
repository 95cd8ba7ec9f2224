//! Owns what a limit is: its definition, what makes one valid, and the identity its buckets go by.
//! Must not know: counts, time, the table.
//! On failure: a definition that cannot be kept is refused when it is built, never at a request.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::cell::Rule;
use super::scope::Scope;

/// Dense index of a limit, assigned when a policy is compiled. Only for reports: buckets go by
/// [`LimitSpec::identity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LimitId(pub u32);

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Requests let through. Never given back.
    Requests,
    /// Tokens: reserved at a bound, settled with the real use.
    Tokens,
    /// Requests in flight: taken at the start, freed at the end.
    Concurrency,
    /// Nano-USD: reserved at a bound, settled with the real cost.
    Money,
}

impl Kind {
    /// Every kind, in the order of documentation.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Tokens, Self::Concurrency, Self::Money];

    /// The stable name, as policy and headers spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Concurrency => "concurrency",
            Self::Money => "nanousd",
        }
    }

    /// The unit, as a sentence spells it.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Money => "nano-USD",
            _ => self.as_str(),
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether the real amount is known only later and replaces the reserved one.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Tokens | Self::Money)
    }

    /// Whether the amount comes back when the request ends.
    pub const fn is_released(self) -> bool {
        matches!(self, Self::Concurrency)
    }
}

/// How a window is understood. Concurrency has no window and ignores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Algorithm {
    /// Never more than `capacity` in *any* span of `window_ns`, wherever it begins.
    ///
    /// Counted in sixteen slots of a fifteenth of the window, of which the oldest counts in full:
    /// capacity comes back at most a fifteenth of the window late, and a client that always takes
    /// all it can get gets at least 15/16 of the nominal rate. Refunds go back into the slot that
    /// was charged, so settling is exact.
    #[default]
    SlidingWindow,
    /// Never more than `capacity` in each span `[n × window_ns, (n + 1) × window_ns)` of the
    /// caller's clock. Up to twice that may pass around a boundary.
    FixedWindow,
    /// Never more than `burst + capacity × t / window_ns` in any span of `t` ns: a bucket of
    /// `burst` that drains continuously. A refund gives back only what cannot have drained yet.
    TokenBucket {
        /// The most that may be taken at once.
        burst: u64,
    },
    /// A budget: never more than `capacity` in the period that a claim names, of which no more than
    /// a durable store has leased to this process. It has no window; tokens and money alone.
    Leased {
        /// What happens without room.
        enforcement: Enforcement,
    },
}

/// What a budget does without room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Enforcement {
    /// It refuses.
    Hard,
    /// It counts, and says that it is over.
    Soft,
}

/// A limit as policy states it. `LimitSpec::new` checks it.
#[derive(Debug, Clone)]
pub struct LimitDefinition {
    /// Index in the policy that defines it.
    pub id: LimitId,
    /// Name, unique in a policy among limits of one kind and scope (two windows are two limits,
    /// with two names); what a refusal says. Renaming a limit makes a new one.
    pub name: Arc<str>,
    /// What is counted.
    pub kind: Kind,
    /// Per what it is counted.
    pub scope: Scope,
    /// The most that is admitted, in the kind's unit: per window, or at once for concurrency.
    /// 0 admits nothing.
    pub capacity: u64,
    /// Length of the window; 0 for concurrency and budgets, and only there.
    pub window_ns: u64,
    /// How the window is understood.
    pub algorithm: Algorithm,
}

/// Why a definition cannot be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefinitionError {
    /// Requests and tokens need a window.
    NoWindow(Arc<str>),
    /// Concurrency has none.
    WindowOnConcurrency(Arc<str>),
    /// A token bucket that never drains, or holds nothing.
    EmptyBucket(Arc<str>),
    /// A budget has periods, which are claimed.
    WindowOnBudget(Arc<str>),
    /// A budget counts tokens or money.
    BudgetUnit(Arc<str>),
}

impl DefinitionError {
    /// The stable name of the error.
    pub const fn slug(&self) -> &'static str {
        match self {
            Self::NoWindow(_) => "limit_no_window",
            Self::WindowOnConcurrency(_) => "limit_window_on_concurrency",
            Self::EmptyBucket(_) => "limit_empty_bucket",
            Self::WindowOnBudget(_) => "limit_window_on_budget",
            Self::BudgetUnit(_) => "limit_budget_unit",
        }
    }
}

impl fmt::Display for DefinitionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWindow(name) => {
                write!(f, "limit `{name}` has a window of 0 ns; give it one, for example a minute")
            }
            Self::WindowOnConcurrency(name) => {
                write!(f, "limit `{name}` counts concurrency, which has no window; leave the window out")
            }
            Self::EmptyBucket(name) => write!(
                f,
                "limit `{name}` is a token bucket with a capacity or burst of 0; give both at least 1"
            ),
            Self::WindowOnBudget(name) => {
                write!(f, "budget `{name}` has a window, but a budget has periods; leave the window out")
            }
            Self::BudgetUnit(name) => {
                write!(f, "budget `{name}` counts neither tokens nor nano-USD; choose one of them")
            }
        }
    }
}

impl std::error::Error for DefinitionError {}

/// A checked limit. Reads like its [`LimitDefinition`].
#[derive(Debug, Clone)]
pub struct LimitSpec {
    definition: LimitDefinition,
    identity: u128,
    rule: Rule,
}

// === impl LimitSpec ===

impl LimitSpec {
    /// Checks a definition and works out what a request would otherwise have to.
    pub fn new(definition: LimitDefinition) -> Result<Self, DefinitionError> {
        let concurrency = definition.kind == Kind::Concurrency;
        if concurrency && definition.window_ns != 0 {
            return Err(DefinitionError::WindowOnConcurrency(definition.name));
        }
        let leased = matches!(definition.algorithm, Algorithm::Leased { .. });
        if leased && !definition.kind.is_settled() {
            return Err(DefinitionError::BudgetUnit(definition.name));
        }
        if leased && definition.window_ns != 0 {
            return Err(DefinitionError::WindowOnBudget(definition.name));
        }
        if !concurrency && !leased && definition.window_ns == 0 {
            return Err(DefinitionError::NoWindow(definition.name));
        }
        if let (false, Algorithm::TokenBucket { burst }) = (concurrency, definition.algorithm)
            && (burst == 0 || definition.capacity == 0)
        {
            return Err(DefinitionError::EmptyBucket(definition.name));
        }
        let identity = identity_of(&definition);
        let rule = Rule::of(&definition);
        Ok(Self { definition, identity, rule })
    }

    /// What the limit's buckets go by across policy swaps: name, kind and scope, and whether it is a
    /// budget.
    ///
    /// Capacity, window and algorithm are left out: changing them carries the present count over
    /// to the new definition, so that an edit never refills anyone.
    pub fn identity(&self) -> u128 {
        self.identity
    }

    pub(super) fn rule(&self) -> Rule {
        self.rule
    }
}

impl Deref for LimitSpec {
    type Target = LimitDefinition;

    fn deref(&self) -> &LimitDefinition {
        &self.definition
    }
}

fn identity_of(definition: &LimitDefinition) -> u128 {
    // A budget and a limit of one name never meet in a bucket: one is counted in leases.
    let mut hasher = blake3::Hasher::new_derive_key(match definition.algorithm {
        Algorithm::Leased { .. } => "forebay budget identity v1",
        _ => "forebay limit identity v1",
    });
    hasher.update(&[definition.kind as u8, definition.scope as u8]);
    hasher.update(definition.name.as_bytes());
    let mut bytes = [0_u8; 16];
    hasher.finalize_xof().fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// A valid definition to vary in tests.
    pub(in super::super) fn definition(kind: Kind, capacity: u64, window_ns: u64) -> LimitDefinition {
        LimitDefinition {
            id: LimitId(0),
            name: "test".into(),
            kind,
            scope: Scope::User,
            capacity,
            window_ns,
            algorithm: Algorithm::default(),
        }
    }

    #[test]
    fn impossible_definitions_are_refused() {
        let no_window = LimitSpec::new(definition(Kind::Requests, 1, 0)).unwrap_err();
        assert_eq!(no_window.slug(), "limit_no_window");
        let window = LimitSpec::new(definition(Kind::Concurrency, 1, 5)).unwrap_err();
        assert_eq!(window.slug(), "limit_window_on_concurrency");
        let empty = LimitSpec::new(LimitDefinition {
            algorithm: Algorithm::TokenBucket { burst: 0 },
            ..definition(Kind::Tokens, 1, 5)
        })
        .unwrap_err();
        assert_eq!(empty.slug(), "limit_empty_bucket");
        for error in [no_window, window, empty] {
            assert!(error.to_string().contains("`test`"), "{error}");
        }
    }

    #[test]
    fn identity_is_name_kind_and_scope() {
        let base = definition(Kind::Tokens, 10, 60);
        let of = |d: &LimitDefinition| LimitSpec::new(d.clone()).unwrap().identity();
        let same = LimitDefinition {
            id: LimitId(9),
            capacity: 20,
            window_ns: 61,
            algorithm: Algorithm::FixedWindow,
            ..base.clone()
        };
        assert_eq!(of(&base), of(&same));
        for other in [
            LimitDefinition { name: "other".into(), ..base.clone() },
            LimitDefinition { kind: Kind::Requests, ..base.clone() },
            LimitDefinition { scope: Scope::Tenant, ..base.clone() },
        ] {
            assert_ne!(of(&base), of(&other));
        }
    }

    #[test]
    fn kinds_are_read_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse("token"), None);
    }
}
