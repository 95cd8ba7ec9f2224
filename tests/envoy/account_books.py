"""What the tests of accounting read: the ledger's rows and budgets, while the gateway writes on.

Owns: reading the file as `forebay ledger` does. Must not know: what a test expects.
On failure: the store's errors; a ledger that is not there yet has no rows.
"""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

from envoy_rig import until
from forebay.errors import StoreError
from forebay.store import LedgerReader

_BUCKETS = """
    SELECT budget, value, period_start_s, COALESCE(bucket.unit, plan.unit, ''), bucket.amount, drawn, spent
    FROM bucket LEFT JOIN plan USING (budget)
"""
_BUCKET_NAMES = ("budget", "value", "period_start_s", "unit", "amount", "drawn", "spent")


def bench_size(name: str, in_a_test: int) -> int:
    """How large a test is: as its variable says, else small enough for every run."""
    return int(os.environ.get(name, in_a_test))


def report(name: str, figures: dict[str, Any]) -> None:
    """Write a test's figures into the folder that `FOREBAY_ACCOUNT_REPORT` names, if it is set."""
    if folder := os.environ.get("FOREBAY_ACCOUNT_REPORT"):
        (Path(folder) / f"{name}.json").write_text(json.dumps(figures, indent=1))


class LedgerFolder:
    """The folder that the policy names."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def file(self) -> Path:
        return self.directory / "ledger.sqlite3"

    def rows(self, where: str = "1", *values: object) -> list[dict[str, Any]]:
        """The rows of requests, oldest first."""
        try:
            reader = LedgerReader(self.directory)
        except StoreError:
            return []
        try:
            names = [row[1] for row in reader.rows("PRAGMA table_info(request)")]
            found = reader.rows(f"SELECT * FROM request WHERE {where} ORDER BY unix_ns", values)
        finally:
            reader.close()
        return [dict(zip(names, row, strict=True)) for row in found]

    def row(self, request_id: str) -> dict[str, Any]:
        """The row of one request, once it is there."""
        found: list[dict[str, Any]] = until(lambda: self.rows("id = ?", request_id), f"the row of {request_id}")
        return found[0]

    def row_of_run(self, run: str) -> dict[str, Any]:
        """The row of the one request that named this run, once it is there."""
        found: list[dict[str, Any]] = until(lambda: self.rows("run = ?", run), f"the row of run {run}")
        assert len(found) == 1, found
        return found[0]

    def buckets(self, budget: str | None = None) -> list[dict[str, Any]]:
        """What each value of each budget has drawn and spent."""
        reader = LedgerReader(self.directory)
        try:
            found = [dict(zip(_BUCKET_NAMES, row, strict=True)) for row in reader.rows(_BUCKETS)]
        finally:
            reader.close()
        return [bucket for bucket in found if budget in (None, bucket["budget"])]

    def bucket(self, budget: str) -> dict[str, Any]:
        """The only bucket of a budget."""
        (found,) = self.buckets(budget)
        return found

    def every_id(self) -> list[str]:
        """The ids of all records, from the table itself, so that one that is there twice shows."""
        connection = sqlite3.connect(self.file)
        try:
            return [row[0] for row in connection.execute("SELECT lower(hex(id)) FROM record")]
        finally:
            connection.close()
