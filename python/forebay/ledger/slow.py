"""`forebay ledger DIR --p95`: which requests drive the 95th percentile, and where their time went.

Owns: the slowest twentieth, its groups, the split of its time into four stages. Must not know: how SQLite is opened.
On failure: without an answered request it says so.

decide: our own stages. queue: waiting in the batch service. first token: from there until the first token came, or the
first byte, or, where nothing came, the end. generation: the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forebay.ledger.query import ANSWERED, FROM, Question, filters, group_of
from forebay.ledger.text import count, duration, minute, percent, table
from forebay.store import LedgerReader

__all__ = ["STAGES", "SlowGroup", "SlowReport", "SlowRequest", "slow"]

STAGES = ("decide", "queue", "first token", "generation")

_FIRST = """CASE WHEN record.first_token_ns > 0 THEN record.first_token_ns
    WHEN record.first_byte_ns > 0 THEN record.first_byte_ns ELSE record.duration_ns END"""
_BEFORE = "record.decide_ns + record.queue_ns"
_SPLIT = (
    "record.decide_ns",
    "record.queue_ns",
    f"max(0, min({_FIRST}, record.duration_ns) - ({_BEFORE}))",
    f"max(0, record.duration_ns - max({_FIRST}, {_BEFORE}))",
)


@dataclass(frozen=True, slots=True)
class SlowGroup:
    """One group's part in the slowest requests; `stage_ns` sums up over them, in the order of `STAGES`."""

    group: tuple[str, ...]
    requests: int
    slow: int
    stage_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SlowRequest:
    """One of the slowest requests."""

    id: str
    unix_ns: int
    tenant: str
    model: str
    outcome: str
    duration_ns: int
    stage_ns: tuple[int, ...]
    output_tokens: int
    trace_id: str


