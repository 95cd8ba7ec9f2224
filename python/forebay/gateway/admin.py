"""The admin port: health, readiness, metrics, the policy in force, records, cache invalidation.

Owns: paths, who may read what, and the words of the answers. Must not know: how anything is counted or decided.
On failure: closed; what is not for everybody is answered only to the token, or without one to the loopback interface.

    GET  /healthz            200 while the process lives
    GET  /readyz             200 when a policy is in force, the servers listen and nothing drains; else 503 with why
    GET  /metrics            Prometheus text
    GET  /policy             the policy in force as proto-JSON            (guarded)
    GET  /pools              pools: in flight, reserved, routable, healthy (guarded)
    GET  /records?limit=N    the last decision records                     (guarded)
    POST /cache/invalidate   {"tag"|"model"[+"revision"]|"tenant": "..."} or {"all": true}  (guarded)
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["AdminServer", "AdminSources"]

_MAX_BODY_BYTES = 65_536
_MAX_RECORDS = 10_000
_MAX_AT_ONCE = 16
_SOCKET_TIMEOUT_S = 5.0
_STOP_SEEN_S = 0.1
_SELECTORS = ("tag", "model", "tenant", "all")


@dataclass(frozen=True, slots=True)
class AdminSources:
    """What the admin port shows, each as a function that is called for every answer.

    `not_ready` gives the reasons against readiness; none means ready. `token_sha256` is hex; empty: loopback only.
    """

    not_ready: Callable[[], list[str]]
    metrics: Callable[[], str]
    policy: Callable[[], Mapping[str, Any]]
    pools: Callable[[], list[Mapping[str, Any]]]
    records: Callable[[int], str]
    invalidate: Callable[[Mapping[str, str]], int]
    token_sha256: Callable[[], str]


class AdminServer:
    """The admin port on threads of its own.

    Raises: OSError when the address is taken.
    """

    def __init__(self, host: str, port: int, sources: AdminSources) -> None:
        limit = threading.BoundedSemaphore(_MAX_AT_ONCE)
        handler = type("Handler", (_Handler,), {"sources": sources, "limit": limit})
        self._server = _Server((host, port), handler)
        serve = functools.partial(self._server.serve_forever, poll_interval=_STOP_SEEN_S)
        self._thread = threading.Thread(target=serve, name="forebay-admin", daemon=True)

    @property
    def address(self) -> str:
        """`host:port` that it listens on."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _is_own_name(host: str) -> bool:
    """Whether a `Host` was typed by somebody here, and not by a web page whose name was pointed at this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _Handler(BaseHTTPRequestHandler):
    sources: AdminSources
    limit: threading.BoundedSemaphore
    timeout = _SOCKET_TIMEOUT_S
    disable_nagle_algorithm = True
    protocol_version = "HTTP/1.1"
    server_version = "forebay"
    sys_version = ""

    def do_GET(self) -> None:
        self._serve(
            {
                "/healthz": self._health,
                "/readyz": self._ready,
                "/metrics": self._metrics,
                "/policy": self._policy,
                "/pools": self._pools,
                "/records": self._records,
            }
        )

    def do_POST(self) -> None:
        self._serve({"/cache/invalidate": self._invalidate})

    def _serve(self, paths: Mapping[str, Callable[[], None]]) -> None:
        if not self.limit.acquire(timeout=_SOCKET_TIMEOUT_S):
            self._say(503, {"error": "too many admin requests at once"})
            return
        try:
            answer = paths.get(urlsplit(self.path).path)
            if answer is None:
                raise _Refused(404, f"`{urlsplit(self.path).path}` is not served here")
            answer()
        except _Refused as refused:
            # What was not read of a body must not be taken for the next request.
            self.close_connection = self.close_connection or self.command == "POST"
            self._say(refused.status, {"error": str(refused)})
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True
        finally:
            self.limit.release()

    def _health(self) -> None:
        self._say(200, {"status": "ok"})

    def _ready(self) -> None:
        reasons = self.sources.not_ready()
        self._say(503 if reasons else 200, {"status": "not ready" if reasons else "ready", "reasons": reasons})

    def _metrics(self) -> None:
        self._send(200, "text/plain; version=0.0.4; charset=utf-8", self.sources.metrics().encode())

    def _policy(self) -> None:
        self._guard()
        self._say(200, self.sources.policy())

    def _pools(self) -> None:
        self._guard()
        self._say(200, self.sources.pools())

    def _records(self) -> None:
        self._guard()
        asked = parse_qs(urlsplit(self.path).query).get("limit", ["100"])[-1]
        if not asked.isascii() or not asked.isdigit():
            raise _Refused(400, f"`limit` is `{asked[:20]}`; it must be a whole number")
        self._send(200, "application/json", self.sources.records(min(int(asked[:9]), _MAX_RECORDS)).encode())

    def _invalidate(self) -> None:
        self._guard()
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > _MAX_BODY_BYTES:
            raise _Refused(400, f"send a JSON object of at most {_MAX_BODY_BYTES} bytes with its length")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise _Refused(400, f"the body ends after {len(body)} of {length} bytes")
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            raise _Refused(400, "the body is not JSON") from None
        if not isinstance(asked, dict) or sum(name in asked for name in _SELECTORS) != 1:
            raise _Refused(400, "give one of `tag`, `model`, `tenant` or `all`")
        if asked.get("all", True) is not True:
            raise _Refused(400, "`all` must be true")
        allowed = {"tag", "model", "tenant", "all"} | ({"revision"} if "model" in asked else set())
        if unknown := sorted(set(asked) - allowed):
            raise _Refused(400, f"unknown fields: {', '.join(f'`{name}`' for name in unknown)}")
        texts = {name: value for name, value in asked.items() if name != "all"}
        if not all(isinstance(value, str) and value for value in texts.values()):
            raise _Refused(400, "every field must be a string that is not empty")
        self._say(200, {"invalidated": self.sources.invalidate(texts)})

    def _guard(self) -> None:
        wanted = self.sources.token_sha256()
        if not wanted:
            if not ipaddress.ip_address(self.client_address[0]).is_loopback:
                raise _Refused(403, "set `gateway.admin_token_sha256` to reach this from another machine")
            # Every browser sends one.
            host = self.headers.get("host", "")
            if host and not _is_own_name(host):
                raise _Refused(403, "the header `host` must be an address or `localhost`; a web page may not ask this")
            return
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).hexdigest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(digest, wanted.lower()):
            raise _Refused(401, "send the admin token as `authorization: Bearer TOKEN`")

    def _say(self, status: int, value: Any) -> None:
        self._send(status, "application/json", json.dumps(value).encode() + b"\n")

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Admin requests are not logged."""
