"""Owns the memory measure: the gateway's resident memory over a million decisions that fill and turn over its cache.

Must not know how decisions are made.
On failure: a request that is not answered stops the run.
"""

from __future__ import annotations

from pathlib import Path

from bench.load.cpu import tree
from bench.load.measures import Bench
from bench.load.policy import policy_cache_bytes
from bench.load.rows import Bar, Row, single
from bench.load.slices import Load

_STEPS = 10


def resident_memory(bench: Bench) -> list[Row]:
    """Growth of resident memory above idle, beside the cache's size."""
    if not bench.has("forebay"):
        return []
    variant = bench.variants["forebay"]
    pid = variant.pids["service"]
    idle = resident_bytes(pid)
    load = Load(bench.scale.memory_decisions // _STEPS)
    steps: list[int] = []
    for _ in range(_STEPS):
        bench.generator.slice(variant, load)
        steps.append(resident_bytes(pid))
    cache = policy_cache_bytes()
    growth = max(steps) - idle
    row = Row(
        name="resident_growth_ratio",
        value=float(growth),
        unit="bytes",
        control={"cache_max_bytes": float(cache)},
        ratio=round(growth / cache, 3),
        bars=[Bar("ratio", at_most=1.5)],
        detail={"idle_bytes": idle, "step_bytes": steps, "decisions": load.requests * _STEPS},
    )
    # Flat: the second half of the run adds next to nothing to the first.
    late = single("resident_late_growth_bytes", "bytes", [float(steps[-1] - steps[_STEPS // 2 - 1])])
    return [row, late]


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants."""
    total_kib = 0
    for member in tree(pid):
        for line in Path(f"/proc/{member}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total_kib += int(line.split()[1])
    return total_kib * 1024
