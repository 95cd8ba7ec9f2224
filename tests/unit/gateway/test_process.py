"""A whole gateway process on ephemeral ports: ready, swapped, drained, and closed when a part cannot be started."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from forebay._core import PolicyRefused
from forebay.errors import ServeError
from forebay.gateway import GatewayProcess
from forebay.policy import load_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forebay.policy import LoadedPolicy

TEXT = f"""
name: test
gateway:
  ext_proc_address: EXT_PROC
  admin_address: ADMIN
  batch_address: BATCH
  drain_ms: 1
pools: [{{name: fleet, protocol: OPENAI, endpoints: [{{address: "127.0.0.1:1"}}]}}]
models:
  - {{name: chat, tokenizer: o200k_base, max_output_tokens: 16, capabilities: [CHAT], pools: [fleet]}}
tenants: [{{name: acme, models: ["*"]}}]
keys: [{{id: acme-1, tenant: acme, sha256: "{hashlib.sha256(b"fbk_acme").hexdigest()}"}}]
routes: [{{name: chat, path: /v1/chat/completions, operation: CHAT_COMPLETIONS}}]
cache: {{}}
"""
HEADERS = [("authorization", "Bearer fbk_acme"), ("content-type", "application/json")]
BODY = b'{"model":"chat","messages":[{"role":"user","content":"hello"}],"temperature":0}'
ANSWER = b'{"id":"a","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}]}'


def policy(text: str = TEXT, **addresses: str) -> LoadedPolicy:
    """The policy with a free port for each address that is not given; a policy has no port 0."""
    with ExitStack() as taken:
        for name in ("EXT_PROC", "ADMIN", "BATCH"):
            port = taken.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            text = text.replace(name, addresses.get(name, f"127.0.0.1:{port}"), 1)
    return load_text(text)


@contextmanager
def running() -> Iterator[GatewayProcess]:
    process = GatewayProcess(policy())
    process.start()
    try:
        yield process
    finally:
        process.stop()


def ask(process: GatewayProcess, path: str, body: Any = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(process.addresses["admin"], timeout=20)
    try:
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_it_is_ready_when_it_was_started_and_shows_what_it_does() -> None:
    with running() as process:
        assert ask(process, "/readyz")[0] == 200
        decision = process.engine.decide("POST", "/v1/chat/completions", HEADERS, BODY)
        assert decision.pool == "fleet"
        (pool,) = json.loads(ask(process, "/pools")[1])
        assert (pool["name"], pool["requests"], pool["routable"], pool["healthy"]) == ("fleet", 1, True, True)
        assert json.loads(ask(process, "/policy")[1])["models"][0]["name"] == "chat"
        metrics = ask(process, "/metrics")[1].decode()
        assert "forebay_open_reservations 1\n" in metrics
        assert "# TYPE forebay_batch_batches_total counter\n" in metrics
        names = [line.split()[2] for line in metrics.splitlines() if line.startswith("# TYPE ")]
        assert len(names) == len(set(names))


def test_answers_are_invalidated_over_the_port() -> None:
    with running() as process:
        leader = process.engine.decide("POST", "/v1/chat/completions", HEADERS, BODY)
        assert process.engine.capture(leader.id, ANSWER) == "stored"
        assert json.loads(ask(process, "/cache/invalidate", {"model": "chat"})[1]) == {"invalidated": 1}
        assert json.loads(ask(process, "/cache/invalidate", {"all": True})[1]) == {"invalidated": 0}


def test_a_policy_is_swapped_whole_or_not_at_all() -> None:
    with running() as process:
        before = process.engine.revision
        assert process.swap(policy(TEXT.replace("name: test", "name: next"))) != before
        assert json.loads(ask(process, "/policy")[1])["name"] == "next"
        with pytest.raises(PolicyRefused):
            process.swap(policy(TEXT.replace("pools: [fleet]", "pools: [nowhere]")))
        assert json.loads(ask(process, "/policy")[1])["name"] == "next"


def test_a_draining_process_lives_but_is_not_ready() -> None:
    with running() as process:
        process.engine.drain()
        assert ask(process, "/healthz")[0] == 200
        status, body = ask(process, "/readyz")
        assert (status, json.loads(body)["reasons"]) == (503, ["the gateway drains"])


def test_what_is_still_in_flight_at_the_end_is_told() -> None:
    process = GatewayProcess(policy())
    process.start()
    process.engine.decide("POST", "/v1/chat/completions", HEADERS, BODY)
    assert process.stop() == 1


@pytest.mark.parametrize("name", ["EXT_PROC", "BATCH", "ADMIN"])
def test_an_address_that_is_taken_starts_nothing(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServeError):
            GatewayProcess(policy(**{name: address}))


def test_a_policy_that_does_not_validate_starts_nothing() -> None:
    with pytest.raises(PolicyRefused):
        GatewayProcess(policy(TEXT.replace("pools: [fleet]", "pools: [nowhere]")))
