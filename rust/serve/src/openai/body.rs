//! Owns: a request's body, read whole within its bounds.
//! Must not know: what it says.
//! On failure: closed; a body that is too large or breaks off is refused.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tonic::body::Body;

use super::fault::Fault;
use crate::kserve::Failure;

/// Reads a body of at most `limit_bytes`.
pub(super) async fn read(body: Body, limit_bytes: usize, time_left: Duration) -> Result<Bytes, Fault> {
    let collected = tokio::time::timeout(time_left, Limited::new(body, limit_bytes).collect()).await;
    match collected {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Fault::too_large(limit_bytes)),
        Ok(Err(_)) => Err(Fault::unread()),
        Err(_) => Err(Failure::deadline(time_left).into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body_util::Full;

    async fn read_of(length: usize, limit_bytes: usize) -> Result<Bytes, Fault> {
        let body = Body::new(Full::new(Bytes::from(vec![b' '; length])));
        read(body, limit_bytes, Duration::from_secs(10)).await
    }

    #[tokio::test]
    async fn the_bound_is_the_last_size_that_passes() {
        assert_eq!(read_of(8, 8).await.unwrap().len(), 8);
        assert_eq!(read_of(9, 8).await.unwrap_err(), Fault::too_large(8));
    }
}
