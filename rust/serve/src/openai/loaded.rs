//! Owns: what the policy names and requests share once it is loaded: tokenizers and chat templates.
//! Must not know: requests.
//! On failure: each table's own; what an operator must mend is reported.

use super::generation::Templates;
use super::tokenizers::Tokenizers;
use crate::report::Report;

/// Kept by the service, so that each is loaded once.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(super) tokenizers: Tokenizers,
    pub(super) templates: Templates,
    pub(super) report: Report,
}
