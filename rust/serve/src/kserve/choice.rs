//! Owns: which server of a pool takes a piece of work: ready, with room, and with the least that it has not answered.
//! Must not know: gRPC, what the work is made of, who decides that a server is ready.
//! On failure: closed; where nothing is ready the least burdened is tried and says why, and where nothing has room
//! work waits for it until its deadline.

use std::pin::pin;
use std::sync::Arc;

use forebay_core::batch::LaneKey;
use tokio::time::{Instant, timeout_at};

use super::endpoint::{Open, Server};
use super::upstream::{no_room, no_server};
use super::{Failure, Upstreams, Work, WorkKind};

/// Where the batches of a lane may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// `host:port` of the servers whose model is ready and alike, each with the most batches that it may have; empty:
    /// any server of the pool, without a bound
    pub servers: Vec<(Arc<str>, u32)>,
    /// How often a batch may be sent again after a server had it and failed
    pub resends: u32,
}

/// A piece of work that looks for a server.
#[derive(Debug)]
pub(super) struct Wanted {
    lane: LaneKey,
    kind: WorkKind,
    tokens: u64,
}

/// A server that has a piece of work. Its room is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    open: Open,
    lane: LaneKey,
    tokens: u64,
    upstreams: Arc<Upstreams>,
}

enum Choice {
    Taken(Taken),
    /// All that could take it have what they may have
    Full,
    NoServer,
}

// === impl Route ===

impl Route {
    /// Most pieces of work of such a kind at a server; `None`: that one is not meant for them.
    fn most(&self, server: &Server, kind: WorkKind) -> Option<u32> {
        if self.servers.is_empty() {
            return Some(u32::MAX);
        }
        let listed = self.servers.iter().find(|(address, _)| **address == *server.address.address);
        listed.map(|&(_, most)| if kind == WorkKind::Infer { most } else { u32::MAX })
    }
}

// === impl Wanted ===

impl Wanted {
    pub(super) fn of(work: &Work) -> Self {
        let (pool, model) = (Arc::clone(&work.pool), Arc::clone(&work.model));
        let lane = LaneKey { pool, model, version: Arc::clone(&work.version) };
        Self { lane, kind: work.kind, tokens: work.padded_tokens }
    }
}

// === impl Upstreams ===

impl Upstreams {
    /// Says where the batches of a lane may go.
    pub fn set_route(&self, lane: &LaneKey, route: Route) {
        self.routes.write().insert(lane.clone(), Arc::new(route));
        self.room.notify_waiters();
    }

    /// How often a piece of work may be sent again after a server had it.
    pub(super) fn resends(&self, wanted: &Wanted) -> u32 {
        match wanted.kind {
            WorkKind::Infer => self.route(&wanted.lane).resends,
            WorkKind::Call | WorkKind::Learn => 0,
        }
    }

    /// A server for a piece of work that those in `tried` do not get again.
    pub(super) async fn server_for(
        self: &Arc<Self>,
        wanted: &Wanted,
        tried: &[Arc<Server>],
        until: Instant,
    ) -> Result<Taken, Failure> {
        loop {
            let mut room = pin!(self.room.notified());
            // Before the look, so that what is given back between the look and the wait is noticed.
            room.as_mut().enable();
            match self.choose(wanted, tried) {
                Choice::Taken(taken) => return Ok(taken),
                Choice::NoServer => return Err(no_server(&wanted.lane.pool)),
                Choice::Full => {
                    if timeout_at(until, room).await.is_err() {
                        return Err(no_room(&wanted.lane.pool));
                    }
                }
            }
        }
    }

    /// What the servers of all pools have not answered, in padded tokens.
    pub(super) fn outstanding(&self) -> Vec<(Arc<str>, String, u64)> {
        let pools = self.pools.read();
        let servers =
            pools.iter().flat_map(|(pool, servers)| servers.iter().map(move |server| (pool, server)));
        let mut outstanding: Vec<_> = servers
            .map(|(pool, server)| {
                (Arc::clone(pool), server.address.address.clone(), server.outstanding.lock().tokens)
            })
            .collect();
        outstanding.sort_unstable();
        outstanding
    }

    fn route(&self, lane: &LaneKey) -> Arc<Route> {
        self.routes.read().get(lane).cloned().unwrap_or_default()
    }

    /// First choices are made among the servers of the best standing; behind a failure only what is ready counts.
    fn choose(self: &Arc<Self>, wanted: &Wanted, tried: &[Arc<Server>]) -> Choice {
        // Two that look at once must not both find the last room.
        let _choosing = self.choosing.lock();
        let now_ns = self.now_ns();
        // Looked up at every look: what waits for room follows its servers.
        let (servers, route) = (self.servers(&wanted.lane.pool), self.route(&wanted.lane));
        let most = |server: &Server| route.most(server, wanted.kind);
        let none_listed = !servers.iter().any(|server| most(server).is_some());
        let standing = |server: &Server| {
            let (away, rests, _) = server.burden(now_ns);
            (away || rests, !none_listed && most(server).is_none())
        };
        let ranked = servers.iter().filter(|server| !tried.iter().any(|each| Arc::ptr_eq(each, server)));
        let ranked: Vec<_> = ranked.map(|server| (standing(server), server)).collect();
        let Some(best) = ranked.iter().map(|&(standing, _)| standing).min() else { return Choice::NoServer };
        if !tried.is_empty() && best != (false, false) {
            return Choice::NoServer;
        }
        let best = ranked.into_iter().filter(|&(standing, _)| standing == best).map(|(_, server)| server);
        let room = best
            .filter(|server| server.outstanding.lock().of(&wanted.lane) < most(server).unwrap_or(u32::MAX));
        let least = room.min_by_key(|server| {
            let (_, _, open) = server.burden(now_ns);
            (server.outstanding.lock().tokens, open)
        });
        let Some(server) = least else { return Choice::Full };
        server.outstanding.lock().add(&wanted.lane, wanted.tokens);
        Choice::Taken(Taken {
            open: Open::on(Arc::clone(server)),
            lane: wanted.lane.clone(),
            tokens: wanted.tokens,
            upstreams: Arc::clone(self),
        })
    }
}

// === impl Taken ===

impl Taken {
    pub(super) fn server(&self) -> &Arc<Server> {
        self.open.server()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.server().outstanding.lock().remove(&self.lane, self.tokens);
        self.upstreams.room.notify_waiters();
    }
}
