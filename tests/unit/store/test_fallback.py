"""Going on in memory while the store is away."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from forebay.errors import StoreCorrupt, StoreError, StoreInUse, StoreLocked
from forebay.store import (
    FILE_NAME,
    BudgetPlan,
    FallbackStore,
    JournalPosition,
    LeaseBalance,
    ReopeningStore,
    SqliteStore,
)


class Clock:
    now = 10**9

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def locked(tmp_path):
    """A store, what locks its file from outside, and a clock."""
    primary = SqliteStore(tmp_path, "one", timeout_ms=20)
    with closing(sqlite3.connect(primary.path, isolation_level=None)) as other:
        clock = Clock()
        yield FallbackStore(primary, now_ns=clock), other, clock, primary
    primary.close()


def test_a_draw_goes_on_from_what_is_known_and_the_store_hears_of_it(locked, bench):
    store, other, clock, primary = locked
    assert store.draw([bench.ask(30)])[0].left == 70
    other.execute("BEGIN IMMEDIATE")
    assert [store.draw([bench.ask(30)])[0].granted for _ in range(4)] == [30, 30, 10, 0]
    assert store.failures == 4
    assert store.pending == 1
    other.execute("ROLLBACK")
    # Not yet: it is tried once in a while.
    assert store.draw([bench.ask(1, amount=101)])[0].granted == 1
    assert bench.balance(primary)[0] == 30
    clock.now += 2 * 10**9
    assert store.draw([bench.ask(30, amount=105)])[0].granted == 4
    assert bench.balance(primary)[0] == 105
    assert store.pending == 0


def test_an_unknown_bucket_counts_as_untouched_and_is_adopted_whatever_is_left(locked, bench):
    store, other, clock, primary = locked
    primary.draw([bench.ask(80)])
    other.execute("BEGIN IMMEDIATE")
    assert store.draw([bench.ask(90)])[0].granted == 90
    other.execute("ROLLBACK")
    clock.now += 2 * 10**9
    assert store.draw([bench.ask(90)])[0].granted == 0
    assert bench.balance(primary)[0] == 170


def test_giving_back_writes_what_is_pending_first(locked, bench):
    store, other, _, primary = locked
    other.execute("BEGIN IMMEDIATE")
    store.draw([bench.ask(90)])
    balance = LeaseBalance("b", "v", bench.start_s, 90, 15)
    with pytest.raises(StoreLocked):
        store.give_back([balance])
    other.execute("ROLLBACK")
    store.give_back([balance])
    assert bench.balance(primary)[0] == 15


def test_rows_are_not_held_in_memory_but_refused(locked, bench):
    store, other, _, _ = locked
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreLocked):
        store.write([bench.row("a", ("b", "v", 1))], JournalPosition(1, 1))
    other.execute("ROLLBACK")
    assert store.position() == JournalPosition(0, 0)


def test_a_corrupt_file_is_opened_once_it_is_mended(tmp_path, bench):
    path = tmp_path / FILE_NAME
    path.write_bytes(b"nonsense" * 1_000)
    clock = Clock()
    reopening = ReopeningStore(lambda: SqliteStore(tmp_path, "one"), now_ns=clock)
    store = FallbackStore(reopening, now_ns=clock)
    with pytest.raises(StoreCorrupt):
        store.set_budgets({"b": BudgetPlan("nanousd", 10, (50,))})
    with pytest.raises(StoreCorrupt):
        store.position()
    assert store.draw([bench.ask(40)])[0].granted == 40
    path.unlink()
    clock.now += 10 * 10**9
    assert store.draw([bench.ask(100)])[0].granted == 60
    assert [event.percent for event in store.write([bench.row("a", ("b", "v", 9))], JournalPosition(1, 1))] == [50]
    store.close()


def test_another_gateway_on_the_folder_is_not_waited_for(store, tmp_path):
    with pytest.raises(StoreInUse):
        ReopeningStore(lambda: SqliteStore(tmp_path, "two"), now_ns=Clock())


def test_a_reopening_store_that_never_opened_closes(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"nonsense" * 1_000)
    store = ReopeningStore(lambda: SqliteStore(tmp_path, "one"), now_ns=Clock())
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.position()
