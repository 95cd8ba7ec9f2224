"""What the demo's session cost by the gateway's ledger, beside what the fleets, the budgets and the metrics say.

Owns: waiting until the books are closed, reading them, and judging whether they agree. Must not know how they are kept.
On failure: books that do not close in time, or cannot be read, are a check that did not hold.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebay.errors import StoreError
from forebay.lab import demo_sources as sources
from forebay.lab.demo_checks import Check
from forebay.ledger.query import Question, Sums, sums
from forebay.store import LedgerReader

__all__ = ["LedgerLine", "LedgerResult", "ledger_checks", "read_ledger", "wait_settled"]

_QUIET_S = 15.0
_POLL_S = 0.1
_SPENT = "SELECT coalesce(sum(spent), 0) FROM bucket WHERE budget = ?"


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """What one tenant spent on one model. Units: integer nano-USD."""

    tenant: str
    model: str
    requests: int
    spent_nanousd: int
    saved_nanousd: int
    prompt_tokens: int
    output_tokens: int
    estimated: int


@dataclass(frozen=True, slots=True)
class LedgerResult:
    """The books at the end: `open_reservations` of requests that nothing ended, and three sums of one spend."""

    lines: list[LedgerLine]
    open_reservations: int
    budget_nanousd: int
    metrics_nanousd: int
    error: str = ""

    @property
    def spent_nanousd(self) -> int:
        """What the ledger says was spent."""
        return sum(line.spent_nanousd for line in self.lines)


def read_ledger(directory: Path, admin_url: str, budget: str) -> LedgerResult:
    """Wait until every request is settled and written, and read the books.

    `budget` names the one that counts every request.
    """
    metrics = wait_settled(admin_url)
    open_now = int(_sum(metrics, "forebay_open_reservations"))
    by_metrics = int(_sum(metrics, "forebay_cost_nanousd_total"))
    try:
        reader = LedgerReader(directory)
        try:
            groups, _ = sums(reader, Question(by=("tenant", "model")))
            [(spent,)] = reader.rows(_SPENT, (budget,))
        finally:
            reader.close()
    except StoreError as error:
        return LedgerResult([], open_now, 0, by_metrics, str(error))
    lines = [_line(group) for group in sorted(groups, key=lambda group: (-group.spend_nanousd, group.group))]
    return LedgerResult(lines, open_now, int(spent), by_metrics)


def _line(group: Sums) -> LedgerLine:
    tenant, model = group.group
    return LedgerLine(
        tenant=tenant,
        model=model,
        requests=group.requests,
        spent_nanousd=group.spend_nanousd,
        saved_nanousd=group.saved_by_cache_nanousd,
        prompt_tokens=group.prompt_tokens,
        output_tokens=group.output_tokens,
        estimated=group.estimated_requests,
    )


def ledger_checks(
    result: LedgerResult | None, fleets: Mapping[str, Mapping[str, Any]], elsewhere: Collection[str] = ()
) -> list[Check]:
    """Give what must hold of the books; nothing where there is no ledger. Models `elsewhere` are in no fleet."""
    if result is None:
        return []
    lines = [line for line in result.lines if line.model not in elsewhere]
    read = (sum(line.prompt_tokens for line in lines), sum(line.output_tokens for line in lines))
    counted = tuple(sum(fleet[name] for fleet in fleets.values()) for name in ("prompt_tokens", "completion_tokens"))
    agreed = {result.spent_nanousd, result.budget_nanousd, result.metrics_nanousd}
    return [
        Check(
            "the ledger has every token that the fleets counted",
            not result.error and read == counted,
            result.error
            or f"{read[0]:,} read and {read[1]:,} written; the fleets count {counted[0]:,} and {counted[1]:,}",
        ),
        Check(
            "ledger, budget and metrics agree to the nano-USD",
            len(agreed) == 1 and result.spent_nanousd > 0,
            f"{result.spent_nanousd:,}, {result.budget_nanousd:,} and {result.metrics_nanousd:,}",
        ),
        Check("nothing stays reserved", result.open_reservations == 0, f"{result.open_reservations} open reservations"),
    ]


def wait_settled(admin_url: str) -> sources.Metrics:
    """The metrics once nothing is open and the journal is read, or at the end of the patience."""
    give_up = time.monotonic() + _QUIET_S
    while True:
        metrics = sources.read_metrics(admin_url)
        made, written = _sum(metrics, "forebay_ledger_made_total"), _sum(metrics, "forebay_ledger_records_total")
        busy = _sum(metrics, "forebay_open_reservations") or _sum(metrics, "forebay_ledger_lag_bytes") or written < made
        if not busy or time.monotonic() > give_up:
            return metrics
        time.sleep(_POLL_S)


def _sum(metrics: sources.Metrics, name: str) -> float:
    return sum(value for _, value in metrics.get(name, []))
