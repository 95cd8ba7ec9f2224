//! Owns how a bench server talks to the orchestrator that started it: a ready line, then one JSON line per `stats`.
//! Must not know what the server does.
//! On failure: a closed standard input ends the process, so that no server outlives its orchestrator.

use std::{io::BufRead, thread};

/// Prints the ready line and answers each line of standard input with one line from `stats`.
pub fn announce(port: u16, stats: impl Fn() -> String + Send + 'static) {
    println!("{{\"ready\":true,\"port\":{port},\"profile\":\"release\"}}");
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            println!("{}", stats());
        }
        std::process::exit(0);
    });
}
