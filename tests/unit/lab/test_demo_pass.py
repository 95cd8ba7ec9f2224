"""A pass sends everything once, keeps the order, and reads what the servers counted around it alone."""

from __future__ import annotations

import asyncio

import pytest

from forebay.lab.demo_pass import Counts, Way, run_pass


def test_answers_come_in_order_and_counts_are_of_this_pass_alone() -> None:
    counted = iter([Counts(100, 50, 1000, 2000), Counts(130, 60, 1300, 2400)])
    way = Way("a way", 4, lambda: next(counted))
    in_flight, most = 0, 0

    async def send(item: int) -> list[int]:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        for _ in range(item % 3):
            await asyncio.sleep(0)
        in_flight -= 1
        return [item * item]

    done, answers = asyncio.run(run_pass(way, range(30), send))
    assert answers == [[item * item] for item in range(30)]
    assert most == 4
    assert (done.way, done.rows, done.mean_batch_rows) == ("a way", 30, 3.0)
    assert done.padding == pytest.approx(0.25)
    assert 0 <= done.p50_ms <= done.p95_ms <= done.p99_ms
    assert done.rows_per_s == 30 / done.wall_s


def test_where_nobody_pads_there_is_no_padding_and_the_first_error_ends_it() -> None:
    counted = iter([Counts(0, 0), Counts(2, 2), Counts(0, 0)])
    way = Way("straight", 2, lambda: next(counted))

    async def send(item: int) -> list[int]:
        if item < 0:
            raise ValueError("below 0")
        return [item] * 3

    done, _ = asyncio.run(run_pass(way, [1, 2], send))
    assert (done.padding, done.mean_batch_rows, done.rows) == (0.0, 1.0, 6)
    with pytest.raises(ValueError, match="below 0"):
        asyncio.run(run_pass(way, [1, -1, 2], send))
