//! Owns the little of HTTP/1.1 that the bench speaks: a message head, and a chunked body of server-sent events.
//! Must not know of sockets.
//! On failure: a head or chunk that does not parse is `Malformed`; the caller closes the connection and counts it.

use memchr::{memchr, memchr_iter, memmem};

/// The peer sent what is not HTTP/1.1 as the bench speaks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes.
    Length(usize),
    /// With the empty chunk.
    Chunked,
}

/// The head of a request or response.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Bytes up to and with the empty line.
    pub bytes: usize,
    /// The first line without its end.
    pub start: &'a [u8],
    lines: &'a [u8],
}

// === impl Head ===

impl<'a> Head<'a> {
    /// The head at the start of `buffer`, or `None` while it is not whole.
    pub fn parse(buffer: &'a [u8]) -> Option<Self> {
        let end = memmem::find(buffer, b"\r\n\r\n")?;
        let first = memmem::find(buffer, b"\r\n").unwrap_or(end);
        Some(Self { bytes: end + 4, start: &buffer[..first], lines: &buffer[first..end + 2] })
    }

    /// The value of the header `name`, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.lines.split(|byte| *byte == b'\n').find_map(|line| {
            let colon = memchr(b':', line)?;
            line[..colon].eq_ignore_ascii_case(name.as_bytes()).then(|| line[colon + 1..].trim_ascii())
        })
    }

    /// The value of the header `name` as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        std::str::from_utf8(self.header(name)?).ok()?.parse().ok()
    }

    /// How the body ends; no length means no body.
    pub fn framing(&self) -> Framing {
        match self.header("transfer-encoding") {
            Some(value) if value.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
            _ => Framing::Length(self.number("content-length").unwrap_or(0) as usize),
        }
    }

    /// The status of a response.
    pub fn status(&self) -> Result<u16, Malformed> {
        let digits = self.start.get(9..12).ok_or(Malformed)?;
        std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)
    }
}

/// Where a chunked body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Size(usize),
    SizeEnd(usize),
    Data(usize),
    DataEnd,
    Trailer,
    Done,
}

/// Reads a chunked body of events, split at any byte, and keeps only what the bench reports.
#[derive(Debug)]
pub struct EventBody {
    phase: Phase,
    /// Events seen: blank lines, so the count does not depend on how chunks were cut.
    pub events: u64,
    /// Bytes of the body without its chunk framing.
    pub body_bytes: u64,
    last: [u8; 16],
}

impl Default for EventBody {
    fn default() -> Self {
        Self { phase: Phase::Size(0), events: 0, body_bytes: 0, last: [0; 16] }
    }
}

// === impl EventBody ===

impl EventBody {
    /// Takes what arrived; returns how much of it belonged to this body.
    pub fn feed(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < input.len() && self.phase != Phase::Done {
            let byte = input[at];
            self.phase = match self.phase {
                Phase::Data(0) => Phase::DataEnd,
                Phase::Data(left) => {
                    let take = left.min(input.len() - at);
                    self.take_data(&input[at..at + take]);
                    at += take;
                    Phase::Data(left - take)
                }
                phase => {
                    at += 1;
                    Self::step(phase, byte)?
                }
            };
        }
        Ok(at)
    }

    /// Whether the empty chunk was seen.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Whether the last event was `[DONE]`.
    pub fn ended_with_done(&self) -> bool {
        self.last.ends_with(b"data: [DONE]\n\n")
    }

    fn step(phase: Phase, byte: u8) -> Result<Phase, Malformed> {
        Ok(match (phase, byte) {
            (Phase::Size(size), b'\r' | b';') => Phase::SizeEnd(size),
            (Phase::Size(size), _) => {
                let digit = (byte as char).to_digit(16).ok_or(Malformed)?;
                Phase::Size(size.checked_mul(16).ok_or(Malformed)? + digit as usize)
            }
            (Phase::SizeEnd(0), b'\n') => Phase::Trailer,
            (Phase::SizeEnd(size), b'\n') => Phase::Data(size),
            (Phase::DataEnd, b'\n') => Phase::Size(0),
            // A trailer section that is not empty has no place in these benches.
            (Phase::Trailer, b'\n') => Phase::Done,
            (Phase::SizeEnd(_) | Phase::DataEnd | Phase::Trailer, _) => phase,
            (Phase::Data(_) | Phase::Done, _) => return Err(Malformed),
        })
    }

    fn take_data(&mut self, data: &[u8]) {
        self.body_bytes += data.len() as u64;
        let mut before = self.last[15];
        for end in memchr_iter(b'\n', data) {
            before = if end == 0 { before } else { data[end - 1] };
            self.events += u64::from(before == b'\n');
        }
        let keep = data.len().min(16);
        self.last.copy_within(keep.., 0);
        self.last[16 - keep..].copy_from_slice(&data[data.len() - keep..]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STREAM: &[u8] =
        b"b\r\ndata: {a}\n\n\r\n3\r\ndat\r\nf;x=y\r\na: {b}\n\ndata: [\r\n7\r\nDONE]\n\n\r\n0\r\n\r\n";

    #[test]
    fn a_stream_survives_a_split_at_every_byte() {
        for split in 0..=STREAM.len() {
            let mut body = EventBody::default();
            let used = body.feed(&STREAM[..split]).unwrap();
            let rest = body.feed(&STREAM[used..]).unwrap();
            assert_eq!(used + rest, STREAM.len());
            assert!(body.is_done() && body.ended_with_done());
            assert_eq!(body.events, 3);
        }
    }

    #[test]
    fn bytes_of_the_next_message_stay() {
        let mut body = EventBody::default();
        let both = [STREAM, b"HTTP/1.1 200 OK\r\n"].concat();
        assert_eq!(body.feed(&both).unwrap(), STREAM.len());
        assert_eq!(EventBody::default().feed(b"zz\r\n"), Err(Malformed));
    }

    #[test]
    fn a_head_gives_status_headers_and_framing() {
        let head = Head::parse(b"HTTP/1.1 429 Too\r\nContent-Length: 12\r\nx-a: b\r\n\r\nbody").unwrap();
        assert_eq!((head.status(), head.framing()), (Ok(429), Framing::Length(12)));
        assert_eq!(head.header("x-a"), Some(&b"b"[..]));
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\nx: y\r\n").is_none());
        let head = Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        assert_eq!(head.framing(), Framing::Chunked);
    }
}
