"""Which server of a pool takes the next batch.

Owns what each server has outstanding and when it last failed. Must not know gRPC; `now_ns` is an argument.
On failure: a server that was not reachable rests for a while; when all rest, the least loaded is tried anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

# Long enough that a dead server does not attract all batches by being idle, short enough to notice its return.
REST_NS = 1_000_000_000

Lane = tuple[str, str]


@dataclass(slots=True)
class Endpoint:
    """One server: `address` is `host:port`; `rows` and `batches` are what it has not answered yet."""

    address: str
    rows: int = 0
    batches: Counter[Lane] = field(default_factory=Counter)
    rests_until_ns: int = 0

    @contextmanager
    def holding(self, lane: Lane, rows: int) -> Iterator[None]:
        """Count a batch as outstanding inside the block."""
        self.rows += rows
        self.batches[lane] += 1
        try:
            yield
        finally:
            self.rows -= rows
            self.batches[lane] -= 1
            if not self.batches[lane]:
                del self.batches[lane]

    def rest(self, now_ns: int) -> None:
        """Remember that the server was not reachable."""
        self.rests_until_ns = now_ns + REST_NS


class EndpointGroup:
    """The servers of one pool."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = tuple(endpoints)

    def pick(self, lane: Lane, max_batches: int | None, now_ns: int) -> Endpoint | None:
        """Pick the server with the fewest outstanding rows among those that answer and have room.

        The queue gives out no more batches than all servers have room for, so a server without room is picked only
        for a batch that left just before servers were taken away.

        Shape: `lane` is model and version; `max_batches` bounds its batches on one server, None: no bound.
        Returns: None when there is no server.
        Cost: O(servers).
        """

        def load(each: Endpoint) -> tuple[bool, bool, int]:
            full = max_batches is not None and each.batches[lane] >= max_batches
            return (each.rests_until_ns > now_ns, full, each.rows)

        return min(self.endpoints, key=load, default=None)
