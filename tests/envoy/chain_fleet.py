"""The simulated fleet, refined so that a test decides when an answer comes and whether.

Owns: gates and scripted failures, both named by a word in the request. Must not know: the gateway.
On failure: as the fleet; a gate that nobody opens ends with its fleet.

A body that holds the word of a gate waits there: before the answer, or after its first part where it is streamed.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

from forebay.lab.fleet import Fleet
from forebay.lab.fleet_spec import FleetSpec, Latency, LogNormal
from forebay.lab.http1 import Reply, Request
from forebay.lab.openai_shapes import Refusal

__all__ = ["AT_ONCE", "Gate", "ScriptedFleet", "scripted"]

AT_ONCE = Latency(output_tokens=LogNormal(24.0), tokens_per_event=2, time_scale=0.0)


class Gate:
    """Requests that hold its word wait here until it is opened. Safe for threads."""

    def __init__(self, word: str) -> None:
        self.word = word
        self._lock = threading.Lock()
        self._is_open = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.arrived = 0

    def open(self) -> None:
        """Let everybody through, now and later."""
        with self._lock:
            self._is_open = True
            for loop, event in self._waiting:
                loop.call_soon_threadsafe(event.set)
            self._waiting.clear()

    async def passed(self) -> None:
        """Wait until it is open."""
        event = asyncio.Event()
        with self._lock:
            self.arrived += 1
            if self._is_open:
                return
            self._waiting.append((asyncio.get_running_loop(), event))
        await event.wait()


class _HeldReply:
    """A reply whose second part waits at a gate."""

    def __init__(self, reply: Reply, gate: Gate) -> None:
        self._reply = reply
        self._gate = gate
        self._parts = 0

    async def part(self, data: bytes) -> None:
        self._parts += 1
        if self._parts == 2:
            await self._gate.passed()
        await self._reply.part(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reply, name)


class ScriptedFleet(Fleet):
    """A fleet with gates and failures. A path may stand behind a prefix, so that several routes lead to one fleet."""

    def __init__(self, spec: FleetSpec) -> None:
        super().__init__(spec)
        self.bodies: list[bytes] = []
        self._gates: list[Gate] = []
        self._failing: dict[str, int] = {}

    def gate(self, word: str) -> Gate:
        """A closed gate for requests that hold `word`."""
        gate = Gate(word)
        self._gates.append(gate)
        return gate

    def fail_next(self, word: str, times: int) -> None:
        """The next `times` requests that hold `word` are answered with 500."""
        self._failing[word] = times

    def seen(self, word: str) -> int:
        """How many requests that hold `word` arrived."""
        return sum(word.encode() in body for body in self.bodies)

    async def handle(self, request: Request, reply: Reply) -> None:
        before, found, rest = request.path.partition("/v1/")
        await super().handle(replace(request, path=found + rest) if before and found else request, reply)

    async def _model(self, request: Request, reply: Reply) -> None:
        self.bodies.append(request.body)
        gate = next((gate for gate in self._gates if gate.word.encode() in request.body), None)
        streamed = b'"stream":true' in request.body.replace(b" ", b"")
        if gate is not None and not streamed:
            await gate.passed()
        for word, times in self._failing.items():
            if times and word.encode() in request.body:
                self._failing[word] = times - 1
                raise Refusal(500, "internal_error", "the model failed, as the test asked for")
        held: Any = _HeldReply(reply, gate) if gate is not None and streamed else reply
        await super()._model(request, held)


def scripted(name: str, *models: str, credential: str) -> FleetSpec:
    """The description of a scripted fleet: no delays, short answers."""
    return FleetSpec(name=name, models=models, latency=AT_ONCE, credential=credential, headers_kept=10_000)
