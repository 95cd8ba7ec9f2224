"""From records to a real collector over a real wire; one that is away, slow or refusing costs telemetry only."""

import logging
import subprocess
import sys
import threading
import time

import grpc
import pytest
from opentelemetry.sdk.resources import Resource
from otlp_collector import OtlpCollector

from forebay.ledger import semconv
from forebay.ledger._pb.ledger_pb2 import LedgerRecord
from forebay.ledger.aggregate import Aggregate
from forebay.ledger.counts import TelemetryCounts
from forebay.ledger.pipe import Pipe, PipeSettings
from forebay.ledger.telemetry import Telemetry
from forebay.policy._pb.policy_pb2 import Telemetry as Settings

RESOURCE = {"service.name": "forebay", "service.instance.id": "7"}
MS = 1_000_000
NOBODY = "http://127.0.0.1:1"


def record(number=1, *, sampled=True, **changes):
    fields = {"operation": "chat_completions", "model": "m", "provider": "openai", "pool": "p", "outcome": "ok"}
    made = LedgerRecord(
        unix_ns=10**18, usage=LedgerRecord.EXACT, prompt_tokens=10, output_tokens=5, duration_ns=20 * MS
    )
    for name, value in {**fields, **changes}.items():
        setattr(made, name, value)
    made.trace.trace_id = number.to_bytes(16, "big")
    made.trace.span_id = number.to_bytes(8, "big")
    made.trace.sampled = sampled
    return made


@pytest.fixture
def collector():
    with OtlpCollector() as running:
        yield running


def settings(endpoint, **more):
    quick = {"linger_s": 0.01, "pause_s": 0.01, "max_pause_s": 0.02, "timeout_s": 5.0}
    return PipeSettings(endpoint=endpoint, resource=Resource.create(RESOURCE), **{**quick, **more})


class Rig:
    """A pipe that is stopped at the end of its test."""

    def __init__(self, endpoint, **more):
        self.counts = TelemetryCounts()
        self.aggregate = Aggregate(1)
        self.pipe = Pipe(settings(endpoint, **more), self.aggregate, self.counts)

    def __enter__(self):
        self.pipe.start()
        return self

    def __exit__(self, *_):
        self.pipe.stop(0.0)

    def value(self, name):
        return self.counts.values()[name]


def test_spans_and_metrics_arrive(collector):
    telemetry = Telemetry.from_policy(Settings(otlp_endpoint=collector.endpoint), RESOURCE)
    telemetry.start()
    telemetry.sink([record(1), record(2, sampled=False), record(3, sampled=False, outcome="timeout")])
    telemetry.stop(5.0)
    assert {int.from_bytes(span.trace_id, "big") for span in collector.spans} == {1, 3}
    assert telemetry.counts() == {
        "forebay_spans_total": len(collector.spans),
        "forebay_spans_dropped_total": 0,
        "forebay_telemetry_failures_total": 0,
    }
    assert collector.resources[0]["service.name"] == "forebay"
    assert collector.resources[0]["service.instance.id"] == "7"
    scope = collector.metrics[0].resource_metrics[0].scope_metrics[0]
    assert scope.scope.name == "forebay"
    by_name = {metric.name: metric for metric in scope.metrics}
    assert set(by_name) == {semconv.METRIC_TOKEN_USAGE, semconv.METRIC_REQUEST_DURATION}
    points = by_name[semconv.METRIC_TOKEN_USAGE].histogram.data_points
    kinds = {a.value.string_value: p for p in points for a in p.attributes if a.key == semconv.TOKEN_TYPE}
    assert (kinds["input"].count, kinds["input"].sum) == (3, 30)
    assert (kinds["output"].count, kinds["output"].sum) == (3, 15)
    errors = [
        {a.key: a.value.string_value for a in p.attributes}.get(semconv.ERROR_TYPE)
        for p in by_name[semconv.METRIC_REQUEST_DURATION].histogram.data_points
    ]
    assert sorted(errors, key=str) == [None, "timeout"]


def test_metrics_go_at_their_interval(collector):
    telemetry = Telemetry.from_policy(Settings(otlp_endpoint=collector.endpoint, metrics_interval_ms=20), RESOURCE)
    telemetry.start()
    telemetry.sink([record(sampled=False)])
    collector.wait_for(lambda: len(collector.metrics) >= 2)
    telemetry.stop(5.0)
    first, second = (m.resource_metrics[0].scope_metrics[0].metrics[0].histogram for m in collector.metrics[:2])
    assert first.data_points[0].count == second.data_points[0].count == 1, "sums, so nothing is lost with a message"


