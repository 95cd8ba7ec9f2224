"""Prometheus' text form of what is counted in Python.

Owns: how a family of metrics is written. Must not know: what is counted. On failure: cannot fail.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

__all__ = ["Family", "exposition"]


class Family(NamedTuple):
    """One metric: its value, or values by the text of their labels, such as `budget="day"`."""

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    value: int | Mapping[str, float]


def exposition(families: Iterable[Family]) -> str:
    """Write families as a scraper reads them (text format 0.0.4)."""
    lines: list[str] = []
    for name, kind, text, value in families:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        if isinstance(value, Mapping):
            lines += [f"{name}{{{labels}}} {number}" for labels, number in value.items()]
        else:
            lines.append(f"{name} {value}")
    return "".join(f"{line}\n" for line in lines)
