"""One process for each folder.

Owns: a lock on a file that the kernel frees when its process ends, however it ends. Must not know: what is kept there.
On failure: closed; two writers of one ledger would both grant what is left.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from forebay.errors import StoreInUse, StoreUnwritable

__all__ = ["FolderLock"]

_NAME = "lock"


class FolderLock:
    """Held from construction until `release`.

    Raises: StoreInUse where another process holds it, StoreUnwritable where the folder cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / _NAME
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnwritable(f"cannot open `{path}`: {(error.strerror or str(error)).lower()}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise StoreInUse(
                f"`{directory}` is in use by another process{f' ({holder})' if holder else ''}; "
                "stop it, or give this one its own `ledger.directory`"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"pid {os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Free the folder; twice is well. The file stays, since deleting it would race with the next holder."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
