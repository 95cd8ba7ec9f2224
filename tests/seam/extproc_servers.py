"""Both `ext_proc` servers over a fresh engine each: the Rust one that ships, and the reference that it is held against.

Owns: their start and their end. Must not know: what is sent to them.
On failure: whatever was started is stopped.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forebay._core import Engine, Gateway
from forebay.gateway import StageRunner
from forebay.gateway.reference import ReferenceServer

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 20.0
MAX_BODY_BYTES = 1 << 20
SECRET = bytes(32)


@dataclass(frozen=True)
class Target:
    """A server under test, and the engine behind it."""

    engine: Engine
    address: str


@contextmanager
def rust_server(policy: bytes) -> Iterator[Target]:
    engine = Engine(policy, secret=SECRET, owner="test")
    gateway = Gateway(engine, "127.0.0.1:0", "127.0.0.1:0", 2, MAX_BODY_BYTES)
    stages = StageRunner(gateway)
    stages.start()
    try:
        yield Target(engine, gateway.ext_proc_address)
    finally:
        gateway.shutdown(0)
        stages.join(DEADLINE_S)


@contextmanager
def reference_server(policy: bytes) -> Iterator[Target]:
    engine = Engine(policy, secret=SECRET, owner="test")
    ready, stop = threading.Event(), threading.Event()
    address: list[str] = []

    async def serve() -> None:
        server = ReferenceServer(engine)
        address.append(await server.start())
        ready.set()
        await asyncio.get_running_loop().run_in_executor(None, stop.wait)
        await server.stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="reference")
    thread.start()
    try:
        assert ready.wait(DEADLINE_S)
        yield Target(engine, address[0])
    finally:
        stop.set()
        thread.join(DEADLINE_S)


SERVERS = {"rust": rust_server, "reference": reference_server}
