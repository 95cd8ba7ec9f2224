//! Owns: the listeners of a gateway process and the threads that serve them; start, drain, stop.
//! Must not know: Python; what is decided.
//! On failure: closed; an address that cannot be bound is an error before anything is served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use forebay_core::batch::Bounds;
use forebay_core::engine::{Clock, Engine};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime as Tokio};
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::admission::EngineAdmission;
use crate::clock::SystemClock;
use crate::envoy::EnvoyServices;
use crate::extproc::Runtime;
use crate::journal::{Journal, JournalSettings, outbox_bytes};
use crate::kserve::{self, BatchQueue, KserveService, QueueSettings, ServerSettings};
use crate::leases::Leases;
use crate::report::Report;
use crate::stage::Stages;

const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
const MAX_STREAMS: u32 = 262_144;
/// Room for what stands around a body in one message.
const MESSAGE_OVERHEAD_BYTES: usize = 1 << 20;
/// A tensor request without a deadline of its own waits this long.
const INFER_TIMEOUT: Duration = Duration::from_secs(60);
/// What may wait in front of model servers.
const BATCHES: QueueSettings = QueueSettings {
    bounds: Bounds { max_rows: 16_384, max_tokens: 4 << 20, max_bytes: 256 << 20 },
    max_calls: 256,
    learn_timeout: Duration::from_secs(5),
    relearn_after: Duration::from_secs(5),
};
const TICK: Duration = Duration::from_millis(100);

/// Where a gateway listens.
#[derive(Debug, Clone)]
pub struct Listen {
    /// `ext_proc` and access log
    pub ext_proc: SocketAddr,
    /// `KServe` v2 gRPC
    pub batch: SocketAddr,
    /// Threads of the request path
    pub workers: usize,
    /// Largest buffered body
    pub max_body_bytes: usize,
    /// Where records are written; `None`: there is no ledger
    pub journal: Option<JournalSettings>,
}

/// A running gateway.
pub struct Gateway {
    engine: Arc<Engine>,
    clock: SystemClock,
    stages: Arc<Stages>,
    leases: Arc<Leases>,
    runtime: Arc<Runtime>,
    batches: Arc<BatchQueue>,
    ext_proc: SocketAddr,
    batch: SocketAddr,
    stop: watch::Sender<bool>,
    tokio: Mutex<Option<Tokio>>,
}

// === impl Gateway ===

impl Gateway {
    /// Binds both listeners and serves on threads of its own.
    pub fn start(engine: Arc<Engine>, clock: SystemClock, listen: &Listen) -> std::io::Result<Self> {
        let tokio = Builder::new_multi_thread()
            .worker_threads(listen.workers.max(1))
            .thread_name("forebay-serve")
            .enable_all()
            .build()?;
        let stages = Arc::new(Stages::default());
        let leases = Arc::new(Leases::new(engine.clone()));
        let report = Arc::new(Report::default());
        let journal = match &listen.journal {
            Some(settings) => {
                let outbox = engine.keep_records(outbox_bytes(settings.max_bytes));
                Some(Journal::start(settings.clone(), outbox, report.clone())?)
            }
            None => None,
        };
        let runtime =
            Arc::new(Runtime { engine: engine.clone(), clock, stages: stages.clone(), report, journal });
        let (stop, stopped) = watch::channel(false);
        let ext_proc = tokio.block_on(TcpListener::bind(listen.ext_proc))?;
        let batch = tokio.block_on(TcpListener::bind(listen.batch))?;
        let (ext_proc_addr, batch_addr) = (ext_proc.local_addr()?, batch.local_addr()?);

        let batches = Arc::new(BatchQueue::new(BATCHES));
        let admission = Arc::new(EngineAdmission::new(engine.clone(), clock));
        let max_message_bytes = listen.max_body_bytes + MESSAGE_OVERHEAD_BYTES;
        let service = KserveService::new(batches.clone(), admission, max_message_bytes, INFER_TIMEOUT);
        tokio.spawn(serve_envoy(ext_proc, runtime.clone(), listen.max_body_bytes, stopped.clone()));
        tokio.spawn(serve_batches(batch, service, stopped.clone()));
        tokio.spawn(kserve::send(batches.clone()));
        tokio.spawn(tick(engine.clone(), clock, stopped));
        Ok(Self {
            engine,
            clock,
            stages,
            leases,
            runtime,
            batches,
            ext_proc: ext_proc_addr,
            batch: batch_addr,
            stop,
            tokio: Mutex::new(Some(tokio)),
        })
    }

