"""When a server counts as ready: only calls and probes decide, in the order in which they were begun."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forebay.batching.health import FAILING_REST_NS, Health, Standing

LANE = ("echo", "")


def test_a_server_is_unknown_until_it_said_something() -> None:
    health = Health()
    assert health.standing(LANE, 0) is Standing.UNKNOWN
    assert Standing.UNKNOWN.usable
    health.said_ready(1)
    assert health.standing(LANE, 1) is Standing.READY
    health.said_away()
    assert health.standing(LANE, 1) is Standing.AWAY


def test_a_failed_call_rests_it_until_a_probe_that_was_asked_later() -> None:
    health = Health()
    health.said_ready(1)
    health.failed(10)
    assert health.standing(LANE, 10) is Standing.AWAY
    health.said_ready(9)
    assert health.standing(LANE, 10) is Standing.AWAY, "an answer from before the failure counted"
    health.said_ready(11)
    assert health.standing(LANE, 12) is Standing.READY


def test_one_late_probe_is_forgiven() -> None:
    health = Health()
    health.said_ready(1)
    health.was_late()
    assert health.ready
    health.said_ready(2)
    health.was_late()
    assert health.ready
    health.was_late()
    assert not health.ready


def test_a_model_may_be_away_on_a_server_that_is_ready() -> None:
    health = Health()
    health.said_ready(1)
    health.model_away(LANE)
    assert health.standing(LANE, 1) is Standing.MODEL_AWAY
    assert not Standing.MODEL_AWAY.usable
    assert health.standing(("other", ""), 1) is Standing.READY
    health.model_here(LANE)
    health.unlike.add(LANE)
    assert health.standing(LANE, 1) is Standing.MODEL_AWAY


def test_a_model_that_only_fails_rests_there_for_a_while() -> None:
    health = Health()
    health.said_ready(1)
    health.failing("echo", 100)
    assert health.standing(LANE, 100) is Standing.MODEL_AWAY
    assert health.standing(LANE, 100 + FAILING_REST_NS) is Standing.READY


@given(st.lists(st.sampled_from(["failed", "ready", "stale", "away", "late"]), max_size=30))
def test_it_is_never_ready_after_a_failure_without_a_later_answer(events: list[str]) -> None:
    health, now_ns, may_be_ready = Health(), 0, True
    for event in events:
        now_ns += 2
        if event == "failed":
            health.failed(now_ns)
            may_be_ready = False
        elif event == "ready":
            health.said_ready(now_ns)
            may_be_ready = True
        elif event == "stale":
            health.said_ready(health._failed_ns)
        elif event == "away":
            health.said_away()
            may_be_ready = False
        else:
            health.was_late()
        assert may_be_ready or health.standing(LANE, now_ns) is Standing.AWAY
