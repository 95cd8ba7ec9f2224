//! Owns: calls and streams to the model servers of a pool, as bytes; a stream goes to the server with the least open.
//! Must not know: tensors, clients, who asks.
//! On failure: closed; a server that was not reached is passed over for the next, and what a client reads of a broken
//! connection names the pool and never an address.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use ahash::AHashMap;
use bytes::Bytes;
use forebay_core::batch::LaneKey;
use futures_util::Stream;
use http::uri::PathAndQuery;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tonic::client::Grpc;
use tonic::codec::Streaming;
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Request, Status, TimeoutExpired};

use super::choice::Route;
use super::endpoint::{AddressError, Open, Server, ServerAddress};
use super::{Failure, method};
use crate::codec::BytesCodec;

/// The servers of all pools.
#[derive(Debug)]
pub struct Upstreams {
    origin: Instant,
    pub(super) pools: RwLock<AHashMap<Arc<str>, Vec<Arc<Server>>>>,
    pub(super) routes: RwLock<AHashMap<LaneKey, Arc<Route>>>,
    pub(super) choosing: Mutex<()>,
    /// Told when a server may have room that had none
    pub(super) room: Notify,
}

/// Why a server's answer did not come.
#[derive(Debug)]
pub(super) struct Unanswered {
    /// What a client reads
    pub failure: Failure,
    /// Whether the server may have seen the request
    pub sent: bool,
}

/// The answers of a stream of inferences. Dropping it cancels the stream upstream.
pub(crate) struct UpstreamStream {
    pool: Arc<str>,
    outgoing: Outgoing,
    state: StreamState,
}

/// The server may hold its first header back until its first answer, so that opening is the first answer's business.
enum StreamState {
    Opening(Pin<Box<dyn Future<Output = Opened> + Send>>),
    Open { answers: Box<Streaming<Bytes>>, _open: Open },
    Ended,
}

type Opened = Result<(Streaming<Bytes>, Open), Failure>;

/// What goes upstream, kept until the first message is taken, so that it can be offered to another server.
#[derive(Clone)]
struct Outgoing(Arc<Mutex<Pending>>);

struct Pending {
    messages: Receiver<Bytes>,
    begun: bool,
    cancelled: bool,
    sender: Option<Waker>,
}

// === impl Upstreams ===

impl Default for Upstreams {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            pools: RwLock::default(),
            routes: RwLock::default(),
            choosing: Mutex::default(),
            room: Notify::new(),
        }
    }
}

impl Upstreams {
    /// Replaces the servers of a pool and says which are ready. Servers that stay keep their connections, and what is
    /// open on one that goes ends there.
    pub fn set(&self, pool: &str, servers: Vec<(ServerAddress, bool)>) -> Result<(), AddressError> {
        let old = self.servers(pool);
        let mut new = Vec::with_capacity(servers.len());
        for (address, ready) in servers {
            let server = match old.iter().find(|server| server.address == address) {
                Some(server) => Arc::clone(server),
                None => self.shared(&address).map_or_else(|| Server::new(address).map(Arc::new), Ok)?,
            };
            server.set_ready(ready);
            new.push(server);
        }
        let mut pools = self.pools.write();
        if new.is_empty() {
            pools.remove(pool);
            self.routes.write().retain(|lane, _| *lane.pool != *pool);
        } else {
            pools.insert(pool.into(), new);
        }
        drop(pools);
        self.room.notify_waiters();
        Ok(())
    }

    /// Opens a stream of inferences. What `outgoing` brings is sent as it comes, and its end ends the client's half.
    /// Nothing is awaited here but the choice of a server: a server that answers late holds up nobody who has yet to
    /// send.
    #[allow(clippy::unused_async)] // callers must not depend on when it connects
    pub(crate) async fn stream_infer(
        self: &Arc<Self>,
        pool: &str,
        outgoing: Receiver<Bytes>,
    ) -> Result<UpstreamStream, Failure> {
        if self.servers(pool).is_empty() {
            return Err(no_server(pool));
        }
        let pool: Arc<str> = pool.into();
        let pending = Pending { messages: outgoing, begun: false, cancelled: false, sender: None };
        let outgoing = Outgoing(Arc::new(Mutex::new(pending)));
        let opening = Arc::clone(self).open(Arc::clone(&pool), outgoing.clone());
        Ok(UpstreamStream { pool, outgoing, state: StreamState::Opening(Box::pin(opening)) })
    }

