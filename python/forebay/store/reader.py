"""Reading a ledger beside the gateway that writes it.

Owns: a connection that cannot write and takes no lock. Must not know: what is asked.
On failure: StoreMissing where there is nothing to read yet; the rest of the tree otherwise.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from forebay.errors import StoreMissing
from forebay.store import schema
from forebay.store.connection import said
from forebay.store.sqlite import FILE_NAME

__all__ = ["LedgerReader"]


class LedgerReader:
    """The ledger of `directory`, as it was when the first question was asked.

    All questions of one reader see the same state, so a report's parts agree while the gateway writes on.

    Raises: StoreMissing without a file, StoreTooNew, StoreCorrupt.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / FILE_NAME
        if not self.path.is_file() or not self.path.stat().st_size:
            raise StoreMissing(f"there is no ledger in `{directory}` (no `{FILE_NAME}`)")
        # Where the log is absent nobody writes, and in a folder that we may not write only `immutable` can be read.
        alone = not Path(f"{self.path}-wal").exists()
        mode = "mode=ro&immutable=1" if alone and not _writable(self.path.parent) else "mode=ro"
        with said(self.path):
            self._db = sqlite3.connect(f"file:{quote(os.fsencode(self.path))}?{mode}", uri=True, isolation_level=None)
            try:
                if not schema.check(self._db, str(self.path)):
                    raise StoreMissing(f"the ledger `{self.path}` has nothing in it yet")
                self._db.execute("BEGIN")
            except BaseException:
                self._db.close()
                raise

    def rows(self, statement: str, values: Mapping[str, object] | Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Ask; values are bound, never part of the statement."""
        with said(self.path):
            return self._db.execute(statement, values).fetchall()

    def close(self) -> None:
        """Stop reading."""
        with suppress(sqlite3.Error):
            self._db.close()


def _writable(directory: Path) -> bool:
    return os.access(directory, os.W_OK)
