"""Sums over records: which series, which bucket, what is bounded, and that nothing is lost between threads."""

import threading

from forebay.ledger import semconv
from forebay.ledger._pb.ledger_pb2 import LedgerRecord
from forebay.ledger.aggregate import Aggregate, Sums
from forebay.ledger.points import metrics

MS = 1_000_000


def a_record(**changes):
    fields = {
        "operation": "messages",
        "model": "m",
        "provider": "anthropic",
        "outcome": "ok",
        "usage": LedgerRecord.EXACT,
        "prompt_tokens": 16,
        "output_tokens": 11,
        "cost_nanousd": 7,
        "first_token_ns": 100 * MS,
        "last_byte_ns": 600 * MS,
        "duration_ns": 601 * MS,
    }
    return LedgerRecord(**{**fields, **changes})


def made(records):
    aggregate = Aggregate(1)
    aggregate.add(records)
    return {metric.name: metric.data for metric in metrics(aggregate.totals(), 9)}


def one(data):
    (point,) = data.data_points
    return point


def test_a_value_that_equals_a_bound_is_below_it():
    sums = Sums((10, 20))
    for value in (0, 10, 11, 20, 21):
        sums.add(value)
    assert (sums.counts, sums.total, sums.low, sums.high) == ([2, 2, 1], 62, 0, 21)


def test_times_and_tokens_are_those_of_the_record():
    by_name = made([a_record()])
    first = one(by_name[semconv.METRIC_FIRST_TOKEN])
    assert (first.count, first.sum, first.start_time_unix_nano, first.time_unix_nano) == (1, 0.1, 1, 9)
    assert first.explicit_bounds[first.bucket_counts.index(1)] == 0.1
    assert one(by_name[semconv.METRIC_PER_TOKEN]).sum == 0.05
    assert one(by_name[semconv.METRIC_REQUEST_DURATION]).sum == 0.601
    assert {p.attributes[semconv.TOKEN_TYPE]: p.sum for p in by_name[semconv.METRIC_TOKEN_USAGE].data_points} == {
        "input": 16.0,
        "output": 11.0,
    }
    assert first.attributes == {
        semconv.OPERATION_NAME: "chat",
        semconv.PROVIDER_NAME: "anthropic",
        semconv.REQUEST_MODEL: "m",
        semconv.RESPONSE_MODEL: "m",
    }


def test_usage_that_failed_counts_once_with_the_rest_and_is_wasted():
    by_name = made([a_record(), a_record(outcome="aborted", cost_nanousd=5)])
    assert [p.count for p in by_name[semconv.METRIC_TOKEN_USAGE].data_points] == [2, 2]
    assert one(by_name[semconv.METRIC_COST]).value == 12
    wasted = one(by_name[semconv.METRIC_WASTED])
    assert (wasted.value, wasted.attributes[semconv.ERROR_TYPE]) == (5, "aborted")
    assert one(by_name[semconv.METRIC_FIRST_TOKEN]).count == 1, "only what went well"


def test_what_was_saved_names_its_reason():
    hit = a_record(outcome="hit", usage=LedgerRecord.NONE, saved_by_cache_nanousd=9)
    by_name = made([hit, a_record(saved_by_routing_nanousd=4)])
    points = by_name[semconv.METRIC_SAVED].data_points
    assert {p.attributes[semconv.SAVED_BY]: p.value for p in points} == {"cache": 9, "routing": 4}


def test_what_is_no_genai_operation_is_left_out():
    assert made([a_record(operation="forward"), a_record(operation="list_models")]) == {}


def test_series_are_bounded_and_sums_stay_right():
    aggregate = Aggregate(1)
    aggregate.add(a_record(model=f"m{number}") for number in range(2_100))
    series = aggregate.totals().by_error
    assert len(series) == 2_001
    assert sum(one.cost for one in series.values()) == 2_100 * 7


def test_adding_and_collecting_race_without_loss():
    aggregate = Aggregate(1)
    batch = [a_record() for _ in range(50)]
    threads = [threading.Thread(target=lambda: [aggregate.add(batch) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen = [sum(s.cost for s in aggregate.totals().by_error.values()) for _ in range(50)]
    for thread in threads:
        thread.join()
    assert seen == sorted(seen)
    assert sum(s.cost for s in aggregate.totals().by_model.values()) == 4 * 20 * 50 * 7
