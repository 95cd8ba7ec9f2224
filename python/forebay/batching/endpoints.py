"""The servers of all pools, and how good a choice each is.

Owns which servers there are, and their health. Must not know gRPC; `now_ns` is an argument.
On failure: a server that is away is passed over; when all are, one is tried anyway, and says why.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from forebay.batching.health import Health, Lane, Standing
from forebay.batching.shape import ModelDeclared

LinkT = TypeVar("LinkT")


@dataclass(slots=True, eq=False)
class Endpoint(Generic[LinkT]):
    """One server: `link` is how it is asked; `declared` is what it says about models, as read from `configs`."""

    address: str
    link: LinkT
    health: Health = field(default_factory=Health)
    declared: dict[Lane, ModelDeclared] = field(default_factory=dict)
    configs: dict[Lane, bytes] = field(default_factory=dict)


class EndpointTable(Generic[LinkT]):
    """The servers of all pools, for many threads.

    Cost: each method holds one lock for O(servers of the pool).
    """

    def __init__(self, clock_ns: Callable[[], int], closed: Callable[[LinkT], None]) -> None:
        self._clock_ns = clock_ns
        self._closed = closed
        self._change = threading.Lock()
        self._pools: dict[str, tuple[Endpoint[LinkT], ...]] = {}

    def replace(self, pools: dict[str, tuple[Endpoint[LinkT], ...]]) -> None:
        """Put other servers into the pools' place. The links of those that go are closed."""
        with self._change:
            kept = {id(each) for group in pools.values() for each in group}
            gone = [each for each in _distinct(self._pools.values()) if id(each) not in kept]
            self._pools = pools
        for each in gone:
            self._closed(each.link)

    def pool(self, name: str) -> tuple[Endpoint[LinkT], ...]:
        """The servers of a pool; none for one that is not known."""
        return self._pools.get(name, ())

    def pools(self) -> dict[str, tuple[Endpoint[LinkT], ...]]:
        """All pools."""
        return dict(self._pools)

    def standings(self, pool: str, lane: Lane) -> list[tuple[Endpoint[LinkT], Standing]]:
        """How good a choice each server of a pool is for a model now."""
        with self._change:
            now_ns = self._clock_ns()
            return [(each, each.health.standing(lane, now_ns)) for each in self.pool(pool)]

    def best(self, pool: str, lane: Lane) -> Endpoint[LinkT] | None:
        """Give the server to ask about a model; None: the pool has none."""
        known = self.standings(pool, lane)
        return min(known, key=lambda pair: pair[1])[0] if known else None

    def note(self, take: Callable[[], object]) -> None:
        """Change a server's health under the lock."""
        with self._change:
            take()

    def all(self) -> list[Endpoint[LinkT]]:
        """All servers, each once."""
        return _distinct(self._pools.values())


def _distinct(groups: Iterable[tuple[Endpoint[LinkT], ...]]) -> list[Endpoint[LinkT]]:
    return list({id(each): each for group in groups for each in group}.values())
