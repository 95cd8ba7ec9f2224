"""From segments into the store: once, in order, and through failures."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest

from forebay.errors import StoreLocked
from forebay.ledger import Ingest, IngestThread, Journal
from forebay.store import BudgetPlan, JournalPosition, SqliteStore


def drain(ingest: Ingest) -> int:
    rows = 0
    while (result := ingest.run_once()).records_read:
        rows += result.rows_written
    return rows


def rows_of(store: SqliteStore) -> int:
    with store._rows.reading() as db:
        return db.execute("SELECT count(*) FROM record").fetchone()[0]


def spent(store: SqliteStore, budget: str = "b") -> int:
    with store._rows.reading() as db:
        return (db.execute("SELECT spent FROM bucket WHERE budget = ?", (budget,)).fetchone() or [0])[0]


def test_records_become_rows_and_read_segments_go(tmp_path, store, desk):
    first = [desk.record(f"a{n}", charges=[("b", "v", 1)]) for n in range(1_500)]
    desk.segment(tmp_path, 1, desk.frames(*first))
    desk.segment(tmp_path, 2, desk.frames(desk.record("b", charges=[("b", "v", 5)])))
    seen = []
    ingest = Ingest(Journal(tmp_path), store, [seen.extend])
    result = ingest.run_once()
    assert (result.records_read, result.rows_written) == (500, 500)
    assert result.lag_bytes > 0
    assert drain(ingest) == 1_001
    assert ingest.run_once().lag_bytes == 0
    assert (rows_of(store), spent(store)) == (1_501, 1_505)
    assert [record.id for record in seen] == [record.id for record in [*first, desk.record("b")]]
    assert [path.name[-6:] for path in sorted(tmp_path.glob("journal-*"))] == ["02.log"]


def test_reading_on_after_a_restart_takes_nothing_twice(tmp_path, desk):
    records = [desk.record(str(n), charges=[("b", "v", n)]) for n in range(50)]
    desk.segment(tmp_path, 1, desk.frames(*records[:20]))
    with closing(SqliteStore(tmp_path, "one")) as store:
        drain(Ingest(Journal(tmp_path), store))
    desk.segment(tmp_path, 1, desk.frames(*records[20:]))
    seen = []
    with closing(SqliteStore(tmp_path, "two")) as store:
        drain(Ingest(Journal(tmp_path), store, [seen.extend]))
        assert len(seen) == 30
        assert spent(store) == sum(range(50))


def test_the_same_journal_again_changes_nothing(tmp_path, store, desk):
    desk.segment(tmp_path, 1, desk.frames(*(desk.record(str(n), charges=[("b", "v", n)]) for n in range(50))))
    drain(Ingest(Journal(tmp_path), store))
    store.write([], JournalPosition())
    assert drain(Ingest(Journal(tmp_path), store)) == 50
    assert (rows_of(store), spent(store)) == (50, sum(range(50)))


def test_a_later_record_corrects_the_earlier(tmp_path, store, desk):
    desk.segment(tmp_path, 1, desk.frames(desk.record("a", outcome="expired", charges=[("b", "v", 90)])))
    ingest = Ingest(Journal(tmp_path), store)
    drain(ingest)
    desk.segment(tmp_path, 1, desk.frames(desk.record("a", charges=[("b", "v", 40)])))
    drain(ingest)
    assert (rows_of(store), spent(store)) == (1, 40)


def test_what_is_no_record_is_counted_and_the_rest_is_written(tmp_path, store, desk):
    good = desk.record("a")
    no_id = desk.record("b")
    no_id.id = b"short"
    content = desk.frame(b"\xff\xff\xff") + desk.frames(no_id, good)
    desk.segment(tmp_path, 1, content)
    result = Ingest(Journal(tmp_path), store).run_once()
    assert (result.records_read, result.rows_written, result.bad_records) == (3, 1, 2)
    assert store.position() == JournalPosition(1, len(content))


def test_numbers_at_their_bounds_are_written(tmp_path, store, desk):
    most = 2**64 - 1
    absurd = desk.record(
        "a", unix_ns=most, prompt_tokens=most, cost_nanousd=most, duration_ns=most, charges=[("b", "v", most)]
    )
    absurd.stage_ns.extend([2**32 - 1] * 11)
    desk.segment(tmp_path, 1, desk.frames(absurd, desk.record("b", cost_nanousd=2**53 - 1)))
    assert drain(Ingest(Journal(tmp_path), store)) == 2
    assert spent(store) == 2**53 - 1


def test_a_failing_sink_stops_nothing(tmp_path, store, desk, caplog):
    def broken(_):
        raise RuntimeError("telemetry is away")

    seen = []
    desk.segment(tmp_path, 1, desk.frames(desk.record("a")))
    ingest = Ingest(Journal(tmp_path), store, [broken, seen.extend])
    for name in "bc":
        result = ingest.run_once()
        assert (result.rows_written, result.sink_failures) == (1, 1)
        desk.segment(tmp_path, 1, desk.frames(desk.record(name)))
    assert len(seen) == 2
    # Once, not for every batch.
    assert caplog.text.count("a sink of the ledger failed") == 1


def test_segments_that_cannot_be_deleted_yet_are_deleted_later(tmp_path, desk):
    desk.segment(tmp_path, 1, desk.frames(desk.record("a")))
    desk.segment(tmp_path, 2, desk.frames(desk.record("b")))
    with closing(SqliteStore(tmp_path, "one", timeout_ms=20)) as store:
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            ingest = Ingest(Journal(tmp_path), store, [lambda _: other.execute("BEGIN IMMEDIATE")])
            result = ingest.run_once()
            assert (result.rows_written, result.segments_deleted) == (2, 0)
        assert ingest.run_once().segments_deleted == 1


def test_a_locked_store_moves_nothing_and_tells_no_sink(tmp_path, desk):
    seen = []
    desk.segment(tmp_path, 1, desk.frames(desk.record("a")))
    desk.segment(tmp_path, 2, b"")
    with closing(SqliteStore(tmp_path, "one", timeout_ms=20)) as store:
        ingest = Ingest(Journal(tmp_path), store, [seen.extend])
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(2):
                with pytest.raises(StoreLocked):
                    ingest.run_once()
            other.execute("ROLLBACK")
        assert not seen
        assert len(list(tmp_path.glob("journal-*"))) == 2
        assert drain(ingest) == 1
        assert len(seen) == 1


def test_the_thread_reads_what_comes_and_says_what_it_did(tmp_path, store, desk):
    store.set_budgets({"b": BudgetPlan("nanousd", 100, (50,))})
    arrived = threading.Semaphore(0)
    thread = IngestThread(Ingest(Journal(tmp_path), store, [lambda records: arrived.release(len(records))]))
    thread.start()
    for n in range(3):
        desk.segment(tmp_path, 1, desk.frames(desk.record(str(n), charges=[("b", "v", 30)])))
        assert arrived.acquire(timeout=10)
    desk.segment(tmp_path, 1, desk.frames(desk.record("last")) + b"\0" * 100)
    assert thread.stop(10)
    totals = thread.totals()
    assert (totals.records, totals.bad_frames, totals.failures, totals.lag_bytes) == (4, 1, 0, 0)
    assert totals.thresholds == {("b", 50): 1}
    assert rows_of(store) == 4


def test_the_thread_outlives_a_locked_store(tmp_path, desk, caplog):
    written = threading.Event()
    with closing(SqliteStore(tmp_path, "one", timeout_ms=5)) as store:
        thread = IngestThread(Ingest(Journal(tmp_path), store, [lambda _: written.set()]), retention_days=0)
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            desk.segment(tmp_path, 1, desk.frames(desk.record("a")))
            thread.start()
            while thread.totals().failures < 2:
                assert not written.wait(0.01)
            assert thread.totals().failing == "store_locked"
            other.execute("ROLLBACK")
        assert written.wait(10)
        assert thread.stop(10)
    assert thread.totals().failing == ""
    assert caplog.text.count("the ledger waits in its journal") == 1


def test_the_thread_deletes_old_rows(tmp_path, store, desk):
    day_ns = 86_400 * 10**9
    now_ns = desk.start_s * 10**9 + 100 * day_ns
    records = [desk.record(str(n), unix_ns=now_ns - n * day_ns) for n in range(10)]
    desk.segment(tmp_path, 1, desk.frames(*records))
    asked = threading.Event()

    def clock() -> int:
        asked.set()
        return now_ns

    thread = IngestThread(Ingest(Journal(tmp_path), store), retention_days=5, unix_ns=clock)
    thread.start()
    assert asked.wait(10)
    assert thread.stop(10)
    assert thread.totals().pruned_steps == 1
    assert rows_of(store) == 6
