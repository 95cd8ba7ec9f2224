"""Owns a whole run: starts the servers, takes the measures, prints and writes the rows.

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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.batch.assembly import assembly
from bench.batch.bench import Bench
from bench.batch.cost import COST
from bench.batch.equal import equal_lengths, one_client
from bench.batch.flood import fair_shares, flooded_screen
from bench.batch.mixed import mixed_closed, mixed_open
from bench.batch.scale import FULL, QUICK
from bench.batch.sentences import real_sentences
from bench.batch.site import running_site
from bench.batch.table import table
from bench.batch.workload import Workload
from bench.load.process import BenchError
from bench.load.rows import Row
from bench.load.tools import ROOT, commit, find_tools, machine, versions
from forebay.lab.triton import TritonError
from forebay.lab.triton_install import TritonInstallError

MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "mixed_closed": mixed_closed,
    "mixed_open": mixed_open,
    "equal": equal_lengths,
    "one_client": one_client,
    "flood": flooded_screen,
    "fair_shares": fair_shares,
    "minilm": real_sentences,
    "assembly": assembly,
}


def main(argv: list[str] | None = None) -> int:
    """Runs the benches."""
    options = _parser().parse_args(argv)
    try:
        rows, common = _run(options)
    except (BenchError, ProcessLookupError, TritonError, TritonInstallError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    document = json.dumps([row.to_json(common) for row in rows], indent=1)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(document + "\n")
    print(document if options.json else table(rows, common))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.batch", description="Batches in front of Triton beside its own, in one interleaved run."
    )
    parser.add_argument("--only", help=f"which measures to take, of {','.join(MEASURES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="two minutes instead of ten; rough numbers")
    parser.add_argument("--rounds", type=int, help="rounds of each measure, instead of the scale's")
    parser.add_argument("--triton", type=Path, default=ROOT / ".venv-triton", help="the environment that has Triton")
    parser.add_argument("--target", type=Path, default=ROOT / "target", help="cargo's target folder")
    parser.add_argument("--out", type=Path, help="write the rows to this file")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--keep", type=Path, help="work in this folder and keep logs and configurations")
    return parser


def _run(options: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    tools = find_tools(options.target)
    names = options.only.split(",") if options.only else list(MEASURES)
    if unknown := set(names) - set(MEASURES):
        raise BenchError(f"`{sorted(unknown)}` is no measure; see --help")
    scale = QUICK if options.quick else FULL
    scale = replace(scale, rounds=options.rounds or scale.rounds)
    workload = Workload()
    rows: list[Row] = []
    with ExitStack() as stack:
        workdir = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forebay-bench-")))
        workdir.mkdir(parents=True, exist_ok=True)
        bench = Bench(stack.enter_context(running_site(tools, options.triton, workdir)), scale, workload)
        for name in names:
            started = time.monotonic()
            rows += MEASURES[name](bench)
            print(f"{name}: {time.monotonic() - started:.1f} s", file=sys.stderr)
    common = {
        "machine": machine(),
        "versions": versions(tools),
        "commit": commit(),
        "taken_unix_s": int(time.time()),
        "scale": vars(scale),
        "workload": asdict(workload),
        "cost": asdict(COST),
        "generator_busiest": round(bench.busiest, 3),
    }
    return rows, common
