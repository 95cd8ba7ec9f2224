//! Owns the simulated fleet of the benches: a fixed chat completion, or a stream of N chunks, at next to no cost.
//! Must not know what stands in front of it; a request says by header which answer it wants.
//! On failure: a connection that breaks or is malformed is closed; the server goes on.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::{
    args::Args,
    child,
    error::BenchError,
    http1::{Framing, Head},
};

/// Chunks of the answer; absent means a plain answer.
pub const CHUNKS_HEADER: &str = "x-bench-chunks";
/// Microseconds between two chunks; the timer's step is a millisecond.
pub const GAP_HEADER: &str = "x-bench-gap-us";
/// Events of a stream beside its content chunks: the finish reason, the usage and `[DONE]`.
pub const CLOSING_EVENTS: u64 = 3;

/// The plain answer.
pub const COMPLETION: &str = concat!(
    r#"{"id":"chatcmpl-bench","object":"chat.completion","created":1760000000,"model":"bench","choices":[{"index":0,"#,
    r#""message":{"role":"assistant","content":"The invoice is due on the first working day of the month, and the "#,
    r#"reminder goes out a week before."},"logprobs":null,"finish_reason":"stop"}],"#,
    r#""usage":{"prompt_tokens":210,"completion_tokens":21,"total_tokens":231}}"#
);
const CONTENT_EVENT: &str = concat!(
    r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"model":"bench","#,
    r#""choices":[{"index":0,"delta":{"content":" reminder"},"logprobs":null,"finish_reason":null}]}"#,
    "\n\n"
);
const FINISH_EVENT: &str = concat!(
    r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"model":"bench","#,
    r#""choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}"#,
    "\n\n"
);
const USAGE_EVENT: &str = concat!(
    r#"data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"model":"bench","#,
    r#""choices":[],"usage":{"prompt_tokens":210,"completion_tokens":21,"total_tokens":231}}"#,
    "\n\n"
);
const DONE_EVENT: &str = "data: [DONE]\n\n";

/// What the orchestrator may ask for.
#[derive(Debug, Default)]
struct Seen {
    requests: AtomicU64,
    bench_keys: AtomicU64,
}

/// Serves until standard input closes.
pub fn run(mut args: Args) -> Result<(), BenchError> {
    let port = args.get("--port", 0_u16)?;
    args.finish()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(port))
}

async fn serve(port: u16) -> Result<(), BenchError> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    // Envoy opens one connection for each open stream, thousands in a burst.
    let listener = socket.listen(4_096)?;
    let seen = Arc::new(Seen::default());
    let told = Arc::clone(&seen);
    child::announce(listener.local_addr()?.port(), move || {
        format!(
            "{{\"requests\":{},\"bench_keys\":{}}}",
            told.requests.load(Ordering::Relaxed),
            told.bench_keys.load(Ordering::Relaxed)
        )
    });
    let completion: Arc<[u8]> = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{COMPLETION}",
        COMPLETION.len()
    )
    .into_bytes()
    .into();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection = Connection {
            stream,
            buffer: Vec::with_capacity(32 * 1024),
            completion: Arc::clone(&completion),
            seen: Arc::clone(&seen),
        };
        tokio::spawn(async move {
            // A peer that goes away is the normal end of a connection.
            let _ = connection.serve().await;
        });
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    completion: Arc<[u8]>,
    seen: Arc<Seen>,
}

// === impl Connection ===

impl Connection {
    async fn serve(mut self) -> Result<(), BenchError> {
        while let Some((chunks, gap_us)) = self.read_request().await? {
            self.seen.requests.fetch_add(1, Ordering::Relaxed);
            match chunks {
                None => self.stream.write_all(&self.completion).await?,
                Some(chunks) => {
                    self.write_stream(chunks, Duration::from_micros(gap_us)).await?;
                }
            }
        }
        Ok(())
    }

    /// Reads one request and drops it; gives its two switches, or `None` when the peer is done.
    async fn read_request(&mut self) -> Result<Option<(Option<u64>, u64)>, BenchError> {
        loop {
            if let Some(head) = Head::parse(&self.buffer) {
                let wish = (head.number(CHUNKS_HEADER), head.number(GAP_HEADER).unwrap_or(0));
                let leaked = memmem::find(&self.buffer[..head.bytes], b"fbk_bench_").is_some();
                self.seen.bench_keys.fetch_add(u64::from(leaked), Ordering::Relaxed);
                let (bytes, framing) = (head.bytes, head.framing());
                self.buffer.drain(..bytes);
                return Ok(self.skip_body(framing).await?.then_some(wish));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn skip_body(&mut self, framing: Framing) -> Result<bool, BenchError> {
        match framing {
            Framing::Length(mut left) => loop {
                let take = left.min(self.buffer.len());
                self.buffer.drain(..take);
                left -= take;
                if left == 0 {
                    return Ok(true);
                }
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Ok(false);
                }
            },
            // One request at a time is in flight, so the empty chunk ends what has arrived.
            Framing::Chunked => loop {
                if self.buffer.ends_with(b"0\r\n\r\n") {
                    self.buffer.clear();
                    return Ok(true);
                }
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Ok(false);
                }
            },
        }
    }

    async fn write_stream(&mut self, chunks: u64, gap: Duration) -> Result<(), BenchError> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        self.stream.write_all(head.as_bytes()).await?;
        let content = chunk(CONTENT_EVENT);
        for index in 0..chunks {
            if index > 0 && !gap.is_zero() {
                tokio::time::sleep(gap).await;
            }
            self.stream.write_all(content.as_bytes()).await?;
        }
        let end = [chunk(FINISH_EVENT), chunk(USAGE_EVENT), chunk(DONE_EVENT)].concat() + "0\r\n\r\n";
        self.stream.write_all(end.as_bytes()).await?;
        Ok(())
    }
}

fn chunk(event: &str) -> String {
    format!("{:x}\r\n{event}\r\n", event.len())
}
