"""A pool with one place, and what each route says when it is taken; and why a request went where it went."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from chain import Chain
from envoy_rig import until

SCARCE: dict[str, Any] = {"model": "scarce", "temperature": 0}


def scarce_chat(text: str) -> dict[str, Any]:
    return SCARCE | {"messages": [{"role": "user", "content": text}]}


@contextmanager
def taken(chain: Chain, word: str) -> Iterator[None]:
    """The one place is taken inside the block, and free after it."""
    gate = chain.scarce.gate(word)
    stream = chain.client().chat.completions.create(**scarce_chat(word), stream=True)
    try:
        until(lambda: gate.arrived == 1, "the place is taken")
        yield
    finally:
        gate.open()
        assert list(stream)
        until(lambda: chain.metric("forebay_pool_requests", pool="one-place") == 0, "the place is free")


def test_the_next_model_serves_where_the_route_says_so(chain: Chain) -> None:
    with taken(chain, "the place before the next model"):
        raw = chain.chat("the next model serves", model="scarce")
        assert raw.headers["x-forebay-model"] == "large-chat"
        assert raw.headers["x-forebay-pool"] == "large-fleet"
        record = chain.record(raw.headers["x-forebay-request-id"])
        assert (record["asked"], record["model"]) == ("scarce", "large-chat")
        assert record["reason"] == "the model before was full"
    raw = chain.chat("the first model serves again", model="scarce")
    assert raw.headers["x-forebay-model"] == "scarce"


def test_a_next_model_that_the_key_may_not_use_is_passed_over(chain: Chain) -> None:
    """`narrow` may use neither; what it may not ask is 403, not a place elsewhere."""
    with taken(chain, "the place that a narrow key sees"):
        error = chain.refusal(scarce_chat("narrow"), key="narrow")
        assert isinstance(error, openai.PermissionDeniedError)


def test_503_where_the_route_says_so(chain: Chain) -> None:
    with taken(chain, "status 503"):
        error = chain.refusal(SCARCE | {"prompt": "no place"}, "/v1/completions")
        assert isinstance(error, openai.InternalServerError)
        assert (error.status_code, error.code) == (503, "pool_full")
        assert error.response.headers["retry-after"] == "1"


def test_429_where_the_route_says_nothing(chain: Chain) -> None:
    with taken(chain, "status 429"):
        error = chain.refusal({"model": "scarce", "input": "no place"}, "/v1/embeddings")
        assert isinstance(error, openai.RateLimitError)
        assert error.code == "pool_full"
        assert error.response.headers["retry-after"] == "1"
        assert "`scarce`" in error.body["message"]


def test_racing_clients_never_pass_the_bound_of_a_pool(chain: Chain) -> None:
    chain.scarce.stats.peak_in_flight = 0
    bodies = [SCARCE | {"prompt": f"racing for one place {index}"} for index in range(32)]
    answers = chain.at_once([lambda body=body: chain.ask(body, "/v1/completions") for body in bodies])  # type: ignore[misc]
    statuses = [answer.status for answer in answers]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 1
    assert chain.scarce.stats.peak_in_flight == 1


def test_a_pool_that_is_away_is_503(chain: Chain) -> None:
    """First Envoy says that it cannot connect; after some failures in a row the gateway no longer tries."""
    codes = []
    for index in range(8):
        answer = chain.ask({"model": "lost", "input": f"away {index}"}, "/v1/embeddings")
        assert answer.status == 503
        codes.append(answer.code)
        until(lambda: chain.metric("forebay_open_reservations") == 0, "the log has told of it")
    assert set(codes) <= {"upstream_unavailable", "no_healthy_pool"}
    assert codes[-1] == "no_healthy_pool"
    # The chat's route has a next model, which serves meanwhile.
    raw = chain.chat("the next model serves for one that is away", model="lost")
    assert raw.headers["x-forebay-model"] == "large-chat"
    record = chain.record(raw.headers["x-forebay-request-id"])
    assert record["reason"] == "no pool of the model before was healthy"


@pytest.mark.parametrize("pool", ["small-fleet", "large-fleet"])
def test_the_reason_is_in_the_record(chain: Chain, pool: str) -> None:
    model = "small-chat" if pool == "small-fleet" else "large-chat"
    raw = chain.chat(f"a reason for {pool}", model=model)
    record = chain.record(raw.headers["x-forebay-request-id"])
    assert (record["model"], record["pool"]) == (model, pool)
    assert record["prompt_tokens"] > 0
    assert record["bound_tokens"] >= record["prompt_tokens"] + 64
    assert set(record["stages_ns"]) >= {"identify", "read", "authorise", "limit", "resolve", "recall", "count", "place"}
    assert all(value >= 0 for value in record["stages_ns"].values())
