"""OTLP over gRPC: spans and metrics of the SDK as messages, sent to one collector.

Owns: the encoding and the two calls, each with a deadline. Must not know: queues, threads, when to try again.
On failure: `SendError` with whether another try may help; what a collector rejects in part is counted, not sent again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import grpc
from opentelemetry.sdk.metrics.export import Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum
from opentelemetry.trace import SpanContext, SpanKind

from forebay.ledger.otlp_messages import message_class

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

__all__ = ["Collector", "SendError", "encode_metrics", "encode_spans"]

_TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
_DEFAULT_PORT = 4317
_RECONNECT_MS = 1_000
_MAX_RECONNECT_MS = 10_000
# OpenTelemetry's own name for headers such as a hosted collector's key. Read once; it is never logged.
_HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"
# A record's numbers are unsigned, OTLP's are not.
_MAX_INT = (1 << 63) - 1
_HEADER_NAME = re.compile(r"[a-z0-9_.-]+")
# Bits 8 and 9 of a span's flags: it is known whether the parent is remote, and it is.
_PARENT_KNOWN, _PARENT_REMOTE = 1 << 8, 1 << 9
# OTLP's numbers begin at 1 where the SDK's begin at 0.
_KINDS = {kind: kind.value + 1 for kind in SpanKind}
# *Source*: OTLP specification, "OTLP/gRPC Response": these may be tried again.
_RETRYABLE = frozenset(
    (
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    )
)

_AnyValue = message_class("AnyValue")
_KeyValue = message_class("KeyValue")
_Span = message_class("Span")
_Event = message_class("Event")
_Status = message_class("Status")
_ExportResponse = message_class("ExportResponse")


class SendError(Exception):
    """A call that did not succeed; `retryable` says whether the same may be sent again."""

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.retryable = retryable


class Collector:
    """A collector at `http://host:port`, or `https://host:port` over TLS with the system's authorities.

    Nothing is connected before the first call.
    Raises: ValueError for an endpoint that is neither, or a header that is none.
    """

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"`{endpoint}` is no endpoint; write `http://host:port` or `https://host:port`")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        address = f"{host}:{parts.port or _DEFAULT_PORT}"
        options = [
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_MS),
        ]
        if parts.scheme == "https":
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(), options=options)
        else:
            self._channel = grpc.insecure_channel(address, options=options)
        self._headers = _headers(os.environ.get(_HEADERS_VARIABLE, ""))
        self._traces = self._method(_TRACES)
        self._metrics = self._method(_METRICS)

    def send_spans(self, spans: Sequence[ReadableSpan], timeout_s: float) -> int:
        """Send spans; gives how many of them the collector rejected.

        Raises: SendError.
        """
        return self._send(self._traces, encode_spans(spans), timeout_s)

    def send_metrics(
        self, metrics: Sequence[Metric], resource: Resource, scope: InstrumentationScope, timeout_s: float
    ) -> int:
        """Send metrics; gives how many data points the collector rejected.

        Raises: SendError.
        """
        return self._send(self._metrics, encode_metrics(metrics, resource, scope), timeout_s)

    def close(self) -> None:
        """Close the connection; a call in flight ends with an error."""
        self._channel.close()

    def _method(self, name: str) -> Any:
        return self._channel.unary_unary(
            name, request_serializer=bytes, response_deserializer=_ExportResponse.FromString
        )

    def _send(self, method: Any, request: bytes, timeout_s: float) -> int:
        try:
            response = method(request, timeout=timeout_s, metadata=self._headers)
        except grpc.RpcError as error:
            code = error.code()
            retryable = code in _RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and _has_retry_info(error))
            raise SendError(f"{code.name}: {error.details()}", retryable=retryable) from error
        except ValueError as error:
            # grpc's word for a channel that was closed meanwhile.
            raise SendError("the connection is closed", retryable=False) from error
        return int(response.partial_success.rejected)


def encode_spans(spans: Sequence[ReadableSpan]) -> bytes:
    """Encode spans of one resource and scope as an `ExportTraceServiceRequest`.

    *Cost*: some 100 microseconds for the spans of one request with all its stages, GIL held.
    """
    request = message_class("ExportTraceServiceRequest")()
    if spans:
        group = request.resource_spans.add()
        group.resource.attributes.extend(_attributes(spans[0].resource.attributes))
        scope = spans[0].instrumentation_scope
        inner = group.scope_spans.add(schema_url=scope.schema_url if scope else None)
        if scope:
            inner.scope.name, inner.scope.version = scope.name, scope.version or ""
        inner.spans.extend(_span(span) for span in spans)
    return bytes(request.SerializeToString())


def encode_metrics(metrics: Sequence[Metric], resource: Resource, scope: InstrumentationScope) -> bytes:
    """Encode metrics as an `ExportMetricsServiceRequest`."""
    request = message_class("ExportMetricsServiceRequest")()
    group = request.resource_metrics.add()
    group.resource.attributes.extend(_attributes(resource.attributes))
    inner = group.scope_metrics.add(schema_url=scope.schema_url)
    inner.scope.name, inner.scope.version = scope.name, scope.version or ""
    for metric in metrics:
        _fill(inner.metrics.add(name=metric.name, description=metric.description, unit=metric.unit), metric)
    return bytes(request.SerializeToString())


def _fill(message: Any, metric: Metric) -> None:
    data = metric.data
    if isinstance(data, Sum):
        message.sum.aggregation_temporality = data.aggregation_temporality.value
        message.sum.is_monotonic = data.is_monotonic
        for number in data.data_points:
            _fill_number(message.sum.data_points.add(), number)
    elif isinstance(data, Histogram):
        message.histogram.aggregation_temporality = data.aggregation_temporality.value
        for histogram in data.data_points:
            _fill_histogram(message.histogram.data_points.add(), histogram)
    else:
        raise TypeError(f"`{metric.name}` is a {type(data).__name__}, which forebay does not send")


def _fill_number(message: Any, point: NumberDataPoint) -> None:
    message.start_time_unix_nano, message.time_unix_nano = point.start_time_unix_nano, point.time_unix_nano
    message.as_int = min(int(point.value), _MAX_INT)
    message.attributes.extend(_attributes(point.attributes))


def _fill_histogram(message: Any, point: HistogramDataPoint) -> None:
    message.start_time_unix_nano, message.time_unix_nano = point.start_time_unix_nano, point.time_unix_nano
    message.count, message.sum, message.min, message.max = point.count, point.sum, point.min, point.max
    message.bucket_counts.extend(point.bucket_counts)
    message.explicit_bounds.extend(point.explicit_bounds)
    message.attributes.extend(_attributes(point.attributes))


def _span(span: ReadableSpan) -> Any:
    context = span.get_span_context()
    parent = span.parent
    return _Span(
        trace_id=context.trace_id.to_bytes(16, "big") if context else b"",
        span_id=context.span_id.to_bytes(8, "big") if context else b"",
        parent_span_id=parent.span_id.to_bytes(8, "big") if parent else b"",
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=span.start_time,
        end_time_unix_nano=span.end_time,
        attributes=_attributes(span.attributes),
        events=[
            _Event(time_unix_nano=event.timestamp, name=event.name, attributes=_attributes(event.attributes))
            for event in span.events
        ],
        status=_Status(code=span.status.status_code.value, message=span.status.description or ""),
        flags=_flags(parent),
    )


def _flags(parent: SpanContext | None) -> int:
    return _PARENT_KNOWN | _PARENT_REMOTE if parent and parent.is_remote else _PARENT_KNOWN


def _attributes(attributes: Mapping[str, Any] | None) -> list[Any]:
    return [_KeyValue(key=name, value=_value(value)) for name, value in (attributes or {}).items()]


def _value(value: object) -> Any:
    if isinstance(value, str):
        return _AnyValue(string_value=value)
    # Before the integers, since a truth value is one.
    if isinstance(value, bool):
        return _AnyValue(bool_value=value)
    if isinstance(value, int):
        return _AnyValue(int_value=min(value, _MAX_INT))
    if isinstance(value, float):
        return _AnyValue(double_value=value)
    return _AnyValue(string_value=str(value))


def _has_retry_info(error: Any) -> bool:
    return any(name == "google.rpc.retryinfo-bin" for name, _ in error.trailing_metadata() or ())


def _headers(text: str) -> tuple[tuple[str, str], ...]:
    """Read `name=value,name=value` with percent-encoded values.

    Raises: ValueError for what is no header, without its value.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    headers = tuple((name.strip().lower(), unquote(value.strip())) for name, _, value in pairs)
    named = all(equals and _HEADER_NAME.fullmatch(name.strip().lower()) for name, equals, _ in pairs)
    if not named or not all(value.isascii() and value.isprintable() for _, value in headers):
        raise ValueError(f"`{_HEADERS_VARIABLE}` holds what is no header; write `name=value,name=value`")
    return headers
