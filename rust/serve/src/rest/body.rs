//! Owns: bodies: read whole within a bound, and written from parts that are not joined.
//! Must not know: what they say.
//! On failure: closed; a body that is too large is not kept, and one that ends early is no body.

use std::convert::Infallible;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tonic::body::Body;

use super::fault::Fault;

/// Reads all of `body`. A body that comes in one piece is not copied.
pub(super) async fn read(mut body: Body, limit_bytes: usize) -> Result<Bytes, Fault> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit_bytes {
        return Err(Fault::too_large(limit_bytes));
    }
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|status| Fault::cut_off(&status))?.into_data() else { continue };
        if first.len() + joined.len() + data.len() > limit_bytes {
            return Err(Fault::too_large(limit_bytes));
        }
        if first.is_empty() && joined.is_empty() {
            first = data;
            continue;
        }
        if joined.is_empty() {
            joined.reserve(announced.max(first.len() + data.len()));
            joined.put(std::mem::take(&mut first));
        }
        joined.put(data);
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

/// An answer of JSON text.
pub(super) fn json(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let text = text.into();
    let mut response = empty(status);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
    *response.body_mut() = Body::new(Full::new(text).map_err(never));
    response
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A successful answer of these parts, one after the other.
pub(super) fn parts(parts: Vec<Bytes>) -> Response<Body> {
    let length: usize = parts.iter().map(Bytes::len).sum();
    let frames = parts.into_iter().filter(|part| !part.is_empty());
    let frames = stream::iter(frames.map(|part| Ok::<_, tonic::Status>(Frame::data(part))));
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn never(never: Infallible) -> tonic::Status {
    match never {}
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(pieces: &[&'static str]) -> Body {
        parts(pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect()).into_body()
    }

    #[tokio::test]
    async fn pieces_are_joined_and_one_piece_is_not_copied() {
        assert_eq!(read(of(&["ab", "", "cd", "e"]), 5).await.unwrap(), "abcde");
        let whole = Bytes::from(vec![7; 100]);
        let read = read(parts(vec![whole.clone()]).into_body(), 100).await.unwrap();
        assert_eq!(read.as_ptr(), whole.as_ptr());
    }

    #[tokio::test]
    async fn a_body_above_the_bound_is_refused_announced_or_not() {
        assert_eq!(read(of(&["ab", "cd"]), 3).await.unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
        let announced = json(StatusCode::OK, "12345").into_body();
        assert_eq!(read(announced, 4).await.unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
