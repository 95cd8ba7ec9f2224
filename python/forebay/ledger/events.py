"""The log lines of a ledger that somebody acts on.

Owns: their slugs and fields. Must not know: the form of a line, who reads it.
On failure: nothing here can fail.
"""

from __future__ import annotations

import logging
from datetime import datetime, timezone

from forebay.store import ThresholdEvent

__all__ = ["log_threshold"]

_ALL_PERCENT = 100


def log_threshold(log: logging.Logger, event: ThresholdEvent) -> None:
    """Say that a budget passed a threshold, at warning from 100 % on and at info below.

    Fields: `slug` (`budget_threshold`), `budget`, `value`, `percent`, `spent`, `amount`, `period_start` (UTC).
    """
    start = datetime.fromtimestamp(event.period_start_s, tz=timezone.utc)
    fields = {
        "slug": "budget_threshold",
        "budget": event.budget,
        "value": event.value,
        "percent": event.percent,
        "spent": event.spent,
        "amount": event.amount,
        "period_start": start.isoformat().replace("+00:00", "Z"),
    }
    level = logging.WARNING if event.percent >= _ALL_PERCENT else logging.INFO
    log.log(
        level,
        "budget `%s` of `%s` has spent %d of %d (%d %%)",
        *(event.budget, event.value, event.spent, event.amount, event.percent),
        extra=fields,
    )
