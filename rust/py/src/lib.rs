//! forebay-py: the seam. Conversion only; what decides is in forebay-core, what serves in forebay-serve.

#![allow(clippy::needless_pass_by_value)] // arguments from Python are extracted as owned values

mod batch;
mod cache;
mod decision;
mod engine;
mod error;
mod gateway;
mod key;
mod limit;
mod policy;
mod stage;
mod tokens;

use pyo3::prelude::*;

/// One allocator for the request path: many small, short-lived pieces on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// forebay's core: the parts that decide, as classes that anyone can use alone.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(build_info, module)?)?;
    error::register(module)?;
    policy::register(module)?;
    engine::register(module)?;
    decision::register(module)?;
    gateway::register(module)?;
    key::register(module)?;
    stage::register(module)?;
    tokens::register(module)?;
    limit::register(module)?;
    cache::register(module)?;
    batch::register(module)
}

/// How the extension was built.
///
/// Returns: `profile` (`release` or `debug`) and `version`.
#[pyfunction]
fn build_info() -> std::collections::HashMap<&'static str, &'static str> {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    [("profile", profile), ("version", env!("CARGO_PKG_VERSION"))].into()
}
