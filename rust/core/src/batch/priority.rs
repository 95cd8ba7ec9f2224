//! Owns: the three classes in which requests wait.
//! Must not know: who is given which.
//! On failure: not applicable.

/// Which requests go first. Ordered: `P0` is the smallest and the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum Priority {
    /// Somebody waits at a screen
    P0,
    /// The usual one
    #[default]
    P1,
    /// Whenever there is room
    P2,
}

// === impl Priority ===

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 3] = [Self::P0, Self::P1, Self::P2];

    /// Its name in policies, headers and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::P0 => "P0",
            Self::P1 => "P1",
            Self::P2 => "P2",
        }
    }

    /// The priority of a name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|priority| priority.name().eq_ignore_ascii_case(name))
    }
}
