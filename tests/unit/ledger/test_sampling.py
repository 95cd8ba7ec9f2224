"""Which requests are traced: the share agrees with the core's rule, failures and slow ones always."""

import doctest
import secrets

import pytest

from forebay.ledger import sampling
from forebay.ledger._pb.ledger_pb2 import LedgerRecord
from forebay.ledger.sampling import Sampling, sampled_by_share

MS = 1_000_000


def test_the_docstring_runs():
    assert doctest.testmod(sampling).failed == 0


def test_only_the_lowest_seven_bytes_decide():
    low = (1 << 56) // 100
    for high in (b"\x00" * 9, b"\xff" * 9):
        assert sampled_by_share(high + low.to_bytes(7, "big"), 10_000)
        assert not sampled_by_share(high + (low + 1).to_bytes(7, "big"), 10_000)


@pytest.mark.parametrize(("per_million", "expected"), [(0, 0), (1_000_000, 2_000)])
def test_nothing_and_everything(per_million, expected):
    ids = [secrets.token_bytes(16) for _ in range(2_000)]
    assert sum(sampled_by_share(one, per_million) for one in ids) == expected


def test_the_share_is_met():
    """Ids spread evenly over the 56 bits: exactly the share of them is taken."""
    ids = [(-(-(i << 56) // 10_000)).to_bytes(16, "big") for i in range(10_000)]
    assert sum(sampled_by_share(one, 250_000) for one in ids) == 2_500


def test_failures_slow_ones_and_the_sampled_are_kept():
    outcomes = [
        "ok",
        "hit",
        "follow",
        "refused",
        "upstream_error",
        "local_reply",
        "aborted",
        "timeout",
        "reset",
        "expired",
    ]
    records = [LedgerRecord(outcome=outcome, duration_ns=10 * MS) for outcome in outcomes]
    slow = LedgerRecord(outcome="ok", duration_ns=10 * MS + 1)
    sampled = LedgerRecord(outcome="ok")
    sampled.trace.sampled = True
    kept = Sampling.of_slow_ms(10).kept([*records, slow, sampled])
    assert [r.outcome for r in kept] == [*outcomes[4:], "ok", "ok"]
    assert kept[-2:] == [slow, sampled]


def test_a_refusal_is_a_failure_from_500_on():
    refused = [LedgerRecord(outcome="refused", status=status) for status in (401, 429, 499, 500, 503)]
    assert [r.status for r in Sampling().kept(refused)] == [500, 503]


def test_without_a_bound_slow_is_ten_seconds():
    assert Sampling.of_slow_ms(0) == Sampling(10_000 * MS)
