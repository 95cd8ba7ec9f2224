"""`forebay ledger DIR --budgets`: how much of each budget is spent, drawn, and stranded.

Owns: the columns of that report. Must not know: how balances are kept true.
On failure: without a bucket it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forebay.errors import QueryRefused
from forebay.ledger.query import Question
from forebay.ledger.text import count, minute, money, money_column, percent, table
from forebay.store import LedgerReader

__all__ = ["BucketState", "BudgetReport", "budgets"]

_NARROWED_BY = ("budget", "value")
_STATEMENT = """
    SELECT bucket.budget, value, coalesce(plan.unit, bucket.unit, ''), period_start_s, coalesce(period_end_s, 0),
        coalesce(plan.amount, bucket.amount), spent, drawn,
        (SELECT coalesce(sum(max(0, granted - settled)), 0) FROM lease
            WHERE bucket_id = bucket.id AND state = 'stranded'),
        (SELECT coalesce(max(percent), 0) FROM threshold WHERE bucket_id = bucket.id)
    FROM bucket LEFT JOIN plan ON plan.budget = bucket.budget
    WHERE (:budget IS NULL OR bucket.budget = :budget) AND (:value IS NULL OR value = :value) AND CASE WHEN :timed THEN
        period_start_s < :until_s AND coalesce(period_end_s, period_start_s + 1) > :since_s
    ELSE period_start_s = (
        SELECT max(period_start_s) FROM bucket AS later
        WHERE later.budget = bucket.budget AND later.value = bucket.value
    ) END
"""


@dataclass(frozen=True, slots=True)
class BucketState:
    """One value of one budget in one period. `amount` is None where neither policy nor lease has told it yet.

    `drawn` is what leases have taken, `spent` what records say; `stranded` of what is drawn nobody can spend any more.
    """

    budget: str
    value: str
    unit: str
    period_start_s: int
    period_end_s: int
    amount: int | None
    spent: int
    drawn: int
    stranded: int
    threshold_percent: int


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """The buckets asked for, those that have spent the largest share first."""

    buckets: tuple[BucketState, ...]
    left_out: int

    def as_table(self) -> str:
        """Give the table that a person reads."""
        if not self.buckets:
            return "no budget fits"
        head = ["budget", "value", "from (UTC)", "to (UTC)", "amount", "spent", "%", "drawn", "stranded", "event"]
        columns = [
            _amounts([(each.unit, each.amount) for each in self.buckets]),
            _amounts([(each.unit, each.spent) for each in self.buckets]),
            [percent(each.spent, each.amount or 0) for each in self.buckets],
            _amounts([(each.unit, each.drawn) for each in self.buckets]),
            _amounts([(each.unit, each.stranded) for each in self.buckets]),
        ]
        rows = [
            [
                each.budget,
                each.value or "(none)",
                minute(each.period_start_s),
                minute(each.period_end_s),
                *(texts[at] for texts in columns),
                f"{each.threshold_percent} %" if each.threshold_percent else "-",
            ]
            for at, each in enumerate(self.buckets)
        ]
        told = table(head, rows, 4)
        return f"{told}\n({self.left_out} more)" if self.left_out else told

    def as_rows(self) -> list[dict[str, Any]]:
        """Give the buckets, flat; amounts in the budget's unit."""
        return [
            {
                "budget": each.budget,
                "value": each.value,
                "unit": each.unit,
                "period_start_s": each.period_start_s,
                "period_end_s": each.period_end_s or None,
                "amount": each.amount,
                "spent": each.spent,
                "drawn": each.drawn,
                "stranded": each.stranded,
                "threshold_percent": each.threshold_percent or None,
                "spent_usd": money(each.spent) if each.unit == "nanousd" else None,
            }
            for each in self.buckets
        ]

    def as_json(self) -> dict[str, Any]:
        """Give everything."""
        return {"budgets": self.as_rows(), "budgets_left_out": self.left_out}


def budgets(reader: LedgerReader, question: Question, limit: int) -> BudgetReport:
    """Tell how budgets stand: the latest period of each value, or with a time asked for all periods within it.

    Raises: QueryRefused where `where` names anything but `budget` and `value`.
    """
    where = dict(question.where)
    for name in where:
        if name not in _NARROWED_BY:
            raise QueryRefused(f"budgets are not narrowed by `{name}`, only by {' and '.join(_NARROWED_BY)}")
    timed = question != Question(by=question.by, where=question.where)
    rows = reader.rows(
        _STATEMENT,
        {
            "budget": where.get("budget"),
            "value": where.get("value"),
            "timed": timed,
            "since_s": question.since_unix_ns // 1_000_000_000,
            "until_s": -(-question.until_unix_ns // 1_000_000_000),
        },
    )
    states = [BucketState(*row) for row in rows]
    # By cross-multiplication shares would be exact, but for an order a float is enough.
    states.sort(key=lambda each: (-(each.spent / each.amount) if each.amount else 0.0, each.budget, each.value))
    shown = states[:limit] if limit else states
    return BudgetReport(tuple(shown), len(states) - len(shown))


def _amounts(cells: Sequence[tuple[str, int | None]]) -> list[str]:
    usd = iter(money_column([amount for unit, amount in cells if unit == "nanousd" and amount is not None]))
    texts = []
    for unit, amount in cells:
        if amount is None:
            texts.append("-")
        elif unit == "nanousd":
            texts.append(next(usd))
        else:
            texts.append(f"{count(amount)} {unit}".rstrip())
    return texts
