"""One SQLite connection: how it is opened, short transactions, and what its errors mean.

Owns: pragmas, the order of locks, the translation of errors. Must not know: tables.
On failure: the transaction is rolled back and a StoreError says what kind it was; nothing is half-written.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forebay.errors import StoreClosed, StoreCorrupt, StoreError, StoreFull, StoreLocked, StoreUnwritable

__all__ = ["Connection", "ConnectionOptions", "said"]

# By text, since Python 3.10 does not tell SQLite's codes; these texts are fixed in SQLite's source (`sqlite3ErrStr`).
_MEANINGS: tuple[tuple[str, type[StoreError], str], ...] = (
    ("is locked", StoreLocked, "another program holds it; close that one"),
    ("is full", StoreFull, "free some space"),
    ("malformed", StoreCorrupt, "move it away and restore a copy, or begin a new one"),
    ("not a database", StoreCorrupt, "move it away and restore a copy, or begin a new one"),
    ("readonly", StoreUnwritable, "check its owner and mode"),
    ("unable to open", StoreUnwritable, "check its owner and mode"),
    ("disk I/O error", StoreUnwritable, "check the disk"),
)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How a connection behaves: `FULL` waits for the disk at each commit, `NORMAL` only at checkpoints."""

    synchronous: Literal["FULL", "NORMAL"]
    timeout_ms: int = 2_000
    cache_kib: int = 8_192


class Connection:
    """A connection in WAL mode, for one thread at a time; `writing` is shared by all connections of a process.

    Writers of one process wait on `writing` and not in SQLite, which would poll: a lease waits no longer than needed.
    """

    def __init__(self, path: Path, writing: threading.Lock, options: ConnectionOptions) -> None:
        self.path = path
        self._writing = writing
        self._timeout_s = options.timeout_ms / 1_000
        self._closed = False
        with said(path):
            self._db = sqlite3.connect(
                path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False, cached_statements=64
            )
        try:
            with said(path):
                # The first read comes before the first change: a file that is no database fails here, untouched.
                self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
                self._db.execute(f"PRAGMA synchronous = {options.synchronous}")
                self._db.execute(f"PRAGMA cache_size = -{options.cache_kib}")
        except BaseException:
            self._db.close()
            raise

    def begin_wal(self) -> None:
        """Turn the file to WAL mode, for good."""
        with said(self.path):
            mode = self._db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise StoreUnwritable(f"`{self.path}` cannot use a write-ahead log here (`{mode}`); use a local disk")
            # The log shrinks again after a reader has kept it from being emptied.
            self._db.execute("PRAGMA journal_size_limit = 67108864")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write: everything within happens, or nothing.

        Raises: StoreLocked past the deadline, and whatever else SQLite says, as a StoreError.
        """
        if not self._writing.acquire(timeout=self._timeout_s):
            raise StoreLocked(f"`{self.path}` is busy in this process for longer than {self._timeout_s:g} s")
        try:
            with said(self.path):
                self._check_open()
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    # SQLite may have rolled back by itself, as it does when the disk is full.
                    if self._db.in_transaction:
                        with suppress(sqlite3.Error):
                            self._db.execute("ROLLBACK")
                    raise
        finally:
            self._writing.release()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read outside a transaction, when nobody writes through this connection."""
        if not self._writing.acquire(timeout=self._timeout_s):
            raise StoreLocked(f"`{self.path}` is busy in this process for longer than {self._timeout_s:g} s")
        try:
            with said(self.path):
                self._check_open()
                yield self._db
        finally:
            self._writing.release()

    def close(self) -> None:
        """Close; the last connection empties the write-ahead log."""
        with self._writing:
            if not self._closed:
                self._closed = True
                with suppress(sqlite3.Error):
                    self._db.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed(f"`{self.path}` is closed")


@contextmanager
def said(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        for part, kind, advice in _MEANINGS:
            if part in text:
                raise kind(f"`{path}`: {text}; {advice}") from error
        raise StoreError(f"`{path}`: {text}") from error
