//! Owns the one error enum of the bench binary and its slugs.
//! Must not know what a caller prints or where.
//! On failure: every variant ends the process with a message; the bench never guesses a number.

use std::{fmt, io, net::AddrParseError};

/// Why a bench process cannot go on.
#[derive(Debug)]
pub enum BenchError {
    /// The binary was built without optimisation, so its numbers would mislead.
    DebugBuild,
    /// An option is missing, unknown or has a value that does not parse.
    Option {
        /// The option as the user wrote it.
        name: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A socket could not be opened or bound.
    Io(io::Error),
    /// The gRPC server stopped.
    Grpc(tonic::transport::Error),
}

// === impl BenchError ===

impl BenchError {
    /// The stable name that scripts may compare.
    pub const fn slug(&self) -> &'static str {
        match self {
            Self::DebugBuild => "debug_build",
            Self::Option { .. } => "option",
            Self::Io(_) => "io",
            Self::Grpc(_) => "grpc",
        }
    }

    /// An option whose value cannot be used.
    pub fn option(name: &str, why: impl Into<String>) -> Self {
        Self::Option { name: name.to_owned(), why: why.into() }
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.slug())?;
        match self {
            Self::DebugBuild => {
                write!(out, "this is a debug build; build it with `cargo build --release`")
            }
            Self::Option { name, why } => write!(out, "`{name}` {why}"),
            Self::Io(error) => write!(out, "{error}"),
            Self::Grpc(error) => write!(out, "{error}"),
        }
    }
}

impl std::error::Error for BenchError {}

impl From<io::Error> for BenchError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<AddrParseError> for BenchError {
    fn from(error: AddrParseError) -> Self {
        Self::option("--addr", format!("is no `host:port` ({error})"))
    }
}

impl From<tonic::transport::Error> for BenchError {
    fn from(error: tonic::transport::Error) -> Self {
        Self::Grpc(error)
    }
}
