//! Prints how fast each encoding counts: the files named as arguments, this crate's own source, and megabytes
//! of one character. `cargo run --release -p forebay-core --example token_speed -- FILE...`

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use forebay_core::tokens::Encoding;

/// Texts of about this size show the steady rate; the cold one is a chat message's.
const TEXT_BYTES: usize = 1_000_000;
const MESSAGE_BYTES: usize = 1_000;
const ROUNDS: usize = 15;

fn main() -> std::io::Result<()> {
    if cfg!(debug_assertions) {
        return Err(std::io::Error::other("a debug build says nothing about speed; add --release"));
    }
    let mut texts = vec![
        ("this crate's tokens".to_owned(), [include_str!("../src/tokens/split.rs"); 80].concat()),
        ("megabyte of a".to_owned(), "a".repeat(TEXT_BYTES)),
        ("megabyte of spaces".to_owned(), " ".repeat(TEXT_BYTES)),
        ("megabyte of 中".to_owned(), "中".repeat(TEXT_BYTES / 3)),
    ];
    for path in std::env::args().skip(1) {
        texts.push((path.clone(), std::fs::read_to_string(&path)?));
    }
    let mut out = String::new();
    for encoding in Encoding::ALL {
        let start = Instant::now();
        encoding.warm();
        line(&mut out, format_args!("{}: tables in {:.0?}", encoding.name(), start.elapsed()));
        for (name, text) in &texts {
            let best = fastest(|| encoding.count(text));
            let rate = text.len() as f64 / best.as_secs_f64() / 1e6;
            let message = message(text);
            let first = fastest(|| encoding.count(message));
            line(
                &mut out,
                format_args!(
                    "  {name}: {rate:.0} MB/s, {best:.2?}; {} bytes of it in {first:.2?}",
                    message.len()
                ),
            );
        }
    }
    print!("{out}");
    Ok(())
}

fn line(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(out, "{arguments}");
}

fn message(text: &str) -> &str {
    let end = (0..=MESSAGE_BYTES.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

fn fastest(count: impl Fn() -> u64) -> Duration {
    let timed = || {
        let start = Instant::now();
        std::hint::black_box(count());
        start.elapsed()
    };
    (0..ROUNDS).map(|_| timed()).min().unwrap_or_default()
}
