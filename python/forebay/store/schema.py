"""The tables of the ledger's SQLite file, and how an older file becomes a present one.

Owns: the schema, its version, migrations. Must not know: what the numbers mean.
On failure: a file that is newer than this code, or no ledger at all, is refused and left as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from forebay.errors import StoreCorrupt, StoreTooNew
from forebay.store.interface import BATCH_COLUMNS, KIND_COLUMNS, NUMBER_COLUMNS, TEXT_COLUMNS

__all__ = ["VERSION", "check", "migrate"]

# "fbay" in ASCII: tells a ledger from anyone else's SQLite file.
_APPLICATION_ID = 0x66626179
_NUMBER_KINDS = frozenset({"status", "stream", "usage", "cost_known"})


def _version_1(connection: sqlite3.Connection) -> None:
    kind = ", ".join(f"{name} {'INTEGER' if name in _NUMBER_KINDS else 'TEXT'} NOT NULL" for name in KIND_COLUMNS)
    texts = ", ".join(f"{name} TEXT NOT NULL" for name in TEXT_COLUMNS)
    numbers = ", ".join(f"{name} INTEGER NOT NULL" for name in NUMBER_COLUMNS if name not in BATCH_COLUMNS)
    # `record.charges` is `bucket:amount` with commas, so that a replaced row can be taken out of its buckets again;
    # AUTOINCREMENT: the id of a bucket that was deleted never comes to mean another.
    # `bucket.period_end_s`, `unit` and `amount` are NULL until somebody has drawn: records alone do not tell them.
    tables = f"""
        CREATE TABLE kind (id INTEGER PRIMARY KEY, {kind}, UNIQUE ({", ".join(KIND_COLUMNS)}));
        CREATE TABLE owner (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
        CREATE TABLE record (
            id BLOB NOT NULL, kind_id INTEGER NOT NULL, owner_id INTEGER NOT NULL, {texts}, {numbers},
            decide_ns INTEGER NOT NULL, stage_ns TEXT NOT NULL, trace_id BLOB NOT NULL, charges TEXT NOT NULL
        );
        CREATE UNIQUE INDEX record_id ON record (id);
        CREATE INDEX record_time ON record (unix_ns);
        CREATE TABLE bucket (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            budget TEXT NOT NULL, value TEXT NOT NULL, period_start_s INTEGER NOT NULL,
            period_end_s INTEGER, unit TEXT, amount INTEGER,
            drawn INTEGER NOT NULL DEFAULT 0, spent INTEGER NOT NULL DEFAULT 0,
            UNIQUE (budget, value, period_start_s)
        );
        CREATE TABLE lease (
            bucket_id INTEGER NOT NULL, owner_id INTEGER NOT NULL, state TEXT NOT NULL,
            granted INTEGER NOT NULL, settled INTEGER NOT NULL,
            PRIMARY KEY (bucket_id, owner_id)
        ) WITHOUT ROWID;
        CREATE TABLE threshold (
            bucket_id INTEGER NOT NULL, percent INTEGER NOT NULL, PRIMARY KEY (bucket_id, percent)
        ) WITHOUT ROWID;
        CREATE TABLE plan (
            budget TEXT PRIMARY KEY, unit TEXT NOT NULL, amount INTEGER NOT NULL, percents TEXT NOT NULL
        ) WITHOUT ROWID;
        CREATE TABLE journal (one INTEGER PRIMARY KEY CHECK (one = 1), segment INTEGER NOT NULL, at INTEGER NOT NULL);
        INSERT INTO journal VALUES (1, 0, 0)
    """  # noqa: S608 - column names are constants of this package
    for statement in tables.split(";"):
        connection.execute(statement)


def _version_2(connection: sqlite3.Connection) -> None:
    for name in BATCH_COLUMNS:
        connection.execute(f"ALTER TABLE record ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0")
    seen = ", ".join(f"kind.{name}" for name in KIND_COLUMNS)
    own = ", ".join(f"record.{name}" for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS, "decide_ns", "stage_ns", "trace_id"))
    connection.execute("DROP VIEW IF EXISTS request")
    connection.execute(
        f"""
        CREATE VIEW request AS
            SELECT lower(hex(record.id)) AS id, {own}, {seen}, owner.name AS owner
            FROM record JOIN kind ON kind.id = record.kind_id JOIN owner ON owner.id = record.owner_id
        """  # noqa: S608 - column names are constants of this package
    )


# The migration at index n makes version n + 1 out of version n.
_MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_version_1, _version_2)
VERSION = len(_MIGRATIONS)


def check(connection: sqlite3.Connection, path: str) -> int:
    """Read which version the file has, without writing.

    Returns: its version; 0 for a file in which nothing stands yet.
    Raises: StoreTooNew for a later version, StoreCorrupt for a database that is no ledger.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if application != _APPLICATION_ID and (application or version or tables):
        raise StoreCorrupt(f"`{path}` is a database, but no ledger of forebay's; name another folder")
    if version > VERSION:
        raise StoreTooNew(
            f"`{path}` has version {version}, and this forebay knows up to {VERSION}; use the forebay that wrote it"
        )
    return version


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the file from `version` to the present one; runs within the caller's transaction."""
    for step in _MIGRATIONS[version:]:
        step(connection)
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
