//! Owns: framed records between the request path and whoever writes them down.
//! Must not know: files, threads.
//! On failure: when it is full, or a record too large, the record is dropped and counted; nobody waits.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use prost::Message;

use crate::policy::pb::LedgerRecord;

/// The largest record with its head.
pub const MAX_FRAME_BYTES: usize = MAX_RECORD_BYTES + HEAD_BYTES;
const MAX_RECORD_BYTES: usize = 65_536;
/// Length and CRC-32 of what follows, each four bytes, little-endian.
const HEAD_BYTES: usize = 8;

/// Records that nobody took yet.
#[derive(Debug)]
pub struct Outbox {
    frames: Mutex<Vec<u8>>,
    max_bytes: usize,
    lost: AtomicU64,
    records: AtomicU64,
}

// === impl Outbox ===

impl Outbox {
    /// An outbox of at most `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self { frames: Mutex::default(), max_bytes, lost: AtomicU64::new(0), records: AtomicU64::new(0) }
    }

    /// Adds a record.
    pub fn push(&self, record: &LedgerRecord) {
        let len = record.encoded_len();
        let mut frames = self.frames.lock();
        if len > MAX_RECORD_BYTES || frames.len() + HEAD_BYTES + len > self.max_bytes {
            drop(frames);
            self.lost.fetch_add(1, Relaxed);
            return;
        }
        let from = frames.len();
        frames.extend_from_slice(&(len as u32).to_le_bytes());
        frames.extend_from_slice(&[0; 4]);
        if record.encode(&mut *frames).is_err() {
            // A vector grows; this cannot be.
            frames.truncate(from);
            return;
        }
        let crc = crc32fast::hash(frames.get(from + HEAD_BYTES..).unwrap_or_default());
        if let Some(place) = frames.get_mut(from + 4..from + HEAD_BYTES) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
        drop(frames);
        self.records.fetch_add(1, Relaxed);
    }

    /// Takes all frames, oldest first, and leaves `empty` in their place, whose memory is used again.
    pub fn take(&self, mut empty: Vec<u8>) -> Vec<u8> {
        empty.clear();
        std::mem::swap(&mut *self.frames.lock(), &mut empty);
        empty
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.frames.lock().len()
    }

    /// Says that frames which were taken could not be written and are lost.
    pub fn lose(&self, records: u64) {
        self.lost.fetch_add(records, Relaxed);
    }

    /// Records ever taken in, and records lost.
    pub fn counts(&self) -> (u64, u64) {
        (self.records.load(Relaxed), self.lost.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frames_say_their_length_and_sum() {
        let outbox = Outbox::new(1_000);
        let record = LedgerRecord { tenant: "acme".into(), cost_nanousd: 7, ..LedgerRecord::default() };
        outbox.push(&record);
        outbox.push(&record);
        let frames = outbox.take(vec![1, 2, 3]);
        let (first, second) = frames.split_at(frames.len() / 2);
        assert_eq!(first, second);
        let len = u32::from_le_bytes(first[..4].try_into().unwrap()) as usize;
        let crc = u32::from_le_bytes(first[4..8].try_into().unwrap());
        assert_eq!(len + HEAD_BYTES, first.len());
        assert_eq!(crc32fast::hash(&first[8..]), crc);
        assert_eq!(LedgerRecord::decode(&first[8..]).unwrap(), record);
        assert_eq!((outbox.bytes(), outbox.counts()), (0, (2, 0)));
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let outbox = Outbox::new(100_000);
        outbox.push(&LedgerRecord { user: "u".repeat(MAX_RECORD_BYTES), ..LedgerRecord::default() });
        assert_eq!(outbox.counts(), (0, 1));
        for _ in 0..3 {
            outbox.push(&LedgerRecord { user: "u".repeat(40_000), ..LedgerRecord::default() });
        }
        assert_eq!(outbox.counts(), (2, 2));
        assert!(outbox.bytes() <= 100_000);
    }
}
