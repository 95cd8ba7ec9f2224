//! Owns: the two gRPC methods that Envoy calls, found by their paths.
//! Must not know: what they do.
//! On failure: closed; any other path is unimplemented.
//!
//! A service of its own, since a router's search and copies are paid by every request.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::accesslog::AccessLog;
use crate::extproc::{ExtProc, Runtime};

const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
const STREAM_ACCESS_LOGS: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// `ext_proc` and access log.
#[derive(Clone)]
pub(crate) struct EnvoyServices {
    ext_proc: ExtProc,
    access_log: AccessLog,
}

// === impl EnvoyServices ===

impl EnvoyServices {
    /// Both services over a runtime; they take messages up to a size.
    pub fn new(runtime: Arc<Runtime>, max_message_bytes: usize) -> Self {
        Self {
            ext_proc: ExtProc::new(runtime.clone(), max_message_bytes),
            access_log: AccessLog::new(runtime, max_message_bytes),
        }
    }
}

impl Service<http::Request<Body>> for EnvoyServices {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path() {
            PROCESS => {
                let ext_proc = self.ext_proc.clone();
                Box::pin(async move { Ok(ext_proc.process(request).await) })
            }
            STREAM_ACCESS_LOGS => {
                let access_log = self.access_log.clone();
                Box::pin(async move { Ok(access_log.stream(request).await) })
            }
            path => {
                let status = Status::unimplemented(format!("`{path}` is no method of this gateway"));
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}
