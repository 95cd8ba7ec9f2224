"""A small HTTP/1.1 server over asyncio and h11: connections, bodies, chunked answers, resets.

Owns sockets and framing. Must not know what a chat completion is.
On a malformed request: 400 and close. On a handler's exception: 500, or a reset once the answer has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import h11

MAX_BODY_BYTES = 64 * 1024 * 1024
LISTEN_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Request:
    """One whole request: head and body are in memory before a handler sees it."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, by lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


class ClientGone(Exception):
    """The client closed its connection before the answer was complete."""


class Reply:
    """What a handler writes its answer to, once, either whole or in parts."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.started = False

    async def send_json(self, status: int, value: object, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Sends a whole JSON answer."""
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        await self.send(status, "application/json", body, headers)

    async def send(
        self, status: int, content_type: str, body: bytes, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """Sends a whole answer with its length."""
        self._head(status, (("content-type", content_type), ("content-length", str(len(body))), *headers), body)
        await self._connection.drained()

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        """Begins an answer in parts; it is chunked unless a content-length is among the headers."""
        self._head(status, headers, None)
        await self._connection.drained()

    async def part(self, data: bytes) -> None:
        """Sends one part and waits while the client reads slower than we write."""
        self._connection.write(h11.Data(data=data))
        await self._connection.drained()

    async def end(self) -> None:
        """Ends an answer in parts."""
        self._connection.write(h11.EndOfMessage())
        await self._connection.drained()

    def reset(self) -> None:
        """Drops the connection with a TCP reset, as a crashed upstream does."""
        self._connection.reset()

    def _head(self, status: int, headers: tuple[tuple[str, str], ...], body: bytes | None) -> None:
        if self.started:
            raise RuntimeError("an answer was already begun")
        self.started = True
        events: list[h11.Event] = [h11.Response(status_code=status, headers=list(headers))]
        if body is not None:
            events += [h11.Data(data=body), h11.EndOfMessage()]
        self._connection.write(*events)


Handler = Callable[[Request, Reply], Awaitable[None]]


class Connection(asyncio.Protocol):
    """One client connection: requests in turn, one handler task at a time."""

    def __init__(self, server: Http1Server) -> None:
        self._server = server
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=256 * 1024)
        self._transport: asyncio.Transport | None = None
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._h11.receive_data(data)
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.connections.discard(self)
        self.resume_writing()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # --- what Reply and the server use

    def write(self, *events: h11.Event) -> None:
        """Frames and writes events in one system call."""
        data = b"".join(self._h11.send(event) or b"" for event in events)
        if self._transport is None or self._transport.is_closing():
            raise ClientGone
        self._transport.write(data)

    async def drained(self) -> None:
        """Waits while the transport's buffer is above its mark."""
        if self._writable is not None:
            await self._writable

    def reset(self) -> None:
        """Closes with a reset: linger 0 turns the close into RST."""
        if self._transport is None:
            return
        raw = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def close(self) -> None:
        """Cancels the handler and closes the socket."""
        task = self._task
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._transport is not None:
            self._transport.close()

    # --- requests

    def _pump(self) -> None:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint, str(error))
                return
            if event is h11.NEED_DATA:
                if self._h11.they_are_waiting_for_100_continue:
                    self.write(h11.InformationalResponse(status_code=100, headers=[]))
                return
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return
            if isinstance(event, h11.Request):
                self._head, self._body = event, bytearray()
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > MAX_BODY_BYTES:
                    self._refuse(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
                    return
            elif isinstance(event, h11.EndOfMessage):
                self._task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        reply = Reply(self)
        try:
            await self._server.handler(self._take_request(), reply)
        except ClientGone:
            return
        except Exception:
            self._server.errors.append(traceback.format_exc())
            if reply.started or self._transport is None:
                self.reset()
            else:
                await reply.send_json(500, {"error": {"message": "the simulated fleet failed", "type": "lab"}})
        finally:
            self._task = None
        if self._transport is None:
            return
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self._pump()
        else:
            self._transport.close()

    def _take_request(self) -> Request:
        head = self._head
        assert head is not None
        path, _, query = head.target.decode("latin-1").partition("?")
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
        return Request(head.method.decode("latin-1"), path, query, headers, bytes(self._body))

    def _refuse(self, status: int, reason: str) -> None:
        if self._transport is None:
            return
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": {"message": reason, "type": "invalid_request_error"}}).encode()
            head = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
            self.write(h11.Response(status_code=status, headers=head), h11.Data(data=body), h11.EndOfMessage())
        self._transport.close()


class Http1Server:
    """A listening server.

    `errors` keeps the tracebacks of handlers that failed, so that a test can assert there were none.
    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.connections: set[Connection] = set()
        self.errors: list[str] = []
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The bound port."""
        if self._server is None:
            raise RuntimeError("the server is not listening")
        address: Any = self._server.sockets[0].getsockname()
        return int(address[1])

    @contextlib.asynccontextmanager
    async def listening(self, host: str, port: int) -> AsyncIterator[Http1Server]:
        """Listens inside the block; leaving it closes every connection."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=LISTEN_BACKLOG)
        try:
            yield self
        finally:
            self._server.close()
            await asyncio.gather(*(connection.close() for connection in list(self.connections)))
            self._server = None
