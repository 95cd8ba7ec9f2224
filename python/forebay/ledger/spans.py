"""Spans out of ledger records.

Owns: which spans a request has, their times, names and attributes. Must not know: sampling, queues, the wire.
On failure: a record without a usable trace gives no spans; a time that runs backwards gives an empty span, never a
negative one.

    {operation} {model}      SERVER    headers to last byte
    ├── forebay.decide       INTERNAL  the stages are its events
    ├── {operation} {model}  CLIENT    end of deciding to last byte, only where an upstream was called
    └── forebay.queue        INTERNAL  waiting in the batch service, only where there was any
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from forebay.ledger import semconv
from forebay.ledger._pb.ledger_pb2 import LedgerRecord
from forebay.ledger.sampling import FINE

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

__all__ = ["SpanBuilder", "child_span_id"]

_NS_PER_S = 1e9
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
# Nobody called a model for these, so there is no client span.
_WITHOUT_UPSTREAM = frozenset(("hit", "follow", "refused", "local_reply"))
_UNSET = Status(StatusCode.UNSET)
_ERROR = Status(StatusCode.ERROR)
_TRACE_ID_BYTES, _SPAN_ID_BYTES = 16, 8
# The end of OTLP's times, in the year 2554; only a damaged record comes near it.
_MAX_TIME_NS = (1 << 64) - 1
_ONE = bytes(7) + b"\1"

Attributes = dict[str, str | bool | int | float]


def child_span_id(span_id: bytes, name: str) -> bytes:
    """Give the id of a child: the same for the same parent and name, so that a span sent twice is one span.

    *Cost*: one BLAKE2b of a few bytes. The id is never 0, which would be no id.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=_SPAN_ID_BYTES, key=span_id).digest()
    return digest if any(digest) else _ONE


@dataclass(frozen=True, slots=True)
class _Draft:
    """A span before it has its ids. `key` names a child among its siblings; empty: the request's own span."""

    key: str
    name: str
    start_ns: int
    end_ns: int
    kind: SpanKind = SpanKind.INTERNAL
    attributes: Attributes | None = None
    events: Sequence[Event] = ()
    status: Status = _UNSET


class SpanBuilder:
    """Makes the spans of records under one resource."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource = resource
        self._scope = scope

    def spans(self, records: Iterable[LedgerRecord]) -> list[ReadableSpan]:
        """Give the spans of all records, each request's own span before its children.

        *Cost*: some 40 microseconds a record with all its stages, GIL held.
        """
        spans: list[ReadableSpan] = []
        for record in records:
            trace = record.trace
            if len(trace.trace_id) != _TRACE_ID_BYTES or len(trace.span_id) != _SPAN_ID_BYTES:
                continue
            own = _context(trace.trace_id, trace.span_id)
            parent = _context(trace.trace_id, trace.parent_span_id, is_remote=True) if trace.parent_span_id else None
            for draft in _drafts(record):
                if draft.key:
                    child_id = child_span_id(trace.span_id, draft.key)
                    spans.append(self._span(draft, _context(trace.trace_id, child_id), own))
                else:
                    spans.append(self._span(draft, own, parent))
        return spans

    def _span(self, draft: _Draft, context: SpanContext, parent: SpanContext | None) -> ReadableSpan:
        return ReadableSpan(
            name=draft.name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=draft.attributes,
            events=draft.events,
            kind=draft.kind,
            status=draft.status,
            start_time=min(draft.start_ns, _MAX_TIME_NS),
            end_time=min(draft.end_ns, _MAX_TIME_NS),
            instrumentation_scope=self._scope,
        )


def _context(trace_id: bytes, span_id: bytes, *, is_remote: bool = False) -> SpanContext:
    numbers = int.from_bytes(trace_id, "big"), int.from_bytes(span_id, "big")
    return SpanContext(*numbers, is_remote=is_remote, trace_flags=_SAMPLED)


def _drafts(record: LedgerRecord) -> list[_Draft]:
    operation = semconv.OPERATIONS.get(record.operation, record.operation) or "request"
    start = record.unix_ns
    end = start + record.duration_ns
    status = _UNSET if record.outcome in FINE else _ERROR
    own = _named(operation, record.model_asked or record.model)
    drafts = [_Draft("", own, start, end, SpanKind.SERVER, _own_attributes(record, operation), (), status)]
    # Stages are measured one after the other, so deciding ends at the sum of their times.
    ends = [start + ns for ns in accumulate(record.stage_ns)]
    decided = ends[-1] if ends else start
    if ends:
        drafts.append(_Draft("decide", semconv.SPAN_DECIDE, start, decided, events=_stage_events(record, ends)))
    if record.queue_ns:
        drafts.append(_Draft("queue", semconv.SPAN_QUEUE, decided, decided + record.queue_ns))
    if record.pool and record.outcome not in _WITHOUT_UPSTREAM:
        last = max(decided, start + record.last_byte_ns if record.last_byte_ns else end)
        attributes, events = _upstream_attributes(record, operation), _answer_events(record)
        name = _named(operation, record.model)
        drafts.append(_Draft("upstream", name, decided, last, SpanKind.CLIENT, attributes, events, status))
    return drafts


def _named(operation: str, model: str) -> str:
    return f"{operation} {model}" if model else operation


def _error_type(record: LedgerRecord) -> str:
    return record.code or record.outcome or "_OTHER"


def _own_attributes(record: LedgerRecord, operation: str) -> Attributes:
    """Attributes of the request's own span. There is no text of a request or an answer among them."""
    attributes: Attributes = {
        semconv.OPERATION_NAME: operation,
        semconv.REQUEST_ID: record.id.hex(),
        semconv.REQUEST_STREAM: record.stream,
        semconv.OUTCOME: record.outcome,
        semconv.USAGE: _usage_name(record),
    }
    for name, text in (
        (semconv.PROVIDER_NAME, record.provider),
        (semconv.REQUEST_MODEL, record.model_asked or record.model),
        (semconv.RESPONSE_MODEL, record.model),
        (semconv.TENANT, record.tenant),
        (semconv.USER, record.user),
        (semconv.KEY, record.key),
        (semconv.FEATURE, record.feature),
        (semconv.RUN, record.run),
        (semconv.EVAL, record.eval),
        (semconv.ROUTE, record.route),
        (semconv.POOL, record.pool),
        (semconv.REASON, record.reason),
        (semconv.CACHE, record.cache),
        (semconv.PRICE_REVISION, record.price_revision),
        (semconv.POLICY_REVISION, record.policy),
        (semconv.OWNER, record.owner),
    ):
        if text:
            attributes[name] = text
    for name, number in (
        (semconv.HTTP_STATUS, record.status),
        (semconv.RESERVED, record.reserved_nanousd),
        (semconv.SAVED_BY_CACHE, record.saved_by_cache_nanousd),
        (semconv.SAVED_BY_ROUTING, record.saved_by_routing_nanousd),
        (semconv.ATTEMPTS, record.attempts),
        (semconv.BATCH_ROWS, record.batch_rows),
        (semconv.TENSOR_TOKENS, record.tensor_tokens),
        (semconv.PADDED_TOKENS, record.padded_tokens),
    ):
        if number:
            attributes[name] = number
    _add_usage(attributes, record)
    if record.cost_known:
        attributes[semconv.COST] = record.cost_nanousd
    if record.outcome not in FINE:
        attributes[semconv.ERROR_TYPE] = _error_type(record)
    return attributes


