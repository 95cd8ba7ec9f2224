"""Owns the best policies known for the cost model: cut all that waits the cheapest way, and send one batch of it.

Must not know any overhead. An instance never idles while a request waits.
On failure: nothing here can fail.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from bench.batch.cost import CostModel
from bench.batch.partition import cheapest
from bench.batch.virtual import Batch

# (length, number): sorted by length, then by age.
Waiting = list[tuple[int, int]]
Rank = Callable[[Waiting, CostModel], float]


def oldest(group: Waiting, cost: CostModel) -> float:
    """The batch with the oldest request first: nobody is overtaken for long."""
    del cost
    return min(number for _, number in group)


def fullest(group: Waiting, cost: CostModel) -> float:
    """The batch with the most requests first."""
    del cost
    return -len(group)


def shortest_call(group: Waiting, cost: CostModel) -> float:
    """The batch that is done soonest first."""
    return cost.batch_ns(len(group), group[-1][0])


def cheapest_row(group: Waiting, cost: CostModel) -> float:
    """The batch that answers most requests in a second first; rare lengths wait for as long as others come."""
    return cost.batch_ns(len(group), group[-1][0]) / len(group)


@dataclass(frozen=True)
class Choice:
    """One policy: which batch of the partition goes first, and how dear a call seems to the partition.

    `call_weight` 0.7: calls count 2.8 ms where they take 4, so that batches are smaller and closer in length; what is
    left over is joined by requests that have not come yet.
    """

    rank: Rank
    call_weight: float = 1.0

    @property
    def name(self) -> str:
        """For reports."""
        return f"{self.rank.__name__} {self.call_weight:g}"


CHOICES = (
    *(Choice(rank, weight) for rank in (oldest, fullest) for weight in (1.0, 0.7, 0.5)),
    Choice(shortest_call),
    Choice(cheapest_row),
)


@dataclass
class BestKnown:
    """Whenever an instance is free: the cheapest partition of what waits, and the best ranked batch of it."""

    cost: CostModel
    choice: Choice
    instances: int = 1
    _waiting: Waiting = field(default_factory=list)
    _running: int = 0

    def __post_init__(self) -> None:
        self._seen = replace(self.cost, call_ns=round(self.cost.call_ns * self.choice.call_weight))

    def arrive(self, request: int, length: int, now_ns: int) -> None:
        del now_ns
        insort(self._waiting, (length, request))

    def take(self, now_ns: int) -> Batch | None:
        del now_ns
        if not self._waiting or self._running == self.instances:
            return None
        ends = cheapest([length for length, _ in self._waiting], self._seen)
        spans = pairwise([0, *ends])
        start, end = min(spans, key=lambda span: self.choice.rank(self._waiting[span[0] : span[1]], self.cost))
        group = self._waiting[start:end]
        del self._waiting[start:end]
        self._running += 1
        return Batch([number for _, number in group], group[-1][0])

    def ended(self, batch: Batch, now_ns: int) -> None:
        del batch, now_ns
        self._running -= 1

    def wake_at_ns(self, now_ns: int) -> None:
        del now_ns
