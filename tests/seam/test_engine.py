"""The engine as a library: decisions, swaps, sessions, captures, records and counters, without a server.

Owns: what a person who imports `Engine` may rely on. Must not know: frames, Envoy.
On failure: the part alone is broken, and everything built on it.
"""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from forebay._core import Decision, Engine, PolicyRefused, Session
from forebay.policy import load, load_text, override

FILE = Path(__file__).parent / "transcripts" / "policy.yaml"
POLICY = load(FILE).message_bytes
HEADERS = [("authorization", "Bearer fbk_acme"), ("content-type", "application/json")]
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "chat-v1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "A basin."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
}


def policy(*settings: str) -> bytes:
    return override(load(FILE), settings).message_bytes


def chat(content: str = "What is a forebay?", **fields: Any) -> bytes:
    message = {"role": "user", "content": content}
    return json.dumps({"model": "chat", "messages": [message], "temperature": 0, **fields}).encode()


def decide(engine: Engine, body: bytes, path: str = "/v1/chat/completions") -> Decision:
    return engine.decide("POST", path, HEADERS, body)


def session(engine: Engine, path: str = "/v1/chat/completions") -> Session:
    pairs = [(":method", "POST"), (":path", path), *HEADERS]
    return engine.head([(name, value.encode()) for name, value in pairs])


def in_flight(engine: Engine) -> dict[str, int]:
    return {name: requests for name, requests, *_ in engine.pools()}


def counter(engine: Engine, name: str) -> int:
    found = re.search(rf"^{re.escape(name)} (\d+)$", engine.metrics_text(), re.MULTILINE)
    assert found, name
    return int(found[1])


def test_a_request_is_forwarded_with_its_metadata() -> None:
    engine = Engine(POLICY, owner="me")
    decision = decide(engine, chat())
    assert (decision.action, decision.pool, decision.capture, decision.batch) == ("forward", "fleet", True, False)
    assert re.fullmatch("[0-9a-f]{32}", decision.id)
    assert decision.metadata["id"] == decision.id
    assert decision.metadata["owner"] == "me"
    assert decision.metadata["tenant"] == "acme"
    assert decision.body is not None
    assert json.loads(decision.body)["model"] == "chat-v1"
    assert engine.open_reservations == 1
    engine.end(decision.id)
    assert engine.open_reservations == 0


def test_a_refusal_is_an_answer_and_no_exception() -> None:
    engine = Engine(POLICY)
    decision = engine.decide("POST", "/v1/chat/completions", [], chat())
    assert (decision.action, decision.status, decision.code) == ("answer", 401, "missing_api_key")
    assert decision.body is not None
    assert json.loads(decision.body)["error"]["code"] == "missing_api_key"
    assert decision.grpc == (16, "no API key was sent; send it as `authorization: Bearer KEY`")
    assert ("x-forebay-request-id", decision.id) in decision.headers


def test_a_secret_of_another_length_is_no_secret() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Engine(POLICY, secret=b"short")


def test_a_policy_that_does_not_validate_is_refused_whole() -> None:
    engine = Engine(POLICY)
    before = engine.revision
    with pytest.raises(PolicyRefused) as refused:
        engine.swap(policy("models[0].tokenizer=no-such-tokenizer"))
    assert any(severity == "error" and path.startswith("models[0]") for severity, _, path, _ in refused.value.findings)
    with pytest.raises(PolicyRefused):
        engine.swap(b"\xff\xff")
    assert engine.revision == before
    assert counter(engine, "forebay_policies_refused_total") == 2
    assert decide(engine, chat()).action == "forward"


def test_a_swap_takes_effect_at_once_and_keeps_what_is_in_flight() -> None:
    engine = Engine(POLICY)
    before = engine.revision
    held = decide(engine, chat())
    assert engine.swap(policy("models[0].pools[0]=spare")) == engine.revision != before
    assert decide(engine, chat("another")).pool == "spare"
    assert in_flight(engine)["fleet"] == 1
    engine.end(held.id)
    assert in_flight(engine)["fleet"] == 0


