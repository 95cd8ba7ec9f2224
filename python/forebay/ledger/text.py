"""Numbers as a person reads them, and tables of them.

Owns: exact money, durations, shares, aligned columns. Must not know: what the numbers are of.
On failure: none; every integer has a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

__all__ = ["count", "duration", "minute", "money", "money_column", "percent", "table"]

_NANO = 1_000_000_000
_MIN_DECIMALS = 2


def money(nanousd: int, decimals: int = 9) -> str:
    """Write nano-USD as USD, exactly: digits are only left out where they are zeros beyond `decimals`.

    >>> money(12_500_000_000, 2), money(7), money(-1_500_000_000, 2)
    ('12.50', '0.000000007', '-1.50')
    """
    whole, rest = divmod(abs(nanousd), _NANO)
    fraction = f"{rest:09}"
    kept = max(decimals, len(fraction.rstrip("0")))
    return f"{'-' if nanousd < 0 else ''}{whole:,}.{fraction[:kept]}"


def money_column(amounts: Sequence[int]) -> list[str]:
    """Write amounts with as many decimals as the one that needs most, so that they stand under each other."""
    needed = max((len(f"{abs(amount) % _NANO:09}".rstrip("0")) for amount in amounts), default=0)
    return [f"${money(amount, max(needed, _MIN_DECIMALS))}" for amount in amounts]


def count(number: int) -> str:
    """Write a number with commas."""
    return f"{number:,}"


def duration(ns: int) -> str:
    """Write a time with three digits or so.

    >>> duration(0), duration(51_300), duration(812_400_000), duration(2_345_000_000), duration(75_000_000_000)
    ('-', '51 µs', '812 ms', '2.35 s', '75.0 s')
    """
    if ns <= 0:
        return "-"
    for unit_ns, unit in ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs")):
        if ns >= unit_ns:
            decimals = 0 if unit != "s" else 2 if ns < 10 * unit_ns else 1
            return f"{ns / unit_ns:.{decimals}f} {unit}"
    return f"{ns} ns"


def percent(part: int, whole: int) -> str:
    """Write a share with one decimal, rounded half up; `-` of nothing."""
    if whole <= 0:
        return "-"
    tenths = (part * 2_000 + whole) // (2 * whole)
    return f"{tenths // 10}.{tenths % 10} %"


def minute(unix_s: int) -> str:
    """Write a time in UTC, such as `2026-11-21 14:05`; `-` where it is unknown."""
    if not unix_s:
        return "-"
    try:
        return datetime.fromtimestamp(unix_s, timezone.utc).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return str(unix_s)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int, last: Sequence[str] | None = None) -> str:
    """Align columns: the first `left` to the left, the others to the right; `last` stands below a line."""
    every = [head, *rows, *([last] if last is not None else [])]
    widths = [max(len(row[at]) for row in every) for at in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()

    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [line(head), rule, *map(line, rows)]
    if last is not None:
        lines += [rule, line(last)]
    return "\n".join(lines)
