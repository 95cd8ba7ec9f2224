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
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.load.accounting import ACCOUNTING
from bench.load.gateways import start_accounted, start_forebay, start_ledger, start_no_usage, start_spine
from bench.load.measures import END_TO_END, Bench, Measure
from bench.load.memory import resident_memory
from bench.load.process import BenchError
from bench.load.rows import Row
from bench.load.scale import FULL, QUICK
from bench.load.slices import Generator
from bench.load.soak import soak
from bench.load.tokens import token_counting
from bench.load.tools import ROOT, commit, find_tools, machine, versions
from bench.load.variants import Site, Variant, start_direct, start_echo, start_logged, start_none, start_upstream

MEASURES: dict[str, Measure] = {
    **END_TO_END,
    **ACCOUNTING,
    "resident_memory": Measure(resident_memory, ("forebay",)),
    "token_counting": Measure(lambda bench: token_counting(bench.scale.rounds), ()),
    "soak": Measure(soak, ("accounted",)),
}
# Too long for a run that is to be quick, whatever its scale.
NOT_QUICK = ("soak",)
STARTERS: dict[str, Callable[[Site], Variant]] = {
    "none": start_none,
    "logged": start_logged,
    "echo": start_echo,
    "direct": start_direct,
    "forebay": start_forebay,
    "ledger": start_ledger,
    "accounted": start_accounted,
}
# Other Envoys before the gateway of `forebay`.
CUT_STARTERS: dict[str, Callable[[Site, Variant], Variant]] = {"no_usage": start_no_usage, "spine": start_spine}
# Their requests reach the upstream without a key.
_KEYLESS = {"forebay", "ledger", "accounted", *CUT_STARTERS}


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
    parser.add_argument("--variants", help="which to start; default: those that the measures compare")
    parser.add_argument("--only", help="which measures to take; default: all, without the soak where it is --quick")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; rough numbers")
    parser.add_argument("--rounds", type=int, help="rounds of each measure, instead of the scale's")
    parser.add_argument("--soak-s", type=int, help="seconds of the soak, instead of the scale's")
    parser.add_argument("--target", type=Path, default=ROOT / "target", help="cargo's target folder")
    parser.add_argument("--out", type=Path, help="write the rows to this file")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--keep", type=Path, help="work in this folder and keep logs and configurations")
    return parser


def _run(options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    tools = find_tools(options.target)
    measures, names = _chosen(options)
    scale = QUICK if options.quick else FULL
    scale = replace(scale, rounds=options.rounds or scale.rounds, soak_s=options.soak_s or scale.soak_s)
    rows: list[Row] = []
    with ExitStack() as stack:
        workdir = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forebay-bench-")))
        workdir.mkdir(parents=True, exist_ok=True)
        upstream, site = start_upstream(tools, workdir)
        stack.callback(upstream.stop)
        variants = _start(names, site, stack)
        bench = Bench(variants, upstream, Generator(tools), scale)
        for name in measures:
            started = time.monotonic()
            rows += MEASURES[name].take(bench)
            print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr)
        leaked = int(upstream.ask()["bench_keys"]) if set(variants) <= _KEYLESS else 0
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


def _chosen(options: argparse.Namespace) -> tuple[list[str], set[str]]:
    """The measures in their order, and the variants to start."""
    left_out = NOT_QUICK if options.quick else ()
    measures = options.only.split(",") if options.only else [name for name in MEASURES if name not in left_out]
    known = {*STARTERS, *CUT_STARTERS}
    names = set(options.variants.split(",")) if options.variants else None
    unknown = set(measures) - set(MEASURES) | (names or set()) - known
    if unknown:
        raise BenchError(f"`{sorted(unknown)}` is neither a measure nor a variant; see --help")
    needed = {name for measure in measures for name in MEASURES[measure].variants} if names is None else names
    return measures, needed | {"forebay"} if needed & set(CUT_STARTERS) else needed


def _start(names: set[str], site: Site, stack: ExitStack) -> dict[str, Variant]:
    variants: dict[str, Variant] = {}
    for name, start in STARTERS.items():
        if name in names:
            variants[name] = start(site)
            stack.callback(variants[name].stop)
    for name, start_cut in CUT_STARTERS.items():
        if name in names:
            variants[name] = start_cut(site, variants["forebay"])
            stack.callback(variants[name].stop)
    return variants


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
