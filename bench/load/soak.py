"""Owns the soak: a steady rate of plain and streamed requests with the books kept, and the memory that it takes.

Must not know how requests are decided or the ledger is written.
On failure: a request that is not answered stops the run; the load generators are ended.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from bench.load.cpu import wait_quiet
from bench.load.measures import CHUNK_GAP_US, LOOKED_UP, Bench
from bench.load.memory import resident_bytes
from bench.load.process import BenchError
from bench.load.rows import Bar, Row
from bench.load.slices import Load, failures, report_of
from bench.load.variants import Variant
from forebay.store import LedgerReader

# Samples of memory in one soak, and how many of them tell where it stands.
_SAMPLES = 120
_WINDOW = 12
_CHUNKS = 20
# Beyond its time, for the last streams to end.
_LATE_S = 30.0
_FLAT_BYTES = 2 * 1024 * 1024


def soak(bench: Bench) -> list[Row]:
    """Growth of resident memory over the last two thirds of the time; and whether the ledger has every request."""
    if not bench.has("accounted"):
        return []
    variant = bench.variants["accounted"]
    # The request that found it ready is written by then.
    wait_quiet(variant.pids)
    before = _ledger_rows(variant)
    # Nothing is kept in the cache and each key's state is there after seconds: what grows is what leaks.
    half = Load(
        bench.scale.soak_s * bench.scale.soak_per_second // 2,
        per_second=bench.scale.soak_per_second / 2,
        path=LOOKED_UP,
        keys=bench.scale.budget_keys,
    )
    streamed = Load(**{**vars(half), "chunks": _CHUNKS, "gap_us": CHUNK_GAP_US})
    memory = _send(bench, variant, [half, streamed])
    wait_quiet(variant.pids)
    sent = half.requests + streamed.requests
    written = _ledger_rows(variant) - before
    rows = [
        _growth("soak_growth_bytes", memory["service"], sent, bench.scale.soak_s),
        _growth("soak_envoy_growth_bytes", memory["envoy"], sent, bench.scale.soak_s),
    ]
    exact = [Bar("value", at_most=0.0, at_least=0.0)]
    detail = {"sent": sent, "written": written}
    rows.append(Row("soak_unwritten_requests", float(sent - written), "requests", bars=exact, detail=detail))
    lag = variant.gateway_metric("forebay_ledger_lag_bytes")
    return [*rows, Row("soak_ledger_lag_bytes", float(lag), "bytes", bars=exact)]


def _send(bench: Bench, variant: Variant, loads: list[Load]) -> dict[str, list[int]]:
    """Sends the loads at the same time; gives resident bytes by role, evenly over the time."""
    memory: dict[str, list[int]] = {role: [] for role in variant.pids}
    gap_s = bench.scale.soak_s / _SAMPLES
    with ExitStack() as stack:
        runs = [bench.generator.begin(variant.port, load) for load in loads]
        for run in runs:
            # Does nothing to one that has ended.
            stack.callback(run.kill)
        started_s = time.monotonic()
        for turn in range(1, _SAMPLES + 1):
            time.sleep(max(0.0, started_s + turn * gap_s - time.monotonic()))
            for role, pid in variant.pids.items():
                memory[role].append(resident_bytes(pid))
        for load, run in zip(loads, runs, strict=True):
            report = report_of(run, _LATE_S)
            if failures(load, report):
                raise BenchError(f"requests of the soak failed under {load}: {report}")
    return memory


def _ledger_rows(variant: Variant) -> int:
    reader = LedgerReader(variant.books or "")
    try:
        return int(reader.rows("SELECT count(*) FROM record")[0][0])
    finally:
        reader.close()


def _growth(name: str, samples: Sequence[int], sent: int, seconds: int) -> Row:
    """Where memory stands at the end less where it stood lowest since a third of the time was over.

    The lowest, because an allocator that gives back what start-up took would hide growth behind a fall.
    """
    third = len(samples) // 3
    windows = [median(samples[at : at + _WINDOW]) for at in range(third, len(samples) - _WINDOW + 1)]
    grown = windows[-1] - min(windows)
    return Row(
        name,
        float(grown),
        "bytes",
        bars=[Bar("value", at_most=float(_FLAT_BYTES))],
        detail={
            "bytes_per_request": round(grown / (sent * 2 / 3), 2),
            "seconds": seconds,
            "resident_bytes": list(samples[:: _WINDOW // 2]),
            "most_bytes": max(samples),
        },
    )
