"""An upstream that answers with given bytes in given pieces, each of which Envoy reads by itself.

Owns: the wire of one answer. Must not know: what the bytes say. On failure: the connection closes early, as an
upstream's would.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

__all__ = ["Answering", "PieceUpstream", "chunked", "json_answer", "sized", "streamed"]

_DEADLINE_S = 20.0
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
# In the answer: netlink's head, four bytes, the socket's id, the timer.
_RECEIVE_QUEUE_AT = 16 + 4 + 48 + 4


@dataclass
class Answering:
    """One answer: the head, the pieces as they stand on the wire, and how it ends.

    `go_on`, where given, is waited for before every piece but the first. `end`: `keep`, `close` or `reset`.
    """

    head: bytes
    pieces: Sequence[bytes]
    end: str = "keep"
    go_on: threading.Semaphore | None = None
    over: threading.Event = field(default_factory=threading.Event)


def chunked(pieces: Sequence[bytes]) -> list[bytes]:
    """Frame each piece as one HTTP/1.1 chunk; the last one carries the end."""
    framed = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece]
    return [*framed, b"0\r\n\r\n"]


def streamed(pieces: Sequence[bytes], *headers: str, end: str = "keep") -> Answering:
    """Give an event stream; one that is reset lacks its last chunk."""
    names = ("content-type: text/event-stream; charset=utf-8", "transfer-encoding: chunked", *headers)
    wire = chunked(pieces)
    return Answering(_head(names), wire if end == "keep" else wire[:-1], end)


def sized(pieces: Sequence[bytes], *headers: str) -> Answering:
    """Give an answer with a content-length."""
    return Answering(_head((*headers, f"content-length: {sum(map(len, pieces))}")), pieces)


def json_answer(body: bytes, *headers: str) -> Answering:
    """Give a JSON body at once."""
    return sized([body], "content-type: application/json", *headers)


def _head(headers: Sequence[str]) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode()


class PieceUpstream:
    """Answers `...?play=NAME` with `plays[NAME]`; `seen` keeps the heads of all requests."""

    def __init__(self) -> None:
        self.plays: dict[str, Answering] = {}
        self.seen: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Close every connection and wait for the threads."""
        for sock in [self._listener, *self._open]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for answering in self.plays.values():
            if answering.go_on:
                answering.go_on.release(len(answering.pieces))
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(_DEADLINE_S)
            self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while head := _request(connection):
                self.seen.append(head)
                answering = self.plays[head.split(" ", 2)[1].rpartition("play=")[2]]
                try:
                    self._answer(connection, answering)
                finally:
                    answering.over.set()
                if answering.end != "keep":
                    return
        self._open.discard(connection)

    def _answer(self, connection: socket.socket, answering: Answering) -> None:
        connection.sendall(answering.head)
        for number, piece in enumerate(answering.pieces):
            if number and answering.go_on:
                answering.go_on.acquire(timeout=_DEADLINE_S)
            _until_read(connection)
            connection.sendall(piece)
        _until_read(connection)
        if answering.end == "reset":
            # Close without a goodbye: a reset on the wire.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _request(connection: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return ""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    text = head.decode("latin-1").lower()
    length = text.partition("content-length: ")[2].partition("\r\n")[0]
    while len(body) < int(length or "0"):
        body += connection.recv(65536)
    return text


def _until_read(connection: socket.socket) -> None:
    """Wait until the other side has read everything, so that the next piece is a read of its own (sock_diag(7))."""
    here, there = connection.getsockname(), connection.getpeername()
    ports = struct.pack(">HH", there[1], here[1])
    addresses = socket.inet_aton(there[0]).ljust(16, b"\0") + socket.inet_aton(here[0]).ljust(16, b"\0")
    any_cookie = b"\xff" * 8
    every_state = 0xFFFFFFFF
    request = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, every_state)
    request += ports + addresses + bytes(4) + any_cookie
    message = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + request
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
        while True:
            netlink.send(message)
            answer = netlink.recv(65536)
            (kind,) = struct.unpack_from("=H", answer, 4)
            if kind != _SOCK_DIAG_BY_FAMILY or struct.unpack_from("=I", answer, _RECEIVE_QUEUE_AT) == (0,):
                return
