"""Owns what every measure is given, and how a slice's share of a measure becomes a row's detail.

Must not know any measure.
On failure: nothing here can fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.batch.scale import Scale
from bench.batch.site import Site
from bench.batch.slices import Slice, Window
from bench.batch.workload import Workload

CLIENTS = 64


@dataclass
class Bench:
    """What runs, how long slices are, and which requests are sent."""

    site: Site
    scale: Scale
    workload: Workload
    # Busiest second of the generator's thread so far: near 1 it, not the servers, was measured.
    busiest: float = 0.0

    def window(self, slice_s: float, number: int) -> Window:
        """The window of a slice; the warm-up before the first round is short."""
        return Window(0.0, self.scale.warm_s) if number < 0 else Window(self.scale.warm_s, slice_s)

    def seen(self, *groups: Sequence[Slice]) -> None:
        """Notes how busy the generator was."""
        self.busiest = max([self.busiest, *(part.generator_busy for group in groups for part in group)])


def middle(slices: Sequence[Slice], number: Callable[[Slice], float]) -> float:
    """The median over the rounds."""
    return median(map(number, slices))


def per_second(part: Slice) -> float:
    """Requests answered in a second."""
    return part.per_s


def p50_ms(part: Slice) -> float:
    """Median latency."""
    return part.p50_ms


def p99_ms(part: Slice) -> float:
    """The latency that one request in a hundred exceeds."""
    return part.p99_ms


def told(results: dict[str, list[Slice]]) -> dict[str, Any]:
    """A table for a row's detail: by variant, each round."""
    return {name: [part.to_json() for part in slices] for name, slices in results.items()}
