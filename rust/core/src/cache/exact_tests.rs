#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::super::Streams;
use super::super::shard::ENTRY_OVERHEAD_BYTES;
use super::*;
use crate::answer::{AnswerKind, Usage};
use proptest::prelude::*;
use std::collections::HashMap;

const SECOND_NS: u64 = 1_000_000_000;

fn key(n: u64) -> CacheKey {
    CacheKey(*blake3_like(n).first_chunk().unwrap())
}

/// Spreads a number over 32 bytes; splitmix64, four times.
fn blake3_like(n: u64) -> Vec<u8> {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    (1..5)
        .flat_map(|lane: u64| mix(n.wrapping_add(lane.wrapping_mul(0x9E37_79B9_7F4A_7C15))).to_le_bytes())
        .collect()
}

fn entry(body: &str, tags: &[&str]) -> Entry {
    Entry {
        body: Bytes::copy_from_slice(body.as_bytes()),
        kind: AnswerKind::Chat,
        tenant: "t".into(),
        model: "m".into(),
        revision: "r1".into(),
        tags: tags.iter().map(|tag| Arc::from(*tag)).collect(),
        usage: Some(Usage { prompt_tokens: 1, completion_tokens: 1, cached_tokens: 0, reasoning_tokens: 0 }),
        stored_ns: 0,
        expires_ns: 10 * SECOND_NS,
        streams: Streams::default(),
    }
}

fn cache(max_bytes: usize, max_entry_bytes: usize) -> ExactCache {
    ExactCache::new(CacheConfig { max_bytes, max_entry_bytes, shards: 16 })
}

fn put(cache: &ExactCache, n: u64, body: &str, tags: &[&str]) -> StoreOutcome {
    cache.store(key(n), entry(body, tags), cache.begin_fill(), 0).0
}

#[test]
fn an_answer_lives_until_its_time() {
    let cache = cache(1 << 20, 1 << 16);
    assert_eq!(put(&cache, 1, "a", &[]), StoreOutcome::Stored);
    assert_eq!(put(&cache, 1, "b", &[]), StoreOutcome::Replaced);
    let at = |now_s: u64, max_age_s: Option<u64>| {
        cache
            .lookup(&key(1), now_s * SECOND_NS, max_age_s.map(|s| s * SECOND_NS))
            .map(|entry| entry.body.clone())
    };
    assert_eq!(at(9, None).unwrap(), "b");
    assert_eq!(at(5, Some(5)).unwrap(), "b");
    assert_eq!(at(6, Some(5)), None);
    assert_eq!(at(6, Some(0)), None);
    assert_eq!(at(6, None).unwrap(), "b");
    assert_eq!(at(10, None), None);
    assert_eq!(at(0, None), None);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.expired, stats.entries, stats.bytes), (3, 4, 1, 0, 0));
    let late = cache.store(key(1), entry("c", &[]), cache.begin_fill(), 10 * SECOND_NS).0;
    assert_eq!(late, StoreOutcome::Expired);
}

#[test]
fn too_large_is_refused_and_no_cache_keeps_nothing() {
    let cache = cache(1 << 20, 4096);
    assert_eq!(put(&cache, 1, &"x".repeat(5000), &[]), StoreOutcome::TooLarge);
    assert_eq!(cache.stats().refused_too_large, 1);
    let none = super::tests::cache(0, 4096);
    assert_eq!(put(&none, 1, "x", &[]), StoreOutcome::TooLarge);
    assert!(none.lookup(&key(1), 0, None).is_none());
}

#[test]
fn invalidations_remove_what_they_name() {
    let cache = cache(1 << 20, 1 << 16);
    let put_of = |n, tenant: &str, model: &str, revision: &str, tags: &[&str]| {
        let labelled = Entry {
            tenant: tenant.into(),
            model: model.into(),
            revision: revision.into(),
            ..entry("x", tags)
        };
        cache.store(key(n), labelled, cache.begin_fill(), 0);
    };
    let fill = || {
        put_of(1, "a", "m", "1", &["x", "y"]);
        put_of(2, "a", "m", "2", &["y"]);
        put_of(3, "b", "m", "1", &[]);
        put_of(4, "b", "n", "1", &["x"]);
    };
    let removed = |selector: Selector| {
        fill();
        let count = cache.invalidate(&selector);
        let gone: Vec<u64> = (1..5).filter(|n| cache.lookup(&key(*n), 0, None).is_none()).collect();
        assert_eq!(count, gone.len() as u64);
        gone
    };
    assert_eq!(removed(Selector::Tag("x".into())), [1, 4]);
    assert_eq!(removed(Selector::Model { model: "m".into(), revision: None }), [1, 2, 3]);
    assert_eq!(removed(Selector::Model { model: "m".into(), revision: Some("1".into()) }), [1, 3]);
    assert_eq!(removed(Selector::Tenant("b".into())), [3, 4]);
    assert_eq!(removed(Selector::All), [1, 2, 3, 4]);
    assert_eq!(
        cache.invalidate_tag("x") + cache.invalidate_model("m", None) + cache.invalidate_tenant("a"),
        0
    );
    assert_eq!(cache.stats().bytes, 0);
}

