"""Whatever a record holds, its spans and its metrics can be encoded."""

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from forebay.ledger import semconv
from forebay.ledger._pb.ledger_pb2 import LedgerRecord
from forebay.ledger.aggregate import Aggregate
from forebay.ledger.otlp import encode_metrics, encode_spans
from forebay.ledger.otlp_messages import message_class
from forebay.ledger.points import metrics
from forebay.ledger.spans import SpanBuilder

KINDS = {
    "TYPE_STRING": st.text(max_size=20),
    "TYPE_BOOL": st.booleans(),
    "TYPE_UINT32": st.integers(0, 2**32 - 1),
    "TYPE_UINT64": st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**63, 2**64 - 1]),
    "TYPE_ENUM": st.integers(0, 2),
    "TYPE_BYTES": st.binary(min_size=16, max_size=16),
}


def strategy(field):
    names = {getattr(field, name): kind for name, kind in KINDS.items()}
    one = names[field.type]
    return st.lists(one, max_size=13) if field.is_repeated else one


FIELDS = {
    field.name: strategy(field) for field in LedgerRecord.DESCRIPTOR.fields if field.type != field.TYPE_MESSAGE
} | {
    "operation": st.sampled_from([*semconv.OPERATIONS, "kserve", ""]),
    "outcome": st.sampled_from(["ok", "hit", "refused", "aborted", ""]),
}


@given(
    st.fixed_dictionaries({}, optional=FIELDS), st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8)
)
def test_any_record_can_be_encoded(fields, trace_id, span_id):
    record = LedgerRecord(**fields)
    record.trace.trace_id, record.trace.span_id = trace_id, span_id
    scope = InstrumentationScope("forebay")
    spans = SpanBuilder(Resource({}), scope).spans([record])
    request = message_class("ExportTraceServiceRequest").FromString(encode_spans(spans))
    (group,) = request.resource_spans[0].scope_spans
    assert 1 <= len(group.spans) <= 4
    for span in group.spans:
        assert span.end_time_unix_nano >= span.start_time_unix_nano
        assert span.trace_id == trace_id
        assert len(span.span_id) == 8
    aggregate = Aggregate(1)
    aggregate.add([record, record])
    encode_metrics(metrics(aggregate.totals(), 2), Resource({}), scope)
