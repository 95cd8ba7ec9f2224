"""One pass over many requests by one way, and what it took.

Owns the clock, how many are in flight, and the counts around it. Must not know what is sent or how.
The first error ends the pass and is raised.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

__all__ = ["Counts", "Pass", "Way", "run_pass"]

Item = TypeVar("Item")
# One element a row.
Answer = TypeVar("Answer", bound=Sized)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the servers counted so far; `padded_tokens` 0: nobody pads on this way."""

    rows: int
    executions: int
    tokens: int = 0
    padded_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a model: its name in the table, clients that each wait for their answer, and its servers' counts."""

    name: str
    clients: int
    counts: Callable[[], Counts]


@dataclass(frozen=True, slots=True)
class Pass:
    """What a pass took. `mean_batch_rows`: rows that the model ran together; `padding`: share of its tokens."""

    way: str
    rows: int
    wall_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_batch_rows: float
    padding: float

    @property
    def rows_per_s(self) -> float:
        """Throughput."""
        return self.rows / self.wall_s


async def run_pass(
    way: Way, items: Sequence[Item], send: Callable[[Item], Awaitable[Answer]]
) -> tuple[Pass, list[Answer]]:
    """Sends every item once and waits for all answers, which come in the order of the items.

    Whoever calls this has sent something this way before, so that no way pays for opening connections.
    """
    answers: dict[int, Answer] = {}
    latencies_ms: list[float] = []
    waiting = iter(enumerate(items))

    async def client() -> None:
        for index, item in waiting:
            begun = time.perf_counter()
            answers[index] = await send(item)
            latencies_ms.append((time.perf_counter() - begun) * 1e3)

    before = await asyncio.to_thread(way.counts)
    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(way.clients)))
    wall_s = time.perf_counter() - begun
    after = await asyncio.to_thread(way.counts)
    done = _pass(way.name, wall_s, latencies_ms, (before, after))
    ordered = [answers[index] for index in range(len(items))]
    # A server counts an execution behind its answer, so its own count may miss the last one.
    return replace(done, rows=sum(map(len, ordered))), ordered


def _pass(way: str, wall_s: float, latencies_ms: list[float], counts: tuple[Counts, Counts]) -> Pass:
    before, after = counts
    executions, rows = after.executions - before.executions, after.rows - before.rows
    padded = after.padded_tokens - before.padded_tokens
    p50, p95, p99 = (float(value) for value in np.percentile(latencies_ms, (50, 95, 99)))
    return Pass(
        way=way,
        rows=rows,
        wall_s=wall_s,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        mean_batch_rows=rows / executions if executions else 0.0,
        padding=1 - (after.tokens - before.tokens) / padded if padded else 0.0,
    )
