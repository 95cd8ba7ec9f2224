"""The exact cache through the whole chain: what is shared, what never is, and what is forgotten."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from chain import Chain
from envoy_rig import until


def outcome(chain: Chain, text: str, key: str = "acme", **fields: Any) -> str:
    """One chat; what the cache said of it. The copy of an answer is put away after the client has it."""
    with put_away(chain) as asked:
        raw = chain.chat(text, key, **fields)
        word = str(raw.headers["x-forebay-cache"])
        asked.is_copied = word == "miss"
    return word


@dataclass
class Asked:
    """Whether the answer is copied for the cache."""

    is_copied: bool = True


@contextmanager
def put_away(chain: Chain) -> Iterator[Asked]:
    """After the block, wait until the copy of its answer has been kept or given up."""
    names = ("forebay_cache_stored_total", "forebay_cache_rejected_total")
    before = sum(chain.metric(name) for name in names)
    asked = Asked()
    yield asked
    if asked.is_copied:
        until(lambda: sum(chain.metric(name) for name in names) > before, "the answer is kept or given up")


def said(chain: Chain, text: str, **fields: Any) -> tuple[str, str, list[Any]]:
    """A streamed chat: what the cache said, the text, the usage events."""
    stream = chain.client().chat.completions.with_raw_response.create(
        model="small-chat", messages=[{"role": "user", "content": text}], temperature=0, stream=True, **fields
    )
    chunks = list(stream.parse())
    parts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    return str(stream.headers["x-forebay-cache"]), "".join(parts), [chunk.usage for chunk in chunks if chunk.usage]


def test_a_repeat_is_a_hit_and_reaches_nobody(chain: Chain) -> None:
    text = "a repeat is a hit"
    with put_away(chain):
        first = chain.chat(text)
    second = chain.chat(text)
    assert (first.headers["x-forebay-cache"], second.headers["x-forebay-cache"]) == ("miss", "hit")
    assert first.parse() == second.parse()
    assert second.headers["x-forebay-model"] == "small-chat"
    assert second.headers["content-type"] == "application/json"
    assert int(second.headers["age"]) < 60
    assert first.headers["x-forebay-request-id"] != second.headers["x-forebay-request-id"]
    assert chain.small.seen(text) == 1
    record = chain.record(second.headers["x-forebay-request-id"])
    assert (record["outcome"], record["cache"], record["status"]) == ("answer", "hit", 200)


def test_an_alias_is_the_same_question(chain: Chain) -> None:
    assert outcome(chain, "asked by an alias", model="fast") == "miss"
    assert outcome(chain, "asked by an alias", model="small-chat") == "hit"


@pytest.mark.parametrize("first", ["plain", "streamed"])
def test_one_entry_serves_both_forms(chain: Chain, first: str) -> None:
    text = f"one entry serves both forms, {first} first"
    usage = {"stream_options": {"include_usage": True}}
    if first == "plain":
        assert outcome(chain, text) == "miss"
    else:
        with put_away(chain):
            assert said(chain, text, **usage)[0] == "miss"
    plain = chain.chat(text)
    assert plain.headers["x-forebay-cache"] == "hit"
    answer = plain.parse()
    for fields, events in ((usage, 1), ({}, 0)):
        word, told, usages = said(chain, text, **fields)
        assert word == "hit"
        assert told == answer.choices[0].message.content
        assert len(usages) == events
        assert all(used == answer.usage for used in usages)
    assert chain.small.seen(text) == 1


def test_a_stream_without_usage_is_kept_too(chain: Chain) -> None:
    text = "streamed without usage"
    with put_away(chain):
        word, told, _ = said(chain, text)
    assert word == "miss"
    again = chain.chat(text)
    assert again.headers["x-forebay-cache"] == "hit"
    assert again.parse().choices[0].message.content == told


def test_embeddings_and_completions_are_cached(chain: Chain) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: chain.client().embeddings.with_raw_response.create(model="small-embed", input=["cached", "vectors"]),
        lambda: chain.client().completions.with_raw_response.create(model="small-chat", prompt="cached", temperature=0),
    ]
    for call in calls:
        with put_away(chain):
            first = call()
        second = call()
        assert (first.headers["x-forebay-cache"], second.headers["x-forebay-cache"]) == ("miss", "hit")
        assert first.parse() == second.parse()


def test_tenants_never_share_and_keys_of_one_do(chain: Chain) -> None:
    text = "tenants never share"
    assert outcome(chain, text, "acme") == "miss"
    assert outcome(chain, text, "bistro") == "miss"
    assert outcome(chain, text, "acme-bo") == "hit"
    assert chain.small.seen(text) == 2


def test_a_feature_may_keep_users_apart(chain: Chain) -> None:
    def ask(user: str) -> str:
        headers = {"x-forebay-feature": "per-user", "x-forebay-user": user}
        return outcome(chain, "users kept apart", extra_headers=headers)

    assert [ask("ann"), ask("ann"), ask("bob"), ask("bob")] == ["miss", "hit", "miss", "hit"]


@pytest.mark.parametrize(
    "change",
    [{"max_tokens": 7}, {"n": 2}, {"seed": 1}, {"stop": ["x"]}, {"top_p": 0.5}, {"user": "someone"}],
)
def test_another_parameter_is_another_question(chain: Chain, change: dict[str, Any]) -> None:
    text = f"another parameter {json.dumps(change)}"
    assert outcome(chain, text) == "miss"
    assert outcome(chain, text, **change) == ("hit" if "user" in change else "miss")


def test_chance_is_not_cached_unless_the_feature_shares_it(chain: Chain) -> None:
    text = "a question of chance"
    assert [outcome(chain, text, temperature=0.7) for _ in range(2)] == ["bypass", "bypass"]
    body = {"model": "small-chat", "messages": [{"role": "user", "content": text}]}
    assert chain.ask(body).headers["x-forebay-cache"] == "bypass"  # no temperature means 1
    shared = {"temperature": 0.7, "extra_headers": {"x-forebay-feature": "shared"}}
    assert [outcome(chain, text, **shared) for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize("field", [{"store": True}, {"previous_response_id": "r"}, {"conversation": "c"}])
def test_what_a_server_remembers_is_never_cached(chain: Chain, field: dict[str, Any]) -> None:
    text = f"remembered by {next(iter(field))}"
    assert [outcome(chain, text, extra_body=field) for _ in range(2)] == ["bypass", "bypass"]
    assert chain.small.seen(text) == 2


def test_a_feature_may_be_uncached(chain: Chain) -> None:
    fields = {"extra_headers": {"x-forebay-feature": "uncached"}}
    assert [outcome(chain, "an uncached feature", **fields) for _ in range(2)] == ["bypass", "bypass"]


def test_cache_control_is_honoured(chain: Chain) -> None:
    def ask(control: str, text: str = "cache control") -> str:
        return outcome(chain, text, extra_headers={"cache-control": control} if control else {})

    assert [ask("no-store"), ask("no-store")] == ["bypass", "bypass"]
    assert [ask(""), ask("no-store"), ask("")] == ["miss", "bypass", "hit"]
    assert [ask("no-cache"), ask("")] == ["miss", "hit"]
    assert ask("max-age=3600") == "hit"
    assert ask("max-age=0") == "miss"
    assert chain.small.seen("cache control") == 6


def test_an_upstreams_failure_is_not_kept(chain: Chain) -> None:
    text = "a failure is not kept"
    chain.small.fail_next(text, 1)
    body = {"model": "small-chat", "messages": [{"role": "user", "content": text}], "temperature": 0}
    with put_away(chain):
        failed = chain.ask(body)
    assert (failed.status, failed.code) == (500, "internal_error")
    assert outcome(chain, text) == "miss"
    assert outcome(chain, text) == "hit"


def test_a_local_reply_is_never_captured(chain: Chain) -> None:
    """Envoy's own 503 for a pool that is away is not kept, and asked for anew each time."""
    stored = chain.metric("forebay_cache_stored_total")
    for _ in range(2):
        answer = chain.ask({"model": "lost", "input": "lost"}, "/v1/embeddings")
        assert (answer.status, answer.code in ("upstream_unavailable", "no_healthy_pool")) == (503, True)
        assert answer.headers.get("x-forebay-cache") != "hit"
    until(lambda: chain.metric("forebay_open_reservations") == 0, "nothing is under way")
    assert chain.metric("forebay_cache_stored_total") == stored


