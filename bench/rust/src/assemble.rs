//! Owns the bench of the pure assembler: what joining, padding, cutting and cutting back cost on one thread.
//! Must not know sockets, messages, model servers.
//! On failure: a request that the assembler refuses ends the run; the bench never guesses a number.

mod case;

use std::fmt::Write as _;

use self::case::{Case, Shape};
use crate::{args::Args, error::BenchError};

/// Requests of one batch.
const REQUESTS: [usize; 2] = [1, 32];

/// Prints one line of JSON: for every shape and number of requests, GB of tensor bytes in a second for assembly with
/// padding and for the cut with padding taken off, and the time of everything together for one request.
pub fn run(mut args: Args) -> Result<(), BenchError> {
    let seconds: f64 = args.get("--seconds", 1.0)?;
    args.finish()?;
    let mut out = String::from("{\"cases\":[");
    for shape in [Shape::IDS, Shape::STATES, Shape::EVEN] {
        for requests in REQUESTS {
            let measured = Case::new(shape, requests).measure(seconds)?;
            let comma = if out.ends_with('[') { "" } else { "," };
            let _ = write!(
                out,
                "{comma}{{\"shape\":\"{}\",\"requests\":{requests},\"batch_bytes\":{},\"padding\":{:.3},\
                 \"assemble_gb_per_s\":{:.2},\"split_gb_per_s\":{:.2},\"copied_split\":{},\"us_per_request\":{:.2}}}",
                shape.name,
                measured.batch_bytes,
                measured.padding,
                measured.assemble_gb_per_s,
                measured.split_gb_per_s,
                measured.copied_split,
                measured.us_per_request,
            );
        }
    }
    out.push_str("]}");
    println!("{out}");
    Ok(())
}
