"""Asks one server again and again how it is: ready, which models, how they are made, what it has done.

Owns one thread, and when it asks. Must not know what follows from an answer.
On failure: what a server does not answer counts against it; the thread ends only with `stop`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import grpc

from forebay.batching import triton
from forebay.batching.channel import Link
from forebay.batching.endpoints import Endpoint, EndpointTable
from forebay.batching.models import Models
from forebay.batching.observed import Observed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """How often and how long.

    `every_s` 1.0: a server that came back is used within a second. `again_s` 0.1: a failed call has it asked at once,
    yet never more than ten times a second. `read_every_s` 5.0: a changed model is noticed within five seconds.
    `away_every_s` 0.25: one that is away is asked four times a second. `timeout_s` 1.0: one question.
    """

    every_s: float = 1.0
    away_every_s: float = 0.25
    again_s: float = 0.1
    read_every_s: float = 5.0
    timeout_s: float = 1.0


@dataclass(frozen=True, slots=True)
class WatchParts:
    """What a watcher tells, and whom: `changed` is called with the server when its standing may have changed."""

    table: EndpointTable[Link]
    models: Models
    observed: Observed
    clock_ns: Callable[[], int]
    changed: Callable[[Endpoint[Link]], None]


class Watcher:
    """Watches one server in a thread of its own.

    Cost: a few small calls a second; asleep between them.
    """

    def __init__(self, endpoint: Endpoint[Link], parts: WatchParts, settings: WatchSettings) -> None:
        self.endpoint = endpoint
        self._parts = parts
        self._settings = settings
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._read_ns = 0
        self._thread = threading.Thread(target=self._run, name="forebay-watch-server", daemon=True)

    def start(self) -> None:
        """Start asking."""
        self._thread.start()

    def ask_now(self) -> None:
        """Have the server asked at once, its models too: a call to it failed."""
        self._read_ns = 0
        self._wake.set()

    def stop(self) -> None:
        """Let it end; `join` waits for that."""
        self._stop.set()
        self._wake.set()

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait until it ended, which takes no longer than one question."""
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self._look()
            except Exception:  # noqa: BLE001 - a server's odd answer must not leave it unwatched
                if not self._stop.is_set():
                    _log.exception("server `%s` could not be watched", self.endpoint.address)
            self._stop.wait(self._settings.again_s)
            every_s = self._settings.every_s if self.endpoint.health.ready else self._settings.away_every_s
            self._wake.wait(every_s - self._settings.again_s)

    def _look(self) -> None:
        parts, endpoint, health = self._parts, self.endpoint, self.endpoint.health
        asked_ns = parts.clock_ns()
        try:
            ready = triton.server_ready(endpoint.link, self._settings.timeout_s)
        except grpc.RpcError as error:
            late = _code(error) is grpc.StatusCode.DEADLINE_EXCEEDED
            parts.table.note(health.was_late if late else health.said_away)
        else:
            # Models first, so that nothing is sent by what was true before the server went away.
            if ready:
                self._look_at_models(asked_ns)
            parts.table.note(partial(health.said_ready, asked_ns) if ready else health.said_away)
        parts.changed(endpoint)

    def _look_at_models(self, asked_ns: int) -> None:
        endpoint, models = self.endpoint, self._parts.models
        due = asked_ns >= self._read_ns or not endpoint.health.ready
        if due:
            self._read_ns = asked_ns + int(self._settings.read_every_s * 1e9)
        try:
            for pool, lane in models.wanted(endpoint):
                here = triton.model_ready(endpoint.link, lane, self._settings.timeout_s)
                note = endpoint.health.model_here if here else endpoint.health.model_away
                self._parts.table.note(partial(note, lane))
                if due or (here and lane not in endpoint.declared):
                    self._read(pool, lane)
            if due:
                self._count(asked_ns)
        except grpc.RpcError as error:
            self._read_ns = 0
            _log.debug("server `%s` did not say how its models are (%s)", endpoint.address, _code(error).name)

    def _read(self, pool: str, lane: tuple[str, str]) -> None:
        endpoint, models = self.endpoint, self._parts.models
        try:
            models.declare(endpoint, lane, triton.model_config(endpoint.link, lane, self._settings.timeout_s))
            # Before it counts as ready, so that it is known if its model takes other tensors than that of the others.
            models.publish(pool, lane)
        except grpc.RpcError as error:
            if _code(error) is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            # UNAVAILABLE may pass, and the model's readiness says so too; anything else is a model that is not there.
            if _code(error) is not grpc.StatusCode.UNAVAILABLE:
                models.undeclare(endpoint, lane)
        except ValueError as error:
            _log.error("model `%s` of pool `%s` is not served: %s", lane[0], pool, error)

    def _count(self, now_ns: int) -> None:
        counts = triton.statistics(self.endpoint.link, self._settings.timeout_s)
        for model in self._parts.observed.take(self.endpoint.address, counts):
            _log.warning("model `%s` only fails on server `%s`; it rests there", model, self.endpoint.address)
            self._parts.table.note(partial(self.endpoint.health.failing, model, now_ns))


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    return cast("grpc.Call", error).code()
