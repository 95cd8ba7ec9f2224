"""The messages of OTLP 1.x that forebay sends and reads, as classes in a descriptor pool of their own.

Owns: field names and numbers. Must not know: what is sent, gRPC.
On failure: a wrong table raises where this module is imported.

They are not imported from the package `opentelemetry-proto`, since `xds-protos` installs an `opentelemetry/proto` of
2021 over the same files, and whichever comes last wins. A pool of our own is untouched by either.

*Source*: opentelemetry-proto 1.x, `trace/v1`, `metrics/v1`, `collector/*/v1`; the tests hold these against bytes of
OpenTelemetry's own encoder.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["message_class"]

_PACKAGE: Final = "opentelemetry"
_FIELD = descriptor_pb2.FieldDescriptorProto

# A field is `number type name`; `*` before the type repeats it, `|` before it makes it a choice of the message's only
# `oneof`, `?` keeps track of its presence. A type that is no scalar is a message of this table.
_MESSAGES: Final[dict[str, str]] = {
    "AnyValue": "1 |string string_value, 2 |bool bool_value, 3 |int64 int_value, 4 |double double_value",
    "KeyValue": "1 string key, 2 AnyValue value",
    "Resource": "1 *KeyValue attributes",
    "InstrumentationScope": "1 string name, 2 string version",
    # Traces.
    "Event": "1 fixed64 time_unix_nano, 2 string name, 3 *KeyValue attributes",
    "Status": "2 string message, 3 int32 code",
    "Span": "1 bytes trace_id, 2 bytes span_id, 4 bytes parent_span_id, 5 string name, 6 int32 kind,"
    "7 fixed64 start_time_unix_nano, 8 fixed64 end_time_unix_nano, 9 *KeyValue attributes, 11 *Event events,"
    "15 Status status, 16 fixed32 flags",
    "ScopeSpans": "1 InstrumentationScope scope, 2 *Span spans, 3 string schema_url",
    "ResourceSpans": "1 Resource resource, 2 *ScopeSpans scope_spans, 3 string schema_url",
    "ExportTraceServiceRequest": "1 *ResourceSpans resource_spans",
    # Metrics.
    "NumberDataPoint": "2 fixed64 start_time_unix_nano, 3 fixed64 time_unix_nano, 6 |sfixed64 as_int,"
    "7 *KeyValue attributes",
    "HistogramDataPoint": "2 fixed64 start_time_unix_nano, 3 fixed64 time_unix_nano, 4 fixed64 count, 5 ?double sum,"
    "6 *fixed64 bucket_counts, 7 *double explicit_bounds, 9 *KeyValue attributes, 11 ?double min, 12 ?double max",
    "Sum": "1 *NumberDataPoint data_points, 2 int32 aggregation_temporality, 3 bool is_monotonic",
    "Histogram": "1 *HistogramDataPoint data_points, 2 int32 aggregation_temporality",
    "Metric": "1 string name, 2 string description, 3 string unit, 7 |Sum sum, 9 |Histogram histogram",
    "ScopeMetrics": "1 InstrumentationScope scope, 2 *Metric metrics, 3 string schema_url",
    "ResourceMetrics": "1 Resource resource, 2 *ScopeMetrics scope_metrics, 3 string schema_url",
    "ExportMetricsServiceRequest": "1 *ResourceMetrics resource_metrics",
    # Answers; a collector says here what it took only in part. One message serves both services.
    "PartialSuccess": "1 int64 rejected, 2 string error_message",
    "ExportResponse": "1 PartialSuccess partial_success",
}
_SCALARS: Final = {
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
    "bool": _FIELD.TYPE_BOOL,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "double": _FIELD.TYPE_DOUBLE,
    "fixed32": _FIELD.TYPE_FIXED32,
    "fixed64": _FIELD.TYPE_FIXED64,
    "sfixed64": _FIELD.TYPE_SFIXED64,
}


def message_class(name: str) -> Any:
    """Give the class of a message by its name in OTLP, such as `Span`.

    Raises: KeyError for a message that is not in the table.
    """
    return _CLASSES[f"{_PACKAGE}.{name}"]


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="forebay/otlp.proto", package=_PACKAGE, syntax="proto3")
    for name, text in _MESSAGES.items():
        message = file.message_type.add(name=name)
        fields = [field.split() for field in text.split(",")]
        if any(kind.startswith("|") for _, kind, _ in fields):
            message.oneof_decl.add(name="choice")
        for number, kind, field_name in fields:
            _add_field(message, field_name, int(number), kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return dict(message_factory.GetMessages([file], pool=pool))


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    bare = kind.lstrip("*|?")
    label = _FIELD.LABEL_REPEATED if kind.startswith("*") else _FIELD.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    if bare in _SCALARS:
        field.type = _SCALARS[bare]
    else:
        field.type = _FIELD.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{bare}"
    if kind.startswith("|"):
        field.oneof_index = 0
    elif kind.startswith("?"):
        # What `optional` in a proto3 file means: a choice of one.
        field.proto3_optional = True
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"_{name}")


_CLASSES: Final = _classes()
