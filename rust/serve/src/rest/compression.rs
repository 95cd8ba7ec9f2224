//! Owns: the content codings of requests and answers: gzip and deflate (RFC 9110, 8.4.1).
//! Must not know: what the bytes say.
//! On failure: closed for requests: a coding that is unknown, broken or opens to too much is refused. For answers an
//! `accept-encoding` that cannot be read means none.

use std::io::{BufRead, Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use http::{HeaderMap, HeaderValue, header};

use super::fault::Fault;

/// Smaller answers gain less than setting up a compressor costs.
const WORTHWHILE_BYTES: usize = 1 << 10;

/// A coding that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    /// The zlib format, in spite of the name
    Deflate,
}

// === impl Coding ===

impl Coding {
    fn of(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// As headers name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// The coding of a request's body.
    pub(super) fn of_request(headers: &HeaderMap) -> Result<Option<Self>, Fault> {
        let mut found = None;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let name = value.to_str().unwrap_or("(not text)");
            if name.trim().is_empty() || name.trim().eq_ignore_ascii_case("identity") {
                continue;
            }
            let coding = Self::of(name).filter(|_| found.is_none());
            found = Some(coding.ok_or_else(|| Fault::coding(name))?);
        }
        Ok(found)
    }

    /// The coding that the client likes best; of equal ones the first that it names.
    pub(super) fn of_answer(headers: &HeaderMap) -> Option<Self> {
        let mut best: Option<(Self, u16)> = None;
        let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        for item in values.flat_map(|value| value.split(',')) {
            let (name, quality) = item.split_once(';').unwrap_or((item, "q=1"));
            let quality = quality.trim().strip_prefix("q=").and_then(|text| text.trim().parse::<f32>().ok());
            // Thousandths: the finest that the header can say.
            let quality = quality.map_or(0, |quality| (quality.clamp(0.0, 1.0) * 1000.0).round() as u16);
            if let Some(coding) = Self::of(name)
                && quality > best.map_or(0, |(_, best)| best)
            {
                best = Some((coding, quality));
            }
        }
        best.map(|(coding, _)| coding)
    }

    /// Opens a request's body, at most to `limit_bytes`. Cost: linear in what it opens to.
    pub(super) fn open(self, body: &Bytes, limit_bytes: usize) -> Result<Bytes, Fault> {
        match self {
            Self::Gzip => {
                self.drain(MultiGzDecoder::new(body.as_ref()), MultiGzDecoder::into_inner, limit_bytes)
            }
            Self::Deflate => {
                self.drain(ZlibDecoder::new(body.as_ref()), ZlibDecoder::into_inner, limit_bytes)
            }
        }
    }

    fn drain<R: Read, I: BufRead>(
        self,
        mut decoder: R,
        rest: impl FnOnce(R) -> I,
        limit_bytes: usize,
    ) -> Result<Bytes, Fault> {
        let broken = |reason: &dyn std::fmt::Display| {
            Fault::unreadable(format!("the body is not whole {}: {reason}", self.name()))
        };
        let mut opened = Vec::new();
        let bound = limit_bytes as u64 + 1;
        decoder.by_ref().take(bound).read_to_end(&mut opened).map_err(|error| broken(&error))?;
        if opened.len() > limit_bytes {
            return Err(Fault::too_large(limit_bytes));
        }
        let left = rest(decoder).fill_buf().map_or(0, <[u8]>::len);
        if left > 0 {
            return Err(broken(&format_args!("{left} bytes follow its end")));
        }
        Ok(opened.into())
    }

    /// The parts in this coding; as they are when that is not worth its while. Cost: linear in the parts.
    pub(super) fn close(self, parts: Vec<Bytes>) -> (Vec<Bytes>, Option<HeaderValue>) {
        let length: usize = parts.iter().map(Bytes::len).sum();
        if length < WORTHWHILE_BYTES {
            return (parts, None);
        }
        let buffer = Vec::with_capacity(length / 2);
        let closed = match self {
            Self::Gzip => written(GzEncoder::new(buffer, Compression::fast()), &parts, GzEncoder::finish),
            Self::Deflate => {
                written(ZlibEncoder::new(buffer, Compression::fast()), &parts, ZlibEncoder::finish)
            }
        };
        match closed {
            Ok(closed) => (vec![closed.into()], Some(HeaderValue::from_static(self.name()))),
            // Writing to memory does not fail; if it did, the plain answer would still be right.
            Err(_) => (parts, None),
        }
    }
}

