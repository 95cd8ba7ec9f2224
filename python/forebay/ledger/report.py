"""What `forebay ledger` prints.

Owns: which report is asked for, its form, and reading the words of the command line. Must not know: how it is printed.
On failure: QueryRefused for words that are not understood, StoreMissing where there is nothing to tell.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from forebay.errors import QueryRefused, StoreMissing
from forebay.ledger.budgets import budgets
from forebay.ledger.query import Question, parse_time
from forebay.ledger.slow import slow
from forebay.ledger.usage import usage
from forebay.store import LedgerReader

__all__ = ["FORMATS", "Asked", "report"]

FORMATS = ("table", "csv", "json")


@dataclass(frozen=True, slots=True)
class Asked:
    """The words of one call of `forebay ledger`, as they were typed."""

    kind: Literal["usage", "p95", "budgets"] = "usage"
    by: str = ""
    since: str = ""
    until: str = ""
    where: Sequence[str] = ()
    sort: str = "spend"
    limit: int = 20
    form: str = "table"

    def question(self, now_unix_ns: int) -> Question:
        """Understand the words. Raises: QueryRefused."""
        where = []
        for text in self.where:
            name, equals, value = text.partition("=")
            if not equals:
                raise QueryRefused(f"`{text}` is no filter; write `NAME=VALUE`, such as `tenant=acme`")
            if not value.isprintable():
                raise QueryRefused(f"`{text!a}` has characters that no name has; write it as text in UTF-8")
            where.append((name.strip(), value))
        if self.limit < 0:
            raise QueryRefused(f"a limit of {self.limit} is none; 0 shows all")
        plain = Question()
        asked = Question(
            by=tuple(name.strip() for name in (self.by or ("model" if self.kind == "p95" else "tenant")).split(",")),
            since_unix_ns=parse_time(self.since, now_unix_ns) if self.since else plain.since_unix_ns,
            until_unix_ns=parse_time(self.until, now_unix_ns) if self.until else plain.until_unix_ns,
            where=tuple(where),
        )
        if asked.since_unix_ns >= asked.until_unix_ns:
            raise QueryRefused(f"from `{self.since or 1970}` until `{self.until}` is no time")
        return asked


class _Report(Protocol):
    def as_table(self) -> str: ...

    def as_rows(self) -> list[dict[str, Any]]: ...

    def as_json(self) -> dict[str, Any]: ...


def report(directory: str | Path, asked: Asked, now_unix_ns: int) -> str:
    """Answer one call, without a lock, so a gateway may write meanwhile.

    Returns: the text to print, without a last line break.
    Raises: StoreMissing without a ledger or with an empty one, QueryRefused, and what a damaged file raises.
    """
    question = asked.question(now_unix_ns)
    reader = LedgerReader(directory)
    try:
        if not reader.rows("SELECT EXISTS (SELECT 1 FROM record) OR EXISTS (SELECT 1 FROM bucket)")[0][0]:
            raise StoreMissing(f"the ledger in `{directory}` holds no request yet")
        return _formed(_asked_for(reader, asked, question), asked.form)
    finally:
        reader.close()


def _asked_for(reader: LedgerReader, asked: Asked, question: Question) -> _Report:
    if asked.kind == "budgets":
        return budgets(reader, question, asked.limit)
    if asked.kind == "p95":
        return slow(reader, question, asked.limit)
    return usage(reader, question, asked.sort, asked.limit)


def _formed(found: _Report, form: str) -> str:
    if form == "json":
        return json.dumps(found.as_json(), indent=2)
    if form == "csv":
        rows = found.as_rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
        if rows:
            writer.writeheader()
            writer.writerows(rows)
        return text.getvalue().rstrip("\n")
    return found.as_table()
