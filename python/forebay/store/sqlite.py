"""The store in one SQLite file, `ledger.sqlite3`: what a gateway uses unless its policy names a shared store.

Owns: the file, its lock, two connections (leases wait for the disk, rows do not). Must not know: protobuf, the journal.
On failure: a StoreError with its slug; the transaction is rolled back, so the caller may try the same again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from forebay.errors import StoreUnwritable
from forebay.store import buckets, schema
from forebay.store.buckets import Buckets
from forebay.store.connection import Connection, ConnectionOptions
from forebay.store.interface import (
    BudgetPlan,
    JournalPosition,
    LeaseAsk,
    LeaseBalance,
    LeaseGrant,
    LedgerRow,
    StrandedLease,
    ThresholdEvent,
)
from forebay.store.lock import FolderLock
from forebay.store.records import Records

__all__ = ["FILE_NAME", "SqliteStore"]

FILE_NAME = "ledger.sqlite3"
_MOST_SPENT = """
    SELECT max(spent) FROM bucket WHERE budget = :budget AND coalesce(period_end_s, :now + 1) > :now
    AND period_start_s = (SELECT max(period_start_s) FROM bucket WHERE budget = :budget AND period_start_s <= :now)
"""
# The longest month, and a day for timezones: a bucket whose end nobody told is over after this.
_LONGEST_PERIOD_S = 32 * 86_400


class SqliteStore:
    """A Store in `directory`, which is made where it is missing. One process at a time may have it open.

    `owner` names this process among all that ever wrote here; it is best unique, such as host, pid and start time.

    Raises: StoreInUse, StoreCorrupt, StoreTooNew, StoreUnwritable and the rest of the tree, when opening as later.
    Cost: a draw is one commit that waits for the disk; a write of 500 rows takes about 5 ms, the GIL mostly held.
    """

    def __init__(self, directory: str | Path, owner: str, *, timeout_ms: int = 2_000) -> None:
        self.directory = Path(directory)
        self.path = self.directory / FILE_NAME
        self.owner = owner
        self._plans: Mapping[str, BudgetPlan] = {}
        self._closed = False
        writing = threading.Lock()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            said = (error.strerror or str(error)).lower()
            raise StoreUnwritable(f"cannot make the folder `{self.directory}`: {said}") from error
        self._lock = FolderLock(self.directory)
        opened: list[Connection] = []
        try:
            self._leases = Connection(self.path, writing, ConnectionOptions("FULL", timeout_ms, cache_kib=1_024))
            opened.append(self._leases)
            self._orphans = self._open()
            self._rows = Connection(self.path, writing, ConnectionOptions("NORMAL", timeout_ms))
            opened.append(self._rows)
        except BaseException:
            for connection in opened:
                connection.close()
            self._lock.release()
            raise
        # Each connection has its own: what one transaction has made the other may not see yet, or never.
        self._lease_buckets = Buckets()
        self._row_buckets = Buckets()
        self._records = Records(self._row_buckets)

    def _open(self) -> list[tuple[int, int]]:
        with self._leases.reading() as db:
            version = schema.check(db, str(self.path))
        self._leases.begin_wal()
        with self._leases.transaction() as db:
            schema.migrate(db, version)
            return buckets.close_orphans(db)

    def draw(self, asks: Sequence[LeaseAsk]) -> list[LeaseGrant]:
        """See `Store.draw`."""
        with self._leasing() as (db, owner):
            return [self._lease_buckets.draw(db, owner, ask) for ask in asks]

    def adopt(self, asks: Sequence[LeaseAsk]) -> None:
        """See `Store.adopt`."""
        with self._leasing() as (db, owner):
            for ask in asks:
                self._lease_buckets.adopt(db, owner, ask)

    def give_back(self, balances: Sequence[LeaseBalance]) -> None:
        """See `Store.give_back`."""
        with self._leasing() as (db, owner):
            for balance in balances:
                self._lease_buckets.give_back(db, owner, balance)

    def stranded(self) -> list[StrandedLease]:
        """See `Store.stranded`."""
        with self._leases.reading() as db:
            return [lease for lease in buckets.stranded(db, self._orphans) if lease.stranded]

    def set_budgets(self, plans: Mapping[str, BudgetPlan]) -> None:
        """See `Store.set_budgets`."""
        with self._rows.transaction() as db:
            db.execute("DELETE FROM plan")
            db.executemany(
                "INSERT INTO plan VALUES (?, ?, ?, ?)",
                [
                    (name, plan.unit, plan.amount, ",".join(map(str, plan.percents)))
                    for name, plan in sorted(plans.items())
                ],
            )
        self._plans = dict(plans)

    def spent_ratios(self, now_s: int) -> dict[str, float]:
        """See `Store.spent_ratios`."""
        ratios = {name: 0.0 for name, plan in self._plans.items() if plan.amount}
        with self._rows.reading() as db:
            for budget in ratios:
                # The present period is the latest that has begun; where its end is known, it must not be over.
                row = db.execute(_MOST_SPENT, {"budget": budget, "now": now_s}).fetchone()
                ratios[budget] = (row[0] or 0) / self._plans[budget].amount
        return ratios

    def write(self, rows: Sequence[LedgerRow], position: JournalPosition) -> list[ThresholdEvent]:
        """See `Store.write`."""
        try:
            with self._rows.transaction() as db:
                changes = self._records.write(db, rows)
                events = self._row_buckets.settle(db, changes, self._plans)
                db.execute("UPDATE journal SET segment = ?, at = ?", position)
        except BaseException:
            self._records.forget()
            self._row_buckets.forget()
            raise
        return events

    def position(self) -> JournalPosition:
        """See `Store.position`."""
        with self._rows.reading() as db:
            return JournalPosition(*db.execute("SELECT segment, at FROM journal").fetchone())

    def sync(self) -> None:
        """See `Store.sync`."""
        with self._leases.transaction() as db:
            # A commit on the connection that waits for the disk flushes the log, with all that stands before in it.
            db.execute("UPDATE journal SET segment = segment")

    def prune(self, before_unix_ns: int, limit: int) -> int:
        """See `Store.prune`. Buckets of periods that ended before then go as well."""
        before_s = before_unix_ns // 1_000_000_000
        over = "SELECT id FROM bucket WHERE coalesce(period_end_s, period_start_s + ?) < ?"
        with self._rows.transaction() as db:
            deleted = self._records.prune(db, before_unix_ns, limit)
            for table in ("lease", "threshold"):
                # Both names are constants here, values are bound.
                db.execute(f"DELETE FROM {table} WHERE bucket_id IN ({over})", (_LONGEST_PERIOD_S, before_s))  # noqa: S608
            if db.execute(f"DELETE FROM bucket WHERE id IN ({over})", (_LONGEST_PERIOD_S, before_s)).rowcount:  # noqa: S608
                # Within the transaction, so no draw comes between.
                self._row_buckets.forget()
                self._lease_buckets.forget()
        return deleted

    def close(self) -> None:
        """Close both connections and free the folder."""
        if not self._closed:
            self._closed = True
            self._leases.close()
            self._rows.close()
            self._lock.release()

    @contextmanager
    def _leasing(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        try:
            with self._leases.transaction() as db:
                yield db, self._lease_buckets.owner(db, self.owner)
        except BaseException:
            self._lease_buckets.forget()
            raise
