"""A client that speaks HTTP/2 frame by frame, so that it can stop at any of them.

Owns: one connection and its streams' events. Must not know: what a test stops at. On failure: AssertionError at the
deadline.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import h2.config
import h2.connection
import h2.events

from chain_policy import CHAT, secret_of
from envoy_rig import DEADLINE_S

__all__ = ["Http2Client", "http2"]


class Http2Client:
    """One connection with prior knowledge; streams are told apart by their number."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self._flush()

    def request(self, length: int, *more: tuple[str, str], key: str = "acme") -> int:
        """Send the head of a chat and leave the stream open; its number comes back."""
        stream = self._h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "http"), (":authority", "x"), (":path", CHAT)]
        head += [("authorization", f"Bearer {secret_of(key)}"), ("content-type", "application/json")]
        self._h2.send_headers(stream, [*head, ("content-length", str(length)), *more])
        self._flush()
        return stream

    def data(self, stream: int, body: bytes, *, last: bool) -> None:
        """Send a part of the body that fits one frame."""
        self._h2.send_data(stream, body, end_stream=last)
        self._flush()

    def reset(self, stream: int) -> None:
        """Cancel the stream."""
        self._h2.reset_stream(stream, error_code=0x8)
        self._flush()

    def answer(self, stream: int) -> tuple[int, bytes]:
        """Read until the stream has ended: status and body."""
        self.until(stream, h2.events.StreamEnded)
        status = next(e for e in self.events if isinstance(e, h2.events.ResponseReceived) and e.stream_id == stream)
        parts = [e.data for e in self.events if isinstance(e, h2.events.DataReceived) and e.stream_id == stream]
        return int(dict(status.headers or [])[":status"]), b"".join(part or b"" for part in parts)

    def header(self, stream: int, name: str) -> str:
        """A header of the answer, once it has begun."""
        begun = next(e for e in self.events if isinstance(e, h2.events.ResponseReceived) and e.stream_id == stream)
        return str(dict(begun.headers or [])[name])

    def until(self, stream: int, kind: type[h2.events.Event]) -> None:
        """Read until an event of this kind has come for the stream."""
        end = time.monotonic() + DEADLINE_S
        while not any(isinstance(e, kind) and getattr(e, "stream_id", 0) == stream for e in self.events):
            assert time.monotonic() < end, f"no {kind.__name__} on stream {stream}: {self.events}"
            received = self._socket.recv(65536)
            assert received, f"the connection ended: {self.events}"
            for event in self._h2.receive_data(received):
                self.events.append(event)
                if isinstance(event, h2.events.DataReceived):
                    self._h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())


@contextmanager
def http2(port: int) -> Iterator[Http2Client]:
    """A client connected to loopback inside the block."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Http2Client(sock)
