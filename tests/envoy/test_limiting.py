"""Limits through the whole chain: what is refused, what is given back, and that racing clients never pass a bound."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from chain import Chain
from envoy_rig import until


def refused(chain: Chain, text: str, key: str, **fields: Any) -> openai.RateLimitError:
    with pytest.raises(openai.RateLimitError) as caught:
        chain.chat(text, key, **fields)
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    return caught.value


def test_requests_are_counted(chain: Chain) -> None:
    """Other tests of the session may have used some of the five; the sixth is refused in any case."""
    left = 5
    for index in range(6):
        try:
            raw = chain.chat(f"requests are counted {index}", "five-requests")
        except openai.RateLimitError:
            break
        left = int(raw.headers["x-ratelimit-remaining-requests"])
    assert left == 0
    error = refused(chain, "one too many", "five-requests")
    assert "`five`" in str(error)
    assert "5 requests" in str(error)
    assert 0 < int(error.response.headers["retry-after"]) <= 4000  # the window slides in steps
    # A refusal costs nothing, and another key has its own count.
    assert chain.small.seen("one too many") == 0
    assert chain.chat("one too many", "acme").headers["x-forebay-cache"] == "miss"


def test_a_hit_counts_as_a_request_and_takes_no_tokens(chain: Chain) -> None:
    text = "a hit takes no tokens"
    before = chain.chat(text, "few-tokens", max_tokens=5)
    until(lambda: chain.metric("forebay_capture_bytes") == 0, "the answer is put away")
    for _ in range(8):
        assert chain.chat(text, "few-tokens", max_tokens=5).headers["x-forebay-cache"] in ("hit", "follow", "miss")
    after = chain.chat("tokens after hits", "few-tokens", max_tokens=5)
    spent = int(before.headers["x-ratelimit-remaining-tokens"]) - int(after.headers["x-ratelimit-remaining-tokens"])
    assert 0 < spent < 60


def test_tokens_are_reserved_at_their_bound(chain: Chain) -> None:
    """The prompt, and the most that may come out of every choice."""
    error = refused(chain, "too many choices", "few-tokens", n=20, max_tokens=30)
    assert "`few`" in str(error)
    assert "500 tokens" in str(error)
    assert "it can never fit" in str(error)
    assert "retry-after" not in error.response.headers
    assert chain.small.seen("too many choices") == 0


def test_tokens_of_what_never_reached_a_model_come_back(chain: Chain) -> None:
    """Envoy cannot reach the pool; its local reply ends the reservation."""
    for index in range(8):
        answer = chain.ask({"model": "lost", "input": f"lost tokens {index} " * 15}, "/v1/embeddings", "few-tokens")
        assert answer.status == 503, answer
        until(lambda: chain.metric("forebay_open_reservations") == 0, "it is over")
    assert chain.chat("tokens are back", "few-tokens", max_tokens=5).headers["x-forebay-pool"] == "small-fleet"


def test_a_slot_is_free_when_its_stream_ends(chain: Chain) -> None:
    word = "a slot and its stream"
    gate = chain.small.gate(word)
    asked = {"model": "small-chat", "temperature": 0, "stream": True}
    streams = [
        chain.client("two-at-once").chat.completions.create(
            messages=[{"role": "user", "content": f"{word} {index}"}], **asked
        )
        for index in range(2)
    ]
    error = refused(chain, "no slot is free", "two-at-once")
    assert "`two`" in str(error)
    assert "2 requests at once" in str(error)
    assert int(error.response.headers["retry-after"]) >= 1
    gate.open()
    for stream in streams:
        assert list(stream)
    # The end of the stream is the end of the slot; nothing later is waited for.
    until(lambda: chain.metric("forebay_pool_requests", pool="small-fleet") == 0, "both ended")
    assert chain.chat("a slot is free", "two-at-once").headers["x-forebay-pool"] == "small-fleet"


@pytest.mark.parametrize("stream", [False, True])
def test_thirty_two_racing_clients_never_pass_the_limit(chain: Chain, stream: bool) -> None:  # noqa: FBT001
    """The fleet's own count is the proof: never more than four at once, and every slot comes back."""
    word = f"racing clients {stream}"
    peaks = [chain.small.stats.peak_in_flight]
    chain.small.stats.peak_in_flight = 0
    served = refused_count = 0

    def ask(index: int) -> list[int]:
        statuses = []
        for turn in range(6):
            body = {
                "model": "small-chat",
                "messages": [{"role": "user", "content": f"{word} {index} {turn}"}],
                "temperature": 0,
                "stream": stream,
            }
            statuses.append(chain.ask(body, key="four-at-once").status)
        return statuses

    results = chain.at_once([lambda index=index: ask(index) for index in range(32)])  # type: ignore[misc]
    for statuses in results:
        assert not isinstance(statuses, Exception), statuses
        assert set(statuses) <= {200, 429}
        served += statuses.count(200)
        refused_count += statuses.count(429)
    assert served >= 4
    assert served + refused_count == 32 * 6
    assert chain.small.stats.peak_in_flight <= 4
    assert chain.small.seen(word) == served
    chain.small.stats.peak_in_flight = max(*peaks, chain.small.stats.peak_in_flight)
    until(lambda: chain.metric("forebay_pool_requests", pool="small-fleet") == 0, "all ended")
    raw = chain.at_once([lambda i=i: chain.chat(f"{word} afterwards {i}", "four-at-once") for i in range(4)])  # type: ignore[misc]
    assert [str(answer.headers["x-forebay-pool"]) for answer in raw] == ["small-fleet"] * 4
