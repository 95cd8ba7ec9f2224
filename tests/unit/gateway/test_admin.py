"""The admin port over real HTTP: who may read what, and what is refused how."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from forebay.gateway.admin import AdminServer, AdminSources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TOKEN = "admin-token"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
GUARDED = [("GET", "/policy"), ("GET", "/pools"), ("GET", "/records"), ("POST", "/cache/invalidate")]


@dataclass
class Gateway:
    """What the port shows; a test changes it while the port runs."""

    reasons: list[str] = field(default_factory=list)
    token_sha256: str = ""
    limits: list[int] = field(default_factory=list)
    invalidated: list[dict[str, str]] = field(default_factory=list)

    def records(self, limit: int) -> str:
        self.limits.append(limit)
        return '[{"outcome":"forward"}]'

    def invalidate(self, selector: Mapping[str, str]) -> int:
        self.invalidated.append(dict(selector))
        return 7

    def sources(self) -> AdminSources:
        return AdminSources(
            not_ready=lambda: self.reasons,
            metrics=lambda: "forebay_requests_total 1\n",
            policy=lambda: {"name": "test"},
            pools=lambda: [{"name": "a"}],
            records=self.records,
            invalidate=self.invalidate,
            token_sha256=lambda: self.token_sha256,
        )


@dataclass
class Answer:
    status: int
    content_type: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Port:
    gateway: Gateway
    address: str

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.address, timeout=20)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers["content-type"], response.read())
        finally:
            connection.close()

    def raw(self, request: bytes) -> bytes:
        host, _, port = self.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def running() -> Iterator[Port]:
    gateway = Gateway()
    server = AdminServer("127.0.0.1", 0, gateway.sources())
    server.start()
    try:
        yield Port(gateway, server.address)
    finally:
        server.stop()


@pytest.fixture
def port() -> Iterator[Port]:
    with running() as port:
        yield port


def test_health_and_readiness_are_two_things(port: Port) -> None:
    assert port.ask("GET", "/readyz").json == {"status": "ready", "reasons": []}
    port.gateway.reasons = ["the gateway drains"]
    unready = port.ask("GET", "/readyz")
    assert (unready.status, unready.json["reasons"]) == (503, ["the gateway drains"])
    assert port.ask("GET", "/healthz").json == {"status": "ok"}


def test_metrics_are_for_everybody(port: Port) -> None:
    port.gateway.token_sha256 = DIGEST
    metrics = port.ask("GET", "/metrics")
    assert (metrics.status, metrics.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert metrics.body == b"forebay_requests_total 1\n"


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_without_a_token_the_loopback_interface_may_do_everything(port: Port, method: str, path: str) -> None:
    assert port.ask(method, path, {"tag": "faq"} if method == "POST" else None).status == 200


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": TOKEN}, {"authorization": f"Basic {TOKEN}"}, {"authorization": f"Bearer {TOKEN}x"}],
)
def test_with_a_token_nobody_is_served_without_it(port: Port, method: str, path: str, headers: dict[str, str]) -> None:
    port.gateway.token_sha256 = DIGEST.upper()
    refused = port.ask(method, path, {"all": True} if method == "POST" else None, **headers)
    assert (refused.status, port.gateway.invalidated) == (401, [])
    assert TOKEN not in refused.body.decode()
    served = port.ask(method, path, {"all": True} if method == "POST" else None, authorization=f"bearer  {TOKEN}")
    assert served.status == 200


def test_a_token_of_strange_bytes_is_just_wrong(port: Port) -> None:
    port.gateway.token_sha256 = DIGEST
    answer = port.raw(
        b"GET /policy HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer \xff\xfe\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_records_are_as_many_as_were_asked(port: Port) -> None:
    assert port.ask("GET", "/records?limit=5").json == [{"outcome": "forward"}]
    port.ask("GET", "/records")
    port.ask("GET", "/records?limit=99999999999999999999999999")
    assert port.gateway.limits == [5, 100, 10_000]


@pytest.mark.parametrize("limit", ["-1", "x", "1.5", "%C2%B2", "1e3"])
def test_a_limit_that_is_no_number_is_refused(port: Port, limit: str) -> None:
    assert port.ask("GET", f"/records?limit={limit}").status == 400
    assert port.gateway.limits == []


@pytest.mark.parametrize(
    ("asked", "selector"),
    [
        ({"tag": "faq"}, {"tag": "faq"}),
        ({"model": "m"}, {"model": "m"}),
        ({"model": "m", "revision": "2"}, {"model": "m", "revision": "2"}),
        ({"tenant": "acme"}, {"tenant": "acme"}),
        ({"all": True}, {}),
    ],
)
def test_answers_are_invalidated_by_one_selector(port: Port, asked: dict[str, Any], selector: dict[str, str]) -> None:
    assert port.ask("POST", "/cache/invalidate", asked).json == {"invalidated": 7}
    assert port.gateway.invalidated == [selector]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        [],
        7,
        None,
        {"all": False},
        {"all": 1},
        {"all": "true"},
        {"tag": ""},
        {"tag": 1},
        {"tag": None},
        {"tag": "a", "tenant": "b"},
        {"tag": "a", "all": True},
        {"revision": "2"},
        {"tag": "a", "revision": "2"},
        {"model": "m", "revision": ""},
        {"model": "m", "other": "x"},
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"tag": "a"' + b" " * 65_536 + b"}",
    ],
)
def test_what_selects_nothing_certain_invalidates_nothing(port: Port, asked: Any) -> None:
    content = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    refused = port.ask("POST", "/cache/invalidate", content)
    assert (refused.status, port.gateway.invalidated) == (400, [])
    assert refused.json["error"]


@pytest.mark.parametrize("length", ["", "-1", "x", "99999999999", "+5", "²"])
def test_a_length_that_is_none_is_refused_without_reading(port: Port, length: str) -> None:
    head = f"POST /cache/invalidate HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
    assert port.raw(head.encode()).startswith(b"HTTP/1.1 400 ")
    assert port.gateway.invalidated == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/nothing", 404),
        ("GET", "/cache/invalidate", 404),
        ("POST", "/policy", 404),
        ("DELETE", "/policy", 501),
        ("GET", "/policy/", 404),
    ],
)
def test_what_is_not_served_is_said(port: Port, method: str, path: str, status: int) -> None:
    assert port.ask(method, path).status == status


def test_a_body_that_is_cut_invalidates_nothing(port: Port) -> None:
    port.raw(b'POST /cache/invalidate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"all": true}')
    assert port.gateway.invalidated == []


def test_the_port_is_free_after_the_end() -> None:
    with running() as port:
        address = port.address
    with pytest.raises(OSError):  # noqa: PT011 - which one is the system's
        port.ask("GET", "/healthz")
    again = AdminServer("127.0.0.1", int(address.rpartition(":")[2]), Gateway().sources())
    again.start()
    again.stop()


def test_a_web_page_may_not_ask_what_only_this_machine_may() -> None:
    from forebay.gateway.admin import _is_own_name  # noqa: PLC0415 - the one private name that is tested alone

    assert all(map(_is_own_name, ("127.0.0.1:9301", "[::1]:9301", "localhost", "localhost:80", "10.0.0.1")))
    assert not any(
        map(_is_own_name, ("evil.example", "localhost.evil.example:9301", "127.0.0.1.evil.example", "@", ""))
    )
