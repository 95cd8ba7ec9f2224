"""A client that goes away, at every phase of a request: nothing stays held, and the same connection goes on."""

from __future__ import annotations

import json
import socket
from typing import Any

import h2.events
import pytest

from chain import Chain
from chain_http2 import Http2Client, http2
from chain_policy import CHAT, secret_of
from envoy_rig import DEADLINE_S, until


def body_of(text: str, **fields: Any) -> bytes:
    message = {"role": "user", "content": text}
    return json.dumps({"model": "small-chat", "messages": [message], "temperature": 0} | fields).encode()


def assert_it_goes_on(client: Http2Client, text: str) -> None:
    body = body_of(text)
    stream = client.request(len(body))
    client.data(stream, body, last=True)
    status, answer = client.answer(stream)
    assert status == 200
    assert json.loads(answer)["choices"]


def test_reset_after_the_head(chain: Chain) -> None:
    streams, reset = chain.metric("forebay_decide_streams_total"), chain.metric("forebay_streams_reset_total")
    with http2(chain.ports.listen) as client:
        stream = client.request(1_000)
        until(lambda: chain.metric("forebay_decide_streams_total") > streams, "decide has the head")
        client.reset(stream)
        until(lambda: chain.metric("forebay_streams_reset_total") > reset, "decide hears of it")
        assert_it_goes_on(client, "after a reset after the head")


def test_reset_in_mid_body(chain: Chain) -> None:
    reset = chain.metric("forebay_streams_reset_total")
    with http2(chain.ports.listen) as client:
        stream = client.request(100_000)
        client.data(stream, b'{"model": "small-chat", ' + b" " * 10_000, last=False)
        client.reset(stream)
        until(lambda: chain.metric("forebay_streams_reset_total") > reset, "decide hears of it")
        assert_it_goes_on(client, "after a reset in mid-body")


def test_reset_while_the_upstream_works(chain: Chain) -> None:
    word = "reset while the upstream works"
    gate = chain.small.gate(word)
    aborted = chain.small.stats.aborted
    with http2(chain.ports.listen) as client:
        body = body_of(word)
        stream = client.request(len(body))
        client.data(stream, body, last=True)
        until(lambda: gate.arrived == 1, "the request is at the fleet")
        assert chain.metric("forebay_pool_requests", pool="small-fleet") == 1
        client.reset(stream)
        until(lambda: chain.metric("forebay_pool_requests", pool="small-fleet") == 0, "its place is free")
        until(lambda: chain.small.stats.aborted == aborted + 1, "the fleet hears of it")
        gate.open()
        assert_it_goes_on(client, "after a reset of work")


def test_reset_in_mid_response(chain: Chain) -> None:
    word = "reset in mid-response"
    gate = chain.small.gate(word)
    with http2(chain.ports.listen) as client:
        body = body_of(word, stream=True)
        stream = client.request(len(body))
        client.data(stream, body, last=True)
        client.until(stream, h2.events.DataReceived)
        assert chain.metric("forebay_pool_requests", pool="small-fleet") == 1
        request_id = client.header(stream, "x-forebay-request-id")
        client.reset(stream)
        until(lambda: chain.metric("forebay_pool_requests", pool="small-fleet") == 0, "its place is free")
        gate.open()
        assert_it_goes_on(client, "after a reset in mid-response")
    # It cost what it cost: an abort is no local reply, whose tokens come back.
    end = chain.record(request_id)["end"]
    assert (end["aborted"], end["local_reply"], end["status"]) == (True, False, 200)
    # What was cut is not kept.
    assert chain.chat(word).headers["x-forebay-cache"] == "miss"


def test_reset_of_a_follower_and_of_its_leader(chain: Chain) -> None:
    word = "reset of a follower"
    gate = chain.small.gate(word)
    reset = chain.metric("forebay_streams_reset_total")
    with http2(chain.ports.listen) as client:
        body = body_of(word)
        streams = []
        for _ in range(3):
            streams.append(client.request(len(body)))
            client.data(streams[-1], body, last=True)
            until(lambda: gate.arrived == 1, "the first one leads")
        client.reset(streams[1])
        until(lambda: chain.metric("forebay_streams_reset_total") > reset, "the follower has left")
        client.reset(streams[0])
        until(lambda: gate.arrived == 2, "the other follower leads now")
        gate.open()
        status, _ = client.answer(streams[2])
        assert status == 200


def test_reset_while_a_stage_is_asked(chain: Chain) -> None:
    """The stage answers somebody who is gone; nobody else may get that answer."""
    before = chain.metric("forebay_streams_reset_total")
    body = body_of("reset while a stage is asked")
    connection = socket.create_connection(("127.0.0.1", chain.ports.listen), timeout=DEADLINE_S)
    head = f"POST /patient{CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {secret_of('acme')}\r\ncontent-length: {len(body)}\r\n\r\n"
    runs = chain.metric("forebay_decide_streams_total")
    connection.sendall(head.encode() + body)
    until(lambda: chain.metric("forebay_decide_streams_total") > runs, "decide has it")
    connection.close()
    until(lambda: chain.metric("forebay_streams_reset_total") > before, "decide hears of it")
    assert chain.chat("after a reset while a stage is asked").headers["x-forebay-model"] == "small-chat"


@pytest.mark.parametrize("turn", range(3))
def test_many_resets_at_once_harm_nobody_else(chain: Chain, turn: int) -> None:
    """They all reach the gateway over the one connection that Envoy has to it."""
    with http2(chain.ports.listen) as client:
        for index in range(200):
            body = body_of(f"many resets {turn} {index}", stream=index % 2 == 0)
            stream = client.request(len(body))
            if index % 3:
                client.data(stream, body[:20], last=False)
            if index % 3 == 2:
                client.data(stream, body[20:], last=True)
            client.reset(stream)
        assert_it_goes_on(client, f"after many resets {turn}")


def test_a_disconnect_in_mid_stream_frees_the_slot_of_its_key(chain: Chain) -> None:
    word = "disconnect in mid-stream"
    gate = chain.small.gate(word)
    streams = [
        chain.client("two-at-once").chat.completions.create(**_streamed(f"{word} {index}")) for index in range(2)
    ]
    for stream in streams:
        assert next(iter(stream)).choices
    error = chain.refusal(_streamed("a third one"), key="two-at-once")
    assert (error.status_code, error.code) == (429, "rate_limit_exceeded")
    streams[0].close()
    until(lambda: chain.metric("forebay_pool_requests", pool="small-fleet") == 1, "one slot is free")
    assert chain.chat("a third one, again", "two-at-once").headers["x-forebay-model"] == "small-chat"
    gate.open()
    assert [chunk.choices[0].finish_reason for chunk in streams[1] if chunk.choices][-1] == "stop"


def _streamed(text: str) -> dict[str, Any]:
    message = {"role": "user", "content": text}
    return {"model": "small-chat", "messages": [message], "temperature": 0, "stream": True}
