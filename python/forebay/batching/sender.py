"""The servers and models behind a batch queue, which sends to them.

Owns the life of these parts, and what they are replaced by. Must not know tensors or policies.
On failure: closed; servers that cannot be used change nothing, and what is in flight at the end is told so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from forebay.batching.channel import ChannelSettings, Link, PoolServers, Server
from forebay.batching.endpoints import Endpoint, EndpointTable
from forebay.batching.learner import Learner, LearnerParts
from forebay.batching.models import ModelKey, Models
from forebay.batching.observed import Observed
from forebay.batching.rules import ModelRules
from forebay.batching.seam import BatchQueue
from forebay.batching.stats import SenderStats
from forebay.batching.watcher import Watcher, WatchParts, WatchSettings

_log = logging.getLogger(__name__)

_UNAVAILABLE = 14

_Told = tuple[str, str, bytes | None, bool]


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served: the servers of each pool, and what was chosen for the models there."""

    pools: Mapping[str, PoolServers]
    rules: Mapping[ModelKey, ModelRules] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """How servers are reached and how often they are looked at."""

    channel: ChannelSettings = field(default_factory=ChannelSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)


class Sender:
    """Start it, change what it serves at any time, stop it.

    Cost: a thread for each server, asleep but for a few small calls a second. No batch passes through Python.
    """

    def __init__(self, queue: BatchQueue, serving: Serving, settings: SenderSettings | None = None) -> None:
        self.stats = SenderStats()
        self.observed = Observed()
        self._queue = queue
        self._settings = settings or SenderSettings()
        self._serving = serving
        self._table: EndpointTable[Link] = EndpointTable(time.monotonic_ns, Link.close)
        self.models = Models(queue, self._table)
        self._endpoints: dict[Server, Endpoint[Link]] = {}
        self._watchers: dict[Endpoint[Link], Watcher] = {}
        self._ended: list[Watcher] = []
        self._announced: dict[str, tuple[_Told, ...]] = {}
        self._change = threading.Lock()
        self._learner = Learner(LearnerParts(queue, self._table, self.models, self.stats, self._doubt))
        self._state = "new"

    def start(self) -> None:
        """Start all threads.

        Raises: OSError when an authority's file cannot be read; nothing runs then.
        """
        self._state = "running"
        try:
            self.serve(self._serving)
        except OSError:
            self.stop(0)
            raise
        self._learner.start()

    def serve(self, serving: Serving) -> None:
        """Serve something else from now on. What is in flight ends where it is.

        Raises: OSError when an authority's file cannot be read; what is served is then what was.
        """
        if self._state != "running":
            self._serving = serving
            return
        with self._change:
            wanted = {Server(address, pool.tls) for pool in serving.pools.values() for address in pool.addresses}
            opened = self._opened(wanted)
            new = [each for server, each in opened.items() if server not in self._endpoints]
            for server in self._endpoints.keys() - wanted:
                watcher = self._watchers.pop(self._endpoints[server])
                watcher.stop()
                self._ended.append(watcher)
            self._endpoints, self._serving = opened, serving
            self._table.replace(
                {
                    name: tuple(opened[Server(address, pool.tls)] for address in pool.addresses)
                    for name, pool in serving.pools.items()
                }
            )
            self.observed.keep({server.address for server in wanted})
            self._ended = [watcher for watcher in self._ended if watcher.alive]
            for each in new:
                self._watchers[each] = self._watcher(each)
        self.models.replace(serving.rules)
        self._announce()
        for each in new:
            self._watchers[each].start()

    def stop(self, drain_ms: int = 10_000) -> None:
        """Close the queue, wait at most `drain_ms` for what is in flight, fail the rest. Safe to call twice."""
        self._queue.close()
        if self._state != "running":
            return
        self._state = "stopped"
        self._queue.drain(drain_ms)
        watchers = [*self._watchers.values(), *self._ended]
        for watcher in watchers:
            watcher.stop()
        for each in self._table.all():
            each.link.close()
        self._learner.join()
        for watcher in watchers:
            watcher.join()

    @property
    def serving(self) -> Serving:
        """What is served now."""
        return self._serving

    def endpoints(self) -> dict[str, tuple[Endpoint[Link], ...]]:
        """The servers of each pool, as they are now."""
        return self._table.pools()

    def _opened(self, wanted: set[Server]) -> dict[Server, Endpoint[Link]]:
        """Give all servers, those that are new with links of their own, or none."""
        opened = {server: each for server, each in self._endpoints.items() if server in wanted}
        new = sorted((server for server in wanted if server not in opened), key=lambda server: server.address)
        links: list[Link] = []
        try:
            for server in new:
                links.append(Link(server, self._settings.channel))  # noqa: PERF401 - those before a failure are closed
        except OSError:
            for link in links:
                link.close()
            raise
        return opened | {link.server: Endpoint(link.server.address, link) for link in links}

    def _watcher(self, endpoint: Endpoint[Link]) -> Watcher:
        parts = WatchParts(self._table, self.models, self.observed, time.monotonic_ns, self._changed)
        return Watcher(endpoint, parts, self._settings.watch)

    def _doubt(self, pool: str, address: str, grpc_code: int) -> None:
        """Have a server looked at now; one that was not reached counts no more."""
        for endpoint in self._table.pool(pool):
            if endpoint.address != address:
                continue
            if grpc_code == _UNAVAILABLE:
                self._table.note(partial(endpoint.health.failed, time.monotonic_ns()))
                self._changed(endpoint)
            watcher = self._watchers.get(endpoint)
            if watcher is not None:
                watcher.ask_now()

    def _changed(self, endpoint: Endpoint[Link]) -> None:
        """Let the queue know what follows for the pools of a server."""
        for name, group in self._table.pools().items():
            if endpoint in group:
                self.models.publish_pool(name)
        self._announce()

    def _announce(self) -> None:
        """Tell the queue which servers there are, where that changed."""
        with self._change:
            pools = self._table.pools()
            for name in self._announced.keys() - pools.keys():
                self._queue.set_endpoints(name, [])
                del self._announced[name]
            for name, group in pools.items():
                now = tuple(_told(each) for each in group)
                if self._announced.get(name) == now:
                    continue
                self._announced[name] = now
                try:
                    self._queue.set_endpoints(name, list(now))
                except ValueError as error:
                    # The pool keeps the servers that it had, and an unreadable one is never ready.
                    _log.error("%s", error)


def _told(endpoint: Endpoint[Link]) -> _Told:
    link = endpoint.link
    return (endpoint.address, link.server.name, link.authorities, endpoint.health.ready is not False)
