//! Owns: one model server's address and its channel: opened at the first call, kept, and what it has not answered.
//! Must not know: pools, messages.
//! On failure: closed; a server that was not reached rests for a second, so that others are tried before it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use bytes::Bytes;
use forebay_core::batch::LaneKey;
use parking_lot::Mutex;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Error};

/// gRPC's C core ends connections that ping more than once in 5 minutes without data; TCP finds dead hosts sooner.
const PING_EVERY: Duration = Duration::from_secs(310);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Long enough that a dead server does not attract all calls by being idle.
const REST_NS: u64 = 1_000_000_000;
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// How to reach a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// `host:port`, such as `10.0.0.7:8001`
    pub address: String,
    /// `None`: plain text
    pub tls: Option<ServerTls>,
}

/// TLS to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The name that is sent and verified
    pub sni: String,
    /// The authorities that are trusted, as PEM; `None`: the system's
    pub ca_pem: Option<Bytes>,
}

/// Why a server cannot be used.
#[derive(Debug)]
pub enum AddressError {
    /// The address or its TLS is none
    Address(String, Error),
    /// There is no certificate in the PEM of this address
    Authorities(String),
}

/// One server of a pool.
#[derive(Debug)]
pub(super) struct Server {
    pub address: ServerAddress,
    endpoint: Endpoint,
    channel: Mutex<Option<Channel>>,
    ready: AtomicBool,
    open: AtomicUsize,
    rests_until_ns: AtomicU64,
    pub outstanding: Mutex<Outstanding>,
}

/// What a server was sent and has not answered.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    /// Padded tokens of all batches
    pub tokens: u64,
    batches: AHashMap<LaneKey, u32>,
}

/// A call or stream that is open on a server.
#[derive(Debug)]
pub(super) struct Open(Arc<Server>);

// === impl AddressError ===

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address, error) => {
                write!(f, "`{address}` cannot be used as a server's `host:port`")?;
                let mut cause: Option<&dyn std::error::Error> = Some(error);
                while let Some(error) = cause {
                    write!(f, ": {error}")?;
                    cause = error.source();
                }
                Ok(())
            }
            Self::Authorities(address) => {
                write!(f, "the authorities of `{address}` hold no certificate; give them as PEM")
            }
        }
    }
}

impl std::error::Error for AddressError {}

// === impl Server ===

impl Server {
    /// Proves the address; connects to nothing.
    pub(super) fn new(address: ServerAddress) -> Result<Self, AddressError> {
        let scheme = if address.tls.is_some() { "https" } else { "http" };
        let wrong = |error| AddressError::Address(address.address.clone(), error);
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", address.address))
            .map_err(wrong)?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(TCP_KEEPALIVE))
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        if let Some(tls) = &address.tls {
            let config = ClientTlsConfig::new().domain_name(&tls.sni);
            let config = match &tls.ca_pem {
                // A file without a certificate would be taken for one that trusts nobody.
                Some(pem) if !std::str::from_utf8(pem).is_ok_and(|pem| pem.contains(CERTIFICATE)) => {
                    return Err(AddressError::Authorities(address.address));
                }
                Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
                None => config.with_native_roots(),
            };
            endpoint = endpoint.tls_config(config).map_err(wrong)?;
        }
        Ok(Self {
            address,
            endpoint,
            channel: Mutex::new(None),
            ready: AtomicBool::new(true),
            open: AtomicUsize::new(0),
            rests_until_ns: AtomicU64::new(0),
            outstanding: Mutex::default(),
        })
    }

    /// Whether the server said that it is ready. One that says so anew rests no longer.
    pub(super) fn set_ready(&self, ready: bool) {
        if !self.ready.swap(ready, Ordering::Relaxed) && ready {
            self.rests_until_ns.store(0, Ordering::Relaxed);
        }
    }

    /// Smaller is better: ready ones, then those that answered, then those with little open.
    pub(super) fn burden(&self, now_ns: u64) -> (bool, bool, usize) {
        let rests = self.rests_until_ns.load(Ordering::Relaxed) > now_ns;
        (!self.ready.load(Ordering::Relaxed), rests, self.open.load(Ordering::Relaxed))
    }

    /// It failed what it was sent: it rests.
    pub(super) fn failed(&self, now_ns: u64) {
        self.rests_until_ns.store(now_ns.saturating_add(REST_NS), Ordering::Relaxed);
    }

    /// It was not reached: its channel is dropped, and it rests.
    pub(super) fn unreached(&self, now_ns: u64) {
        self.failed(now_ns);
        *self.channel.lock() = None;
    }

    /// Its channel, which connects when it is first used. Must be called inside a runtime.
    pub(super) fn channel(&self) -> Channel {
        self.channel.lock().get_or_insert_with(|| self.endpoint.connect_lazy()).clone()
    }
}

// === impl Outstanding ===

impl Outstanding {
    /// Batches of a lane.
    pub(super) fn of(&self, lane: &LaneKey) -> u32 {
        self.batches.get(lane).copied().unwrap_or(0)
    }

    pub(super) fn add(&mut self, lane: &LaneKey, tokens: u64) {
        self.tokens += tokens;
        *self.batches.entry(lane.clone()).or_default() += 1;
    }

    pub(super) fn remove(&mut self, lane: &LaneKey, tokens: u64) {
        self.tokens = self.tokens.saturating_sub(tokens);
        if let Some(batches) = self.batches.get_mut(lane) {
            *batches -= 1;
            if *batches == 0 {
                self.batches.remove(lane);
            }
        }
    }
}

// === impl Open ===

impl Open {
    pub(super) fn on(server: Arc<Server>) -> Self {
        server.open.fetch_add(1, Ordering::Relaxed);
        Self(server)
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.0
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