def _upstream_attributes(record: LedgerRecord, operation: str) -> Attributes:
    attributes: Attributes = {
        semconv.OPERATION_NAME: operation,
        semconv.PROVIDER_NAME: record.provider or semconv.UNKNOWN_PROVIDER,
        semconv.REQUEST_STREAM: record.stream,
        semconv.POOL: record.pool,
    }
    if record.model:
        attributes[semconv.REQUEST_MODEL] = record.model
    host, colon, port = record.endpoint.rpartition(":")
    if colon and port.isascii() and port.isdigit():
        attributes[semconv.SERVER_ADDRESS] = host.strip("[]")
        attributes[semconv.SERVER_PORT] = int(port)
    if record.stream and record.first_token_ns:
        decided_ns = sum(record.stage_ns)
        attributes[semconv.TIME_TO_FIRST_CHUNK] = max(record.first_token_ns - decided_ns, 0) / _NS_PER_S
    _add_usage(attributes, record)
    if record.outcome not in FINE:
        attributes[semconv.ERROR_TYPE] = _error_type(record)
    return attributes


def _add_usage(attributes: Attributes, record: LedgerRecord) -> None:
    if record.usage == LedgerRecord.NONE:
        return
    attributes[semconv.INPUT_TOKENS] = record.prompt_tokens
    attributes[semconv.OUTPUT_TOKENS] = record.output_tokens
    for name, number in (
        (semconv.CACHE_READ_TOKENS, record.cached_prompt_tokens),
        (semconv.CACHE_CREATION_TOKENS, record.cache_write_tokens),
        (semconv.REASONING_TOKENS, record.reasoning_tokens),
    ):
        if number:
            attributes[name] = number


def _usage_name(record: LedgerRecord) -> str:
    if record.usage == LedgerRecord.EXACT:
        return "exact"
    return "estimated" if record.usage == LedgerRecord.ESTIMATED else "none"


def _stage_events(record: LedgerRecord, ends: list[int]) -> list[Event]:
    """One event at the end of each stage that ran; stages of a later core than this have a number for a name."""
    names = semconv.STAGES
    return [
        Event(names[i] if i < len(names) else f"stage {i}", {semconv.STAGE_NS: ns}, min(ends[i], _MAX_TIME_NS))
        for i, ns in enumerate(record.stage_ns)
        if ns
    ]


def _answer_events(record: LedgerRecord) -> list[Event]:
    pairs = ((semconv.EVENT_FIRST_BYTE, record.first_byte_ns), (semconv.EVENT_FIRST_TOKEN, record.first_token_ns))
    return [Event(name, None, min(record.unix_ns + ns, _MAX_TIME_NS)) for name, ns in pairs if ns]
