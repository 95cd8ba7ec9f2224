"""The rendered usage filter in a real Envoy, between an upstream of given bytes and a client.

Owns: the gateway's answers that the filter needs, and what the access log says of a request.
Must not know: what a stream means. On failure: AssertionError at the deadline, with Envoy's log.
"""

from __future__ import annotations

import base64
import http.client
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envoy.service.accesslog.v3 import als_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from google.protobuf.json_format import ParseDict

from envoy_rig import DEADLINE_S, IMMEDIATE, Rig, ScriptedGateway, free_port, policy_head, running, until
from usage_upstream import Answering, PieceUpstream

__all__ = ["Got", "UsageSite", "usage_site"]

POOLS = """pools:
- {{name: open, protocol: OPENAI, endpoints: [{{address: '127.0.0.1:{port}'}}]}}
- {{name: anthropic, protocol: ANTHROPIC, endpoints: [{{address: '127.0.0.1:{port}'}}], credential: {{env: A_KEY}}}}
- {{name: plain, protocol: HTTP, endpoints: [{{address: '127.0.0.1:{port}'}}]}}
- {{name: dead, protocol: OPENAI, endpoints: [{{address: '127.0.0.1:1'}}]}}
"""


@dataclass
class Got:
    """What the client got of an answer, and the answer's name."""

    name: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class UsageGateway(ScriptedGateway):
    """Sends a request where `x-script` says; `x-drop` has the extra event dropped, `x-capture` asks for a copy."""

    def __init__(self, port: int) -> None:
        self.captured = b""
        self.by_name: dict[str, Any] = {}
        super().__init__(port)

    def StreamAccessLogs(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        for message in request_iterator:
            for entry in message.http_logs.log_entry:
                self.by_name[entry.request.path.rpartition("play=")[2]] = entry
        return als_pb2.StreamAccessLogsResponse()

    def Process(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        if dict(context.invocation_metadata()).get("x-forebay-filter") != "decide":
            for message in request_iterator:
                self.captured += message.response_body.body
            return
        for message in request_iterator:
            yield ParseDict(_decided(message), ext_proc.ProcessingResponse())


def _decided(message: Any) -> dict[str, Any]:
    headers = {each.key: each.raw_value.decode() for each in message.request_headers.headers.headers}
    pool = headers.get("x-script", "open")
    if pool == "immediate":
        return IMMEDIATE
    mutations = [_set("x-forebay-internal-pool", pool)]
    if "x-capture" in headers:
        mutations.append(_set("x-forebay-internal-capture", "1"))
    common = {"header_mutation": {"set_headers": mutations}, "clear_route_cache": True}
    metadata: dict[str, Any] = {"forebay": {"id": "00ff", "reserved_nanousd": "41"}}
    if "x-drop" in headers:
        metadata["forebay.usage"] = {"drop": "1"}
    return {"request_headers": {"response": common}, "dynamic_metadata": metadata}


def _set(name: str, value: str) -> dict[str, Any]:
    header = {"key": name, "raw_value": base64.b64encode(value.encode()).decode()}
    return {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


class UsageSite:
    """A running trial, and one client connection to it."""

    def __init__(self, rig: Rig, upstream: PieceUpstream, gateway: UsageGateway) -> None:
        self.rig = rig
        self.upstream = upstream
        self.gateway = gateway
        self._names = itertools.count()
        self.connection = http.client.HTTPConnection("127.0.0.1", rig.listen, timeout=DEADLINE_S)

    def play(self, answering: Answering) -> str:
        """Put an answer on and give its name, for a client that asks by itself: `POST PATH?play=NAME`."""
        name = str(next(self._names))
        self.upstream.plays[name] = answering
        return name

    def ask(self, answering: Answering, path: str = "/v1/chat/completions", **headers: str) -> Got:
        """Have the upstream answer so, and read all of it; header names are written with `_` for `-`."""
        name = self.play(answering)
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        self.connection.request("POST", f"{path}?play={name}", b"{}", names)
        response = self.connection.getresponse()
        body = response.read()
        return Got(name, body, {key.lower(): value for key, value in response.getheaders()})

    def entry(self, name: str) -> Any:
        """Wait for the access log's entry of an answer."""
        return until(lambda: self.gateway.by_name.get(name), f"the log's entry of `{name}`")

    def metadata(self, name: str) -> dict[str, str]:
        """Give the metadata of the filter's namespace, without what decide put there."""
        found = self.entry(name).common_properties.metadata.filter_metadata
        values = dict(found["forebay.usage"].items()) if "forebay.usage" in found else {}
        values.pop("drop", None)
        return values

    def noted(self, name: str) -> dict[str, str]:
        """Give the metadata without the time of the first event."""
        return {key: value for key, value in self.metadata(name).items() if key != "first_us"}

    def all_noted(self, names: Iterable[str]) -> list[dict[str, str]]:
        """Give what was noted of several answers."""
        return [self.noted(name) for name in names]

    def errors(self) -> int:
        """Give how often the program failed."""
        return self.rig.stat(r"http.ingress.lua.usage.errors")

    def runs(self) -> int:
        """Give how often the program was run."""
        return self.rig.stat(r"http.ingress.lua.usage.executions")


@contextmanager
def usage_site(directory: Path) -> Iterator[UsageSite]:
    """Run Envoy with the rendered configuration until the block ends."""
    rig = Rig(directory, free_port(), free_port(), free_port())
    upstream, gateway = PieceUpstream(), UsageGateway(rig.gateway_port)
    try:
        with running(rig, policy_head(rig) + POOLS.format(port=upstream.port), {"A_KEY": "sk-a"}):
            site = UsageSite(rig, upstream, gateway)
            try:
                yield site
                assert site.errors() == 0, (directory / "envoy.log").read_text()
            finally:
                site.connection.close()
    finally:
        gateway.close()
        upstream.close()
