"""The client's side of a mixed load: one connection, one request at a time, and what was seen of the answer.

Owns sending, leaving in the middle, and reading usage out of what arrived. Must not know a plan or a gateway's books.
A connection that breaks is a result, never an exception.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import h11

from forebay.lab.mixed_load_plan import Trial

_READ_BYTES = 65536
_LONGEST_S = 60.0


@dataclass(frozen=True, slots=True)
class View:
    """What a client saw of one trial.

    `status` 0: no head arrived. `request_id`: `x-forebay-request-id`. `complete`: the answer ended as it should.
    `usage_event`: an event with an empty list of choices and usage arrived. `error`: why it is not complete.
    """

    trial: str
    status: int = 0
    request_id: str = ""
    aborted: bool = False
    complete: bool = False
    usage_seen: bool = False
    usage_event: bool = False
    body_bytes: int = 0
    error: str = ""


@dataclass(slots=True)
class _Answer:
    """What has arrived so far."""

    body: bytearray
    status: int = 0
    headers: dict[str, str] | None = None
    complete: bool = False
    error: str = ""


class LoadClient:
    """A client that keeps its connection while it can."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._h11 = h11.Connection(h11.CLIENT)

    async def ask(self, trial: Trial) -> View:
        """Sends a trial and reads its answer, or leaves as the trial says."""
        answer = _Answer(bytearray())
        limit_s = _LONGEST_S if trial.abort is None or trial.abort.after_s is None else trial.abort.after_s
        aborted = False
        try:
            aborted = await asyncio.wait_for(self._exchange(trial, answer), limit_s)
        except asyncio.TimeoutError:
            aborted = trial.abort is not None
            answer.error = "" if aborted else "no answer in time"
        except (OSError, h11.ProtocolError) as error:
            answer.error = f"{type(error).__name__}: {error}"
        if aborted and trial.abort is not None and trial.abort.abruptly:
            self._reset()
        if aborted or answer.error or not self._can_go_on():
            self.close()
        return _view(trial, answer, aborted=aborted and not answer.complete)

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _exchange(self, trial: Trial, answer: _Answer) -> bool:
        """True: the client has read what it wanted before the end."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            self._h11 = h11.Connection(h11.CLIENT)
        head = [("host", f"{self._host}:{self._port}"), ("content-length", str(len(trial.body))), *trial.headers]
        request = h11.Request(method="POST", target=trial.path, headers=head)
        parts = [self._h11.send(event) or b"" for event in (request, h11.Data(data=trial.body), h11.EndOfMessage())]
        self._writer.write(b"".join(parts))
        await self._writer.drain()
        enough = None if trial.abort is None else trial.abort.after_bytes
        while not answer.complete:
            await self._read(answer)
            if enough is not None and len(answer.body) >= enough:
                return True
        return False

    async def _read(self, answer: _Answer) -> None:
        event = self._h11.next_event()
        while event is h11.NEED_DATA:
            assert self._reader is not None
            self._h11.receive_data(await self._reader.read(_READ_BYTES))
            event = self._h11.next_event()
        if isinstance(event, h11.Response):
            answer.status = event.status_code
            answer.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        elif isinstance(event, h11.Data):
            answer.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            answer.complete = True
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionError("the connection was closed before an answer")

    def _can_go_on(self) -> bool:
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True

    def _reset(self) -> None:
        if self._writer is not None:
            raw = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()


def _view(trial: Trial, answer: _Answer, *, aborted: bool) -> View:
    headers = answer.headers or {}
    text = _decoded(bytes(answer.body), headers.get("content-encoding", ""))
    seen, event = usage_in(text, streamed="event-stream" in headers.get("content-type", ""))
    return View(
        trial.id,
        answer.status,
        headers.get("x-forebay-request-id", ""),
        aborted,
        answer.complete,
        seen,
        event,
        len(answer.body),
        answer.error,
    )


def usage_in(text: bytes, *, streamed: bool) -> tuple[bool, bool]:
    """Whether usage arrived at all, and whether in an event of its own, without choices.

    >>> usage_in(b'data: {"choices":[],"usage":{"prompt_tokens":1}}', streamed=True)
    (True, True)
    """
    if not streamed:
        return _has_usage(_json(text)), False
    lines = [line.removeprefix(b"data:") for line in text.splitlines() if line.startswith(b"data:")]
    found = [value for value in map(_json, lines) if _has_usage(value)]
    return bool(found), any(value.get("choices") == [] for value in found)


def _has_usage(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    nested = (value, value.get("response"), value.get("message"))
    return any(isinstance(item, dict) and isinstance(item.get("usage"), dict) for item in nested)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _decoded(data: bytes, encoding: str) -> bytes:
    """What can be read of a body that may have been cut anywhere."""
    try:
        if encoding == "gzip":
            return zlib.decompressobj(31).decompress(data)
        if encoding == "br":
            return bytes(importlib.import_module("brotli").Decompressor().process(data))
    except Exception:
        return b""
    return data
