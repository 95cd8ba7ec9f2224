"""A TCP forwarder that a test cuts, holds and lets go, so that one stream of Envoy's fails and no other.

Owns: a listening socket, its connections, and the change of Envoy's file that leads the access log through it.
Must not know: what is forwarded. On failure: a connection that breaks on one side is ended on the other.
"""

from __future__ import annotations

import asyncio
import copy
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

LOG_CLUSTER = "forebay-log"


class Forwarder:
    """Forwards loopback connections to one port. `hold` keeps what Envoy sends, `cut` breaks and refuses it."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._flowing: asyncio.Event
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.connections = 0

    def run(self, ready: threading.Event) -> None:
        """Serve until `end`; in a thread of its own."""
        asyncio.set_event_loop(self._loop)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._loop.run_until_complete(self._listen())
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._cut())
        self._loop.close()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def cut(self) -> None:
        """End what is open, and refuse what comes."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def restore(self) -> None:
        """Take connections again."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def hold(self) -> None:
        """Read nothing more: what Envoy sends waits, and is not lost."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def release(self) -> None:
        """Let everything go on."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    async def _listen(self) -> None:
        listening = socket.socket()
        # Small, so that what is held up soon shows on Envoy's side.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        self._server = await asyncio.start_server(self._accept, sock=listening)

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._flowing.set()
        tasks = list(self._tasks)
        for writer in list(self._open):
            writer.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._target)
            self._open.add(onward)
            back = asyncio.create_task(self._pass(onward_reader, writer))
            try:
                await self._pass(reader, onward)
            finally:
                back.cancel()
                with suppress(asyncio.CancelledError):
                    await back
                onward.transport.abort()
                self._open.discard(onward)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._open.discard(writer)
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                await self._flowing.wait()
                data = await reader.read(65536)
                await self._flowing.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()


@contextmanager
def forwarding(port: int, target: int) -> Iterator[Forwarder]:
    """A forwarder inside the block."""
    forwarder, ready = Forwarder(port, target), threading.Event()
    thread = threading.Thread(target=forwarder.run, args=(ready,), name="forwarder")
    thread.start()
    assert ready.wait(10)
    try:
        yield forwarder
    finally:
        forwarder.end()
        thread.join()


def log_through(folder: Path, port: int, buffer_bytes: int | None = None) -> int:
    """Lead Envoy's access log, and nothing else, over `port`; gives the port that it led to."""
    file = folder / "envoy.yaml"
    config = yaml.safe_load(file.read_text())
    resources = config["static_resources"]
    cluster = copy.deepcopy(next(c for c in resources["clusters"] if c["name"] == "forebay"))
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = LOG_CLUSTER
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    address = endpoint["address"]["socket_address"]
    target, address["port_value"] = int(address["port_value"]), port
    resources["clusters"].append(cluster)
    manager = resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (log,) = (entry for entry in manager["access_log"] if entry["name"] == "forebay.account")
    common = log["typed_config"]["common_config"]
    common["grpc_service"]["envoy_grpc"]["cluster_name"] = LOG_CLUSTER
    if buffer_bytes is not None:
        common["buffer_size_bytes"] = buffer_bytes
        cluster["per_connection_buffer_limit_bytes"] = buffer_bytes
        send_buffer = {"level": socket.SOL_SOCKET, "name": socket.SO_SNDBUF, "int_value": buffer_bytes}
        cluster["upstream_bind_config"] = {"socket_options": [send_buffer]}
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return target
