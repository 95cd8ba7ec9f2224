"""The ledger's rows: written by the batch, replaced by their ids, deleted when they are old.

Owns: the tables `record` and `kind`. Must not know: what a bucket's balance means; it only says what changes in it.
On failure: it runs within the caller's transaction, which is rolled back; `forget` then drops what was remembered.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain

from forebay.store.buckets import Buckets
from forebay.store.interface import KIND_COLUMNS, MAX_AMOUNT, NUMBER_COLUMNS, TEXT_COLUMNS, LedgerRow

__all__ = ["Records"]

_COLUMNS = (
    *("id", "kind_id", "owner_id", "decide_ns", "stage_ns", "trace_id", "charges"),
    *TEXT_COLUMNS,
    *NUMBER_COLUMNS,
)
_ROW = f"({', '.join('?' * len(_COLUMNS))})"
# Many rows in one statement, in few sizes, which stay prepared. Python gives up its lock for each statement, and where
# another thread computes it gets it back 5 ms later: row by row, a batch would then hold the file for seconds. Older
# SQLite takes at most 999 bound values.
_SIZES = (96, 24, 6, 1) if sqlite3.sqlite_version_info >= (3, 32) else (28, 7, 2, 1)
# Column names are constants of this package, values are always bound.
_STATEMENTS = {
    verb: [(size, f"{verb} INTO record ({', '.join(_COLUMNS)}) VALUES {', '.join([_ROW] * size)}") for size in _SIZES]
    for verb in ("INSERT", "INSERT OR REPLACE")
}
_FIND_KIND = f"SELECT id FROM kind WHERE {' AND '.join(f'{name} = ?' for name in KIND_COLUMNS)}"  # noqa: S608
_ADD_KIND = f"INSERT INTO kind ({', '.join(KIND_COLUMNS)}) VALUES ({', '.join('?' * len(KIND_COLUMNS))})"  # noqa: S608
_MAX_REMEMBERED = 20_000
# Older SQLite takes at most 999 bound values.
_IDS_AT_ONCE = 500

Changes = defaultdict[tuple[int, int], int]
"""What a batch adds to the buckets, by (bucket, owner)."""


class Records:
    """Writes rows; remembers the ids of kinds, of which there are few, and of those a bounded number."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self._kinds: dict[tuple[str | int | bool, ...], int] = {}

    def forget(self) -> None:
        """Drop remembered ids: those made in a transaction that was rolled back are not there."""
        self._kinds.clear()

    def write(self, db: sqlite3.Connection, rows: Sequence[LedgerRow]) -> Changes:
        """Write rows; of several with one id the last counts.

        Returns: what changes for each (bucket, owner), the replaced rows' charges taken off.
        Cost: about 8 µs a row; a batch with a replaced row is written in two steps.
        """
        changes: Changes = defaultdict(int)
        values = self._values(db, rows, changes)
        # Nearly always every id is new; only where one is not, it is worth looking for which.
        db.execute("SAVEPOINT rows")
        try:
            _insert(db, "INSERT", values)
        except sqlite3.IntegrityError:
            db.execute("ROLLBACK TO rows")
            last = {row.id: row for row in rows}
            changes.clear()
            values = self._values(db, last.values(), changes)
            self._take_off(db, list(last), changes)
            _insert(db, "INSERT OR REPLACE", values)
        db.execute("RELEASE rows")
        return changes

    def prune(self, db: sqlite3.Connection, before_unix_ns: int, limit: int) -> int:
        """Delete at most `limit` rows that are older."""
        return db.execute(
            "DELETE FROM record WHERE rowid IN (SELECT rowid FROM record WHERE unix_ns < ? ORDER BY unix_ns LIMIT ?)",
            (before_unix_ns, limit),
        ).rowcount

    def _values(self, db: sqlite3.Connection, rows: Iterable[LedgerRow], changes: Changes) -> list[tuple[object, ...]]:
        """Give what is bound for each row, and add up what is charged; flat code, as it runs for every request."""
        kinds = self._kinds
        bucket_of = self._buckets.known
        values: list[tuple[object, ...]] = []
        for id_, kind, texts, numbers, decide_ns, stage_ns, trace_id, owner_name, charges in rows:
            owner = self._buckets.owner(db, owner_name)
            text = ""
            for budget, value, start, charged in charges:
                bucket = bucket_of.get((budget, value, start)) or self._buckets.bucket(db, budget, value, start)
                amount = min(charged, MAX_AMOUNT)
                changes[bucket, owner] += amount
                text = f"{text},{bucket}:{amount}" if text else f"{bucket}:{amount}"
            head = (id_, kinds.get(kind) or self._kind(db, kind), owner, decide_ns, stage_ns, trace_id, text)
            values.append(head + texts + numbers)
        return values

    def _kind(self, db: sqlite3.Connection, kind: tuple[str | int | bool, ...]) -> int:
        found = db.execute(_FIND_KIND, kind).fetchone()
        id_ = int(found[0]) if found is not None else int(db.execute(_ADD_KIND, kind).lastrowid or 0)
        if len(self._kinds) >= _MAX_REMEMBERED:
            self._kinds.clear()
        self._kinds[kind] = id_
        return id_

    def _take_off(self, db: sqlite3.Connection, ids: Sequence[bytes], changes: Changes) -> None:
        """Take the charges of rows that are about to be replaced off their buckets."""
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[start : start + _IDS_AT_ONCE]
            marks = ",".join("?" * len(some))
            found = db.execute(f"SELECT owner_id, charges FROM record WHERE id IN ({marks})", some)  # noqa: S608
            for owner, charged in found:
                for part in charged.split(",") if charged else ():
                    bucket, _, amount = part.partition(":")
                    changes[int(bucket), owner] -= int(amount)


def _insert(db: sqlite3.Connection, verb: str, values: Sequence[tuple[object, ...]]) -> None:
    at = 0
    for size, statement in _STATEMENTS[verb]:
        while len(values) - at >= size:
            db.execute(statement, list(chain.from_iterable(values[at : at + size])))
            at += size
