"""`forebay ledger DIR`: what was spent, saved and wasted, by whom.

Owns: the columns of that report as table, CSV and JSON. Must not know: SQL.
On failure: QueryRefused for an order that there is not; without requests it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from forebay.errors import QueryRefused
from forebay.ledger.query import Question, Sums, sums
from forebay.ledger.text import count, duration, money, money_column, percent, table
from forebay.store import LedgerReader

__all__ = ["SORTS", "UsageReport", "usage"]

SORTS: dict[str, Callable[[Sums], Any]] = {
    "spend": lambda group: -group.spend_nanousd,
    "requests": lambda group: -group.requests,
    "saved": lambda group: -group.saved_by_cache_nanousd - group.saved_by_routing_nanousd,
    "wasted": lambda group: -group.wasted_nanousd,
    "tokens": lambda group: -group.prompt_tokens - group.output_tokens,
    "per_ok": lambda group: -(group.per_ok_nanousd or 0),
    "p50": lambda group: -group.p50_ns,
    "p95": lambda group: -group.p95_ns,
    "name": lambda _: 0,
}
"""Orders, the largest first; `name` is by the group itself, from the first."""


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The answer to one question; `left_out` groups are counted in `total` only."""

    by: tuple[str, ...]
    groups: tuple[Sums, ...]
    total: Sums | None
    left_out: int

    def as_table(self) -> str:
        """Give the table that a person reads."""
        if self.total is None:
            return "no request fits"
        every = [*self.groups, self.total]
        per_ok = money_column([each.per_ok_nanousd or 0 for each in every])
        columns: list[tuple[str, Sequence[str]]] = [
            ("requests", [count(each.requests) for each in every]),
            ("ok", [percent(each.ok, each.requests) for each in every]),
            ("spend", money_column([each.spend_nanousd for each in every])),
            ("cache saved", money_column([each.saved_by_cache_nanousd for each in every])),
            ("routing saved", money_column([each.saved_by_routing_nanousd for each in every])),
            ("wasted", money_column([each.wasted_nanousd for each in every])),
            ("tokens in", [count(each.prompt_tokens) for each in every]),
            ("tokens out", [count(each.output_tokens) for each in every]),
            ("per ok", [text if each.ok else "-" for text, each in zip(per_ok, every, strict=True)]),
            ("estimated", [percent(*each.estimated) for each in every]),
            ("p50", [duration(each.p50_ns) for each in every]),
            ("p95", [duration(each.p95_ns) for each in every]),
        ]
        rows = [
            [*(name or "(none)" for name in each.group), *(texts[at] for _, texts in columns)]
            for at, each in enumerate(self.groups)
        ]
        name = "total" if not self.left_out else f"total (with {self.left_out} more)"
        last = [name, *[""] * (len(self.by) - 1), *(texts[-1] for _, texts in columns)]
        told = table([*self.by, *(head for head, _ in columns)], rows, len(self.by), last)
        if self.total.unpriced_requests:
            share = f"{count(self.total.unpriced_requests)} of {count(self.total.requests)} requests"
            told += f"\n\n{share} were served by models without a known price; they count as free here"
        return told

    def as_json(self) -> dict[str, Any]:
        """Give everything, money as integers and as text."""
        return {
            "by": list(self.by),
            "groups": [self._fields(each) for each in self.groups],
            "groups_left_out": self.left_out,
            "total": self._fields(self.total) if self.total else None,
        }

    def as_rows(self) -> list[dict[str, Any]]:
        """Give the groups, flat, for CSV."""
        return [self._fields(each) for each in self.groups]

    def _fields(self, each: Sums) -> dict[str, Any]:
        estimated, whole = each.estimated
        return {
            **dict(zip(self.by, each.group, strict=False)),
            "requests": each.requests,
            "ok": each.ok,
            "spend_nanousd": each.spend_nanousd,
            "spend_usd": money(each.spend_nanousd),
            "saved_by_cache_nanousd": each.saved_by_cache_nanousd,
            "saved_by_routing_nanousd": each.saved_by_routing_nanousd,
            "wasted_nanousd": each.wasted_nanousd,
            "prompt_tokens": each.prompt_tokens,
            "cached_prompt_tokens": each.cached_prompt_tokens,
            "output_tokens": each.output_tokens,
            "reasoning_tokens": each.reasoning_tokens,
            "per_ok_nanousd": each.per_ok_nanousd,
            "estimated_ratio": round(estimated / whole, 6) if whole else None,
            "unpriced_requests": each.unpriced_requests,
            "p50_ns": each.p50_ns,
            "p95_ns": each.p95_ns,
        }


def usage(reader: LedgerReader, question: Question, sort: str, limit: int) -> UsageReport:
    """Ask for the sums by group, put them in order, and keep the first `limit`; 0 keeps all."""
    if sort not in SORTS:
        raise QueryRefused(f"there is no order `{sort}`; there are {', '.join(SORTS)}")
    groups, total = sums(reader, question)
    groups.sort(key=lambda group: (SORTS[sort](group), group.group))
    shown = groups[:limit] if limit else groups
    return UsageReport(question.by, tuple(shown), total, len(groups) - len(shown))
