//! forebay-core: everything that decides. Pure: no I/O, no clock, no threads, no `PyO3`; `now` is an argument.

pub mod account;
pub mod answer;
pub mod batch;
pub mod budget;
pub mod cache;
pub mod engine;
pub mod flight;
pub mod json;
pub mod key;
pub mod limit;
pub mod metrics;
pub mod names;
pub mod policy;
pub mod pool;
pub mod price;
pub mod record;
pub mod refusal;
pub mod request;
pub mod tokens;
pub mod trace;
pub mod usage;
