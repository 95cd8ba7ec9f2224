"""The judgement of tensors and streams: what holds, and each way in which it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from forebay.lab.demo_ledger import LedgerLine, LedgerResult
from forebay.lab.demo_pass import Pass
from forebay.lab.demo_stream import StreamResult
from forebay.lab.demo_tensor_checks import stream_checks, tensor_checks
from forebay.lab.demo_tensors import BY_FOREBAY, BY_TRITON, TensorResult


def done(way: str, rows_together: float) -> Pass:
    return Pass(way, 100, 1.0, 5.0, 6.0, 7.0, rows_together, 0.1)


TENSORS = TensorResult(
    3,
    255,
    [done("Triton, one call at a time", 1.0), done(BY_TRITON, 1.4), done(BY_FOREBAY, 12.0)],
    [done(BY_TRITON, 3.0), done(BY_FOREBAY, 30.0)],
    {BY_FOREBAY: 3e-7},
)
STREAM = StreamResult(
    text="so it is", whole_text="so it is", pieces=3, finish_reason="length", told_tokens=6, written=6, cancelled=1
)
LEDGER = LedgerResult([LedgerLine("acme", "writer", 2, 10, 0, 20, 6, 0)], 0, 10, 10)


def broken(checks: list[object]) -> list[int]:
    return [index for index, check in enumerate(checks) if not check.held]  # type: ignore[attr-defined]


def test_what_was_not_run_is_not_judged() -> None:
    assert tensor_checks(None) == []
    assert stream_checks(None, LEDGER, "acme") == []


@pytest.mark.parametrize(
    ("result", "fails"),
    [
        (TENSORS, []),
        (replace(TENSORS, differences={BY_FOREBAY: 2e-5}), [0]),
        (replace(TENSORS, differences={BY_FOREBAY: 0.0, "other": 0.5}), [0]),
        (replace(TENSORS, wrong_sums=1), [1]),
        (replace(TENSORS, costly=[done(BY_TRITON, 3.0), done(BY_FOREBAY, 2.0)]), [2]),
        (replace(TENSORS, error="UNAVAILABLE"), [0, 1, 2]),
    ],
)
def test_tensors_are_judged_by_their_numbers(result: TensorResult, fails: list[int]) -> None:
    checks = tensor_checks(result)
    assert broken(checks) == fails
    if result.error:
        assert {check.detail for check in checks} == {"UNAVAILABLE"}


@pytest.mark.parametrize(
    ("result", "fails"),
    [
        (STREAM, []),
        (replace(STREAM, whole_text="so it was"), [0]),
        (replace(STREAM, pieces=1), [0]),
        (replace(STREAM, finish_reason=""), [0]),
        (replace(STREAM, cancelled=0), [1]),
        (replace(STREAM, told_tokens=5), [2]),
        (replace(STREAM, written=7), [2]),
        (replace(STREAM, error="404"), [0, 1]),
    ],
)
def test_streams_are_judged_by_their_numbers(result: StreamResult, fails: list[int]) -> None:
    assert broken(stream_checks(result, LEDGER, "acme")) == fails
    assert len(stream_checks(STREAM, None, "acme")) == 2
    assert broken(stream_checks(STREAM, LEDGER, "bistro")) == [2]
