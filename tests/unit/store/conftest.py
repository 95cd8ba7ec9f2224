"""Rows and asks with few words."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from forebay.store import LeaseAsk, LedgerRow, SqliteStore
from forebay.store.interface import KIND_COLUMNS, NUMBER_COLUMNS, TEXT_COLUMNS

START_S = 1_800_000_000
NUMBERS = {"status", "stream", "usage", "cost_known"}


def make_row(name: str, *charges: tuple[str, str, int], owner: str = "one", **fields) -> LedgerRow:
    """A row whose id is made of `name`; charges are (budget, value, amount)."""
    given = {"tenant": "acme", "outcome": "ok", "unix_ns": START_S * 10**9} | fields
    return LedgerRow(
        id=hashlib.md5(name.encode()).digest(),
        kind=tuple(given.get(column, 0 if column in NUMBERS else "") for column in KIND_COLUMNS),
        texts=tuple(given.get(column, "") for column in TEXT_COLUMNS),
        numbers=tuple(given.get(column, 0) for column in NUMBER_COLUMNS),
        decide_ns=5,
        stage_ns="[2, 3]",
        trace_id=b"",
        owner=owner,
        charges=[(budget, value, START_S, amount) for budget, value, amount in charges],
    )


def make_ask(want: int, amount: int = 100, budget: str = "b", value: str = "v") -> LeaseAsk:
    return LeaseAsk(
        token=7,
        budget=budget,
        value=value,
        unit="nanousd",
        period_start_s=START_S,
        period_end_s=START_S + 3_600,
        amount=amount,
        want=want,
    )


class Bench:
    """What the tests of a store need beside it."""

    start_s = START_S
    row = staticmethod(make_row)
    ask = staticmethod(make_ask)

    @staticmethod
    def balance(store: SqliteStore, budget: str = "b", value: str = "v") -> tuple[int, int]:
        """What is (drawn, spent) of a bucket."""
        with store._rows.reading() as db:
            return db.execute(
                "SELECT drawn, spent FROM bucket WHERE budget = ? AND value = ?", (budget, value)
            ).fetchone() or (0, 0)

    @staticmethod
    def count(store: SqliteStore) -> int:
        with store._rows.reading() as db:
            return db.execute("SELECT count(*) FROM record").fetchone()[0]


@pytest.fixture
def bench() -> type[Bench]:
    return Bench


@pytest.fixture
def store(tmp_path: Path):
    opened = SqliteStore(tmp_path, "one")
    yield opened
    opened.close()