#[test]
fn a_fill_that_began_before_its_invalidation_is_refused() {
    let cache = cache(1 << 20, 1 << 16);
    let before = cache.begin_fill();
    cache.invalidate_tag("x");
    let store = |ticket, tags: &[&str]| cache.store(key(1), entry("a", tags), ticket, 0).0;
    assert_eq!(store(before, &["x"]), StoreOutcome::Stale);
    assert!(!StoreOutcome::Stale.may_be_shared());
    assert!(cache.lookup(&key(1), 0, None).is_none());
    assert_eq!(store(before, &["y"]), StoreOutcome::Stored);
    assert_eq!(store(cache.begin_fill(), &["x"]), StoreOutcome::Replaced);
    let other = cache.begin_fill();
    cache.invalidate_model("m", Some("r0"));
    cache.invalidate_tag("z");
    assert_eq!(store(other, &["x"]), StoreOutcome::Replaced);
    cache.clear();
    assert_eq!(store(other, &["x"]), StoreOutcome::Stale);
    assert_eq!(store(FillTicket(u64::MAX), &[]), StoreOutcome::Stale);
}

#[test]
fn a_fill_older_than_the_log_is_refused() {
    let cache = cache(1 << 20, 1 << 16);
    let old = cache.begin_fill();
    cache.invalidate_tag("first");
    let after_first = cache.begin_fill();
    for n in 0..1024 {
        cache.invalidate_tag(&n.to_string());
    }
    let store = |ticket| cache.store(key(1), entry("a", &[]), ticket, 0).0;
    assert_eq!(store(old), StoreOutcome::Stale);
    assert_eq!(store(after_first), StoreOutcome::Stored);
}

#[test]
fn no_stale_answer_survives_racing_invalidations() {
    // Every answer carries the version that was current when its fill began; a tag's invalidation ends a version.
    let cache = cache(1 << 22, 1 << 16);
    let version = std::sync::atomic::AtomicU64::new(0);
    let order = std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (cache, version) = (&cache, &version);
            scope.spawn(move || {
                for n in 0..2000_u64 {
                    let ticket = cache.begin_fill();
                    let current = version.load(order).to_string();
                    cache.store(key((n + thread) % 32), entry(&current, &["x"]), ticket, 0);
                }
            });
        }
        for _ in 0..500 {
            let ended = version.fetch_add(1, order);
            cache.invalidate_tag("x");
            for n in 0..32 {
                if let Some(found) = cache.lookup(&key(n), 0, None) {
                    let made: u64 = std::str::from_utf8(&found.body).unwrap().parse().unwrap();
                    assert!(made > ended, "made in version {made}, which ended with {ended}");
                }
            }
        }
    });
}

#[test]
fn a_scan_does_not_sweep_out_what_is_asked_for() {
    let cache = ExactCache::new(CacheConfig { max_bytes: 1 << 20, max_entry_bytes: 1 << 14, shards: 1 });
    let body = "x".repeat(1000);
    for n in 0..100 {
        put(&cache, n, &body, &[]);
        cache.lookup(&key(n), 0, None).unwrap();
    }
    for n in 1000..11_000 {
        put(&cache, n, &body, &[]);
    }
    let kept = (0..100).filter(|n| cache.lookup(&key(*n), 0, None).is_some()).count();
    assert_eq!(kept, 100);
    // What was evicted too early mostly comes back into the main queue; the memory of it is approximate.
    for n in 10_300..10_400 {
        assert!(cache.lookup(&key(n), 0, None).is_none());
        put(&cache, n, &body, &[]);
    }
    for n in 20_000..30_000 {
        put(&cache, n, &body, &[]);
    }
    let back = (10_300..10_400).filter(|n| cache.lookup(&key(*n), 0, None).is_some()).count();
    assert!(back > 50, "{back}");
}

