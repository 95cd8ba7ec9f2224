//! Owns: equal requests that wait at the same time: one goes, all of them get its answer.
//! Must not know: what makes requests equal (a key says it), permission.
//! On failure: closed; everybody gets the one's failure. Whoever came first may leave: the request lives while anyone
//! waits, and leaves the queue with the last.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ahash::AHashMap;
use forebay_core::batch::LaneKey;
use forebay_core::cache::CacheKey;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::places::{Places, Replies};
use super::queue::Request;
use super::work::Reply;
use super::{BatchQueue, Failure};

/// All flights of a queue.
#[derive(Debug, Default)]
pub(super) struct Flights {
    open: Mutex<AHashMap<CacheKey, Arc<Flight>>>,
}

/// One request on behalf of several.
#[derive(Debug)]
struct Flight {
    places: Places,
    landed: watch::Sender<Option<Landed>>,
    kept: AtomicBool,
}

type Landed = Result<Arc<Reply>, Failure>;

/// How somebody came to a flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It is the request's own
    Leads,
    /// An equal one was on its way
    Follows,
}

/// Somebody who waits for a flight. Dropping it is leaving.
#[derive(Debug)]
pub(super) struct Aboard {
    pub role: Role,
    flight: Arc<Flight>,
    landing: watch::Receiver<Option<Landed>>,
}

// === impl Flights ===

impl Flights {
    /// Joins the flight of a key, or begins it.
    pub(super) fn join(
        self: &Arc<Self>,
        key: CacheKey,
        queue: &Arc<BatchQueue>,
        lane: &LaneKey,
        request: Request,
    ) -> Result<Aboard, Failure> {
        // Joining and giving up happen under this lock, so that nobody joins a flight that was given up.
        let mut open = self.open.lock();
        if let Some(flight) = open.get(&key) {
            let landing = flight.landed.subscribe();
            flight.places.better(request.priority, request.deadline_ns);
            return Ok(Aboard { role: Role::Follows, flight: Arc::clone(flight), landing });
        }
        let (places, replies) = Places::take_betterable(queue, lane, request)?;
        let (landed, landing) = watch::channel(None);
        let flight = Arc::new(Flight { places, landed, kept: AtomicBool::new(false) });
        open.insert(key, Arc::clone(&flight));
        drop(open);
        tokio::spawn(Arc::clone(self).fly(key, Arc::clone(&flight), replies));
        Ok(Aboard { role: Role::Leads, flight, landing })
    }

    async fn fly(self: Arc<Self>, key: CacheKey, flight: Arc<Flight>, replies: Replies) {
        let mut answer = pin!(flight.places.answer(replies));
        loop {
            tokio::select! {
                biased;
                landed = &mut answer => {
                    self.open.lock().remove(&key);
                    flight.landed.send_replace(Some(landed.map(Arc::new)));
                    return;
                }
                () = flight.landed.closed() => {
                    let mut open = self.open.lock();
                    if flight.landed.receiver_count() == 0 {
                        open.remove(&key);
                        return;
                    }
                }
            }
        }
    }
}

// === impl Aboard ===

impl Aboard {
    /// Waits for the answer.
    pub(super) async fn landed(&mut self) -> Landed {
        match self.landing.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or_else(|| Err(Failure::closing())),
            Err(_) => Err(Failure::closing()),
        }
    }

    /// Whether nobody else keeps the answer.
    pub(super) fn keeps(&self) -> bool {
        !self.flight.kept.swap(true, Ordering::Relaxed)
    }
}
