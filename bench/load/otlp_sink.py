"""Owns a collector that takes telemetry and keeps only counts; its CPU is nobody's.

Must not know who sends.
On failure: it ends when its standard input closes, and with it what it counted.
"""

from __future__ import annotations

import json
import sys
import threading
from concurrent import futures
from typing import Any

import grpc

from forebay.ledger.otlp_messages import message_class

_PACKAGE = "opentelemetry.proto.collector"


class Counts:
    """What came; calls are served by one thread, questions are answered by another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans = 0
        self._metrics = 0
        self._trace_request = message_class("ExportTraceServiceRequest")

    def traces(self, body: bytes, _context: Any) -> bytes:
        """Counts the spans of a call; an empty message says that all were taken."""
        groups = self._trace_request.FromString(body).resource_spans
        spans = sum(len(scope.spans) for group in groups for scope in group.scope_spans)
        with self._lock:
            self._spans += spans
        return b""

    def metrics(self, _body: bytes, _context: Any) -> bytes:
        """Counts a call."""
        with self._lock:
            self._metrics += 1
        return b""

    def to_json(self) -> str:
        """One line."""
        with self._lock:
            return json.dumps({"spans": self._spans, "metric_calls": self._metrics})


def main() -> None:
    """Serves until standard input closes; each line there is answered with the counts."""
    counts = Counts()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    for service, call in (("trace.v1.TraceService", counts.traces), ("metrics.v1.MetricsService", counts.metrics)):
        handler = grpc.unary_unary_rpc_method_handler(call)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(f"{_PACKAGE}.{service}", {"Export": handler}),)
        )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"port": port}), flush=True)
    for _ in sys.stdin:
        print(counts.to_json(), flush=True)
    server.stop(0).wait()


if __name__ == "__main__":
    main()