@dataclass(frozen=True, slots=True)
class SlowReport:
    """Who the requests at or above `p95_ns` are."""

    by: tuple[str, ...]
    requests: int
    slow: int
    p95_ns: int
    groups: tuple[SlowGroup, ...]
    slowest: tuple[SlowRequest, ...]

    def as_table(self) -> str:
        """Give the tables that a person reads."""
        if not self.requests:
            return "no request fits"
        head = [*self.by, "requests", "slow", "of all slow", "of its own", "mostly", *STAGES]
        groups = [
            [
                *(name or "(none)" for name in each.group),
                count(each.requests),
                count(each.slow),
                percent(each.slow, self.slow),
                percent(each.slow, each.requests),
                _mostly(each.stage_ns),
                *(duration(ns // each.slow) for ns in each.stage_ns),
            ]
            for each in self.groups
        ]
        slowest = [
            [
                each.id,
                minute(each.unix_ns // 1_000_000_000),
                each.tenant or "(none)",
                each.model or "(none)",
                each.outcome,
                duration(each.duration_ns),
                _mostly(each.stage_ns),
                count(each.output_tokens),
                each.trace_id or "-",
            ]
            for each in self.slowest
        ]
        titles = ["id", "time (UTC)", "tenant", "model", "outcome", "took", "mostly", "tokens out", "trace"]
        first = f"p95 is {duration(self.p95_ns)}: {count(self.slow)} of {count(self.requests)} answered requests"
        return "\n".join(
            [
                f"{first} took that long or longer",
                "",
                table(head, groups, len(self.by)),
                "(stages: the mean of the slow ones)",
                "",
                "the slowest",
                table(titles, slowest, 5),
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """Give everything; times in nanoseconds."""
        return {
            "by": list(self.by),
            "requests": self.requests,
            "slow": self.slow,
            "p95_ns": self.p95_ns,
            "groups": self.as_rows(),
            "slowest": [
                {
                    "id": each.id,
                    "unix_ns": each.unix_ns,
                    "tenant": each.tenant,
                    "model": each.model,
                    "outcome": each.outcome,
                    "duration_ns": each.duration_ns,
                    **_stages(each.stage_ns),
                    "output_tokens": each.output_tokens,
                    "trace_id": each.trace_id,
                }
                for each in self.slowest
            ],
        }

    def as_rows(self) -> list[dict[str, Any]]:
        """Give the groups, flat, for CSV; stage times are sums over the slow requests."""
        return [
            {
                **dict(zip(self.by, each.group, strict=True)),
                "requests": each.requests,
                "slow": each.slow,
                **_stages(each.stage_ns),
            }
            for each in self.groups
        ]


def slow(reader: LedgerReader, question: Question, limit: int) -> SlowReport:
    """Find the requests at or above the 95th percentile (nearest rank), and what they have in common.

    Cost: three passes over the requests of that time; the durations are sorted once.
    """
    where, values = filters(question)
    where = f"{where} AND {ANSWERED}"
    # Every part of the statements is a constant of this package; values are bound.
    requests = reader.rows(f"SELECT count(*) FROM {FROM} WHERE {where}", values)[0][0]  # noqa: S608
    if not requests:
        return SlowReport(question.by, 0, 0, 0, (), ())
    p95_ns = reader.rows(
        f"SELECT record.duration_ns FROM {FROM} WHERE {where} ORDER BY record.duration_ns LIMIT 1 OFFSET ?",  # noqa: S608
        [*values, (requests * 95 + 99) // 100 - 1],
    )[0][0]
    columns = group_of(question.by)
    width = len(columns)
    named = ", ".join(f"{column} AS g{at}" for at, column in enumerate(columns))
    numbers = ", ".join(str(at + 1) for at in range(width))
    is_slow = f"record.duration_ns >= {int(p95_ns)}"
    stages = ", ".join(f"sum(CASE WHEN {is_slow} THEN {part} ELSE 0 END)" for part in _SPLIT)
    rows = reader.rows(
        f"SELECT {named}, count(*), sum({is_slow}), {stages} FROM {FROM} WHERE {where} GROUP BY {numbers}",  # noqa: S608
        values,
    )
    groups = [
        SlowGroup(tuple(map(str, row[:width])), row[width], row[width + 1], row[width + 2 :])
        for row in rows
        if row[width + 1]
    ]
    groups.sort(key=lambda group: (-group.slow, group.group))
    return SlowReport(
        by=question.by,
        requests=requests,
        slow=sum(group.slow for group in groups),
        p95_ns=p95_ns,
        groups=tuple(groups[:limit] if limit else groups),
        slowest=_slowest(reader, where, values, limit or 10),
    )


def _slowest(reader: LedgerReader, where: str, values: Sequence[object], limit: int) -> tuple[SlowRequest, ...]:
    rows = reader.rows(
        f"SELECT lower(hex(record.id)), record.unix_ns, kind.tenant, kind.model, kind.outcome, record.duration_ns, "  # noqa: S608
        f"record.output_tokens, lower(hex(record.trace_id)), {', '.join(_SPLIT)} FROM {FROM} WHERE {where} "
        "ORDER BY record.duration_ns DESC, record.id LIMIT ?",
        [*values, min(limit, 10)],
    )
    return tuple(
        SlowRequest(
            id=row[0],
            unix_ns=row[1],
            tenant=row[2],
            model=row[3],
            outcome=row[4],
            duration_ns=row[5],
            stage_ns=row[8:],
            output_tokens=row[6],
            trace_id=row[7],
        )
        for row in rows
    )


def _mostly(stage_ns: Sequence[int]) -> str:
    """Name the stage that took most, with its share."""
    most = max(range(len(stage_ns)), key=lambda at: stage_ns[at])
    return f"{STAGES[most]} {percent(stage_ns[most], sum(stage_ns))}"


def _stages(stage_ns: Sequence[int]) -> dict[str, int]:
    return {f"{stage.replace(' ', '_')}_ns": ns for stage, ns in zip(STAGES, stage_ns, strict=True)}