    /// Where `ext_proc` and access log listen.
    pub fn ext_proc_addr(&self) -> SocketAddr {
        self.ext_proc
    }

    /// Where the batch service listens.
    pub fn batch_addr(&self) -> SocketAddr {
        self.batch
    }

    /// The decision.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Requests that wait for persons' stages.
    pub fn stages(&self) -> &Arc<Stages> {
        &self.stages
    }

    /// Leases that requests wait for.
    pub fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// Bytes that the journal wrote, and writes that failed.
    pub fn journal_counts(&self) -> (u64, u64) {
        self.runtime.journal.as_ref().map_or((0, 0), Journal::counts)
    }

    /// Requests on their way into batches and back.
    pub fn batches(&self) -> &Arc<BatchQueue> {
        &self.batches
    }

    /// The engine's time.
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// Refuses new requests, waits until those in flight have ended or `wait` is over, and stops all threads.
    /// Returns how many were still in flight.
    pub fn shutdown(&self, wait: Duration) -> usize {
        let Some(tokio) = self.tokio.lock().take() else { return 0 };
        self.engine.drain();
        let until = std::time::Instant::now() + wait;
        while self.engine.open_reservations() > 0 && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        let left = self.engine.open_reservations();
        self.batches.close();
        self.stages.close();
        self.leases.close();
        // Streams without an answer end with their connection: an error for Envoy, never a pass.
        let _ = self.stop.send(true);
        tokio.shutdown_timeout(Duration::from_secs(2));
        if let Some(journal) = &self.runtime.journal {
            journal.stop();
        }
        left
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

async fn serve_envoy(
    listener: TcpListener,
    runtime: Arc<Runtime>,
    max_body_bytes: usize,
    stopped: watch::Receiver<bool>,
) {
    let limit = max_body_bytes + MESSAGE_OVERHEAD_BYTES;
    let services = EnvoyServices::new(runtime.clone(), limit);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        // Envoy resets a stream when its client goes away; the default, 20 at once, would end the whole connection, and
        // with it everybody's requests.
        .http2_max_pending_accept_reset_streams(Some(MAX_STREAMS as usize))
        .max_frame_size(1 << 20)
        .serve_with_incoming(services, incoming);
    tokio::select! {
        result = served => {
            if let Err(error) = result {
                runtime.report.say("listener_failed", &error.to_string());
            }
        }
        () = until_stopped(stopped) => {}
    }
}

async fn serve_batches(listener: TcpListener, service: KserveService, stopped: watch::Receiver<bool>) {
    // A listener that fails ends its clients' connections, which is what they see.
    let _ = kserve::serve(listener, service, ServerSettings::default(), until_stopped(stopped)).await;
}

async fn tick(engine: Arc<Engine>, clock: SystemClock, stopped: watch::Receiver<bool>) {
    let mut every = tokio::time::interval(TICK);
    let ticking = async {
        loop {
            every.tick().await;
            engine.tick(clock.now_ns());
        }
    };
    tokio::select! {
        () = ticking => {}
        () = until_stopped(stopped) => {}
    }
}

async fn until_stopped(mut stopped: watch::Receiver<bool>) {
    // An error means that the gateway is gone, which is a stop too.
    let _ = stopped.wait_for(|stop| *stop).await;
}
