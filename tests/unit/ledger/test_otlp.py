"""What we send is what OpenTelemetry's own encoder would send, byte for byte in meaning."""

import json
from pathlib import Path

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from forebay.ledger.otlp import Collector, encode_metrics, encode_spans
from forebay.ledger.otlp_messages import message_class

# Written by opentelemetry-exporter-otlp-proto-common 1.45.2 (`encode_spans`, `encode_metrics`) of the samples below.
OFFICIAL = json.loads((Path(__file__).parent / "otlp_official.json").read_text())

RESOURCE = Resource({"service.name": "forebay", "service.instance.id": "7"})
SCOPE = InstrumentationScope("forebay", "1.2.3", "https://opentelemetry.io/schemas/1.41.1")


def spans():
    """One of each: with and without a parent, every kind that is sent, events, every type of attribute."""
    trace_id, flags = 0x0AF7651916CD43DD8448EB211C80319C, TraceFlags(1)
    remote = SpanContext(trace_id, 0xB7AD6B7169203331, is_remote=True, trace_flags=flags)
    own = SpanContext(trace_id, 0x00F067AA0BA902B7, is_remote=False, trace_flags=flags)
    child = SpanContext(trace_id, 0x53995C3F42CD8AD8, is_remote=False, trace_flags=flags)
    types = {"text": "ä", "yes": True, "no": False, "number": 7, "big": 1 << 62, "ratio": 0.25, "zero": 0}
    event = Event("reserve", {"ns": 900}, 1_700_000_000_000_000_900)
    times = {"start_time": 1_700_000_000_000_000_000, "end_time": 1_700_000_001_500_000_000}
    common = {"resource": RESOURCE, "instrumentation_scope": SCOPE, **times}
    error = Status(StatusCode.ERROR)
    return [
        ReadableSpan("chat m", own, remote, attributes=types, kind=SpanKind.SERVER, status=error, **common),
        ReadableSpan("forebay.decide", child, own, events=[event], kind=SpanKind.INTERNAL, **common),
        ReadableSpan("chat m", child, None, kind=SpanKind.CLIENT, **common),
    ]


def metrics():
    """A histogram with a fraction and one of whole numbers, and a sum."""
    cumulative = AggregationTemporality.CUMULATIVE
    labels = {"gen_ai.operation.name": "chat"}
    seconds = HistogramDataPoint(labels, 5, 9, 3, 0.75, [0, 2, 1], [0.01, 0.5], 0.125, 0.5)
    tokens = HistogramDataPoint({}, 5, 9, 2, 0.0, [2, 0], [1], 0.0, 0.0)
    number = NumberDataPoint(labels, 5, 9, 1 << 40)
    return [
        Metric("duration", "how long", "s", Histogram([seconds, tokens], cumulative)),
        Metric("cost", "", "{nanousd}", Sum([number], cumulative, is_monotonic=True)),
    ]


def unknown_fields(message):
    """Fields that our table lacks, at any depth."""
    found = [field.field_number for field in UnknownFieldSet(message)]
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in value if field.is_repeated else [value]:
                found += unknown_fields(part)
    return found


def read(name, data):
    message = message_class(name)()
    message.ParseFromString(data)
    assert unknown_fields(message) == []
    return message


def test_spans_are_those_of_the_official_encoder():
    official = read("ExportTraceServiceRequest", bytes.fromhex(OFFICIAL["spans"]))
    assert read("ExportTraceServiceRequest", encode_spans(spans())) == official


def test_metrics_are_those_of_the_official_encoder():
    official = read("ExportMetricsServiceRequest", bytes.fromhex(OFFICIAL["metrics"]))
    assert read("ExportMetricsServiceRequest", encode_metrics(metrics(), RESOURCE, SCOPE)) == official


def test_nothing_is_a_request_without_spans():
    assert encode_spans([]) == b""


def test_an_instrument_that_is_not_sent_is_refused():
    gauge = Metric("g", "", "", Gauge([]))
    with pytest.raises(TypeError, match="`g` is a Gauge"):
        encode_metrics([gauge], RESOURCE, SCOPE)


@pytest.mark.parametrize("endpoint", ["", "collector:4317", "ftp://collector", "http://", "http://host:99999"])
def test_what_is_no_endpoint_is_refused(endpoint):
    with pytest.raises(ValueError):  # noqa: PT011 - the words are urllib's or ours
        Collector(endpoint)
