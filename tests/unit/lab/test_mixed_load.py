"""The mixed load: equal seeds give equal plans, clients see what was sent, and every wrong book is found."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import pytest

from forebay.lab import mixed_load_stage as stage
from forebay.lab.fleet import Fleet, running_fleet
from forebay.lab.fleet_spec import Accounting, Faults, FleetSpec, Latency, LogNormal, Wire
from forebay.lab.http1 import Reply, Request
from forebay.lab.mixed_load import drive
from forebay.lab.mixed_load_client import View, usage_in
from forebay.lab.mixed_load_compare import Books, Report, compare
from forebay.lab.mixed_load_plan import CHAT, MESSAGES, LoadKey, MixSpec, Trial, plan

EVERY_MODEL = tuple(sorted({model for spec in stage.fleets(1).values() for model in spec.models}))


class NumberedReply:
    """A reply that carries the id of its request, as a gateway's does."""

    def __init__(self, reply: Reply, identity: str) -> None:
        self._reply = reply
        self._more = (("x-forebay-request-id", identity),)

    async def send_json(self, status: int, value: object) -> None:
        await self._reply.send_json(status, value, self._more)

    async def send(self, status: int, content_type: str, body: bytes, headers: tuple[tuple[str, str], ...]) -> None:
        await self._reply.send(status, content_type, body, headers + self._more)

    async def start(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        await self._reply.start(status, headers + self._more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reply, name)


class NumberingFleet(Fleet):
    async def handle(self, request: Request, reply: Reply) -> None:
        numbered: Any = NumberedReply(reply, id_of(request.header("x-trial-id") or ""))
        await super().handle(request, numbered)


def id_of(trial: str) -> str:
    return blake2b(trial.encode(), digest_size=16).hexdigest()


def load(trials: tuple[Trial, ...], **fields: Any) -> tuple[list[View], list[dict[str, Any]]]:
    """Sends trials straight to one fleet that serves everything."""
    first = stage.fleets(1)["asks"]
    spec = replace(first, **({"models": EVERY_MODEL} | fields))

    async def scenario() -> tuple[list[View], list[dict[str, Any]]]:
        async with AsyncExitStack() as stack:
            fleet = await stack.enter_async_context(running_fleet(spec, NumberingFleet))
            views = await drive(fleet.base_url, trials, clients=16)
            while fleet.stats.in_flight:
                await asyncio.sleep(0)
            assert fleet.server.errors == []
            return views, fleet.ledger.json()

    return asyncio.run(asyncio.wait_for(scenario(), 60))


def rows_for(trials: tuple[Trial, ...], entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a ledger without a fault."""
    by_trial = {entry["trial"]: entry for entry in entries}
    return [row_for(trial, by_trial[trial.id]) for trial in trials if trial.id in by_trial]


def row_for(trial: Trial, entry: dict[str, Any]) -> dict[str, Any]:
    tokens = entry["prompt_tokens"] + entry["output_tokens"]
    return {
        "id": id_of(trial.id),
        "tenant": trial.key.tenant,
        "eval": trial.id,
        "outcome": {"ok": "ok", "failed": "upstream_error"}.get(entry["outcome"], entry["outcome"]),
        "usage": 1 if entry["outcome"] == "ok" and entry["usage_told"] else 2 if tokens else 0,
        "prompt_tokens": entry["prompt_tokens"],
        "cached_prompt_tokens": entry["cached_tokens"],
        "cache_write_tokens": entry["cache_write_tokens"],
        "output_tokens": entry["output_tokens"],
        "reasoning_tokens": entry["reasoning_tokens"],
        "cost_nanousd": 3 * tokens,
        "charges": [
            {"budget": "all-money", "value": trial.key.tenant, "period_start_s": 0, "amount": 3 * tokens},
            {"budget": "all-tokens", "value": "lab", "period_start_s": 0, "amount": tokens},
        ],
    }


def books_of(entries: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Books:
    spent: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for charge in row["charges"]:
            spent[charge["budget"], charge["value"]] += charge["amount"]
    units = {"all-money": "nanousd", "all-tokens": "tokens"}
    buckets = [
        {"budget": budget, "value": value, "period_start_s": 0, "unit": units[budget], "spent": amount}
        for (budget, value), amount in spent.items()
    ]
    lines = [f"forebay_cost_nanousd_total {sum(row['cost_nanousd'] for row in rows)}", "forebay_open_reservations 0"]
    kinds = {"prompt": "prompt_tokens", "cached_prompt": "cached_prompt_tokens", "cache_write": "cache_write_tokens"}
    for kind, column in (kinds | {"output": "output_tokens", "reasoning": "reasoning_tokens"}).items():
        lines.append(f'forebay_tokens_total{{kind="{kind}"}} {sum(row[column] for row in rows)}')
    for outcome, count in Counter(row["outcome"] for row in rows).items():
        lines.append(f'forebay_settled_total{{outcome="{outcome}"}} {count}')
    return Books(entries, rows, buckets, "\n".join(lines), stage.WHOLE_BUDGETS)


@pytest.fixture(scope="module")
def loaded() -> tuple[tuple[Trial, ...], list[View], list[dict[str, Any]]]:
    trials = plan(stage.mix(5, 500))
    views, entries = load(trials)
    return trials, views, entries


def test_a_plan_follows_from_its_seed_and_has_its_shares() -> None:
    trials = plan(stage.mix(3, 2_000))
    assert trials == plan(stage.mix(3, 2_000))
    assert trials != plan(stage.mix(4, 2_000))
    assert len({trial.id for trial in trials}) == 2_000
    counts = Counter(trial.path for trial in trials)
    assert 800 <= counts[CHAT] <= 1_000
    assert 320 <= counts[MESSAGES] <= 480
    assert 150 <= sum(trial.abort is not None for trial in trials) <= 250
    assert {trial.key for trial in trials} == set(stage.KEYS)
    assert 0 < sum(trial.asks_usage for trial in trials) < sum(trial.streamed for trial in trials)
    assert 60 <= 2_000 - len({trial.body for trial in trials}) <= 140


def test_clients_see_what_was_answered_and_leave_as_planned(
    loaded: tuple[tuple[Trial, ...], list[View], list[dict[str, Any]]],
) -> None:
    trials, views, entries = loaded
    assert [view.trial for view in views] == [trial.id for trial in trials]
    assert {view.status for view in views if view.complete} == {200, 429, 500, 503}
    aborted = [trial for trial, view in zip(trials, views, strict=True) if view.aborted]
    assert len(aborted) >= 20
    assert all(trial.abort for trial in aborted)
    assert all(view.complete or view.aborted or view.error for view in views)
    outcomes = Counter(entry["outcome"] for entry in entries)
    assert min(outcomes[outcome] for outcome in ("ok", "failed", "reset", "aborted")) > 0
    for trial, view in zip(trials, views, strict=True):
        if view.complete and view.status == 200 and not trial.streamed:
            assert view.usage_seen


def test_books_that_agree_pass(loaded: tuple[tuple[Trial, ...], list[View], list[dict[str, Any]]]) -> None:
    trials, views, entries = loaded
    report = compare(trials, views, books_of(entries, rows_for(trials, entries)))
    assert report.passed, report.json()
    assert report.exact_requests > 300
    assert report.estimated_requests > 30
    assert report.estimate_error_ratio == 0
    assert json.loads(json.dumps(report.json()))["passed"]


def _one(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def _less(field: str) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        row = next(row for row in rows if row["usage"] == 1 and row[field] > 0)
        row[field] -= 1

    return change


def _double_estimates(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["usage"] == 2:
            row["prompt_tokens"] *= 2


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_less("prompt_tokens"), "not_equal"),
        (_less("cached_prompt_tokens"), "not_equal"),
        (_less("cache_write_tokens"), "not_equal"),
        (_less("output_tokens"), "not_equal"),
        (_less("reasoning_tokens"), "not_equal"),
        (lambda rows: _one(rows, usage=1).update(usage=2), "not_exact"),
        (lambda rows: rows.remove(_one(rows, usage=1)), "ledger_missing"),
        (lambda rows: rows.remove(_one(rows, outcome="aborted")), "ledger_missing"),
        (lambda rows: rows.append(_one(rows, usage=1) | {"eval": "nobody"}), "ledger_unknown"),
        (lambda rows: rows.append(_one(rows, usage=1) | {"id": "f" * 32}), "booked_twice"),
        (lambda rows: _one(rows, usage=1).update(id="f" * 32), "request_id_wrong"),
        (lambda rows: _one(rows, outcome="upstream_error").update(output_tokens=9), "charged_for_nothing"),
        (lambda rows: _one(rows, usage=1).update(tenant="nobody"), "tenant_wrong"),
        (lambda rows: _one(rows, usage=1)["charges"][0].update(amount=1), "charge_off"),
        (lambda rows: _one(rows, usage=1)["charges"].clear(), "budget_off"),
        (_double_estimates, "estimate_off"),
        (lambda rows: _one(rows, outcome="reset").update(outcome="ok"), "outcome_wrong"),
    ],
)
def test_a_wrong_row_is_found(
    loaded: tuple[tuple[Trial, ...], list[View], list[dict[str, Any]]],
    change: Callable[[list[dict[str, Any]]], None],
    found: str,
) -> None:
    trials, views, entries = loaded
    accounting = Accounting("ask", cached_ratio=0.25, cache_write_ratio=0.1, reasoning_ratio=0.2)
    assert accounting.usage == stage.fleets(1)["asks"].accounting.usage
    entries = [with_parts(entry) for entry in entries]
    # Less is asked of a row whose client left, so the changed one is of a client that stayed, where there is one.
    stayed = {view.trial for view in views if view.complete}
    rows = sorted(rows_for(trials, entries), key=lambda row: row["eval"] not in stayed)
    change(rows)
    report: Report = compare(trials, views, books_of(entries, rows))
    assert not report.passed
    assert found in report.problems, report.json()


def with_parts(entry: dict[str, Any]) -> dict[str, Any]:
    """The same entry as of a fleet that also wrote into its cache."""
    return entry | {"cache_write_tokens": entry["prompt_tokens"] // 10 if entry["path"] == MESSAGES else 0}


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("forebay_cost_nanousd_total ", "forebay_cost_nanousd_total 1", "metrics_off"),
        ('forebay_tokens_total{kind="output"} ', 'forebay_tokens_total{kind="output"} 1', "metrics_off"),
        ('forebay_settled_total{outcome="ok"} ', 'forebay_settled_total{outcome="ok"} 1', "metrics_off"),
        ("forebay_open_reservations 0", "forebay_open_reservations 3", "reservations_open"),
    ],
)
def test_wrong_metrics_are_found(
    loaded: tuple[tuple[Trial, ...], list[View], list[dict[str, Any]]], old: str, new: str, found: str
) -> None:
    trials, views, entries = loaded
    books = books_of(entries, rows_for(trials, entries))
    report = compare(trials, views, replace(books, metrics_text=books.metrics_text.replace(old, new)))
    assert set(report.problems) == {found}


def test_a_usage_event_that_nobody_asked_for_is_found() -> None:
    key = LoadKey("k", "s", "acme")
    spec = MixSpec((key,), {CHAT: ("asks-chat",)}, requests=40, abort_ratio=0.0, shares={CHAT: 1.0})
    trials = plan(spec)
    wire = Wire("gzip", "crlf", 0.3, 0.5)
    views, entries = load(trials, accounting=Accounting("always"), faults=Faults(), wire=wire)
    report = compare(trials, views, Books(entries, rows_for(trials, entries)))
    silent = [trial for trial in trials if trial.streamed and not trial.asks_usage]
    assert report.problems == {"usage_leaked": len(silent)}
    assert all(view.complete for view in views)


def test_a_row_that_does_not_cost_what_its_tokens_cost_is_found() -> None:
    tokens = {"prompt_tokens": 100, "cached_prompt_tokens": 30, "cache_write_tokens": 20, "output_tokens": 10}
    right = (50 * 150_000_001 + 30 * 75_000_003 + 20 * 190_000_009 + 10 * 600_000_007 + 999_999) // 1_000_000
    base = {"id": "1", "eval": "x", "outcome": "refused", "model": "claude-chat", "charges": []} | tokens
    for cost, found in ((right, False), (right - 1, True), (right + 1, True)):
        books = Books([], [base | {"cost_nanousd": cost}], prices=stage.prices())
        assert ("cost_off" in compare([], [], books).problems) is found
    assert {model["name"] for model in stage.policy(dict.fromkeys(stage.fleets(1), "a:1"), "x")["models"]} == set(
        stage.prices()
    )


def test_what_a_fleet_served_for_nobody_is_found() -> None:
    key = LoadKey("k", "s", "acme")
    trials = plan(MixSpec((key,), {CHAT: ("asks-chat",)}, requests=3, abort_ratio=0.0, shares={CHAT: 1.0}))
    views, entries = load(trials, faults=Faults())
    books = Books([*entries, entries[0] | {"trial": "stranger"}], rows_for(trials, entries))
    assert compare(trials, views, books).problems == {"upstream_unknown": 1}


@pytest.mark.parametrize(
    ("text", "streamed", "seen"),
    [
        (b'{"usage": {"input_tokens": 1}}', False, (True, False)),
        (b'{"usage": null}', False, (False, False)),
        (b"not json", False, (False, False)),
        (b'data: {"choices":[{}],"usage":{}}\r\n\r\n', True, (True, False)),
        (b'data:{"choices":[],"usage":{}}\n\n', True, (True, True)),
        (b': data: {"choices":[],"usage":{}}\n\n', True, (False, False)),
        (b'data: {"response":{"usage":{}}}\n\ndata: [DONE]\n\n', True, (True, False)),
        (b'data: {"message":{"usage":{}}}\n\ndata: {"choi', True, (True, False)),
    ],
)
def test_usage_is_found_where_it_stands(text: bytes, seen: tuple[bool, bool], *, streamed: bool) -> None:
    assert usage_in(text, streamed=streamed) == seen


def test_an_answer_that_was_cut_is_a_result() -> None:
    key = LoadKey("k", "s", "acme")
    spec = MixSpec((key,), {CHAT: ("m",)}, requests=8, abort_ratio=0.0, compressed_ratio=1.0, shares={CHAT: 1.0})
    trials = plan(spec)
    latency = Latency(output_tokens=LogNormal(40.0), time_scale=0.0)
    for encoding in ("gzip", "br"):
        views, _ = load(trials, models=("m",), latency=latency, faults=Faults(reset_ratio=1.0), wire=Wire(encoding))
        assert all(view.error and not view.complete for view in views)
        assert any(view.status == 200 for view in views)


def test_the_stage_serves_every_model_of_the_mix() -> None:
    spec, fleets = stage.mix(1, 1), stage.fleets(1)
    policy = stage.policy(dict.fromkeys(fleets, "127.0.0.1:1"), "ledger")
    served = {model["name"]: model for model in policy["models"]}
    for names in spec.models.values():
        for name in names:
            assert name in fleets[served[name]["pools"][0]].models
    mixed = next(pool for pool in policy["pools"] if pool["name"] == "mixed")
    assert len(mixed["endpoints"]) == 2
    assert fleets["mixed"].models == fleets["mixed-old"].models
    assert {route["path"] for route in policy["routes"]} == set(spec.models)
    assert isinstance(fleets["asks"], FleetSpec)
