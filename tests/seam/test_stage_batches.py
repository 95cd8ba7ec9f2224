"""A Python stage behind the Rust server: fast, failing, absent, slow, talking nonsense, or too much asked at once.

Owns: what a request gets in each case. Must not know: how a stage is found. On failure: a person's code could stop
requests that the policy lets go on.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import stage_samples
from extproc_servers import DEADLINE_S, SECRET, Target, rust_server
from extproc_streams import Stream
from forebay._core import Engine, Gateway, StageBatch
from forebay.policy import load, override

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = Path(__file__).parent / "transcripts" / "policy.yaml"
PATH = "/staged/chat/completions"
TRANSCRIPT = json.loads((FILE.parent / "stage.json").read_text())["steps"]
HEAD = next(step["message"] for step in TRANSCRIPT if "send" in step)


def policy(stage: str, *settings: str) -> bytes:
    return override(load(FILE), [f"routes[6].resolve.python={stage}", *settings]).message_bytes


def ask(address: str, content: str = "hello", model: str = "auto") -> str:
    """The pool that a request goes to, or the code of its refusal."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0})
    with grpc.insecure_channel(address) as channel:
        stream = Stream(channel, "a", "decide")
        stream.send(HEAD)
        stream.receive()
        stream.send({"request_body": {"body": body, "end_of_stream": True}})
        frame = stream.receive()
        stream.half_close()
        if "immediate_response" in frame:
            return str(frame["immediate_response"]["details"].removeprefix("forebay_"))
        return str(frame["dynamic_metadata"]["forebay"]["pool"])


def failures(target: Target) -> int:
    lines = target.engine.metrics_text().splitlines()
    return next(int(line.split()[-1]) for line in lines if line.startswith("forebay_stage_failures_total "))


def test_a_stage_sees_frozen_requests() -> None:
    stage_samples.SEEN.clear()
    with rust_server(policy("stage_samples:pick")) as target:
        assert ask(target.address, "seen?") == "spare"
    (request,) = stage_samples.SEEN.pop()
    assert (request.model, request.route, request.tenant, request.feature) == ("auto", "staged", "acme", "live")
    assert (request.tools, request.vision, request.json, request.stream) == (False, False, False, False)
    assert json.loads(request.body)["messages"][0]["content"] == "seen?"
    with pytest.raises(AttributeError):
        request.model = "chat"  # type: ignore[misc]


@pytest.mark.parametrize("stage", ["fail", "nonsense", "too_few", "unknown", "leave", "absent"])
@pytest.mark.parametrize(
    ("on_failure", "model", "outcome"),
    [
        ("REFUSE", "chat", "stage_failed"),
        ("KEEP_MODEL", "chat", "fleet"),
        ("KEEP_MODEL", "auto", "stage_failed"),
        ("FALLBACK_MODEL", "auto", "spare"),
    ],
)
def test_a_stage_that_fails_means_what_the_policy_says(stage: str, on_failure: str, model: str, outcome: str) -> None:
    settings = [f"routes[6].resolve.on_failure={on_failure}"]
    if on_failure == "FALLBACK_MODEL":
        settings.append("routes[6].resolve.fallback_model=other")
    with rust_server(policy(f"stage_samples:{stage}", *settings)) as target:
        # Twice: the thread that runs stages outlives whatever a stage does.
        assert [ask(target.address, model=model) for _ in range(2)] == [outcome] * 2
        assert failures(target) == 2


@pytest.mark.parametrize("stage", ["no_such_module_anywhere:pick", "stage_samples:no_such_name", "stage_samples:SEEN"])
def test_a_stage_that_is_not_there_fails(stage: str) -> None:
    with rust_server(policy(stage)) as target:
        assert ask(target.address) == "stage_failed"