def test_swaps_while_many_threads_decide_lose_nothing() -> None:
    roomy = ("pools[0].max_concurrency=0", "limits[1].amount=1000000000", "limits[2].amount=1000000")
    policies = [policy(f"models[0].pools[0]={pool}", *roomy) for pool in ("fleet", "spare")]
    engine = Engine(policies[0])
    decided: list[list[Decision]] = [[], [], [], []]
    stop = threading.Event()

    def work(worker: int) -> None:
        while not stop.is_set():
            decided[worker].append(decide(engine, chat(f"{worker}-{len(decided[worker])}")))

    with ThreadPoolExecutor(4) as threads:
        working = [threads.submit(work, worker) for worker in range(4)]
        swaps = 0
        # Until every thread has seen many policies come and go.
        while min(map(len, decided)) < 200 and not any(done.done() for done in working):
            swaps += 1
            engine.swap(policies[swaps % 2])
        stop.set()
        for done in working:
            done.result()
    decisions = [decision for of_one in decided for decision in of_one]
    assert {decision.action for decision in decisions} == {"forward"}
    assert {decision.pool for decision in decisions} == {"fleet", "spare"}
    assert engine.open_reservations == len(decisions) == sum(in_flight(engine).values())
    for decision in decisions:
        engine.end(decision.id)
    assert engine.open_reservations == sum(in_flight(engine).values()) == 0


def test_a_session_that_is_dropped_gives_its_slots_back() -> None:
    engine = Engine(policy("limits[2].amount=1"))
    waiting = session(engine, "/staged/chat/completions")
    assert waiting.decision.action == "body"
    asked = waiting.body(chat(model="auto"))
    assert (asked.action, asked.target, asked.wait_ns) == ("resolve", "stage_samples:pick", 5_000_000_000)
    assert asked.request is not None
    assert (asked.request.model, asked.request.tenant, asked.request.feature) == ("auto", "acme", "live")
    assert decide(engine, chat()).code == "rate_limit_exceeded"
    del waiting
    assert decide(engine, chat()).action == "forward"


def test_a_session_decides_once() -> None:
    engine = Engine(POLICY)
    once = session(engine)
    assert once.message_timeouts_ns == (10_000_000_000, 30_000_000_000)
    assert once.body(chat()).action == "forward"
    with pytest.raises(ValueError, match="made already"):
        once.body(chat())
    assert once.message_timeouts_ns == (0, 0)


@pytest.mark.parametrize(
    ("model", "action", "word"),
    [("other", "forward", "spare"), ("no-such-model", "answer", "stage_failed"), (None, "answer", "stage_failed")],
)
def test_what_a_stage_says_is_held_against_the_policy(model: str | None, action: str, word: str) -> None:
    engine = Engine(POLICY)
    asked = session(engine, "/staged/chat/completions")
    assert asked.body(chat(model="auto")).action == "resolve"
    asked.resolved(model, "because")
    decision = asked.body(chat(model="auto"))
    assert (decision.action, decision.pool or decision.code) == (action, word)


def test_a_captured_answer_is_served_until_it_is_invalidated() -> None:
    engine = Engine(POLICY)
    leader = decide(engine, chat())
    assert engine.capture(leader.id, json.dumps(ANSWER).encode()) == "stored"
    assert engine.capture(leader.id, json.dumps(ANSWER).encode()) == "unknown"
    hit = decide(engine, chat())
    assert (hit.action, hit.status, dict(hit.headers)["x-forebay-cache"]) == ("answer", 200, "hit")
    assert hit.body == json.dumps(ANSWER).encode()
    assert engine.invalidate(tenant="little") == 0
    assert engine.invalidate(model="chat", revision="2") == 0
    assert engine.invalidate(model="chat", revision="1") == 1
    assert decide(engine, chat()).action == "forward"


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        ({"status": 500}, "answer_status"),
        ({"content_encoding": "gzip"}, "answer_content_encoding"),
        ({"content_type": "text/html"}, "answer_content_type"),
        ({"end": "cut"}, "answer_cut"),
    ],
)
def test_what_is_no_complete_answer_is_not_kept(response: dict[str, Any], outcome: str) -> None:
    engine = Engine(POLICY)
    leader = decide(engine, chat())
    assert engine.capture(leader.id, json.dumps(ANSWER).encode(), **response) == outcome
    assert decide(engine, chat()).action == "forward"
    assert counter(engine, "forebay_cache_rejected_total") == 1


def test_an_equal_request_follows_and_is_told_the_answer() -> None:
    engine = Engine(POLICY)
    leader = decide(engine, chat())
    follower = session(engine)
    waits = follower.body(chat())
    assert waits.action == "follow"
    assert 29_000_000_000 < waits.wait_ns <= 30_000_000_000
    assert follower.wait(0) is False
    with ThreadPoolExecutor(1) as thread:
        told = thread.submit(follower.wait, waits.wait_ns)
        assert engine.capture(leader.id, json.dumps(ANSWER).encode()) == "stored"
        assert told.result() is True
    answer = follower.body(chat())
    assert (answer.action, dict(answer.headers)["x-forebay-cache"]) == ("answer", "follow")


