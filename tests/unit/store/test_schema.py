"""An older ledger becomes a present one, with what stands in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from forebay.store import FILE_NAME, JournalPosition, SqliteStore, schema
from forebay.store.interface import BATCH_COLUMNS, NUMBER_COLUMNS


def as_of_version_1(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        schema._version_1(db)
        columns = [name for name in NUMBER_COLUMNS if name not in BATCH_COLUMNS]
        db.execute("INSERT INTO owner VALUES (1, 'old')")
        names = [row[1] for row in db.execute("PRAGMA table_info(kind)")][1:]
        db.execute(f"INSERT INTO kind VALUES (1, {', '.join('0' * len(names))})")
        own = ["id", "kind_id", "owner_id", "decide_ns", "stage_ns", "trace_id", "charges"]
        texts = ["user", "feature", "run", "eval", "model_asked"]
        values = [b"0" * 16, 1, 1, 5, "[]", b"", "", *[""] * len(texts), *[7] * len(columns)]
        marks = ", ".join("?" * len(values))
        db.execute(f"INSERT INTO record ({', '.join([*own, *texts, *columns])}) VALUES ({marks})", values)
        db.execute(f"PRAGMA application_id = {schema._APPLICATION_ID}")
        db.execute("PRAGMA user_version = 1")
        db.execute("COMMIT")


def test_a_ledger_of_version_1_gets_the_columns_of_the_batch_service(tmp_path: Path, bench):
    as_of_version_1(tmp_path / FILE_NAME)
    with closing(SqliteStore(tmp_path, "new")) as store:
        store.write([bench.row("a")], JournalPosition(1, 100))
        assert bench.count(store) == 2
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        rows = db.execute("SELECT queue_ns, batch_rows, padded_tokens FROM request WHERE owner = 'old'").fetchall()
        assert rows == [(7, 0, 0)]
        assert db.execute("SELECT count(*) FROM request").fetchone() == (2,)
