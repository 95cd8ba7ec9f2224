//! Owns the choice of a subcommand: `upstream`, `echo`, `load`, `infer` or `assemble`.
//! Must not know how any of them works.
//! On failure: one line on standard error and status 2; a debug build is refused before anything starts.

mod args;
mod assemble;
mod child;
mod echo;
mod error;
mod http1;
mod infer;
mod latency;
mod load;
mod log_sink;
mod prompt;
mod upstream;
mod words;

use std::process::ExitCode;

use crate::{args::Args, error::BenchError};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forebay-bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(mut words: impl Iterator<Item = String>) -> Result<(), BenchError> {
    if cfg!(debug_assertions) {
        return Err(BenchError::DebugBuild);
    }
    let command = words.next().unwrap_or_default();
    let args = Args::parse(words)?;
    match command.as_str() {
        "upstream" => upstream::run(args),
        "echo" => echo::run(args),
        "load" => load::run(args),
        "infer" => infer::run(args),
        "assemble" => assemble::run(args),
        other => Err(BenchError::option(
            other,
            "is not a command; say `upstream`, `echo`, `load`, `infer` or `assemble`",
        )),
    }
}