#[test]
fn streams_are_memoised_and_counted() {
    let body = r#"{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#;
    let cache = cache(1 << 20, 1 << 12);
    let (_, kept) = cache.store(key(1), entry(body, &[]), cache.begin_fill(), 0);
    let before = cache.stats().bytes;
    let first = cache.stream(&key(1), &kept, StreamUsage::Omit).unwrap();
    let again = cache.stream(&key(1), &kept, StreamUsage::Omit).unwrap();
    assert_eq!(first.as_ptr(), again.as_ptr());
    assert!(cache.stats().bytes >= before + first.len() as u64);
    let with = cache.stream(&key(1), &kept, StreamUsage::Include).unwrap();
    assert!(with.len() > first.len());
    cache.clear();
    assert_eq!(cache.stats().bytes, 0);
    assert!(cache.stream(&key(1), &kept, StreamUsage::Omit).is_ok());
    assert_eq!(cache.stats().bytes, 0);
    // Too large to be memoised: served, not kept.
    let long = body.replace("hi", &"x".repeat(1800));
    let (outcome, kept) = cache.store(key(2), entry(&long, &[]), cache.begin_fill(), 0);
    assert_eq!(outcome, StoreOutcome::Stored);
    let first = cache.stream(&key(2), &kept, StreamUsage::Omit).unwrap();
    let again = cache.stream(&key(2), &kept, StreamUsage::Omit).unwrap();
    assert_ne!(first.as_ptr(), again.as_ptr());
    assert_eq!(first, again);
}

#[test]
fn the_overhead_is_as_documented() {
    const { assert!(ENTRY_OVERHEAD_BYTES < 900) };
}

#[derive(Clone, Debug)]
enum Step {
    Store { n: u64, len: usize, tag: u8, expires_s: u64 },
    Lookup { n: u64 },
    Tag(u8),
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u64..60, 0_usize..3000, 0_u8..3, 1_u64..40)
            .prop_map(|(n, len, tag, expires_s)| Step::Store { n, len, tag, expires_s }),
        6 => (0_u64..60).prop_map(|n| Step::Lookup { n }),
        1 => (0_u8..3).prop_map(Step::Tag),
        1 => (0_u64..3).prop_map(Step::Later),
    ]
}

proptest! {
    #[test]
    fn it_never_lies_and_never_grows(steps in proptest::collection::vec(step(), 0..300)) {
        let max_bytes = 40_000;
        let cache = ExactCache::new(CacheConfig { max_bytes, max_entry_bytes: 5000, shards: 1 });
        let mut truth: HashMap<u64, (usize, u8, u64)> = HashMap::new();
        let mut now_ns = 0;
        for step in steps {
            match step {
                Step::Store { n, len, tag, expires_s } => {
                    let expires_ns = now_ns + expires_s * SECOND_NS;
                    let tags = [tag.to_string()];
                    let labelled = Entry {
                        stored_ns: now_ns,
                        expires_ns,
                        ..entry(&"x".repeat(len), &[tags[0].as_str()])
                    };
                    let (outcome, _) = cache.store(key(n), labelled, cache.begin_fill(), now_ns);
                    let known = truth.insert(n, (len, tag, expires_ns));
                    if known.is_none() {
                        prop_assert_eq!(outcome, StoreOutcome::Stored);
                    }
                    // A newcomer survives its own arrival.
                    prop_assert!(cache.lookup(&key(n), now_ns, None).is_some());
                }
                Step::Lookup { n } => {
                    if let Some(found) = cache.lookup(&key(n), now_ns, None) {
                        let (len, tag, expires_ns) = truth[&n];
                        prop_assert_eq!(found.body.len(), len);
                        prop_assert_eq!(found.tags[0].to_string(), tag.to_string());
                        prop_assert!(now_ns < expires_ns);
                    }
                }
                Step::Tag(tag) => {
                    cache.invalidate_tag(&tag.to_string());
                    truth.retain(|_, (_, known, _)| *known != tag);
                    for n in 0..60 {
                        if !truth.contains_key(&n) {
                            prop_assert!(cache.lookup(&key(n), now_ns, None).is_none());
                        }
                    }
                }
                Step::Later(seconds) => now_ns += seconds * SECOND_NS,
            }
            let stats = cache.stats();
            prop_assert!(stats.bytes <= max_bytes as u64);
            prop_assert_eq!(stats.bytes == 0, stats.entries == 0);
        }
        let before = cache.stats();
        prop_assert_eq!(cache.clear(), before.entries);
        prop_assert_eq!(cache.stats().bytes, 0);
    }
}
