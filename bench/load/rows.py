"""Owns the row that a measure becomes, and how rounds are summed up.

Must not know how numbers are taken.
On failure: nothing here decides anything; a bar that is missed is said in the row and fails nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Bar:
    """What the project promises of a measure: `on` is `value` or `ratio`, `at_most` or `at_least` the bound."""

    on: str
    at_most: float | None = None
    at_least: float | None = None
    aim: float | None = None

    def holds(self, number: float) -> bool:
        """Whether `number` keeps the promise."""
        return (self.at_most is None or number <= self.at_most) and (self.at_least is None or number >= self.at_least)


@dataclass(frozen=True)
class Row:
    """One measure."""

    name: str
    value: float
    unit: str
    # Name and value of what stands beside it.
    control: dict[str, float] | None = None
    # Value over control, the median of the rounds' ratios.
    ratio: float | None = None
    # Least and most over the rounds, of value, control and ratio.
    spread: dict[str, list[float]] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)

    def misses(self) -> list[Bar]:
        """The bars that this row does not keep."""
        numbers = {"value": self.value, "ratio": self.ratio}
        return [bar for bar in self.bars if (number := numbers[bar.on]) is None or not bar.holds(number)]

    def to_json(self, common: dict[str, Any]) -> dict[str, Any]:
        """The row as written, with machine, versions and commit."""
        body = asdict(self)
        body["kept"] = not self.misses() if self.bars else None
        return {**body, **common}


def compare(
    name: str, unit: str, values: Sequence[float], control_name: str, controls: Sequence[float], **rest: Any
) -> Row:
    """A row from rounds: medians, and the median of the ratios taken round by round."""
    ratios = [value / control for value, control in zip(values, controls, strict=True)]
    return Row(
        name=name,
        value=round(median(values), 3),
        unit=unit,
        control={control_name: round(median(controls), 3)},
        ratio=round(median(ratios), 3),
        spread={"value": _ends(values), "control": _ends(controls), "ratio": _ends(ratios)},
        **rest,
    )


def single(name: str, unit: str, values: Sequence[float], **rest: Any) -> Row:
    """A row without a control."""
    return Row(name, round(median(values), 3), unit, spread={"value": _ends(values)}, **rest)


def _ends(numbers: Sequence[float]) -> list[float]:
    return [round(min(numbers), 3), round(max(numbers), 3)]
