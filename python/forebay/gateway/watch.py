"""A file that may be replaced while a process reads it.

Owns: noticing that the file changed. Must not know: what is in it.
On failure: a file that is away counts as unchanged, since a replacement by rename never leaves a gap that matters;
a `changed` that raises is logged, and the next change is told all the same.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["FileWatch"]

_log = logging.getLogger(__name__)
_EVERY_S = 0.25


class FileWatch:
    """Calls `changed` in a thread of its own each time the file has another identity, size or time.

    Looking four times a second works on every file system, also on mounted ones that send no events.
    """

    def __init__(self, path: str | os.PathLike[str], changed: Callable[[], object]) -> None:
        self._path = Path(path)
        self._changed = changed
        self._seen = self._look()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="forebay-watch", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; a call of `changed` that runs now ends first."""
        self._stop.set()
        self._thread.join()

    def _look(self) -> tuple[int, int, int, int] | None:
        try:
            state = self._path.stat()
        except OSError:
            return None
        return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)

    def _run(self) -> None:
        while not self._stop.wait(_EVERY_S):
            now = self._look()
            if now is not None and now != self._seen:
                self._seen = now
                try:
                    self._changed()
                except Exception:  # noqa: BLE001 - see below
                    # One change that cannot be taken must not make the next ones go unseen.
                    _log.exception("the change of `%s` was not taken", self._path)