def test_without_a_collector_nothing_is_imported_or_started():
    code = (
        "import sys, threading\n"
        "from forebay.ledger.telemetry import Telemetry\n"
        "from forebay.policy._pb.policy_pb2 import Telemetry as S\n"
        "t = Telemetry.from_policy(S(), {}); t.start(); t.sink([]); t.stop(1.0)\n"
        "assert threading.active_count() == 1\n"
        "assert not [m for m in sys.modules if m.startswith(('opentelemetry', 'grpc'))]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_an_unusable_endpoint_is_said_and_counted(caplog):
    telemetry = Telemetry.from_policy(Settings(otlp_endpoint="collector:4317"), RESOURCE)
    telemetry.start()
    telemetry.sink([record()])
    telemetry.stop(1.0)
    assert telemetry.counts()["forebay_telemetry_failures_total"] == 1
    assert "`collector:4317` is no endpoint" in caplog.text


def test_a_collector_that_is_away_costs_what_does_not_fit(caplog):
    caplog.set_level(logging.WARNING)
    with Rig(NOBODY, queue_records=4) as rig:
        for number in range(1, 11):
            rig.pipe.put([record(number)])
        assert wait(lambda: rig.value("forebay_telemetry_failures_total") >= 3)
        assert rig.value("forebay_spans_dropped_total") == 6
    assert rig.value("forebay_spans_dropped_total") == 10, "and what still waited at the end"
    assert len([r for r in caplog.records if "UNAVAILABLE" in r.message]) == 1, "said once in an interval"


def test_records_are_sent_in_whole_batches_and_the_rest_at_the_end(collector):
    with Rig(collector.endpoint, batch_records=4, linger_s=30.0) as rig:
        rig.pipe.put([record(n) for n in range(1, 11)])
        collector.wait_for(lambda: len({span.trace_id for span in collector.spans}) == 8)
        assert collector.calls == 2, "two lie there still"
        rig.pipe.stop(5.0)
        rig.pipe.stop = lambda _: None
    assert len({span.trace_id for span in collector.spans}) == 10


def test_what_waited_arrives_when_the_collector_comes_back(collector):
    collector.refuse_with = grpc.StatusCode.UNAVAILABLE
    with Rig(collector.endpoint) as rig:
        rig.pipe.put([record(1), record(2)])
        collector.wait_for(lambda: collector.calls >= 2)
        collector.refuse_with = None
        collector.wait_for(lambda: collector.spans)
        assert wait(lambda: rig.value("forebay_spans_total") > 0)
    assert {int.from_bytes(span.trace_id, "big") for span in collector.spans} == {1, 2}
    assert rig.value("forebay_spans_dropped_total") == 0


def test_what_a_collector_refuses_for_good_is_dropped(collector):
    collector.refuse_with = grpc.StatusCode.INVALID_ARGUMENT
    with Rig(collector.endpoint) as rig:
        rig.pipe.put([record(1), record(2)])
        assert wait(lambda: rig.value("forebay_spans_dropped_total") == 2)
    assert rig.value("forebay_telemetry_failures_total") == 1


def test_what_a_collector_rejects_in_part_is_counted(collector):
    collector.reject = 1
    with Rig(collector.endpoint) as rig:
        rig.pipe.put([record(1)])
        assert wait(lambda: rig.value("forebay_spans_total") == 1)
    assert rig.value("forebay_spans_dropped_total") == 1


def test_a_slow_collector_never_holds_the_ledger_up(collector):
    collector.released.clear()
    with Rig(collector.endpoint, queue_records=8, batch_records=4) as rig:
        rig.pipe.put([record(n) for n in range(1, 5)])
        collector.wait_for(lambda: collector.calls == 1)
        began = time.monotonic()
        for number in range(10, 1_010):
            rig.pipe.put([record(number)])
        assert time.monotonic() - began < 4.0, "a call takes 5 s here"
        assert rig.value("forebay_spans_dropped_total") == 992
        rig.pipe.stop(0.1)
        assert rig.value("forebay_spans_dropped_total") == 1_004
        rig.pipe.stop = lambda _: None
    assert not [t for t in threading.enumerate() if t.name == "forebay-telemetry"]


def test_a_call_has_a_deadline(collector):
    collector.released.clear()
    with Rig(collector.endpoint, timeout_s=0.05) as rig:
        rig.pipe.put([record(1)])
        assert wait(lambda: rig.value("forebay_telemetry_failures_total") >= 2)


def test_what_is_no_record_does_not_end_the_thread(collector):
    with Rig(collector.endpoint) as rig:
        rig.pipe.put([object()])
        assert wait(lambda: rig.value("forebay_spans_dropped_total") == 1)
        rig.pipe.put([record(2)])
        collector.wait_for(lambda: collector.spans)


def test_another_policy_changes_the_collector(collector):
    with OtlpCollector() as other:
        telemetry = Telemetry.from_policy(Settings(otlp_endpoint=collector.endpoint), RESOURCE)
        telemetry.start()
        telemetry.sink([record(1)])
        telemetry.swap(Settings(otlp_endpoint=other.endpoint))
        assert {int.from_bytes(span.trace_id, "big") for span in collector.spans} == {1}
        telemetry.sink([record(2)])
        telemetry.swap(Settings(otlp_endpoint=other.endpoint, slow_ms=5))
        telemetry.sink([record(3, sampled=False)])
        telemetry.swap(Settings())
        telemetry.sink([record(4)])
        assert {int.from_bytes(span.trace_id, "big") for span in other.spans} == {2, 3}
        assert telemetry.counts()["forebay_spans_total"] == len(collector.spans) + len(other.spans)
        telemetry.stop(1.0)


def test_the_collectors_headers_come_from_the_environment(collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "API-Key=a%20b, x-more=1,")
    with Rig(collector.endpoint) as rig:
        rig.pipe.put([record(1)])
        collector.wait_for(lambda: collector.spans)
    assert collector.metadata[0]["api-key"] == "a b"


@pytest.mark.parametrize("headers", ["bad name=very-secret", "very-secret", "key=very-secret%0A"])
def test_a_header_that_is_none_is_said_without_its_value(collector, monkeypatch, caplog, headers):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    telemetry = Telemetry.from_policy(Settings(otlp_endpoint=collector.endpoint), RESOURCE)
    telemetry.start()
    telemetry.stop(1.0)
    assert "`OTEL_EXPORTER_OTLP_HEADERS` holds what is no header" in caplog.text
    assert "very-secret" not in caplog.text


def wait(true, timeout_s=10.0):
    """Whether it becomes true; a counter has no event to wait for."""
    pause, end = threading.Event(), time.monotonic() + timeout_s
    while time.monotonic() < end:
        if true():
            return True
        pause.wait(0.002)
    return False
