//! Owns the framing of an event stream: bytes in, events out, whatever the split (WHATWG HTML, section 9.2.6).
//! Must not know what an event says; `id` and `retry` serve reconnecting, which a gateway does not do.
//! On failure: past a bound the reader stays failed, since what follows cannot be framed.

/// The bounds of one stream.
#[derive(Clone, Copy, Debug)]
pub struct SseLimits {
    /// Bytes of one event: its longest line, and its data together.
    pub max_event_bytes: usize,
    /// Bytes of the whole stream.
    pub max_stream_bytes: u64,
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseError {
    /// A line, or the data of one event, is longer than `max_event_bytes`.
    EventTooLarge,
    /// The stream is longer than `max_stream_bytes`.
    StreamTooLarge,
}

/// One dispatched event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The event's type; empty means `message`.
    pub event: &'a [u8],
    /// The data lines joined by line feeds. Not checked to be UTF-8: the JSON parser does that.
    pub data: &'a [u8],
}

/// Reads a stream incrementally.
///
/// *Cost*: linear in the bytes fed; an event that lies within one chunk and has one data line is not copied.
/// *Source*: WHATWG HTML, 9.2.5 and 9.2.6.
#[derive(Debug)]
pub struct SseReader {
    limits: SseLimits,
    seen_bytes: u64,
    /// How many bytes of a byte order mark were met; `BOM.len()` once it is settled.
    bom: usize,
    /// The last byte was a CR: a following LF belongs to the same line end.
    skip_lf: bool,
    line: Vec<u8>,
    event: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    failed: Option<SseError>,
}

const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// Data that is still a slice of the chunk at hand, so that the common event is never copied.
type Borrowed<'a> = Option<&'a [u8]>;

// === impl SseError ===

impl SseError {
    /// The stable slug.
    pub const fn slug(self) -> &'static str {
        match self {
            Self::EventTooLarge => "sse_event_too_large",
            Self::StreamTooLarge => "sse_stream_too_large",
        }
    }
}

impl std::fmt::Display for SseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::EventTooLarge => "an event of the stream is longer than `max_event_bytes`",
            Self::StreamTooLarge => "the stream is longer than `max_stream_bytes`",
        })
    }
}

impl std::error::Error for SseError {}

// === impl SseReader ===

impl SseReader {
    /// A reader at the start of a stream.
    pub fn new(limits: SseLimits) -> Self {
        Self {
            limits,
            seen_bytes: 0,
            bom: 0,
            skip_lf: false,
            line: Vec::new(),
            event: Vec::new(),
            data: Vec::new(),
            has_data: false,
            failed: None,
        }
    }

