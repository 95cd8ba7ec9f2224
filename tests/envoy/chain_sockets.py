"""Two small real servers that a gateway must pass through untouched: a WebSocket echo and a bidirectional gRPC echo.

Owns: their sockets and thread. Must not know: what stands in front of them.
On failure: a broken handshake or frame closes its connection.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE = 0x1, 0x8


@dataclass
class EchoServers:
    """Where they listen, and the heads and metadata that reached them."""

    websocket_port: int = 0
    grpc_port: int = 0
    heads: list[dict[str, str]] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)


def accept_key(key: str) -> str:
    """The answer to a handshake's key (RFC 6455, section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


def frame(opcode: int, data: bytes, mask: bytes = b"") -> bytes:
    """One whole frame; clients mask theirs with four bytes (RFC 6455, section 5.2)."""
    flag = 0x80 if mask else 0
    head = bytes([0x80 | opcode])
    head += bytes([flag | len(data)]) if len(data) < 126 else bytes([flag | 126]) + struct.pack(">H", len(data))
    return head + mask + _masked(data, mask)


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The next whole frame: opcode and data."""
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack(">H", await reader.readexactly(2))
    mask = await reader.readexactly(4) if second & 0x80 else b""
    return first & 0x0F, _masked(await reader.readexactly(length), mask)


def _masked(data: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)) if mask else data


@contextmanager
def echo_servers() -> Iterator[EchoServers]:
    """Both servers, in one thread, inside the block."""
    servers = EchoServers()
    ready, box = threading.Event(), []

    async def serve() -> None:
        stop = asyncio.Event()
        box.append((asyncio.get_running_loop(), stop))
        sockets = await asyncio.start_server(lambda r, w: _websocket(servers, r, w), "127.0.0.1", 0)
        calls = grpc.aio.server()
        calls.add_generic_rpc_handlers((_Echo(servers),))
        servers.websocket_port = int(sockets.sockets[0].getsockname()[1])
        servers.grpc_port = calls.add_insecure_port("127.0.0.1:0")
        await calls.start()
        ready.set()
        await stop.wait()
        sockets.close()
        await calls.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="echo", daemon=True)
    thread.start()
    assert ready.wait(10)
    loop, stop = box[0]
    try:
        yield servers
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _websocket(servers: EchoServers, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        head = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
        servers.heads.append({":line": lines[0], **head})
        accept = accept_key(head["sec-websocket-key"])
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-accept: " + accept.encode() + b"\r\n\r\n"
        )
        while True:
            opcode, data = await read_frame(reader)
            writer.write(frame(opcode, data))
            await writer.drain()
            if opcode == CLOSE:
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


class _Echo(grpc.GenericRpcHandler):
    """`/lab.Echo/Talk`: every message comes back at once, until the client is done."""

    def __init__(self, servers: EchoServers) -> None:
        self._servers = servers

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != "/lab.Echo/Talk":
            return None
        self._servers.metadata.append(dict(details.invocation_metadata))
        return grpc.stream_stream_rpc_method_handler(self._talk)

    async def _talk(self, messages: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            yield b"echo " + message
