"""What servers say that they have done, over their restarts."""

from __future__ import annotations

from forebay.batching import ModelCounts
from forebay.batching.observed import MIN_FAILURES, Observed


def test_sums_go_on_when_a_server_starts_anew() -> None:
    observed = Observed()
    observed.take("a:1", {"m": ModelCounts(succeeded=10, queue_ns=100)})
    observed.take("a:1", {"m": ModelCounts(succeeded=15, queue_ns=150)})
    observed.take("a:1", {"m": ModelCounts(succeeded=2, queue_ns=20)})
    assert observed.sums() == {("a:1", "m"): ModelCounts(succeeded=17, queue_ns=170)}
    observed.keep({"b:1"})
    assert observed.sums() == {}


def test_a_model_that_only_fails_is_told_and_what_happened_before_does_not_count() -> None:
    observed = Observed()
    assert observed.take("a:1", {"m": ModelCounts(failed=MIN_FAILURES)}) == []
    assert observed.take("a:1", {"m": ModelCounts(failed=2 * MIN_FAILURES)}) == ["m"]
    assert observed.take("a:1", {"m": ModelCounts(succeeded=1, failed=3 * MIN_FAILURES)}) == []
    assert observed.take("a:1", {"m": ModelCounts(succeeded=1, failed=4 * MIN_FAILURES - 1)}) == []