fn written<W: Write>(
    mut encoder: W,
    parts: &[Bytes],
    finish: impl FnOnce(W) -> std::io::Result<Vec<u8>>,
) -> std::io::Result<Vec<u8>> {
    parts.iter().try_for_each(|part| encoder.write_all(part))?;
    finish(encoder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

    fn closed(coding: Coding, data: &[u8]) -> Bytes {
        let parts = [Bytes::copy_from_slice(data)];
        match coding {
            Coding::Gzip => {
                written(GzEncoder::new(Vec::new(), Compression::fast()), &parts, GzEncoder::finish)
            }
            Coding::Deflate => {
                written(ZlibEncoder::new(Vec::new(), Compression::fast()), &parts, ZlibEncoder::finish)
            }
        }
        .unwrap()
        .into()
    }

    fn headers(name: &header::HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_request_has_one_known_coding_or_none() {
        let of = |values: &[&'static str]| {
            Coding::of_request(&headers(&header::CONTENT_ENCODING, values)).map_err(|fault| fault.status)
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["identity"]), Ok(None));
        assert_eq!(of(&["GZIP"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&["deflate"]), Ok(Some(Coding::Deflate)));
        for refused in [&["br"][..], &["gzip, gzip"], &["gzip", "gzip"]] {
            assert_eq!(of(refused), Err(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{refused:?}");
        }
    }

    #[test]
    fn the_answers_coding_is_what_the_client_likes_best() {
        let of = |value: &'static str| Coding::of_answer(&headers(&header::ACCEPT_ENCODING, &[value]));
        assert_eq!(of("gzip"), Some(Coding::Gzip));
        assert_eq!(of("gzip, deflate"), Some(Coding::Gzip));
        assert_eq!(of("deflate, gzip;q=0.5"), Some(Coding::Deflate));
        assert_eq!(of("br;q=1.0, deflate;q=0.2 , gzip; q=0.9"), Some(Coding::Gzip));
        for none in ["", "identity", "br", "*", "gzip;q=0", "gzip;q=x", "gzip;level=1"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn what_opens_to_too_much_or_goes_on_behind_its_end_is_refused() {
        for coding in [Coding::Gzip, Coding::Deflate] {
            let body = closed(coding, &vec![0; 1 << 16]);
            assert_eq!(coding.open(&body, 1 << 16).unwrap().len(), 1 << 16);
            let status = |body: &Bytes, limit| coding.open(body, limit).unwrap_err().status;
            assert_eq!(status(&body, (1 << 16) - 1), StatusCode::PAYLOAD_TOO_LARGE);
            assert_eq!(status(&body.slice(..body.len() - 1), 1 << 20), StatusCode::BAD_REQUEST);
            assert_eq!(status(&[body.as_ref(), b"x"].concat().into(), 1 << 20), StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn small_answers_stay_plain() {
        let small = vec![Bytes::from_static(b"small")];
        assert_eq!(Coding::Gzip.close(small.clone()), (small, None));
    }

    proptest! {
        #[test]
        fn what_was_closed_opens(data in proptest::collection::vec(any::<u8>(), 1024..4096), cut in 0_usize..1024) {
            let data = Bytes::from(data);
            for coding in [Coding::Gzip, Coding::Deflate] {
                let (parts, name) = coding.close(vec![data.slice(..cut), data.slice(cut..)]);
                prop_assert_eq!(name, Some(HeaderValue::from_static(coding.name())));
                prop_assert_eq!(coding.open(&parts[0], 4096).unwrap(), data.clone());
            }
        }

        #[test]
        fn any_bytes_open_or_are_refused(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            for coding in [Coding::Gzip, Coding::Deflate] {
                let _ = coding.open(&Bytes::from(data.clone()), 1000);
            }
        }
    }
}
