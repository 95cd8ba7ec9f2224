"""What clients, upstreams and a collector are told: rates, what is reserved, degraded budgets, errors, traces."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from otlp_collector import OtlpCollector

from account_site import assert_books_agree, bookkeeping, both, budget, ledger_of, price, quiet, spend_all
from chain import NOTHING, Chain, _exchange, running_chain
from chain_policy import CHAT, secret_of
from envoy_rig import Answer, until

MESSAGES = "/v1/messages"
RATES = ("limit", "remaining", "reset")
RESET = re.compile(r"\d+(\.\d{3})?s")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpCollector]:
    with OtlpCollector() as collector:
        yield collector


@pytest.fixture(scope="module")
def module_site(tmp_path_factory: pytest.TempPathFactory, collector: OtlpCollector) -> Iterator[Chain]:
    """One chain for the module: budgets of single users and runs, an Anthropic pool, all traces kept."""
    folder = tmp_path_factory.mktemp("headers")
    budgets = (
        budget("next", 60_000, "RUN", when_exhausted="NEXT_MODEL", next_models=["large-chat"], models=["small-chat"]),
        budget("cached", 400, "EVAL", "TOKENS", when_exhausted="CACHED_ONLY"),
        budget("closed", 60_000, "KEY", keys=["two-at-once"]),
        budget("soft", 10_000, "KEY", enforcement="SOFT", keys=["four-at-once"]),
    )

    def change(policy: dict[str, Any]) -> None:
        policy["telemetry"] = {"otlp_endpoint": collector.endpoint, "sampled_per_million": 1_000_000}
        small = next(pool for pool in policy["pools"] if pool["name"] == "small-fleet")
        policy["pools"].append(small | {"name": "claude", "protocol": "ANTHROPIC"})
        model = next(model for model in policy["models"] if model["name"] == "small-chat")
        more = {"name": "claude-chat", "aliases": [], "capabilities": ["MESSAGES"], "pools": ["claude"]}
        policy["models"].append(model | more)
        lost = next(model for model in policy["models"] if model["name"] == "lost")
        policy["pools"].append(
            {"name": "away-too", "protocol": "ANTHROPIC", "provider": "lab"}
            | {"endpoints": next(pool for pool in policy["pools"] if pool["name"] == "away")["endpoints"]}
        )
        policy["models"].append(lost | {"name": "lost-claude", "capabilities": ["MESSAGES"], "pools": ["away-too"]})
        policy["routes"].insert(0, {"name": "messages", "path": MESSAGES, "methods": ["POST"], "operation": "MESSAGES"})

    with running_chain(folder, both(bookkeeping(folder, *budgets), change)) as chain:
        yield chain


@pytest.fixture
def site(module_site: Chain) -> Iterator[Chain]:
    yield module_site
    module_site.assert_quiet(NOTHING)
    assert_books_agree(module_site)


def assert_rates(headers: Any, unit: str, limit: int) -> int:
    """Limit, remaining and reset of a unit are there; gives what remains."""
    found = {name: headers.get(f"x-ratelimit-{name}-{unit}") for name in RATES}
    assert found["limit"] == str(limit), found
    assert RESET.fullmatch(found["reset"] or ""), found
    remaining = int(found["remaining"] or -1)
    assert 0 <= remaining < limit
    return remaining


def test_rates_stand_on_every_answer(site: Chain) -> None:
    """Forwarded, streamed, from the cache, and refused."""
    key = "five-requests"
    forwarded = site.chat("rates", key)
    assert assert_rates(forwarded.headers, "requests", 5) == 4
    assert 2_000_000 - 200 < assert_rates(forwarded.headers, "tokens", 2_000_000) < 2_000_000
    assert int(forwarded.headers["x-forebay-cost-nanousd-reserved"]) >= price(1, 64)
    until(lambda: site.metric("forebay_capture_bytes") == 0, "the answer is put away")
    hit = site.chat("rates", key)
    assert hit.headers["x-forebay-cache"] == "hit"
    assert assert_rates(hit.headers, "requests", 5) == 3
    streamed = site.chat("rates in a stream", key, stream=True)
    assert len(list(streamed.parse())) > 2
    assert assert_rates(streamed.headers, "requests", 5) == 2
    assert_rates(streamed.headers, "tokens", 2_000_000)
    for left in (1, 0):
        assert assert_rates(site.chat(f"rates {left}", key).headers, "requests", 5) == left
    with pytest.raises(openai.RateLimitError) as caught:
        site.chat("one too many", key)
    assert caught.value.code == "rate_limit_exceeded"
    assert assert_rates(caught.value.response.headers, "requests", 5) == 0
    assert int(caught.value.response.headers["retry-after"]) > 0


def test_a_refusal_for_tokens_says_what_remains(site: Chain) -> None:
    error = spend_all(site, "tokens", key="few-tokens")
    assert error.code == "rate_limit_exceeded"
    assert assert_rates(error.response.headers, "tokens", 500) < 100
    assert int(error.response.headers["retry-after"]) > 0


def test_a_budget_that_is_spent_refuses(site: Chain) -> None:
    error = spend_all(site, "closed", key="two-at-once")
    assert (error.status_code, error.code, error.type) == (429, "budget_exhausted", "insufficient_quota")
    assert "`closed`" in error.message
    assert int(error.response.headers["retry-after"]) > 0
    assert site.chat("another key").headers["x-forebay-model"] == "small-chat"


def test_a_budget_that_is_spent_goes_on_with_the_next_model(site: Chain) -> None:
    run = {"extra_headers": {"x-forebay-run": "degrades"}}
    models = []
    for number in range(6):
        raw = site.chat(f"degrades {number}", **run)
        models.append(raw.headers["x-forebay-model"])
        assert raw.parse().choices[0].message.content
    assert models[0] == "small-chat"
    assert models[-1] == "large-chat"
    assert models == sorted(models, reverse=True), "it never goes back"
    quiet(site)
    rows = ledger_of(site).rows("run = ?", "degrades")
    assert {row["model_asked"] for row in rows} == {"small-chat"}
    assert [row["model"] for row in rows] == models
    assert site.chat("another run").headers["x-forebay-model"] == "small-chat"


def test_a_budget_that_is_spent_still_gives_what_is_cached(site: Chain) -> None:
    run = {"extra_headers": {"x-forebay-eval": "degrades"}}
    first = site.chat("kept in the cache", **run).parse()
    error = spend_all(site, "spends", **run)
    assert (error.code, error.type) == ("budget_exhausted", "insufficient_quota")
    again = site.chat("kept in the cache", **run)
    assert again.headers["x-forebay-cache"] == "hit"
    assert again.parse().choices[0].message.content == first.choices[0].message.content


def test_a_soft_budget_never_refuses(site: Chain) -> None:
    before = site.metric("forebay_budget_soft_total")
    for number in range(4):
        assert site.chat(f"soft {number}", "four-at-once").headers["x-forebay-model"] == "small-chat"
    assert site.metric("forebay_budget_soft_total") > before
    quiet(site)
    (bucket,) = ledger_of(site).buckets("soft")
    assert bucket["spent"] > bucket["amount"] == 10_000


# --- Anthropic's shape


def message(site: Chain, text: str, key: str = "acme", **fields: Any) -> Answer:
    body = {"model": "claude-chat", "max_tokens": 16, "messages": [{"role": "user", "content": text}]}
    headers = {"content-type": "application/json", "x-api-key": secret_of(key), "anthropic-version": "2023-06-01"}
    return _exchange(site.ports.listen, "POST", MESSAGES, json.dumps(body | fields).encode(), headers)


def assert_anthropic_error(answer: Answer, status: int, kind: str) -> str:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["type"] == "error"
    assert answer.json["error"]["type"] == kind, answer
    return str(answer.json["error"]["message"])


def test_messages_are_charged_and_their_errors_have_anthropics_shape(site: Chain) -> None:
    answer = message(site, "a message")
    assert answer.status == 200, answer
    row = ledger_of(site).row(answer.headers["x-forebay-request-id"])
    usage = answer.json["usage"]
    assert (row["prompt_tokens"], row["output_tokens"]) == (usage["input_tokens"], usage["output_tokens"])
    assert row["cost_nanousd"] == price(usage["input_tokens"], usage["output_tokens"])
    assert_anthropic_error(message(site, "who", model="no-such-model"), 404, "not_found_error")
    assert_anthropic_error(message(site, "who", key="nobody"), 401, "authentication_error")
    # Envoy's own answer, where no upstream is.
    assert_anthropic_error(message(site, "nobody there", model="lost-claude"), 503, "api_error")
    site.small.fail_next("a message that fails", 1)
    assert message(site, "a message that fails").status == 500


def test_a_budget_refuses_a_message_in_anthropics_shape(site: Chain) -> None:
    spend_all(site, "closed for messages", key="two-at-once")
    answer = message(site, "too late for a message that is a little longer", "two-at-once", max_tokens=64)
    said = assert_anthropic_error(answer, 429, "rate_limit_error")
    assert "`closed`" in said
    assert int(answer.headers["retry-after"]) > 0


# --- traces


def upstream_traceparent(site: Chain, text: str, **headers: str) -> tuple[Answer, dict[str, str]]:
    """Ask, and give what the upstream got."""
    body = {"model": "small-chat", "messages": [{"role": "user", "content": text}], "temperature": 0}
    answer = site.ask(body, **headers)
    assert answer.status == 200
    heads = [head for head in site.small.headers.json() if head["path"] == CHAT]
    return answer, {name.lower(): value for name, value in heads[-1]["headers"]}


def test_a_clients_trace_goes_on_through_us_to_the_upstream(site: Chain, collector: OtlpCollector) -> None:
    answer, head = upstream_traceparent(
        site, "traced by the client", traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=1,other=2"
    )
    version, trace, ours, flags = head["traceparent"].split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert ours != PARENT
    assert head["tracestate"] == "vendor=1,other=2"
    spans = spans_of(collector, answer)
    own = spans["SERVER"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert own.parent_span_id.hex() == PARENT
    assert own.span_id.hex() == ours, "the upstream's parent is our span"
    for name in ("INTERNAL", "CLIENT"):
        assert spans[name].parent_span_id == own.span_id
    usage = answer.json["usage"]
    told = {a.key: a.value.int_value or a.value.string_value for a in spans["CLIENT"].attributes}
    assert told["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert "traced by the client" not in str(own), "no text of a request is in a span"


def test_without_a_clients_trace_one_begins_here(site: Chain, collector: OtlpCollector) -> None:
    answer, head = upstream_traceparent(site, "traced by us", traceparent="00-not-a-trace-01")
    _, trace, ours, _ = head["traceparent"].split("-")
    own = spans_of(collector, answer)["SERVER"]
    assert (own.trace_id.hex(), own.span_id.hex(), own.parent_span_id) == (trace, ours, b"")


def spans_of(collector: OtlpCollector, answer: Answer) -> dict[str, Any]:
    """The spans of one request by their kind, once they are there."""
    identity = answer.headers["x-forebay-request-id"]
    kinds = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT"}

    def own() -> Any:
        return next(
            (s for s in list(collector.spans) if any(a.value.string_value == identity for a in s.attributes)), None
        )

    span = until(own, f"the span of {identity} arrives")
    until(lambda: sum(s.trace_id == span.trace_id for s in list(collector.spans)) >= 3, "its children arrive")
    return {kinds[s.kind]: s for s in collector.spans if s.trace_id == span.trace_id}
