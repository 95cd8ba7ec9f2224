"""Owns the measures with mixed lengths: closed loop, and open loop at shares of what the cost model allows.

Must not know how processes are started.
On failure: an answer that is another request's stops the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from bench.batch.bench import CLIENTS, Bench, middle, p99_ms, per_second, told
from bench.batch.cost import COST
from bench.batch.ideal import (
    BACK_NS,
    Ideal,
    Process,
    bound_per_s,
    closed_process,
    ideal_of,
    judge,
    open_capacity,
    open_process,
)
from bench.batch.own_assembler import OwnAssembler
from bench.batch.rounds import interleaved
from bench.batch.slices import Slice, closed, opened
from bench.batch.traffic import Traffic, token_rows
from bench.batch.variants import Variant, forebay, plain, pow2, ragged
from bench.batch.workload import Times, poisson_ns
from bench.load.rows import Bar, Row, compare

MESSAGES = 4_096
SHARES = (50, 80, 95)
# Arrivals of the rounds differ, and so do those of the shares.
_ROUND_SEED = 1_000


def mixed_closed(bench: Bench) -> list[Row]:
    """64 clients, each with its next request as soon as it has its answer."""
    site, scale = bench.site, bench.scale
    ways = [plain(site, "cost"), pow2(site, "cost"), ragged(site), forebay(site, "cost")]
    traffics = _traffics(bench, ways)

    def slice_of(way: Variant) -> Callable[[int], Slice]:
        return lambda number: closed(site, way, traffics[way.name], CLIENTS, bench.window(scale.slice_s, number)).slice

    results = interleaved({way.name: slice_of(way) for way in ways}, scale.rounds)
    bench.seen(*results.values())
    lengths = np.resize(bench.workload.lengths(MESSAGES), scale.virtual_requests)
    process = closed_process(lengths, CLIENTS)
    ideal = ideal_of(process)
    virtual = {
        "ideal": asdict(ideal),
        "without_overhead": asdict(judge("forebay", OwnAssembler(COST), process)),
        # A batch that leaves at the end of another does without the requests that follow that one's answers.
        "ideal_back_after_1_ms": asdict(ideal_of(closed_process(lengths, CLIENTS, back_ns=BACK_NS))),
        "bound_per_s": round(bound_per_s(lengths, COST), 1),
    }
    return _closed_rows(results, ideal, virtual)


def _closed_rows(results: dict[str, list[Slice]], ideal: Ideal, virtual: dict[str, Any]) -> list[Row]:
    ours = [part.per_s for part in results["forebay"]]
    controls = {name: [part.per_s for part in slices] for name, slices in results.items() if name != "forebay"}
    best = max(controls, key=lambda name: middle(results[name], per_second))
    paying = max(("plain", "pow2"), key=lambda name: middle(results[name], per_second))
    p99s = {name: [p99_ms(part) for part in slices] for name, slices in results.items()}
    unit, times = "requests/s", [Bar("ratio", at_least=5.0)]
    near = [Bar("ratio", at_least=0.95)]
    return [
        compare("mixed_per_s", unit, ours, "plain", controls["plain"], bars=times, detail=told(results)),
        compare("mixed_p99_ms", "ms", p99s["forebay"], "plain", p99s["plain"], bars=[Bar("ratio", at_most=1.0)]),
        compare("mixed_of_best_control", unit, ours, best, controls[best], bars=near),
        # Of the controls whose padding costs what ours does.
        compare("mixed_of_best_padded_control", unit, ours, paying, controls[paying]),
        compare(
            "mixed_of_ideal",
            unit,
            ours,
            "ideal",
            [ideal.per_s] * len(ours),
            bars=[Bar("ratio", at_least=0.85)],
            detail=virtual,
        ),
    ]


def mixed_open(bench: Bench) -> list[Row]:
    """Poisson arrivals, for forebay and for the model that pads nothing.

    The other controls answer a fifth of these rates: their queues would grow for as long as it lasts.
    """
    ways = [ragged(bench.site), forebay(bench.site, "cost")]
    traffics = _traffics(bench, ways)
    capacity = open_capacity(bench.workload, CLIENTS, bench.scale.virtual_requests)
    return [row for share in SHARES for row in _at_share(bench, share, capacity, ways, traffics)]


def _at_share(
    bench: Bench, share: int, capacity: float, ways: list[Variant], traffics: dict[str, Traffic]
) -> list[Row]:
    rounds, rate = bench.scale.rounds, capacity * share / 100
    due = {number: _due_ns(bench, rate, share, number) for number in range(-1, rounds)}

    def slice_of(way: Variant) -> Callable[[int], Slice]:
        def take(number: int) -> Slice:
            window = bench.window(bench.scale.slice_s, number)
            return opened(bench.site, way, traffics[way.name], due[number], window).slice

        return take

    results = interleaved({way.name: slice_of(way) for way in ways}, rounds)
    bench.seen(*results.values())
    processes = [_process(bench, due[number]) for number in range(rounds)]
    ideals = [ideal_of(process) for process in processes]
    detail = told(results) | {
        "offered_per_s": round(rate, 1),
        "capacity_per_s": round(capacity, 1),
        "ideal": [asdict(ideal) for ideal in ideals],
        "without_overhead": [asdict(judge("forebay", OwnAssembler(COST), process)) for process in processes],
    }
    ours, theirs = [part.per_s for part in results["forebay"]], [ideal.per_s for ideal in ideals]
    bars = [Bar("ratio", at_least=0.85)]
    rate_row = compare(f"mixed_open_{share}_of_ideal", "requests/s", ours, "ideal", theirs, bars=bars, detail=detail)
    return [rate_row, _open_p99(share, results["forebay"], ideals)]


def _open_p99(share: int, slices: list[Slice], ideals: list[Ideal]) -> Row:
    """Latency beside that of the ideal; no bar was set on it."""
    detail = {"p50_ms": [part.p50_ms for part in slices], "ideal_p50_ms": [ideal.p50_ms for ideal in ideals]}
    ours, theirs = [part.p99_ms for part in slices], [ideal.p99_ms for ideal in ideals]
    return compare(f"mixed_open_{share}_p99_ms", "ms", ours, "ideal", theirs, detail=detail)


def _process(bench: Bench, due_ns: Times) -> Process:
    """The very arrivals that were sent."""
    lengths = np.resize(bench.workload.lengths(MESSAGES), len(due_ns))
    return open_process(lengths, due_ns, round(bench.scale.warm_s * 1e9))


def _due_ns(bench: Bench, rate: float, share: int, number: int) -> Times:
    """Arrivals of one round, to the end of its slice."""
    end_s = bench.window(bench.scale.slice_s, number).end_s
    times = poisson_ns(round(rate * end_s * 2) + 10, rate, bench.workload.seed + share * _ROUND_SEED + number)
    return times[times < end_s * 1e9]


def _traffics(bench: Bench, ways: list[Variant]) -> dict[str, Traffic]:
    requests = token_rows(bench.workload.lengths(MESSAGES), bench.workload.seed)
    return {way.name: Traffic.of(way.model, requests, way.padding) for way in ways}
