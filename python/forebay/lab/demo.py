"""The demo: a planned session against a running gateway, what happened to each kind of request, and what must hold.

Owns the session, the counting and the checks. Must not start or configure anything, nor know how a decision is made.
What must hold and did not is a failed check in the result, never an exception.
The gateway must start with an empty cache and untouched limits; the checks count on it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from forebay.lab import demo_sources as sources
from forebay.lab.demo_chat import NO_SUCH_KEY, ChatTarget, Outcome, send_all
from forebay.lab.demo_checks import Check, FleetSide, chat_checks, count_checks
from forebay.lab.demo_ledger import LedgerResult, ledger_checks, read_ledger, wait_settled
from forebay.lab.demo_stream import StreamResult, StreamTarget, write
from forebay.lab.demo_tensor_checks import stream_checks, tensor_checks
from forebay.lab.demo_tensors import TensorResult, TensorTarget, compare
from forebay.lab.questions import load_questions
from forebay.lab.traffic import PlanSpec, Purpose, plan

RECORDS_READ = 2000
IN_TRITON = ("minilm", "cost", "writer")


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """What a model costs, in integer nano-USD for a million tokens, as in the policy."""

    prompt_nanousd_per_million_tokens: int
    output_nanousd_per_million_tokens: int

    def cost_nanousd(self, prompt_tokens: int, output_tokens: int) -> int:
        """The cost of so many tokens."""
        prompt = prompt_tokens * self.prompt_nanousd_per_million_tokens
        return (prompt + output_tokens * self.output_nanousd_per_million_tokens) // 1_000_000


@dataclass(frozen=True, slots=True)
class LedgerSource:
    """Where the gateway keeps its books, and the budget in them that counts every request."""

    directory: Path
    budget: str


@dataclass(frozen=True, slots=True)
class DemoEndpoints:
    """Everything that the demo meets.

    `fleets`: name to base URL, without a path. `prices`: by the name in `x-forebay-model`; a model that is not listed
    has no known price and counts as unknown. `tensors` and `stream` None: no Triton is part of this run.
    `ledger` None: the gateway keeps no books.
    """

    chat: ChatTarget
    fleets: Mapping[str, str]
    admin_url: str
    prices: Mapping[str, ModelPrice] = field(default_factory=dict)
    tensors: TensorTarget | None = None
    stream: StreamTarget | None = None
    ledger: LedgerSource | None = None


@dataclass(frozen=True, slots=True)
class KindLine:
    """One line of the report. Latencies are of complete answers; None where there was none."""

    kind: str
    sent: int
    answered: int
    from_cache: int
    refused: dict[str, int]
    failed: dict[str, int]
    p50_ms: float | None
    p95_ms: float | None
    ttft_p50_ms: float | None


@dataclass(frozen=True, slots=True)
class Savings:
    """What the cache saved and what was used, by the usage that clients saw. `unpriced` answers had no known price."""

    answers: int
    tokens: int
    nanousd: int
    used_tokens: int
    used_nanousd: int
    unpriced: int


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The whole run."""

    wall_s: float
    kinds: list[KindLine]
    answers: list[KindLine]
    models: dict[str, int]
    stages_us: dict[str, float]
    forwarded: sources.ForwardedTimes | None
    savings: Savings
    fleets: dict[str, dict[str, Any]]
    tensors: TensorResult | None
    stream: StreamResult | None
    ledger: LedgerResult | None
    metrics: dict[str, float]
    checks: list[Check]

    @property
    def failures(self) -> list[Check]:
        """The checks that did not hold; empty is success."""
        return [check for check in self.checks if not check.held]

    def json(self) -> str:
        """For machines."""
        return json.dumps({"ok": not self.failures, **asdict(self)}, indent=1)


def run_demo(endpoints: DemoEndpoints, spec: PlanSpec | None = None) -> DemoResult:
    """Runs the session and judges it."""
    return asyncio.run(_run(endpoints, spec or PlanSpec()))


