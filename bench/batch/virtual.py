"""Owns the virtual run: requests arrive, a policy makes batches, instances take what the cost model says.

Must not know how a policy chooses, or any time but the cost model's.
On failure: a policy that never sends what waits raises, since the run would not end.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bench.batch.cost import CostModel
from bench.batch.lengths import Lengths


@dataclass(frozen=True)
class Batch:
    """Requests that run together, by their numbers. Each has one row."""

    requests: Sequence[int]
    length: int


class Policy(Protocol):
    """Makes batches; `now_ns` never goes back."""

    def arrive(self, request: int, length: int, now_ns: int) -> None:
        """A request came."""

    def take(self, now_ns: int) -> Batch | None:
        """The batch that leaves now, if one does; asked again until none does."""

    def ended(self, batch: Batch, now_ns: int) -> None:
        """A batch that was taken has been run."""

    def wake_at_ns(self, now_ns: int) -> int | None:
        """When `take` may have something though nothing arrived or ended."""


class Arrivals(Protocol):
    """Who sends when."""

    def first(self) -> Iterator[tuple[int, int]]:
        """The requests whose time is known from the start: (time, request), rising."""

    def answered(self, request: int, now_ns: int) -> tuple[int, int] | None:
        """The request that this answer lets go, if any: (time, request)."""


@dataclass(frozen=True)
class OpenLoop:
    """Requests come when they come, whatever has been answered."""

    due_ns: npt.NDArray[np.int64]

    def first(self) -> Iterator[tuple[int, int]]:
        return zip(self.due_ns.tolist(), range(len(self.due_ns)), strict=True)

    def answered(self, request: int, now_ns: int) -> None:
        del request, now_ns


@dataclass
class ClosedLoop:
    """Each of `clients` sends its next request when it has its answer; the requests are dealt out in their order.

    `back_ns` 1,000,000: from the end of a batch to the arrival of what its clients send next it takes 1 ms.
    """

    clients: int
    requests: int
    back_ns: int = 0
    _next: int = 0

    def first(self) -> Iterator[tuple[int, int]]:
        self._next = min(self.clients, self.requests)
        return ((0, request) for request in range(self._next))

    def answered(self, request: int, now_ns: int) -> tuple[int, int] | None:
        del request
        if self._next == self.requests:
            return None
        self._next += 1
        return now_ns + self.back_ns, self._next - 1


@dataclass
class Course:
    """What happened: for each request when it came and was answered, and the sums over the batches."""

    came_ns: npt.NDArray[np.int64]
    answered_ns: npt.NDArray[np.int64]
    batches: int = 0
    padded_tokens: int = 0
    # Most requests that waited or ran at once.
    most_open: int = 0

    def latencies_ns(self) -> npt.NDArray[np.int64]:
        """From coming to the answer."""
        return self.answered_ns - self.came_ns

    def answered_by(self, end_ns: int, begin_ns: int = 0) -> int:
        """How many were answered in a window of time."""
        return int(((self.answered_ns > begin_ns) & (self.answered_ns <= end_ns)).sum())


@dataclass
class _Site:
    """The instances, each with the time when it is free."""

    free_ns: list[int]
    cost: CostModel
    # (end, number, batch); the number breaks ties.
    running: list[tuple[int, int, Batch]] = field(default_factory=list)

    def start(self, batch: Batch, number: int, now_ns: int) -> None:
        begin_ns = max(heapq.heappop(self.free_ns), now_ns)
        end_ns = begin_ns + self.cost.batch_ns(len(batch.requests), batch.length)
        heapq.heappush(self.free_ns, end_ns)
        heapq.heappush(self.running, (end_ns, number, batch))


def run(policy: Policy, lengths: Lengths, arrivals: Arrivals, cost: CostModel, instances: int = 1) -> Course:
    """Runs every request to its answer.

    Shape: `lengths` has one for each request that `arrivals` names.
    Raises: RuntimeError when requests wait and the policy neither sends nor wakes.
    """
    known = lengths.tolist()
    course = Course(np.zeros(len(known), np.int64), np.zeros(len(known), np.int64))
    site = _Site([0] * instances, cost)
    coming = list(arrivals.first())
    heapq.heapify(coming)
    now_ns = open_requests = 0
    while coming or site.running or open_requests:
        now_ns = _next_event(now_ns, coming, site, policy, open_requests)
        while site.running and site.running[0][0] <= now_ns:
            _, _, batch = heapq.heappop(site.running)
            policy.ended(batch, now_ns)
            open_requests -= len(batch.requests)
            for request in batch.requests:
                course.answered_ns[request] = now_ns
                if (follows := arrivals.answered(request, now_ns)) is not None:
                    heapq.heappush(coming, follows)
        while coming and coming[0][0] <= now_ns:
            due_ns, request = heapq.heappop(coming)
            course.came_ns[request] = due_ns
            policy.arrive(request, known[request], now_ns)
            open_requests += 1
        course.most_open = max(course.most_open, open_requests)
        while (leaving := policy.take(now_ns)) is not None:
            site.start(leaving, course.batches, now_ns)
            course.batches += 1
            course.padded_tokens += len(leaving.requests) * leaving.length
    return course


def _next_event(now_ns: int, coming: list[tuple[int, int]], site: _Site, policy: Policy, waiting: int) -> int:
    times = [queue[0][0] for queue in (coming, site.running) if queue]
    if (wake_ns := policy.wake_at_ns(now_ns)) is not None:
        # A policy that was just asked and sent nothing cannot mean this moment.
        times.append(max(wake_ns, now_ns + 1))
    if not times:
        raise RuntimeError(f"{waiting} requests wait and the policy sends none")
    return max(now_ns, min(times))
