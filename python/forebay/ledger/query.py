"""Questions to the ledger: which rows, grouped by what; and the sums that answer them.

Owns: dimensions, filters, times, the SQL of sums and percentiles. Must not know: how an answer is printed.
On failure: QueryRefused says which word is not understood and which would be; a value is never part of a statement.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from forebay.errors import QueryRefused
from forebay.store import LedgerReader

__all__ = ["ANSWERED", "DIMENSIONS", "FROM", "Question", "Sums", "filters", "group_of", "parse_time", "sums"]

_SUCCESS = "kind.outcome IN ('ok', 'hit', 'follow')"
ANSWERED = "kind.outcome <> 'refused' AND record.duration_ns > 0"
"""What has a duration worth comparing: a refusal takes microseconds, and would only flatter."""

FROM = "record JOIN kind ON kind.id = record.kind_id JOIN owner ON owner.id = record.owner_id"

DIMENSIONS: dict[str, str] = {
    "tenant": "kind.tenant",
    "user": "record.user",
    "key": "kind.key",
    "feature": "record.feature",
    "run": "record.run",
    "eval": "record.eval",
    "model": "kind.model",
    "model_asked": "record.model_asked",
    "pool": "kind.pool",
    "provider": "kind.provider",
    "endpoint": "kind.endpoint",
    "route": "kind.route",
    "operation": "kind.operation",
    "outcome": "kind.outcome",
    "reason": "kind.reason",
    "code": "kind.code",
    "status": "kind.status",
    "cache": "kind.cache",
    "stream": "CASE kind.stream WHEN 0 THEN 'plain' ELSE 'stream' END",
    "usage": "CASE kind.usage WHEN 1 THEN 'exact' WHEN 2 THEN 'estimated' ELSE 'none' END",
    "policy": "kind.policy",
    "price_revision": "kind.price_revision",
    "owner": "owner.name",
    "day": "strftime('%Y-%m-%d', record.unix_ns / 1000000000, 'unixepoch')",
    "hour": "strftime('%Y-%m-%d %H:00', record.unix_ns / 1000000000, 'unixepoch')",
    "month": "strftime('%Y-%m', record.unix_ns / 1000000000, 'unixepoch')",
}
"""What a question may name, and what it is in SQL; days are days of UTC."""

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MAX_UNIX_NS = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Question:
    """Which requests, from `since_unix_ns` on and before `until_unix_ns`, grouped `by`; `where` are all to hold."""

    by: tuple[str, ...] = ("tenant",)
    since_unix_ns: int = 0
    until_unix_ns: int = _MAX_UNIX_NS
    where: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Sums:
    """What the requests of one group come to. `ok` are those with outcome `ok`, `hit` or `follow`.

    `wasted_nanousd` is the cost of all others. p50 and p95 are of requests that were not refused, by nearest rank.
    """

    group: tuple[str, ...]
    requests: int
    ok: int
    spend_nanousd: int
    saved_by_cache_nanousd: int
    saved_by_routing_nanousd: int
    wasted_nanousd: int
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated_nanousd: int
    estimated_requests: int
    used_requests: int
    unpriced_requests: int
    p50_ns: int = 0
    p95_ns: int = 0

    @property
    def per_ok_nanousd(self) -> int | None:
        """What a successful request costs with all that was spent for it, rounded half up to a nano-USD."""
        return (2 * self.spend_nanousd + self.ok) // (2 * self.ok) if self.ok else None

    @property
    def estimated(self) -> tuple[int, int]:
        """What of the spend is an estimate, as (part, whole); where nothing has a price, of the requests instead."""
        if self.spend_nanousd:
            return self.estimated_nanousd, self.spend_nanousd
        return self.estimated_requests, self.used_requests


_SUMS = f"""
    count(*), sum({_SUCCESS}), sum(record.cost_nanousd), sum(record.saved_by_cache_nanousd),
    sum(record.saved_by_routing_nanousd), sum(CASE WHEN {_SUCCESS} THEN 0 ELSE record.cost_nanousd END),
    sum(record.prompt_tokens), sum(record.cached_prompt_tokens), sum(record.output_tokens),
    sum(record.reasoning_tokens), sum(CASE kind.usage WHEN 2 THEN record.cost_nanousd ELSE 0 END),
    sum(kind.usage = 2), sum(kind.usage <> 0), sum(kind.usage <> 0 AND NOT kind.cost_known)
