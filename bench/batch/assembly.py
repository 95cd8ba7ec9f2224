"""Owns the rows of joining, padding and cutting tensors: what `forebay-bench assemble` prints, beside the bars.

Must not know how it measures.
On failure: a tool that fails stops the run.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from bench.batch.bench import Bench
from bench.load.process import BenchError
from bench.load.rows import Bar, Row, single

# Of one batch, where the bars count.
_REQUESTS = 32
_OVER_S = 60.0


def assembly(bench: Bench) -> list[Row]:
    """Bytes a second on one thread, of the worst shape of tensors; and what all of it costs a request."""
    rounds = [_cases(bench) for _ in range(bench.scale.rounds)]
    bars = [Bar("value", at_least=2.0)]
    return [
        single("assemble_gb_per_s", "GB/s", _worst(rounds, "assemble_gb_per_s"), bars=bars, detail={"rounds": rounds}),
        single("split_gb_per_s", "GB/s", _worst(rounds, "split_gb_per_s"), bars=bars),
        single("assembler_us", "us/request", _of(rounds, "us_per_request", "ids")),
    ]


def _worst(rounds: Sequence[list[dict[str, Any]]], name: str) -> list[float]:
    return [min(case[name] for case in cases if case["requests"] == _REQUESTS) for cases in rounds]


def _of(rounds: Sequence[list[dict[str, Any]]], name: str, shape: str) -> list[float]:
    wanted = (shape, _REQUESTS)
    return [case[name] for cases in rounds for case in cases if (case["shape"], case["requests"]) == wanted]


def _cases(bench: Bench) -> list[dict[str, Any]]:
    command = [str(bench.site.generator.binary), "assemble", "--seconds", str(bench.scale.assemble_s)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=_OVER_S, check=False)
    if ran.returncode != 0:
        raise BenchError(f"`{' '.join(command)}` failed: {ran.stderr.strip()}")
    cases: list[dict[str, Any]] = json.loads(ran.stdout)["cases"]
    return cases
