"""Owns the measures with equal lengths: throughput, what batching costs in CPU, and one client alone.

Must not know how processes are started.
On failure: an answer that is another request's stops the run.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import numpy as np

from bench.batch.bench import CLIENTS, Bench, p50_ms, told
from bench.batch.cost import COST
from bench.batch.rounds import interleaved
from bench.batch.slices import Slice, closed
from bench.batch.traffic import Traffic, token_rows
from bench.batch.variants import Variant, forebay, plain, unbatched
from bench.load.rows import Bar, Row, compare, single

MESSAGES = 1_024
# A short text. 64 such rows take 12.2 ms, so that one instance may answer 5,250 requests in a second.
LENGTH = 64
_MORE_ROUNDS = 2


def equal_lengths(bench: Bench) -> list[Row]:
    """Requests that Triton's own batcher can join as well."""
    site = bench.site
    # The control of the CPU row: the same Envoy and decide, and Triton's own batcher behind them.
    ways = [plain(site, "cost"), unbatched(site, "queued_cost"), forebay(site, "cost")]
    results = _closed(bench, ways, CLIENTS, bench.scale.slice_s)
    ours, theirs = ([part.per_s for part in results[name]] for name in ("forebay", "plain"))
    most = COST.max_rows * 1e9 / COST.batch_ns(COST.max_rows, LENGTH)
    detail = told(results) | {"length": LENGTH, "ideal_per_s": round(most, 1)}
    bars = [Bar("ratio", at_least=1.4)]
    return [
        compare("equal_per_s", "requests/s", ours, "plain", theirs, bars=bars, detail=detail),
        _added_cpu(results),
    ]


def _added_cpu(results: dict[str, list[Slice]]) -> Row:
    """The gateway's CPU for a request that it batches, above one that it only decides on."""
    service = {name: [part.cpu_us["service"] for part in results[name]] for name in ("forebay", "unbatched")}
    added = [ours - control for ours, control in zip(service["forebay"], service["unbatched"], strict=True)]
    detail = {
        "call_rows": [round(part.call_rows, 1) for part in results["forebay"]],
        "service_us": service,
        "envoy_us": {name: [part.cpu_us["envoy"] for part in results[name]] for name in service},
    }
    return single("batching_added_cpu_us", "us/request", added, bars=[Bar("value", at_most=40.0)], detail=detail)


def one_client(bench: Bench) -> list[Row]:
    """Nothing to batch: what the way through the batch service adds."""
    site = bench.site
    ways = [unbatched(site, "cost"), forebay(site, "cost")]
    results = _closed(bench, ways, 1, bench.scale.single_s, bench.scale.rounds * _MORE_ROUNDS)
    ours, theirs = ([p50_ms(part) for part in results[name]] for name in ("forebay", "unbatched"))
    added = [mine - control for mine, control in zip(ours, theirs, strict=True)]
    detail = told(results) | {"p50_ms": round(median(ours), 3), "unbatched_p50_ms": round(median(theirs), 3)}
    return [single("one_client_added_p50_ms", "ms", added, bars=[Bar("value", at_most=0.4)], detail=detail)]


def _closed(bench: Bench, ways: list[Variant], clients: int, slice_s: float, rounds: int = 0) -> dict[str, list[Slice]]:
    requests = token_rows(np.full(MESSAGES, LENGTH), bench.workload.seed)
    traffics = {way.name: Traffic.of(way.model, requests) for way in ways}

    def slice_of(way: Variant) -> Callable[[int], Slice]:
        return lambda number: closed(bench.site, way, traffics[way.name], clients, bench.window(slice_s, number)).slice

    results = interleaved({way.name: slice_of(way) for way in ways}, rounds or bench.scale.rounds)
    bench.seen(*results.values())
    return results
