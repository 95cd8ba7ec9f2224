"""How a fleet's answers look on the wire: events as text, compressed or not, in writes that end anywhere.

Owns line ends, comments, compression and cuts. Must not know what an event says.
A client that leaves is ClientGone, as in the server below.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import zlib
from collections.abc import Callable
from random import Random
from typing import Protocol

from forebay.lab.answer_parts import Part
from forebay.lab.fleet_spec import Wire
from forebay.lab.http1 import Reply, Request

STREAM_HEADERS = (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"))


class _Encoder(Protocol):
    def push(self, data: bytes) -> bytes: ...
    def finish(self) -> bytes: ...


class WireReply:
    """One answer, plain or streamed, as the fleet's wire has it."""

    def __init__(self, wire: Wire, request: Request, reply: Reply, random: Random) -> None:
        self._wire = wire
        self._reply = reply
        self._random = random
        accepted = {item.split(";")[0].strip() for item in (request.header("accept-encoding") or "").split(",")}
        self._encoding = wire.encoding if wire.encoding in accepted else "identity"
        self._encoder: _Encoder = _encoder(self._encoding)

    async def send_json(self, value: object) -> None:
        """Sends a whole JSON answer."""
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        if self._encoding != "identity":
            body = self._encoder.push(body) + self._encoder.finish()
        await self._reply.send(200, "application/json", body, self._encoding_headers())

    async def start(self) -> None:
        """Begins a stream of events."""
        await self._reply.start(200, STREAM_HEADERS + self._encoding_headers())

    async def events(self, parts: list[Part]) -> None:
        """Sends events in one write, or in two that meet at a random byte."""
        data = self._encoder.push(b"".join(map(self._event, parts)))
        if len(data) > 1 and self._wire.cut_ratio and self._random.random() < self._wire.cut_ratio:
            at = self._random.randrange(1, len(data))
            await self._reply.part(data[:at])
            await asyncio.sleep(0)
            data = data[at:]
        if data:
            await self._reply.part(data)

    async def end(self) -> None:
        """Ends the stream."""
        rest = self._encoder.finish()
        if rest:
            await self._reply.part(rest)
        await self._reply.end()

    def _event(self, part: Part) -> bytes:
        end = "\r\n" if self._wire.line_end == "crlf" else "\n"
        lines = [f"event: {part.name}"] if part.name else []
        if isinstance(part.data, str):
            lines.append(f"data: {part.data}")
        else:
            lines.append(f"data: {json.dumps(part.data, ensure_ascii=False, separators=(',', ':'))}")
        if self._wire.comment_ratio and self._random.random() < self._wire.comment_ratio:
            lines.insert(0, f": data: not an event{end}")
        return (end.join(lines) + end + end).encode()

    def _encoding_headers(self) -> tuple[tuple[str, str], ...]:
        return () if self._encoding == "identity" else (("content-encoding", self._encoding),)


def _encoder(encoding: str) -> _Encoder:
    kinds: dict[str, Callable[[], _Encoder]] = {"identity": _Identity, "gzip": _Gzip, "br": _Brotli}
    return kinds[encoding]()


class _Identity:
    def push(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.compressobj(1, zlib.DEFLATED, 31)

    def push(self, data: bytes) -> bytes:
        return self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._stream.flush()


class _Brotli:
    def __init__(self) -> None:
        # Only a fleet that is told to needs it, and it has no types.
        self._stream = importlib.import_module("brotli").Compressor(quality=1)

    def push(self, data: bytes) -> bytes:
        return bytes(self._stream.process(data) + self._stream.flush())

    def finish(self) -> bytes:
        return bytes(self._stream.finish())
