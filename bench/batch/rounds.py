"""Owns the order of slices: variants take turns within a round, and a first slice of each is thrown away.

Must not know what a slice is.
On failure: what a slice raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def interleaved(slices: dict[str, Callable[[int], Result]], rounds: int) -> dict[str, list[Result]]:
    """Results by variant, one for each round; a slice is told its round. The order turns with each: A B C, C B A.

    The warm-up is told the round before the first, -1.
    """
    names = list(slices)
    for name in names:
        slices[name](-1)
    results: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            results[name].append(slices[name](number))
    return results