async def _run(endpoints: DemoEndpoints, spec: PlanSpec) -> DemoResult:
    begun = time.perf_counter()
    questions = load_questions()
    before = {name: sources.fleet_stats(url) for name, url in endpoints.fleets.items()}
    metrics_before = sources.read_metrics(endpoints.admin_url)
    outcomes = await send_all(plan(questions, spec), endpoints.chat)
    await asyncio.to_thread(wait_settled, endpoints.admin_url)
    # Before the tensors: what is told of decisions is told of the chats.
    grown = sources.since(metrics_before, sources.read_metrics(endpoints.admin_url))
    forwarded = sources.forwarded_times(sources.read_records(endpoints.admin_url, RECORDS_READ))
    tensors = await compare(endpoints.tensors) if endpoints.tensors else None
    stream = await write(endpoints.stream) if endpoints.stream else None
    ledger = None
    if endpoints.ledger is not None:
        ledger = read_ledger(endpoints.ledger.directory, endpoints.admin_url, endpoints.ledger.budget)
    fleets = {name: _since(before[name], sources.fleet_stats(url)) for name, url in endpoints.fleets.items()}
    heads = [head for url in endpoints.fleets.values() for head in sources.fleet_heads(url)]
    return DemoResult(
        wall_s=time.perf_counter() - begun,
        kinds=[_line(purpose.value, [o for o in outcomes if o.ask.purpose is purpose]) for purpose in Purpose],
        answers=_by_way(outcomes),
        models=dict(Counter(outcome.model for outcome in outcomes if outcome.ok)),
        stages_us=sources.stage_means_us(grown),
        forwarded=forwarded,
        savings=_savings(outcomes, endpoints.prices),
        fleets=fleets,
        tensors=tensors,
        stream=stream,
        ledger=ledger,
        metrics=grown,
        checks=[
            *chat_checks(outcomes, FleetSide(fleets, heads), [NO_SUCH_KEY, *endpoints.chat.keys.values()]),
            *count_checks(outcomes, grown),
            *ledger_checks(ledger, fleets, IN_TRITON),
            *tensor_checks(tensors),
            *stream_checks(stream, ledger, spec.tenants[0]),
        ],
    )


def _since(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Counts of this run alone; a maximum or a name stays as it is."""
    counted = {
        k: v - before[k] for k, v in after.items() if isinstance(v, int) and k not in ("peak_in_flight", "in_flight")
    }
    return {**counted, "peak_in_flight": after["peak_in_flight"]}


def _line(kind: str, outcomes: list[Outcome]) -> KindLine:
    refused = [o for o in outcomes if 400 <= o.status < 500]
    failed = [o for o in outcomes if not o.ok and o not in refused]
    latencies = [o.latency_ms for o in outcomes if o.ok]
    ttfts = [o.ttft_ms for o in outcomes if o.ok and o.ttft_ms is not None]
    return KindLine(
        kind=kind,
        sent=len(outcomes),
        answered=sum(o.ok for o in outcomes),
        from_cache=sum(o.from_cache for o in outcomes),
        refused=dict(Counter(f"{o.status} {o.code}" for o in refused)),
        failed=dict(Counter(f"{o.status} {o.code}" for o in failed)),
        p50_ms=float(np.percentile(latencies, 50)) if latencies else None,
        p95_ms=float(np.percentile(latencies, 95)) if latencies else None,
        ttft_p50_ms=float(np.percentile(ttfts, 50)) if ttfts else None,
    )


def _by_way(outcomes: list[Outcome]) -> list[KindLine]:
    """The answers again, by who gave them and how."""
    ways: list[tuple[str, bool, tuple[str, ...]]] = [
        ("a fleet, plain", False, ("miss", "bypass", "")),
        ("a fleet, streamed", True, ("miss", "bypass", "")),
        ("the cache, plain", False, ("hit",)),
        ("the cache, streamed", True, ("hit",)),
        ("an equal request in flight", False, ("follow",)),
    ]
    lines = [
        (name, [o for o in outcomes if o.ok and o.ask.streamed is s and o.cache in words]) for name, s, words in ways
    ]
    return [_line(name, found) for name, found in lines if found]


def _savings(outcomes: list[Outcome], prices: Mapping[str, ModelPrice]) -> Savings:
    tokens, nanousd, unpriced = Counter[bool](), Counter[bool](), 0
    for outcome in outcomes:
        if outcome.ok:
            price = prices.get(outcome.model)
            tokens[outcome.from_cache] += outcome.prompt_tokens + outcome.completion_tokens
            if price is None:
                unpriced += 1
            else:
                nanousd[outcome.from_cache] += price.cost_nanousd(outcome.prompt_tokens, outcome.completion_tokens)
    saved = sum(outcome.from_cache for outcome in outcomes)
    return Savings(saved, tokens[True], nanousd[True], tokens[False], nanousd[False], unpriced)
