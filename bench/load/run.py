"""Owns a whole run: starts the variants, takes the measures, prints and writes the rows.

Must not know what any measure does.
On failure: everything started is ended, nothing is written, status 2; a bar that is missed is status 0 and said.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.load.measures import END_TO_END, Bench
from bench.load.memory import resident_memory
from bench.load.process import BenchError
from bench.load.rows import Row
from bench.load.scale import FULL, QUICK
from bench.load.slices import Generator
from bench.load.tokens import token_counting
from bench.load.tools import ROOT, commit, find_tools, machine, versions
from bench.load.variants import (
    Site,
    Variant,
    start_direct,
    start_echo,
    start_forebay,
    start_logged,
    start_none,
    start_upstream,
)

MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    **END_TO_END,
    "resident_memory": resident_memory,
    "token_counting": lambda bench: token_counting(bench.scale.rounds),
}
STARTERS: dict[str, Callable[[Site], Variant]] = {
    "none": start_none,
    "logged": start_logged,
    "echo": start_echo,
    "direct": start_direct,
    "forebay": start_forebay,
}


def main(argv: list[str] | None = None) -> int:
    """Runs the benches."""
    options = _parser().parse_args(argv)
    try:
        rows, common = _run(options)
    except (BenchError, ProcessLookupError, TimeoutError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    document = json.dumps([row.to_json(common) for row in rows], indent=1)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(document + "\n")
    if options.json:
        print(document)
    else:
        print(_table(rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.load", description="Speed as ratios, in one interleaved run."
    )
    parser.add_argument("--variants", default=",".join(STARTERS), help="which to start; default: all")
    parser.add_argument("--only", default=",".join(MEASURES), help="which measures to take; default: all")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; rough numbers")
    parser.add_argument("--rounds", type=int, help="rounds of each measure, instead of the scale's")
    parser.add_argument("--target", type=Path, default=ROOT / "target", help="cargo's target folder")
    parser.add_argument("--out", type=Path, help="write the rows to this file")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--keep", type=Path, help="work in this folder and keep logs and configurations")
    return parser


def _run(options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    tools = find_tools(options.target)
    unknown = set(options.only.split(",")) - set(MEASURES) | set(options.variants.split(",")) - set(STARTERS)
    if unknown:
        raise BenchError(f"`{sorted(unknown)}` is neither a measure nor a variant; see --help")
    scale = QUICK if options.quick else FULL
    if options.rounds:
        scale = type(scale)(**{**vars(scale), "rounds": options.rounds})
    rows: list[Row] = []
    with ExitStack() as stack:
        workdir = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forebay-bench-")))
        workdir.mkdir(parents=True, exist_ok=True)
        upstream, site = start_upstream(tools, workdir)
        stack.callback(upstream.stop)
        variants: dict[str, Variant] = {}
        for name in options.variants.split(","):
            variants[name] = STARTERS[name](site)
            stack.callback(variants[name].stop)
        bench = Bench(variants, upstream, Generator(tools), scale)
        for name in options.only.split(","):
            started = time.monotonic()
            rows += MEASURES[name](bench)
            print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr)
        leaked = int(upstream.ask()["bench_keys"]) if set(variants) == {"forebay"} else 0
        if leaked:
            raise BenchError(f"{leaked} requests reached the upstream with a forebay key")
    common = {
        "machine": machine(),
        "versions": versions(tools),
        "commit": commit(),
        "taken_unix_s": int(time.time()),
        "scale": vars(scale),
        "generator_busiest": round(bench.generator.busiest, 3),
    }
    return rows, common


def _table(rows: list[Row]) -> str:
    lines = [f"{'measure':<36}{'value':>12} {'unit':<12}{'control':>10}{'ratio':>8}  {'ratio min..max':<16}bars"]
    for row in rows:
        control = f"{next(iter(row.control.values())):.1f}" if row.control else ""
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        ends = row.spread.get("ratio")
        spread = f"{ends[0]:.2f}..{ends[1]:.2f}" if ends else ""
        said = "missed" if row.misses() else "kept" if row.bars else ""
        lines.append(f"{row.name:<36}{row.value:>12.1f} {row.unit:<12}{control:>10}{ratio:>8}  {spread:<16}{said}")
        if parts := row.detail.get("service_parts_us"):
            # Where a governed request's CPU goes.
            own = {"envoy": row.detail["envoy_us"], **parts}
            lines.append("  of it: " + ", ".join(f"{name} {us:.1f}" for name, us in own.items()))
    return "\n".join(lines)