def test_a_follower_whose_time_is_over_goes_alone() -> None:
    engine = Engine(POLICY)
    decide(engine, chat())
    follower = session(engine)
    assert follower.body(chat()).action == "follow"
    assert follower.wait(0) is False
    alone = follower.body(chat())
    assert (alone.action, alone.metadata["cache"]) == ("forward", "miss")


def test_a_wait_for_one_model_never_answers_for_another() -> None:
    """Whoever waited for the next model and then gets a place at the first one leaves the wait to the others."""
    text = FILE.read_text().replace(
        "operation: CHAT_COMPLETIONS}", "operation: CHAT_COMPLETIONS, when_full: NEXT_MODEL, next_models: [other]}", 1
    )
    engine = Engine(override(load_text(text), ["pools[0].max_concurrency=1"]).message_bytes)
    filler = decide(engine, chat("something else"))
    leader = decide(engine, chat(model="other"))
    switching, waiting = session(engine), session(engine)
    assert switching.body(chat(model="chat")).action == "follow"
    assert waiting.body(chat(model="other")).action == "follow"
    engine.end(filler.id)
    engine.end(leader.id, 503, unreachable=True, local_reply=True)
    assert switching.wait(0)
    switched = switching.body(chat(model="chat"))
    assert (switched.action, switched.pool) == ("forward", "fleet")
    assert waiting.wait(0), "it leads now"
    assert engine.capture(switched.id, json.dumps(ANSWER).encode()) == "stored"
    led = waiting.body(chat(model="other"))
    assert (led.action, led.pool) == ("forward", "spare")


def test_a_whole_request_never_waits() -> None:
    engine = Engine(POLICY)
    assert [decide(engine, chat()).action for _ in range(2)] == ["forward"] * 2


def test_records_tell_decisions_and_their_ends() -> None:
    engine = Engine(POLICY)
    decision = decide(engine, chat())
    engine.decide("POST", "/v1/chat/completions", [], chat())
    engine.end(decision.id, 200, duration_ns=5_000_000)
    records = json.loads(engine.records_json(10))
    assert [record["outcome"] for record in records] == ["missing_api_key", "forward"]
    assert records[1]["id"] == decision.id
    assert len(json.loads(engine.records_json(1))) == 1


def test_ends_are_counted_once() -> None:
    engine = Engine(POLICY)
    decision = decide(engine, chat())
    engine.stream_closed(decision.id)
    assert engine.open_reservations == 1
    engine.end(decision.id)
    engine.end(decision.id)
    assert counter(engine, "forebay_log_entries_total") == 2
    assert counter(engine, "forebay_log_entries_unknown_total") == 1


@pytest.mark.parametrize("bad", ["", "zz", "g" * 32, "é" * 16])
def test_an_id_that_is_none_is_refused(bad: str) -> None:
    engine = Engine(POLICY)
    for call in (engine.end, engine.stream_closed):
        with pytest.raises(ValueError, match="32 hex digits"):
            call(bad)
    with pytest.raises(ValueError, match="32 hex digits"):
        engine.capture(bad, b"")


def test_a_response_ends_in_one_of_two_ways() -> None:
    with pytest.raises(ValueError, match="`complete` or `cut`"):
        Engine(POLICY).capture("0" * 32, b"", end="somehow")  # type: ignore[arg-type]


def test_tokens_of_a_local_reply_come_back_and_those_of_a_served_one_stay() -> None:
    engine = Engine(POLICY)

    def left(content: str) -> int:
        decision = decide(engine, chat(content))
        engine.end(decision.id, 503, local_reply=True)
        return int(decision.metadata["remaining_tokens"])

    first = left("one")
    assert left("one") == first
    served = decide(engine, chat("two"))
    bound = int(served.metadata["bound_tokens"])
    engine.end(served.id, 200, usage=json.dumps({"prompt_tokens": 9, "completion_tokens": bound - 9}).encode())
    assert left("one") == first - bound


def test_a_pool_that_envoy_has_not_or_finds_unhealthy_gets_nothing() -> None:
    engine = Engine(POLICY)
    for routable, healthy in ((False, True), (True, False)):
        engine.observe_pool("fleet", routable, healthy)
        decision = decide(engine, chat())
        assert (decision.status, decision.code) == (503, "no_healthy_pool")
    engine.observe_pool("fleet", routable=True, healthy=True)
    assert decide(engine, chat()).action == "forward"


def test_a_draining_engine_refuses_what_is_new() -> None:
    engine = Engine(POLICY)
    decide(engine, chat())
    assert not engine.draining
    engine.drain()
    assert engine.draining
    assert (decide(engine, chat()).status, engine.open_reservations) == (503, 1)
