"""Equal plain requests in flight: one goes upstream, the others wait for its answer, nobody waits for a lost one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from chain import NOTHING, Chain
from chain_http2 import http2
from envoy_rig import until
from test_http2_resets import body_of


def following(chain: Chain, count: int, before: float) -> None:
    """Wait until so many requests have come to decide since `before`."""
    until(lambda: chain.metric("forebay_decide_streams_total") >= before + count, f"{count} requests are there")


def words(results: list[Any]) -> list[str]:
    return sorted(str(result.headers["x-forebay-cache"]) for result in results)


def test_ten_at_once_cost_one(chain: Chain) -> None:
    text = "ten at once cost one"
    gate = chain.small.gate(text)
    before = chain.metric("forebay_decide_streams_total")

    def opener() -> None:
        following(chain, 10, before)
        gate.open()

    *results, _ = chain.at_once([*[lambda: chain.chat(text)] * 10, opener])
    assert words(results) == ["follow"] * 9 + ["miss"]
    assert len({result.parse().choices[0].message.content for result in results}) == 1
    assert chain.small.seen(text) == 1
    assert gate.arrived == 1


def test_followers_take_no_place_and_no_tokens(chain: Chain) -> None:
    """A key with two slots is followed by itself; the pool knows of one request."""
    text = "followers take no place"
    gate = chain.small.gate(text)
    before = chain.metric("forebay_decide_streams_total")
    places: list[float] = []

    def opener() -> None:
        following(chain, 6, before)
        places.append(chain.metric("forebay_pool_requests", pool="small-fleet"))
        gate.open()

    *results, _ = chain.at_once([*[lambda: chain.chat(text)] * 6, opener])
    assert words(results) == ["follow"] * 5 + ["miss"]
    assert places == [1]


def test_streams_never_wait(chain: Chain) -> None:
    text = "streams never wait"
    gate = chain.small.gate(text)
    streams = [
        chain.client().chat.completions.create(
            model="small-chat", messages=[{"role": "user", "content": text}], temperature=0, stream=True
        )
        for _ in range(3)
    ]
    until(lambda: gate.arrived == 3, "all three are at the fleet")
    gate.open()
    said = ["".join(c.delta.content or "" for chunk in stream for c in chunk.choices) for stream in streams]
    assert len(set(said)) == 1


def test_a_leader_that_leaves_is_followed_by_exactly_one(chain: Chain) -> None:
    text = "a leader that leaves"
    gate = chain.small.gate(text)
    body = body_of(text)
    with http2(chain.ports.listen) as client:
        streams = []
        for _ in range(6):
            streams.append(client.request(len(body)))
            client.data(streams[-1], body, last=True)
            until(lambda: gate.arrived >= 1, "the first one leads")
        client.reset(streams[0])
        until(lambda: gate.arrived == 2, "another one leads")
        gate.open()
        answers = [client.answer(stream) for stream in streams[1:]]
    assert [status for status, _ in answers] == [200] * 5
    assert len({answer for _, answer in answers}) == 1
    assert (chain.small.seen(text), gate.arrived) == (2, 2)


def test_a_leader_whose_upstream_fails_is_followed(chain: Chain) -> None:
    """The leader's client gets the failure; the others get an answer from the next one who leads."""
    text = "an upstream that fails"
    gate = chain.small.gate(text)
    chain.small.fail_next(text, 1)
    before = chain.metric("forebay_decide_streams_total")

    def opener() -> None:
        following(chain, 5, before)
        gate.open()

    body = {"model": "small-chat", "messages": [{"role": "user", "content": text}], "temperature": 0}
    *answers, _ = chain.at_once([*[lambda: chain.ask(body)] * 5, opener])
    assert sorted(answer.status for answer in answers) == [200, 200, 200, 200, 500]
    assert next(answer for answer in answers if answer.status == 500).code == "internal_error"
    assert chain.small.seen(text) == 2


def test_a_follower_may_leave(chain: Chain) -> None:
    text = "a follower may leave"
    gate = chain.small.gate(text)
    body = body_of(text)
    reset = chain.metric("forebay_streams_reset_total")
    with http2(chain.ports.listen) as client:
        streams = []
        for _ in range(3):
            streams.append(client.request(len(body)))
            client.data(streams[-1], body, last=True)
            until(lambda: gate.arrived >= 1, "the first one leads")
        client.reset(streams[1])
        until(lambda: chain.metric("forebay_streams_reset_total") > reset, "it has left")
        gate.open()
        assert [client.answer(streams[i])[0] for i in (0, 2)] == [200, 200]
    assert chain.small.seen(text) == 1


def test_nobody_follows_another_tenant(chain: Chain) -> None:
    text = "nobody follows another tenant"
    gate = chain.small.gate(text)

    def opener() -> None:
        until(lambda: gate.arrived == 2, "both are at the fleet")
        gate.open()

    *results, _ = chain.at_once([lambda: chain.chat(text, "acme"), lambda: chain.chat(text, "bistro"), opener])
    assert words(results) == ["miss", "miss"]


def test_a_revalidation_does_not_follow(chain: Chain) -> None:
    """Its answer must be newer than the request in flight."""
    text = "a revalidation does not follow"
    gate = chain.small.gate(text)

    def opener() -> None:
        until(lambda: gate.arrived == 2, "both are at the fleet")
        gate.open()

    fresh = {"extra_headers": {"cache-control": "no-cache"}}
    *results, _ = chain.at_once([lambda: chain.chat(text), lambda: chain.chat(text, **fresh), opener])
    assert words(results) == ["miss", "miss"]


def test_a_follower_waits_longer_than_envoys_own_timeout(sites: Callable[..., Chain]) -> None:
    """The hold is announced, so Envoy waits: without that it would answer 504 after a tenth of a second."""

    def impatient(policy: dict[str, Any]) -> None:
        policy["gateway"]["message_timeout_ms"] = 100
        policy["routes"] = [route for route in policy["routes"] if "resolve" not in route]

    chain = sites(impatient)
    text = "a follower waits"
    gate = chain.small.gate(text)

    def opener() -> None:
        following(chain, 2, 0)
        begun = time.monotonic()
        until(lambda: time.monotonic() > begun + 0.4, "four times the timeout are over")
        gate.open()

    *results, _ = chain.at_once([*[lambda: chain.chat(text)] * 2, opener])
    assert words(results) == ["follow", "miss"]


def test_a_follower_goes_alone_when_its_time_is_over(sites: Callable[..., Chain]) -> None:
    chain = sites(lambda policy: policy["cache"].update(follow_ms=200))
    text = "a follower goes alone"
    gate = chain.small.gate(text)

    def opener() -> None:
        until(lambda: gate.arrived == 2, "the follower goes alone")
        gate.open()

    *results, _ = chain.at_once([*[lambda: chain.chat(text)] * 2, opener])
    assert words(results) == ["miss", "miss"]
    chain.assert_quiet(NOTHING)


def test_followers_are_bounded(sites: Callable[..., Chain]) -> None:
    """Above the bound a request goes on alone; none is refused."""
    chain = sites(lambda policy: policy["cache"].update(max_followers=3))
    text = "followers are bounded"
    gate = chain.small.gate(text)

    def opener() -> None:
        until(lambda: gate.arrived == 5, "one leads and four go alone")
        gate.open()

    *results, _ = chain.at_once([*[lambda: chain.chat(text)] * 8, opener])
    assert words(results) == ["follow"] * 3 + ["miss"] * 5
    chain.assert_quiet(NOTHING)