def test_a_stage_that_is_too_slow_is_not_waited_for() -> None:
    stage_samples.GATE.clear()
    settings = ("routes[6].resolve.deadline_ms=50", "routes[6].resolve.on_failure=KEEP_MODEL")
    try:
        with rust_server(policy("stage_samples:wait", *settings)) as target:
            assert ask(target.address, model="chat") == "fleet"
            assert failures(target) == 1
            stage_samples.GATE.set()
    finally:
        stage_samples.GATE.set()


@contextmanager
def gateway(policy: bytes) -> Iterator[Gateway]:
    server = Gateway(Engine(policy, secret=SECRET), "127.0.0.1:0", "127.0.0.1:0", 1, 1 << 20)
    try:
        yield server
    finally:
        server.shutdown(0)


def batch_of(server: Gateway, count: int) -> StageBatch:
    """The next batch once that many requests wait: those of smaller ones are counted and failed."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        batch = server.next_stage_batch(50)
        if batch is not None and len(batch) == count:
            return batch
    raise AssertionError(f"no batch of {count}")


def test_nobody_asks_for_a_stage_and_its_batch_is_empty() -> None:
    with gateway(policy("stage_samples:pick")) as server:
        batch = server.next_stage_batch(0)
        assert batch is not None
        assert (len(batch), batch.target, batch.requests) == (0, "", [])


def test_requests_that_wait_go_in_one_batch_oldest_first() -> None:
    few = policy("stage_samples:pick", "routes[6].resolve.max_batch=3")
    with gateway(few) as server, ThreadPoolExecutor(5) as threads:
        asked = [threads.submit(ask, server.ext_proc_address, f"question {turn}") for turn in range(5)]
        sizes: list[int] = []
        while sum(sizes) < 5:
            batch = server.next_stage_batch(1000)
            assert batch is not None
            sizes.append(len(batch))
            with pytest.raises(ValueError, match="answers for"):
                batch.answer([("other", "")] * (len(batch) + 1))
            batch.answer([("other", "as it is")] * len(batch))
            with pytest.raises(ValueError, match="answered already"):
                batch.answer([None] * len(batch))
        assert max(sizes) <= 3
        assert [done.result() for done in asked] == ["spare"] * 5


def test_a_batch_that_is_dropped_fails_at_once() -> None:
    with gateway(policy("stage_samples:pick")) as server, ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, server.ext_proc_address)
        batch = batch_of(server, 1)
        del batch
        assert asked.result(DEADLINE_S) == "stage_failed"


def test_more_than_may_wait_is_refused_at_once() -> None:
    one = policy("stage_samples:pick", "routes[6].resolve.max_waiting=1")
    with gateway(one) as server, ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(ask, server.ext_proc_address, f"question {turn}") for turn in range(3)]
        # Nobody takes the one that waits, so the two others are over before it is.
        over = threading.Event()
        done: list[Any] = []

        def note(future: Any) -> None:
            done.append(future.result())
            if len(done) == 2:
                over.set()

        for future in asked:
            future.add_done_callback(note)
        assert over.wait(DEADLINE_S)
        assert done == ["stage_failed"] * 2
        batch_of(server, 1).answer([("other", "")])
        assert sorted(future.result() for future in asked) == ["spare", "stage_failed", "stage_failed"]


def test_what_waits_for_a_stage_at_shutdown_is_refused_and_never_passed() -> None:
    server = Gateway(Engine(policy("stage_samples:pick"), secret=SECRET), "127.0.0.1:0", "127.0.0.1:0", 1, 1 << 20)
    with grpc.insecure_channel(server.ext_proc_address) as channel:
        stream = Stream(channel, "a", "decide")
        stream.send(HEAD)
        stream.receive()
        body = '{"model":"auto","messages":[{"role":"user","content":"hello"}]}'
        stream.send({"request_body": {"body": body, "end_of_stream": True}})
        batch = batch_of(server, 1)
        server.shutdown(0)
        frame = stream.receive()
        stream.half_close()
        assert frame.get("ended") not in (None, "OK") or "immediate_response" in frame
        assert server.next_stage_batch(0) is None
        batch.answer([("other", "too late")])
