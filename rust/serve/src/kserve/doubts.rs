//! Owns: the servers that have to be looked at again because a call to them failed, for whoever watches them.
//! Must not know: what follows from a look.
//! On failure: open; without a watcher the list is as long as there are servers, and no longer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tonic::Code;

/// A server that may not be what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The pool that it was called for
    pub pool: Arc<str>,
    /// Its `host:port`
    pub address: String,
    /// What a call to it ended with; `Unavailable`: it failed, and not the request
    pub code: Code,
}

/// Doubts that nobody has taken yet.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    doubts: Vec<Doubt>,
    closed: bool,
}

// === impl Doubts ===

impl Doubts {
    pub(super) fn add(&self, doubt: Doubt) {
        let mut waiting = self.waiting.lock();
        let same = |each: &&mut Doubt| each.pool == doubt.pool && each.address == doubt.address;
        match waiting.doubts.iter_mut().find(same) {
            Some(known) if doubt.code == Code::Unavailable => known.code = doubt.code,
            Some(_) => {}
            None => waiting.doubts.push(doubt),
        }
        self.news.notify_one();
    }

    /// All there are, or those that come first within `timeout`.
    pub(super) fn take_blocking(&self, timeout: Duration) -> Vec<Doubt> {
        let until = Instant::now() + timeout;
        let mut waiting = self.waiting.lock();
        while waiting.doubts.is_empty() && !waiting.closed {
            if self.news.wait_until(&mut waiting, until).timed_out() {
                break;
            }
        }
        std::mem::take(&mut waiting.doubts)
    }

    /// Nobody waits any more.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.news.notify_all();
    }
}