def test_a_tag_is_invalidated(chain: Chain) -> None:
    shared = {"extra_headers": {"x-forebay-feature": "shared"}}
    assert outcome(chain, "tagged by its feature", **shared) == "miss"
    assert outcome(chain, "not tagged") == "miss"
    dropped = chain.admin("POST", "/cache/invalidate", {"tag": "shared-answers"})
    assert (dropped.status, dropped.json["invalidated"] >= 1) == (200, True)
    assert outcome(chain, "tagged by its feature", **shared) == "miss"
    assert outcome(chain, "not tagged") == "hit"


def test_a_model_is_invalidated(chain: Chain) -> None:
    assert outcome(chain, "of the large model", model="large-chat") == "miss"
    assert outcome(chain, "of the small model") == "miss"
    other = chain.admin("POST", "/cache/invalidate", {"model": "large-chat", "revision": "another"})
    assert other.json == {"invalidated": 0}
    assert outcome(chain, "of the large model", model="large-chat") == "hit"
    assert chain.admin("POST", "/cache/invalidate", {"model": "large-chat", "revision": "1"}).json["invalidated"] >= 1
    assert outcome(chain, "of the large model", model="large-chat") == "miss"
    assert outcome(chain, "of the small model") == "hit"


def test_what_is_no_selector_is_refused(chain: Chain) -> None:
    for body in ({}, {"tag": ""}, {"tag": "a", "model": "b"}, {"all": False}, {"tag": 7}):
        assert chain.admin("POST", "/cache/invalidate", body).status == 400