"""


def sums(reader: LedgerReader, question: Question) -> tuple[list[Sums], Sums | None]:
    """Answer a question.

    Returns: one for each group in no order, and one over all; None where no request fits.
    Cost: two passes over the requests of that time for the groups and two for the whole; durations are sorted.
    """
    groups = _grouped(reader, question, group_of(question.by))
    # A constant makes one group of all.
    whole = _grouped(reader, question, ["''"])
    return groups, replace(whole[0], group=()) if whole else None


def _grouped(reader: LedgerReader, question: Question, columns: Sequence[str]) -> list[Sums]:
    where, values = filters(question)
    named = ", ".join(f"{column} AS g{at}" for at, column in enumerate(columns))
    groups = ", ".join(f"g{at}" for at in range(len(columns)))
    width = len(columns)
    # Every part of the statements is a constant of this file; values are bound.
    ranked = reader.rows(
        f"""
        WITH one AS (SELECT {named}, record.duration_ns AS ns FROM {FROM} WHERE {where} AND {ANSWERED}),
        ranked AS (
            SELECT {groups}, ns, row_number() OVER (PARTITION BY {groups} ORDER BY ns) AS rank,
            count(*) OVER (PARTITION BY {groups}) AS many FROM one
        )
        SELECT {groups}, max(CASE WHEN rank = (many * 50 + 99) / 100 THEN ns END),
        max(CASE WHEN rank = (many * 95 + 99) / 100 THEN ns END) FROM ranked GROUP BY {groups}
        """,  # noqa: S608
        values,
    )
    percentiles = {row[:width]: row[width:] for row in ranked}
    summed = reader.rows(f"SELECT {named}, {_SUMS} FROM {FROM} WHERE {where} GROUP BY {groups}", values)  # noqa: S608
    return [Sums(tuple(map(str, row[:width])), *row[width:], *percentiles.get(row[:width], (0, 0))) for row in summed]


def group_of(by: Sequence[str]) -> list[str]:
    """Give the SQL of dimensions.

    Raises: QueryRefused for a name that is none.
    """
    for name in by:
        if name not in DIMENSIONS:
            raise QueryRefused(f"there is no `{name}` to group or filter by; there are {', '.join(DIMENSIONS)}")
    if len(set(by)) != len(by) or not by:
        raise QueryRefused("`--by` names each dimension once, such as `tenant` or `tenant,model`")
    return [DIMENSIONS[name] for name in by]


def filters(question: Question) -> tuple[str, list[object]]:
    """Give the condition that a question sets, and the values to bind."""
    parts = ["record.unix_ns >= ?", "record.unix_ns < ?"]
    values: list[object] = [question.since_unix_ns, question.until_unix_ns]
    for name, value in question.where:
        (column,) = group_of([name])
        parts.append(f"CAST({column} AS TEXT) = ?")
        values.append(value)
    return " AND ".join(parts), values


def parse_time(text: str, now_unix_ns: int) -> int:
    """Read a time: `90m`, `12h`, `7d`, `2w` before now, or an ISO date or time, which is UTC unless it says.

    Returns: nanoseconds since 1970. Raises: QueryRefused.
    """
    ago = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if ago:
        return max(0, now_unix_ns - int(ago[1]) * _UNITS_S[ago[2]] * 1_000_000_000)
    try:
        # Python 3.10 does not know `Z`.
        moment = datetime.fromisoformat(re.sub(r"[zZ]\Z", "+00:00", text))
    except ValueError as error:
        raise QueryRefused(
            f"`{text}` is no time; write `7d`, `12h`, `2026-11-21` or `2026-11-21T14:00:00+01:00`"
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    delta = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return min(max(0, (delta.days * 86_400 + delta.seconds) * 1_000_000_000 + delta.microseconds * 1_000), _MAX_UNIX_NS)
