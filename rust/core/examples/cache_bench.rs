//! Prints what cache, flights and answers cost: `cargo run --release -p forebay-core --example cache_bench`.
//!
//! First the resident memory over a million stores into a cache of 64 MiB, then ns per call: one thread, the
//! best of 5 rounds. Refuses a debug build.

use std::error::Error;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use forebay_core::answer::{
    AnswerKind, BodyEnd, CaptureBudget, CollectLimits, Collector, Expect, ResponseHead, StreamUsage,
    render_stream,
};
use forebay_core::cache::{CacheConfig, CacheKey, Entry, ExactCache, Streams};
use forebay_core::flight::{FlightConfig, Flights};

const CACHE: CacheConfig = CacheConfig { max_bytes: 64 << 20, max_entry_bytes: 1 << 20, shards: 16 };
const LIMITS: CollectLimits =
    CollectLimits { max_answer_bytes: 1 << 20, max_event_bytes: 1 << 20, max_stream_bytes: 1 << 26 };
const KEYS: usize = 20_000;

fn main() -> ExitCode {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build; use `--release`");
        return ExitCode::FAILURE;
    }
    match memory().and_then(|()| calls()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn calls() -> Result<(), Box<dyn Error>> {
    let cache = ExactCache::new(CACHE);
    let (known, unknown) = (keys(0), keys(1_000_000));
    for key in &known {
        cache.store(*key, entry(&[b'x'; 1000]), cache.begin_fill(), 0);
    }
    report("look-up, hit", 1_000_000, |at| {
        black_box(cache.lookup(&known[at * 7919 % KEYS], 1, None));
    });
    report("look-up, miss", 1_000_000, |at| {
        black_box(cache.lookup(&unknown[at * 7919 % KEYS], 1, None));
    });
    report("store of 1 KB, evicting", KEYS, |at| {
        black_box(cache.store(unknown[at], entry(&[b'x'; 1000]), cache.begin_fill(), 0));
    });
    report("invalidation, 40,000 entries", 20, |at| {
        black_box(cache.invalidate_tag(&at.to_string()));
    });

    let flights = Flights::<usize>::new(FlightConfig {
        max_flights: 65_536,
        max_followers_per_flight: 256,
        max_followers: 4096,
        lead_ns: 1 << 40,
    });
    let answer = Arc::new(entry(b"{}"));
    for (id, key) in (0..).zip(&known[..1000]) {
        flights.join(*key, id, 0, 1, || 0);
    }
    report("flight led and completed, 1,000 others", 1_000_000, |at| {
        let key = &unknown[at * 7919 % KEYS];
        flights.join(*key, at as u128, 0, 1, || at);
        black_box(flights.complete(key, at as u128, &answer));
    });

    let text = "The quick brown fox jumps over the lazy dog. ".repeat(22);
    let stream = streamed(&text);
    let body = collect(&stream)?;
    report("an answer of 1.2 KB rendered as a stream", KEYS, |_| {
        let _ = black_box(render_stream(AnswerKind::Chat, &body, StreamUsage::Omit));
    });
    report("the same collected from its 200 chunks", 500, |_| {
        let _ = black_box(collect(&stream));
    });
    Ok(())
}

fn memory() -> Result<(), Box<dyn Error>> {
    let cache = ExactCache::new(CACHE);
    let text = vec![b'x'; 20_000];
    let mut seed = 1_u64;
    let mut peak_bytes = 0;
    let idle_bytes = resident_bytes()?;
    for at in 0..1_000_000_u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let spread = if at % 50 == 0 { 19_000 } else { 2500 };
        let length = 200 + (seed >> 33) as usize % spread;
        cache.store(key(at), entry(&text[..length]), cache.begin_fill(), at);
        if at % 7 == 0 {
            black_box(cache.lookup(&key(at / 2), at, None));
        }
        if at % 10_000 == 0 {
            peak_bytes = peak_bytes.max(resident_bytes()?);
        }
    }
    let stats = cache.stats();
    println!("a million stores: {} entries, {} bytes counted", stats.entries, stats.bytes);
    println!("  resident before {idle_bytes}, at most {peak_bytes}, at the end {}", resident_bytes()?);
    let ratio = (peak_bytes - idle_bytes.min(peak_bytes)) as f64 / CACHE.max_bytes as f64;
    println!("  growth at most {ratio:.2} times the cache");
    Ok(())
}

fn report(name: &str, calls: usize, mut call: impl FnMut(usize)) {
    let mut best_ns = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        (0..calls).for_each(&mut call);
        best_ns = best_ns.min(start.elapsed().as_nanos() as f64 / calls as f64);
    }
    println!("{name}: {best_ns:.0} ns");
}

fn key(number: u64) -> CacheKey {
    CacheKey(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn keys(first: u64) -> Vec<CacheKey> {
    (first..).take(KEYS).map(key).collect()
}

fn entry(body: &[u8]) -> Entry {
    Entry {
        body: Bytes::copy_from_slice(body),
        kind: AnswerKind::Chat,
        tenant: "acme-corporation".into(),
        model: "small-chat".into(),
        revision: "2026-11".into(),
        tags: Arc::new(["faq".into()]),
        usage: None,
        stored_ns: 0,
        expires_ns: u64::MAX,
        streams: Streams::default(),
    }
}

fn streamed(text: &str) -> Vec<Vec<u8>> {
    let chunk = |delta: &str, reason: &str| {
        let head = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"#;
        [head, delta, r#"},"logprobs":null,"finish_reason":"#, reason, "}]}\n\n"].concat().into_bytes()
    };
    let mut chunks: Vec<Vec<u8>> =
        text.split_inclusive(' ').map(|word| chunk(&format!(r#""content":"{word}""#), "null")).collect();
    chunks.push(chunk("", "\"stop\""));
    chunks.push(b"data: [DONE]\n\n".to_vec());
    chunks
}

fn collect(chunks: &[Vec<u8>]) -> Result<Bytes, Box<dyn Error>> {
    let head = ResponseHead { status: 200, content_type: Some("text/event-stream"), content_encoding: None };
    let expect = Expect { kind: AnswerKind::Chat, items: Some(1) };
    let mut collector = Collector::new(expect, &head, LIMITS, &CaptureBudget::new(1 << 26));
    for chunk in chunks {
        collector.push(chunk);
    }
    Ok(collector.finish(BodyEnd::Complete)?.body)
}

/// Linux's `/proc/self/status`, where `VmRSS` is in KiB.
fn resident_bytes() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}