    /// One call to one server, and its answer.
    pub(super) async fn ask(
        &self,
        pool: &str,
        server: &Server,
        method: &'static str,
        message: Bytes,
        until: tokio::time::Instant,
    ) -> Result<Bytes, Unanswered> {
        let mut request = Request::new(message);
        request.set_timeout(until.saturating_duration_since(tokio::time::Instant::now()));
        let mut grpc = client(server.channel());
        let answered = async {
            ready(&mut grpc).await?;
            grpc.unary(request, path(method), BytesCodec).await
        };
        match tokio::time::timeout_at(until, answered).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => {
                Err(Unanswered { failure: self.failed(pool, server, &status), sent: !never_sent(&status) })
            }
            Err(_) => Err(Unanswered { failure: late(pool), sent: true }),
        }
    }

    async fn open(self: Arc<Self>, pool: Arc<str>, outgoing: Outgoing) -> Opened {
        let mut tried = Vec::new();
        loop {
            let open = self.least_burdened(&pool, &mut tried)?;
            let mut grpc = client(open.server().channel());
            let opened = async {
                ready(&mut grpc).await?;
                grpc.streaming(Request::new(outgoing.clone()), path("ModelStreamInfer"), BytesCodec).await
            };
            match opened.await {
                Ok(answers) => return Ok((answers.into_inner(), open)),
                Err(status)
                    if never_sent(&status) && !outgoing.0.lock().begun && self.another(&pool, &tried) =>
                {
                    open.server().unreached(self.now_ns());
                }
                Err(status) => return Err(self.failed(&pool, open.server(), &status)),
            }
        }
    }

    /// The server that another pool has under the same address, so that it is burdened by both.
    fn shared(&self, address: &ServerAddress) -> Option<Arc<Server>> {
        self.pools.read().values().flatten().find(|server| server.address == *address).cloned()
    }

    pub(super) fn servers(&self, pool: &str) -> Vec<Arc<Server>> {
        self.pools.read().get(pool).cloned().unwrap_or_default()
    }

    fn least_burdened(&self, pool: &str, tried: &mut Vec<Arc<Server>>) -> Result<Open, Failure> {
        let now_ns = self.now_ns();
        let untried = self.servers(pool).into_iter().filter(|server| !contains(tried, server));
        let server = untried.min_by_key(|server| server.burden(now_ns)).ok_or_else(|| no_server(pool))?;
        tried.push(Arc::clone(&server));
        Ok(Open::on(server))
    }

    fn another(&self, pool: &str, tried: &[Arc<Server>]) -> bool {
        self.servers(pool).iter().any(|server| !contains(tried, server))
    }

    /// What a client reads of a call that failed on a server.
    fn failed(&self, pool: &str, server: &Server, status: &Status) -> Failure {
        let failure = told(pool, status);
        if never_sent(status) {
            server.unreached(self.now_ns());
        } else if failure.code == Code::Unavailable {
            server.failed(self.now_ns());
        }
        failure
    }

    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

// === impl UpstreamStream ===

impl UpstreamStream {
    /// The next answer, an encoded `ModelStreamInferResponse`; `None`: the server ended the stream in order. After an
    /// error nothing comes.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        loop {
            match &mut self.state {
                StreamState::Opening(opening) => match opening.as_mut().await {
                    Ok((answers, open)) => {
                        self.state = StreamState::Open { answers: Box::new(answers), _open: open };
                    }
                    Err(failure) => {
                        self.state = StreamState::Ended;
                        return Some(Err(failure));
                    }
                },
                StreamState::Open { answers, .. } => match answers.message().await {
                    Ok(Some(answer)) => return Some(Ok(answer)),
                    Ok(None) => {
                        self.state = StreamState::Ended;
                        return None;
                    }
                    Err(status) => {
                        self.state = StreamState::Ended;
                        return Some(Err(told(&self.pool, &status)));
                    }
                },
                StreamState::Ended => return None,
            }
        }
    }

    /// Gives the stream up. HTTP/2 resets a stream when both its halves are let go of, so that the half towards the
    /// server must end too, however long somebody still has the means to send.
    pub(crate) fn cancel(&mut self) {
        self.state = StreamState::Ended;
        let mut pending = self.outgoing.0.lock();
        pending.cancelled = true;
        pending.messages.close();
        let sender = pending.sender.take();
        drop(pending);
        if let Some(sender) = sender {
            sender.wake();
        }
    }
}

impl Drop for UpstreamStream {
    fn drop(&mut self) {
        self.cancel();
    }
}

// === impl Outgoing ===

impl Stream for Outgoing {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut pending = self.0.lock();
        if pending.cancelled {
            return Poll::Ready(None);
        }
        let polled = pending.messages.poll_recv(context);
        pending.begun |= polled.is_ready();
        pending.sender = polled.is_pending().then(|| context.waker().clone());
        polled
    }
}

fn client(channel: Channel) -> Grpc<Channel> {
    Grpc::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_maybe_shared(format!("/{}/{method}", method::SERVICE))
        .unwrap_or_else(|_| PathAndQuery::from_static("/"))
}

fn contains(servers: &[Arc<Server>], server: &Arc<Server>) -> bool {
    servers.iter().any(|each| Arc::ptr_eq(each, server))
}

/// Whether the call cannot have reached the server: the connection could not be made.
fn never_sent(status: &Status) -> bool {
    caused_by::<ConnectError>(status)
}

fn caused_by<E: Error + 'static>(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<E>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A server's own words are passed on; a broken connection's are not, since they name addresses.
fn told(pool: &str, status: &Status) -> Failure {
    match status.code() {
        Code::DeadlineExceeded => late(pool),
        _ if caused_by::<TimeoutExpired>(status) => late(pool),
        code if status.source().is_some() || code == Code::Unavailable => {
            let message = format!("no server of pool `{pool}` is available; try again");
            Failure::upstream(Code::Unavailable, message)
        }
        code if status.message().is_empty() => {
            Failure::upstream(code, format!("the call to pool `{pool}` failed ({code:?})"))
        }
        code => Failure::upstream(code, status.message().to_owned()),
    }
}

fn late(pool: &str) -> Failure {
    Failure::upstream(Code::DeadlineExceeded, format!("no server of pool `{pool}` answered in time"))
}

/// All servers had what they may have until nobody waited any more.
pub(super) fn no_room(pool: &str) -> Failure {
    Failure::upstream(Code::DeadlineExceeded, format!("no server of pool `{pool}` had room in time"))
}

pub(super) fn no_server(pool: &str) -> Failure {
    Failure::upstream(Code::Unavailable, format!("pool `{pool}` has no server; try again later"))
}
