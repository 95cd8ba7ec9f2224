"""A small OTLP/gRPC collector on loopback: a real server that keeps what it gets, and can refuse or be slow.

Owns: a server, its two methods, and how it misbehaves. Must not know: who sends.
On failure: an address that cannot be bound raises.
"""

from __future__ import annotations

import threading
from concurrent import futures

import grpc

from forebay.ledger.otlp_messages import message_class

# Longer than any deadline in a test.
_HELD_S = 30.0
_SERVICES = {
    "opentelemetry.proto.collector.trace.v1.TraceService": "ExportTraceServiceRequest",
    "opentelemetry.proto.collector.metrics.v1.MetricsService": "ExportMetricsServiceRequest",
}


class OtlpCollector:
    """Use as a context manager. `endpoint` is where it listens; `spans` and `metrics` are what it took.

    `refuse_with` a status makes every call fail; `reject` says so many were rejected; while `released` is clear, calls
    are not answered.
    """

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.spans = []
        self.resources = []
        self.metrics = []
        self.metadata = []
        self.calls = 0
        self.refuse_with = None
        self.reject = 0
        self.released = threading.Event()
        self.released.set()
        self._changed = threading.Condition()
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        for service, request in _SERVICES.items():
            handler = grpc.unary_unary_rpc_method_handler(
                self._export,
                request_deserializer=message_class(request).FromString,
                response_serializer=message_class("ExportResponse").SerializeToString,
            )
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
        self.port = self._server.add_insecure_port(address)
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self._server.stop(0).wait()

    def wait_for(self, true, timeout_s=10.0):
        """Wait until `true()` after a call; fails where that does not come."""
        with self._changed:
            assert self._changed.wait_for(true, timeout_s), f"calls: {self.calls}"

    def _export(self, request, context):
        with self._changed:
            self.calls += 1
            self.metadata.append(dict(context.invocation_metadata()))
            self._changed.notify_all()
        self.released.wait(_HELD_S)
        if self.refuse_with is not None:
            context.abort(self.refuse_with, "the collector refuses")
        with self._changed:
            if request.DESCRIPTOR.name == "ExportTraceServiceRequest":
                for group in request.resource_spans:
                    self.resources.append({a.key: a.value.string_value for a in group.resource.attributes})
                    for scope in group.scope_spans:
                        self.spans.extend(scope.spans)
            else:
                self.metrics.append(request)
            self._changed.notify_all()
        answer = message_class("ExportResponse")()
        if self.reject:
            answer.partial_success.rejected = self.reject
        return answer