    /// Reads on and hands every event that is now complete to `on_event`, in order.
    ///
    /// *Errors*: past a bound, after the events before it were handed over; from then on every call fails alike.
    pub fn feed(&mut self, chunk: &[u8], mut on_event: impl FnMut(SseEvent<'_>)) -> Result<(), SseError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let left = usize::try_from(self.limits.max_stream_bytes - self.seen_bytes).unwrap_or(usize::MAX);
        let allowed = &chunk[..chunk.len().min(left)];
        self.seen_bytes += allowed.len() as u64;
        let result = self.read(allowed, &mut on_event);
        let result = match result {
            Ok(()) if allowed.len() < chunk.len() => Err(SseError::StreamTooLarge),
            other => other,
        };
        if let Err(error) = result {
            self.failed = Some(error);
            self.line = Vec::new();
            self.data = Vec::new();
        }
        result
    }

    /// Bytes held for an unfinished event.
    pub fn held_bytes(&self) -> usize {
        self.line.len() + self.data.len() + self.event.len()
    }

    /// True where an event has begun and its blank line has not come.
    pub fn is_inside_event(&self) -> bool {
        self.has_data || !self.line.is_empty()
    }

    fn read<'a>(&mut self, chunk: &'a [u8], on_event: &mut impl FnMut(SseEvent<'_>)) -> Result<(), SseError> {
        let mut borrowed: Borrowed<'a> = None;
        let mut rest = self.skip_bom(chunk);
        while !rest.is_empty() {
            if std::mem::take(&mut self.skip_lf) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else {
                self.bound(rest.len())?;
                self.line.extend_from_slice(rest);
                break;
            };
            self.bound(end)?;
            self.skip_lf = rest[end] == b'\r';
            if self.line.is_empty() {
                self.take_line(&rest[..end], &mut borrowed, on_event)?;
            } else {
                self.line.extend_from_slice(&rest[..end]);
                let line = std::mem::take(&mut self.line);
                self.take_joined_line(&line, &mut borrowed, on_event)?;
                self.line = line;
                self.line.clear();
            }
            rest = &rest[end + 1..];
        }
        self.keep(&mut borrowed);
        Ok(())
    }

    /// A mark may be split over chunks; what looked like one and was not is the start of the first line.
    fn skip_bom<'a>(&mut self, chunk: &'a [u8]) -> &'a [u8] {
        let mut rest = chunk;
        while self.bom < BOM.len() {
            match rest.first() {
                None => return rest,
                Some(byte) if *byte == BOM[self.bom] => {
                    self.bom += 1;
                    rest = &rest[1..];
                }
                Some(_) => {
                    self.line.extend_from_slice(&BOM[..self.bom]);
                    self.bom = BOM.len();
                }
            }
        }
        rest
    }

    fn bound(&self, more: usize) -> Result<(), SseError> {
        if self.line.len() + more > self.limits.max_event_bytes {
            return Err(SseError::EventTooLarge);
        }
        Ok(())
    }

    fn take_line<'a>(
        &mut self,
        line: &'a [u8],
        borrowed: &mut Borrowed<'a>,
        on_event: &mut impl FnMut(SseEvent<'_>),
    ) -> Result<(), SseError> {
        match Line::of(line) {
            Line::Data(value) if !self.has_data => {
                self.has_data = true;
                *borrowed = Some(value);
            }
            Line::Data(value) => {
                self.keep(borrowed);
                self.append(value)?;
            }
            other => self.take_other(other, borrowed, on_event),
        }
        Ok(())
    }

    /// As `take_line`, for a line that was put together here and cannot be borrowed.
    fn take_joined_line(
        &mut self,
        line: &[u8],
        borrowed: &mut Borrowed<'_>,
        on_event: &mut impl FnMut(SseEvent<'_>),
    ) -> Result<(), SseError> {
        match Line::of(line) {
            Line::Data(value) if !self.has_data => {
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            Line::Data(value) => {
                self.keep(borrowed);
                self.append(value)?;
            }
            other => self.take_other(other, borrowed, on_event),
        }
        Ok(())
    }

    fn append(&mut self, value: &[u8]) -> Result<(), SseError> {
        if self.data.len() + 1 + value.len() > self.limits.max_event_bytes {
            return Err(SseError::EventTooLarge);
        }
        self.data.push(b'\n');
        self.data.extend_from_slice(value);
        Ok(())
    }

    fn take_other(
        &mut self,
        line: Line<'_>,
        borrowed: &mut Borrowed<'_>,
        on_event: &mut impl FnMut(SseEvent<'_>),
    ) {
        match line {
            Line::Event(name) => {
                self.event.clear();
                self.event.extend_from_slice(name);
            }
            Line::Blank => {
                if std::mem::take(&mut self.has_data) {
                    on_event(SseEvent { event: &self.event, data: borrowed.take().unwrap_or(&self.data) });
                }
                self.data.clear();
                self.event.clear();
            }
            Line::Data(_) | Line::Ignored => {}
        }
    }

    fn keep(&mut self, borrowed: &mut Borrowed<'_>) {
        if let Some(value) = borrowed.take() {
            self.data.extend_from_slice(value);
        }
    }
}

/// What one line means.
#[derive(Clone, Copy)]
enum Line<'a> {
    Blank,
    Data(&'a [u8]),
    Event(&'a [u8]),
    Ignored,
}

// === impl Line ===

impl<'a> Line<'a> {
    fn of(line: &'a [u8]) -> Self {
        if line.is_empty() {
            return Self::Blank;
        }
        let (name, value) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => Self::Data(value),
            b"event" => Self::Event(value),
            _ => Self::Ignored,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    type Owned = (Vec<u8>, Vec<u8>);

    fn limits(max_event_bytes: usize, max_stream_bytes: u64) -> SseLimits {
        SseLimits { max_event_bytes, max_stream_bytes }
    }

    fn read(chunks: &[&[u8]], limits: SseLimits) -> (Vec<Owned>, Result<(), SseError>) {
        let mut reader = SseReader::new(limits);
        let mut events = Vec::new();
        for chunk in chunks {
            let result = reader.feed(chunk, |event| events.push((event.event.to_vec(), event.data.to_vec())));
            if result.is_err() {
                return (events, result);
            }
        }
        (events, Ok(()))
    }

    fn data(body: &str) -> Vec<String> {
        let (events, result) = read(&[body.as_bytes()], limits(1000, 10_000));
        result.unwrap();
        events.into_iter().map(|(_, data)| String::from_utf8(data).unwrap()).collect()
    }

    #[test]
    fn the_examples_of_the_standard() {
        assert_eq!(data("data: YHOO\ndata: +2\ndata: 10\n\n"), ["YHOO\n+2\n10"]);
        assert_eq!(
            data(
                ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n"
            ),
            ["first event", "second event"]
        );
        assert_eq!(data("data\n\ndata\ndata\n\ndata:"), ["", "\n"]);
        assert_eq!(data("data:test\n\ndata: test\n\n"), ["test", "test"]);
    }

    #[test]
    fn every_line_end_and_a_byte_order_mark() {
        assert_eq!(data("\u{feff}data: a\r\rdata: b\r\n\r\ndata: c\n\n"), ["a", "b", "c"]);
        assert_eq!(data("\u{feff}\u{feff}data: a\n\n"), Vec::<String>::new());
        let (events, _) = read(&[b"event: error\ndata: {}\n\ndata: x\n\n"], limits(100, 100));
        assert_eq!(events, [(b"error".to_vec(), b"{}".to_vec()), (vec![], b"x".to_vec())]);
    }

    #[test]
    fn bounds_hold_and_the_reader_stays_failed() {
        let (events, result) = read(&[b"data: a\n\ndata: 0123456789\n\n"], limits(10, 1000));
        assert_eq!((events.len(), result), (1, Err(SseError::EventTooLarge)));
        let (events, result) = read(&[b"data: a\n\ndata: b\n\n"], limits(100, 12));
        assert_eq!((events.len(), result), (1, Err(SseError::StreamTooLarge)));
        let mut reader = SseReader::new(limits(4, 1000));
        assert!(reader.feed(b"data: long", |_| ()).is_err());
        assert_eq!(reader.feed(b"\n\n", |_| panic!()), Err(SseError::EventTooLarge));
        assert_eq!(reader.held_bytes(), 0);
    }

    #[test]
    fn joined_data_counts_against_the_bound() {
        let body = b"data: 1234\n".repeat(10);
        let (_, result) = read(&[&body], limits(20, 1000));
        assert_eq!(result, Err(SseError::EventTooLarge));
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => Just(b"data: ".to_vec()),
            2 => Just(b"event:x".to_vec()),
            3 => Just(b"\n".to_vec()),
            2 => Just(b"\r".to_vec()),
            2 => Just(b"\r\n".to_vec()),
            1 => Just(b": c".to_vec()),
            1 => Just(BOM.to_vec()),
            1 => Just(b"[DONE]".to_vec()),
            3 => proptest::collection::vec(any::<u8>(), 0..6),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_split_gives_the_same(
            body in stream(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
            max_event in 1_usize..40,
            max_stream in 0_u64..200,
        ) {
            let bounds = limits(max_event, max_stream);
            let whole = read(&[&body], bounds);
            let bytes: Vec<&[u8]> = body.chunks(1).collect();
            prop_assert_eq!(&whole, &read(&bytes, bounds));
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            at.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for to in at {
                pieces.push(&body[from..to]);
                from = to;
            }
            pieces.push(&body[from..]);
            prop_assert_eq!(&whole, &read(&pieces, bounds));
        }
    }
}
