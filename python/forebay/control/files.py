"""Files that another process watches, replaced so that it never reads half of one.

Owns: write beside, fsync, rename. Must not know: what the files say. On failure: RolloutError, and the old file stands.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from forebay.errors import RolloutError

__all__ = ["read", "replace"]


def replace(path: Path, content: str) -> bool:
    """Replace a file by rename.

    Returns: whether anything was written; a file that already has this content is left alone, so that a watcher
    does not read it again for nothing.
    Raises: RolloutError when the folder or the disk refuses; the old file is whole then.
    """
    if read(path) == content:
        return False
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("x", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise RolloutError(f"cannot replace `{path}`: {(error.strerror or str(error)).lower()}") from error
    return True


def read(path: Path) -> str | None:
    """Give a file's text, or None when there is none that can be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
