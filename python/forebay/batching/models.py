"""Which models are served, and how: what servers declare, held against the rules, told to the queue when it changes.

Owns what is known of each model. Must not know how servers are asked.
On failure: a model that does not fit its rules is not served; its requests are told why.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forebay.batching import failure
from forebay.batching.channel import Link
from forebay.batching.endpoints import Endpoint, EndpointTable
from forebay.batching.health import Lane
from forebay.batching.merge import Mismatch, ServedModel, served_model
from forebay.batching.rules import DEFAULT_RULES, ModelRules
from forebay.batching.seam import BatchQueue, LaneSettings
from forebay.batching.shape import ModelDeclared, declared_model

_log = logging.getLogger(__name__)

ModelKey = tuple[str, str]
"""Pool and model, as the pool knows it."""


@dataclass(frozen=True, slots=True)
class _Published:
    served: ServedModel
    servers: tuple[tuple[str, int], ...]
    unasked: tuple[str, ...]


class Models:
    """The models of all pools. Safe for threads."""

    def __init__(self, queue: BatchQueue, table: EndpointTable[Link]) -> None:
        self._queue = queue
        self._table = table
        self._lock = threading.RLock()
        self._rules: dict[ModelKey, ModelRules] = {}
        self._wanted: set[tuple[str, Lane]] = set()
        self._asked: set[tuple[str, Lane]] = set()
        self._published: dict[tuple[str, Lane], _Published] = {}
        self._mismatches: dict[tuple[str, Lane], str] = {}
        self.refused = 0

    def replace(self, rules: Mapping[ModelKey, ModelRules]) -> None:
        """Put other rules into force; the servers' pools are already the new ones."""
        with self._lock:
            self._rules = dict(rules)
            pools = self._table.pools()
            self._asked = {(pool, lane) for pool, lane in self._asked if pool in pools}
            self._wanted = self._asked | {(pool, (model, "")) for pool, model in rules if pool in pools}
            for key in (set(self._published) | set(self._mismatches)) - self._wanted:
                self._drop(*key)
        for name in pools:
            self.publish_pool(name)

    def rules(self, pool: str, model: str) -> ModelRules:
        """What was chosen for a model."""
        return self._rules.get((pool, model), DEFAULT_RULES)

    def wanted(self, endpoint: Endpoint[Link]) -> list[tuple[str, Lane]]:
        """Pools and models that a server is asked for."""
        with self._lock:
            wanted = sorted(self._wanted)
        return [(pool, lane) for pool, lane in wanted if endpoint in self._table.pool(pool)]

    def instances(self, endpoint: Endpoint[Link], pool: str, lane: Lane) -> int | None:
        """Batches that a server runs at once; None: not known."""
        declared = endpoint.declared.get(lane)
        return (self.rules(pool, lane[0]).instances or declared.instances) if declared else None

    def declare(self, endpoint: Endpoint[Link], lane: Lane, config: bytes) -> None:
        """Take what a server says about a model. `publish` follows.

        Raises: ValueError for an answer that cannot be read.
        """
        if endpoint.configs.get(lane) == config:
            return
        try:
            endpoint.declared[lane] = declared_model(config)
        except ValueError:
            self.undeclare(endpoint, lane)
            raise
        endpoint.configs[lane] = config

    def undeclare(self, endpoint: Endpoint[Link], lane: Lane) -> None:
        """A server does not have a model."""
        endpoint.declared.pop(lane, None)
        endpoint.configs.pop(lane, None)

    def want(self, pool: str, lane: Lane) -> None:
        """Keep an eye on a model that a client asked for."""
        with self._lock:
            self._asked.add((pool, lane))
            self._wanted.add((pool, lane))

    def publish_pool(self, pool: str) -> None:
        """Tell the queue about all models of a pool, where something changed."""
        with self._lock:
            for name, lane in sorted(self._wanted):
                if name == pool:
                    self.publish(pool, lane)

    def publish(self, pool: str, lane: Lane) -> None:
        """Tell the queue about one model, if something changed: its form, or how much of it is ready.

        Servers whose model takes other tensors than that of the first ready one get no batches of it until all agree.
        """
        with self._lock:
            if (pool, lane) not in self._wanted:
                return
            standings = self._table.standings(pool, lane)
            known = [(each, how) for each, how in standings if lane in each.declared]
            if not known:
                self._drop(pool, lane)
                return
            form = min(known, key=lambda pair: pair[1])[0].declared[lane]
            alike = [(each, how) for each, how in known if each.declared[lane].same_form(form)]
            self._table.note(lambda: _mark(lane, known, form))
            try:
                served = served_model(form, self.rules(pool, lane[0]))
            except Mismatch as mismatch:
                self._refuse(pool, lane, str(mismatch))
                return
            self._mismatches.pop((pool, lane), None)
            ready = [(each.address, self.instances(each, pool, lane) or 1) for each, how in alike if how.usable]
            # Without any ready server one is tried, so that requests fail at once and not at their deadline.
            ready = ready or [("", served.rules.instances or form.instances)]
            unasked = [each.address for each, how in standings if how.usable and lane not in each.declared]
            news = _Published(served, tuple(ready), tuple(unasked))
            if self._published.get((pool, lane)) != news:
                self._queue.set_model(pool, *lane, served.shape(), served.settings(news.servers, news.unasked))
                self._published[pool, lane] = news

    def refusal(self, pool: str, lane: Lane) -> failure.Failure | None:
        """Why a model is not served, as far as rules are the reason."""
        why = self._mismatches.get((pool, lane))
        return failure.not_served(pool, lane[0], why) if why else None

    def published(self, pool: str, lane: Lane) -> tuple[ServedModel, LaneSettings] | None:
        """What the queue was told: the model, and how its batches are made."""
        with self._lock:
            news = self._published.get((pool, lane))
        return (news.served, news.served.settings(news.servers, news.unasked)) if news else None

    def ready(self, pool: str, lane: Lane) -> tuple[tuple[str, int], ...]:
        """Give the servers that the queue was told of, each with the batches that it runs at once."""
        with self._lock:
            news = self._published.get((pool, lane))
        return news.servers if news else ()

    def mismatches(self) -> dict[ModelKey, str]:
        """Models that are not served, and why."""
        with self._lock:
            return {(pool, lane[0]): why for (pool, lane), why in self._mismatches.items()}

    def _refuse(self, pool: str, lane: Lane, why: str) -> None:
        if self._mismatches.get((pool, lane)) == why:
            return
        self._drop(pool, lane)
        self._mismatches[pool, lane] = why
        self.refused += 1
        _log.error("model `%s` of pool `%s` is not served: %s", lane[0], pool, why)

    def _drop(self, pool: str, lane: Lane) -> None:
        """Have the next request ask for the model anew."""
        self._mismatches.pop((pool, lane), None)
        if self._published.pop((pool, lane), None) is not None:
            self._queue.forget(pool, *lane)


def _mark(lane: Lane, known: Sequence[tuple[Endpoint[Link], object]], form: ModelDeclared) -> None:
    for each, _ in known:
        if each.declared[lane].same_form(form):
            each.health.unlike.discard(lane)
        else:
            each.health.unlike.add(lane)
