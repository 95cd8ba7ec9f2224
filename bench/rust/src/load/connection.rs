//! Owns one keep-alive connection: sends a request, reads its whole answer, times both.
//! Must not know which request comes next.
//! On failure: the reason as a short name; the caller drops the connection.

use std::{io, net::SocketAddr, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};

use super::{plan::Plan, report::Tally};
use crate::http1::{EventBody, Framing, Head};

/// An open connection and what was read past the last answer.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Held until the first answer begins.
    turn: Option<OwnedSemaphorePermit>,
}

// === impl Connection ===

impl Connection {
    /// Connects, without Nagle's delay.
    pub async fn open(address: SocketAddr, turn: OwnedSemaphorePermit) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024), turn: Some(turn) })
    }

    /// One request and its answer.
    pub async fn exchange(&mut self, request: &[u8], plan: &Plan, tally: &Tally) -> Result<(), &'static str> {
        let started = Instant::now();
        self.stream.write_all(request).await.map_err(|_| "write")?;
        let (status, framing) = self.read_head().await?;
        tally.status(status);
        match framing {
            Framing::Length(bytes) => {
                self.read_length(bytes).await?;
                if status == 200 && plan.reply().is_stream() {
                    return Err("not_a_stream");
                }
            }
            Framing::Chunked => {
                tally.open();
                let end = self.read_events(started, tally).await;
                tally.close();
                let body = end?;
                if plan.reply().is_stream() {
                    tally.events(body.events);
                    if !body.ended_with_done() {
                        return Err("cut_stream");
                    }
                    if body.events != plan.events {
                        return Err("event_count");
                    }
                }
            }
        }
        tally.latency(started.elapsed());
        Ok(())
    }

    async fn read_head(&mut self) -> Result<(u16, Framing), &'static str> {
        loop {
            if let Some(head) = Head::parse(&self.buffer) {
                let status = head.status().map_err(|_| "malformed")?;
                let (bytes, framing) = (head.bytes, head.framing());
                self.buffer.drain(..bytes);
                self.turn = None;
                return Ok((status, framing));
            }
            self.read_more().await?;
        }
    }

    async fn read_length(&mut self, bytes: usize) -> Result<(), &'static str> {
        while self.buffer.len() < bytes {
            self.read_more().await?;
        }
        self.buffer.drain(..bytes);
        Ok(())
    }

    async fn read_events(&mut self, started: Instant, tally: &Tally) -> Result<EventBody, &'static str> {
        let mut body = EventBody::default();
        loop {
            let begun = body.body_bytes > 0;
            let used = body.feed(&self.buffer).map_err(|_| "malformed")?;
            self.buffer.drain(..used);
            if !begun && body.body_bytes > 0 {
                tally.first_data(started.elapsed());
            }
            if body.is_done() {
                return Ok(body);
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> Result<(), &'static str> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err("closed"),
            Ok(_) => Ok(()),
            Err(_) => Err("read"),
        }
    }
}
