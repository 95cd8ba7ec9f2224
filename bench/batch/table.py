"""Owns the table that a run prints: every row with its control, its bar and whether it is kept.

Must not know how a row was measured.
On failure: nothing here can fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.load.rows import Bar, Row


def table(rows: Sequence[Row], common: dict[str, Any]) -> str:
    """One line a row; below the rows of throughput, one for each variant."""
    lines = [f"{'measure':<30}{'value':>10} {'unit':<13}{'control':<38}{'ratio':>7}  {'bar':<16}"]
    for row in rows:
        control = " ".join(f"{name} {value:.1f}" for name, value in (row.control or {}).items())
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        said = "" if not row.bars else "missed" if row.misses() else "kept"
        bars = " ".join(map(_bar, row.bars))
        lines.append(f"{row.name:<30}{row.value:>10.2f} {row.unit:<13}{control:<38}{ratio:>7}  {bars:<16}{said}")
        lines += _variants(row.detail)
    lines.append(f"the generator used at most {common['generator_busiest']:.0%} of a core")
    return "\n".join(lines)


def _bar(bar: Bar) -> str:
    bounds = ((">=", bar.at_least), ("<=", bar.at_most))
    return f"{bar.on} " + " ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


def _variants(detail: dict[str, Any]) -> list[str]:
    """The middle round of every variant."""
    lines = []
    for name, slices in detail.items():
        if not (isinstance(slices, list) and slices and isinstance(slices[0], dict) and "call_rows" in slices[0]):
            continue
        part = sorted(slices, key=lambda each: each["per_s"])[len(slices) // 2]
        waste = f"  padding {part['waste']:.0%}" if "waste" in part else ""
        failed = f"  failed {part['failed']}" if part["failed"] else ""
        lines.append(
            f"  {name:<12}{part['per_s']:8.0f}/s  p50 {part['p50_ms']:7.2f} ms  p99 {part['p99_ms']:7.2f} ms"
            f"  {part['call_rows']:4.1f} rows a call of {part['call_ms']:.1f} ms{waste}{failed}"
        )
    return lines
