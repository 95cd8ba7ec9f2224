"""Spans out of records: names, times, ids, attributes, and what is not in them."""

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, StatusCode

from forebay.ledger import semconv
from forebay.ledger._pb.ledger_pb2 import LedgerRecord
from forebay.ledger.spans import SpanBuilder, child_span_id

TRACE_ID = bytes.fromhex("0af7651916cd43dd8448eb211c80319c")
SPAN_ID = bytes.fromhex("00f067aa0ba902b7")
START = 1_700_000_000_000_000_000
MS = 1_000_000


def a_record(**changes):
    fields = {
        "id": b"\x01" * 16,
        "unix_ns": START,
        "tenant": "acme",
        "operation": "chat_completions",
        "model_asked": "auto",
        "model": "small",
        "pool": "fleet",
        "provider": "openai",
        "endpoint": "10.0.0.1:8000",
        "outcome": "ok",
        "status": 200,
        "stream": True,
        "usage": LedgerRecord.EXACT,
        "prompt_tokens": 900,
        "cached_prompt_tokens": 300,
        "output_tokens": 100,
        "cost_known": True,
        "cost_nanousd": 12_345,
        "stage_ns": [1_000, 2_000, 0, 4_000],
        "first_byte_ns": 100 * MS,
        "first_token_ns": 120 * MS,
        "last_byte_ns": 1_500 * MS,
        "duration_ns": 1_501 * MS,
    }
    record = LedgerRecord(**{**fields, **changes})
    record.trace.trace_id, record.trace.span_id, record.trace.sampled = TRACE_ID, SPAN_ID, True
    return record


def spans_of(record):
    builder = SpanBuilder(Resource({}), InstrumentationScope("forebay"))
    return builder.spans([record])


def test_a_request_is_its_own_span_deciding_and_the_upstream():
    own, decide, upstream = spans_of(a_record())
    assert [own.name, decide.name, upstream.name] == ["chat auto", "forebay.decide", "chat small"]
    assert [own.kind, decide.kind, upstream.kind] == [SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT]
    assert (own.start_time, own.end_time) == (START, START + 1_501 * MS)
    assert (decide.start_time, decide.end_time) == (START, START + 7_000)
    assert (upstream.start_time, upstream.end_time) == (START + 7_000, START + 1_500 * MS)
    assert decide.parent == own.context
    assert upstream.parent == own.context


def test_ids_are_those_of_the_record_and_of_nothing_else():
    own, decide, upstream = spans_of(a_record())
    assert own.context.trace_id == int.from_bytes(TRACE_ID, "big")
    assert own.context.span_id == int.from_bytes(SPAN_ID, "big")
    assert own.parent is None
    assert len({own.context.span_id, decide.context.span_id, upstream.context.span_id}) == 3
    again = spans_of(a_record(duration_ns=5))
    assert [span.context.span_id for span in again] == [
        own.context.span_id,
        *(s.context.span_id for s in (decide, upstream)),
    ]
    assert child_span_id(SPAN_ID, "decide") == decide.context.span_id.to_bytes(8, "big")


def test_a_client_that_traces_is_the_parent():
    record = a_record()
    record.trace.parent_span_id = b"\xb7" * 8
    own = spans_of(record)[0]
    assert own.parent.span_id == int.from_bytes(b"\xb7" * 8, "big")
    assert own.parent.is_remote


def test_attributes_are_of_the_conventions_and_ours():
    own, _, upstream = spans_of(a_record(reasoning_tokens=7, run="r1"))
    assert own.attributes[semconv.OPERATION_NAME] == "chat"
    assert own.attributes[semconv.REQUEST_MODEL] == "auto"
    assert own.attributes[semconv.RESPONSE_MODEL] == "small"
    assert own.attributes[semconv.INPUT_TOKENS] == 900
    assert own.attributes[semconv.OUTPUT_TOKENS] == 100
    assert own.attributes[semconv.CACHE_READ_TOKENS] == 300
    assert own.attributes[semconv.REASONING_TOKENS] == 7
    assert own.attributes[semconv.COST] == 12_345
    assert own.attributes[semconv.RUN] == "r1"
    assert own.attributes[semconv.USAGE] == "exact"
    assert upstream.attributes[semconv.REQUEST_MODEL] == "small"
    assert upstream.attributes[semconv.SERVER_ADDRESS] == "10.0.0.1"
    assert upstream.attributes[semconv.SERVER_PORT] == 8000
    assert upstream.attributes[semconv.TIME_TO_FIRST_CHUNK] == 0.119993
    assert semconv.ERROR_TYPE not in own.attributes


def test_an_unknown_cost_is_absent_and_not_nothing():
    assert semconv.COST not in spans_of(a_record(cost_known=False, cost_nanousd=0))[0].attributes


def test_stages_are_events_at_their_ends():
    _, decide, _ = spans_of(a_record())
    assert [(e.name, e.timestamp - START) for e in decide.events] == [
        ("identify", 1_000),
        ("read", 3_000),
        ("limit", 7_000),
    ]


def test_a_failure_is_an_error_with_its_type():
    own, _, upstream = spans_of(a_record(outcome="upstream_error", status=502))
    for span in (own, upstream):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes[semconv.ERROR_TYPE] == "upstream_error"
    assert own.attributes[semconv.HTTP_STATUS] == 502


def test_what_never_reached_a_model_has_no_upstream_span():
    for outcome in ("hit", "follow", "refused", "local_reply"):
        spans = spans_of(a_record(outcome=outcome, code="rate_limit_exceeded" if outcome == "refused" else ""))
        assert [span.name for span in spans] == ["chat auto", "forebay.decide"]
    assert spans[0].status.status_code is StatusCode.ERROR
    refused = spans_of(a_record(outcome="refused", code="rate_limit_exceeded"))[0]
    assert refused.attributes[semconv.ERROR_TYPE] == "rate_limit_exceeded"


def test_waiting_in_the_batch_service_is_a_span():
    queue = next(s for s in spans_of(a_record(queue_ns=5 * MS)) if s.name == semconv.SPAN_QUEUE)
    assert queue.end_time - queue.start_time == 5 * MS


def test_the_batch_that_answered_is_told_where_there_was_one():
    own = spans_of(a_record(rows=2, batch_rows=8, tensor_tokens=30, padded_tokens=64))[0].attributes
    told = (own[semconv.BATCH_ROWS], own[semconv.TENSOR_TOKENS], own[semconv.PADDED_TOKENS])
    assert told == (8, 30, 64)
    assert semconv.BATCH_ROWS not in spans_of(a_record())[0].attributes


def test_times_never_run_backwards():
    """A record of an expired request has a duration shorter than deciding took, and no last byte."""
    for record in (a_record(duration_ns=0, last_byte_ns=0), a_record(last_byte_ns=1), LedgerRecord()):
        assert all(span.end_time >= span.start_time for span in spans_of(record))


def test_a_record_without_a_trace_has_no_spans():
    record = a_record()
    record.trace.trace_id = b"\x01" * 8
    assert spans_of(record) == []


def test_later_stages_than_are_known_keep_a_number():
    _, decide, _ = spans_of(a_record(stage_ns=[1] * (len(semconv.STAGES) + 1)))
    assert decide.events[-1].name == f"stage {len(semconv.STAGES)}"
