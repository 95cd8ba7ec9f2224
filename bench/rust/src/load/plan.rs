//! Owns what a run of load sends: where, how many, which bodies, which keys, which headers.
//! Must not know of sockets.
//! On failure: an option that cannot be used is an error before anything is sent.

use std::{io::Write, net::SocketAddr, time::Duration};

use crate::{
    args::Args,
    error::BenchError,
    prompt::{PromptSpec, Reply},
    upstream::{CHUNKS_HEADER, CLOSING_EVENTS, GAP_HEADER},
};

/// Whether requests of a run have their own prompts.
#[derive(Clone, Copy, Debug)]
enum Prompts {
    Distinct,
    Same,
}

/// One run of load, read from the command line.
#[derive(Debug)]
pub struct Plan {
    /// Where to connect.
    pub address: SocketAddr,
    /// Connections, each with one request in flight.
    pub connections: usize,
    /// Most requests in all.
    pub requests: u64,
    /// Ends the run early.
    pub duration: Option<Duration>,
    /// Events that a whole stream has: its chunks, and of the closing ones those that come through.
    pub events: u64,
    /// From one request's time to the next one's; without it each is sent as soon as a connection is free.
    pub gap: Option<Duration>,
    prompt: PromptSpec,
    prompts: Prompts,
    first: u64,
    keys: u64,
    key_prefix: String,
    head: String,
}

// === impl Plan ===

impl Plan {
    /// Takes every option of `load`.
    pub fn take(args: &mut Args) -> Result<Self, BenchError> {
        let address: SocketAddr = args.get("--addr", String::new())?.parse()?;
        let open_streams = args.get("--open-streams", 0_usize)?;
        let reply = match (args.flag("--stream") || open_streams > 0, args.flag("--usage-unasked")) {
            (false, _) => Reply::Plain,
            (true, false) => Reply::Stream,
            (true, true) => Reply::BareStream,
        };
        let chunks = args.get("--chunks", 200_u64)?;
        let gap_us = args.get("--gap-us", 0_u64)?;
        let per_second = args.get("--per-second", 0.0_f64)?;
        let duration_ms = args.get("--duration-ms", 0_u64)?;
        let connections = args.get("--connections", 16_usize)?;
        let requests = args.get("--requests", if duration_ms > 0 { u64::MAX } else { 1_000 })?;
        let mut head = format!(
            "POST {} HTTP/1.1\r\nhost: bench.local\r\nuser-agent: forebay-bench\r\naccept: */*\r\n\
             content-type: application/json\r\n",
            args.get("--path", "/v1/chat/completions".to_owned())?
        );
        if reply.is_stream() {
            head.extend([CHUNKS_HEADER, ": ", &chunks.to_string(), "\r\n"]);
            head.extend([GAP_HEADER, ": ", &gap_us.to_string(), "\r\n"]);
        }
        for header in args.all("--header") {
            head.extend([&header, "\r\n"]);
        }
        Ok(Self {
            address,
            connections: if open_streams > 0 { open_streams } else { connections },
            requests: if open_streams > 0 { open_streams as u64 } else { requests },
            duration: (duration_ms > 0).then(|| Duration::from_millis(duration_ms)),
            events: chunks + args.get("--closing-events", CLOSING_EVENTS)?,
            gap: (per_second > 0.0).then(|| Duration::from_secs_f64(per_second.recip())),
            prompt: PromptSpec {
                model: args.get("--model", "bench".to_owned())?,
                body_bytes: args.get("--body-bytes", 1_024_usize)?,
                max_tokens: args.get("--max-tokens", 256_u32)?,
                reply,
                seed: args.get("--seed", 1_u64)?,
            },
            prompts: if args.flag("--repeat-same") { Prompts::Same } else { Prompts::Distinct },
            first: args.get("--start", 0_u64)?,
            keys: args.get("--keys", 100_000_u64)?.max(1),
            key_prefix: args.get("--key-prefix", "fbk_bench_".to_owned())?,
            head,
        })
    }

    /// About the bytes of one request, head and body.
    pub fn request_bytes(&self) -> u64 {
        (self.head.len() + self.prompt.body_bytes + 128) as u64
    }

    /// The kind of answer that a 200 must carry.
    pub fn reply(&self) -> Reply {
        self.prompt.reply
    }

    /// Appends the `turn`th request whole; its index, counted from `--start`, decides its key and its prompt.
    pub fn write_request(&self, turn: u64, out: &mut Vec<u8>) {
        let index = self.first + turn;
        let prompt = match self.prompts {
            Prompts::Distinct => index,
            Prompts::Same => 0,
        };
        let mut body = Vec::with_capacity(self.prompt.body_bytes + 64);
        self.prompt.write_body(prompt, &mut body);
        // Writing to a `Vec` cannot fail.
        let _ = write!(
            out,
            "{}authorization: Bearer {}{:06}\r\ncontent-length: {}\r\n\r\n",
            self.head,
            self.key_prefix,
            index % self.keys,
            body.len()
        );
        out.extend_from_slice(&body);
    }
}
