//! Owns how a bench server talks to the orchestrator that started it: a ready line, then one JSON line per `stats`;
//! and what a process of the bench costs itself.
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

/// CPU of this thread, the only busy one; it tells whether the generator was the bottleneck. 0 where Linux does not say.
pub fn own_cpu_s() -> f64 {
    std::fs::read_to_string("/proc/self/schedstat")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse::<f64>().ok())
        .map_or(0.0, |ns| ns / 1e9)
}
