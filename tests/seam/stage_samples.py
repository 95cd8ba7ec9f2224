"""Stages as a person writes them, for tests.

Owns: answers that a test can foresee. Must not know: who asks. On failure: `fail` always does.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forebay._core import StageRequest

SEEN: list[list[StageRequest]] = []
"""Every batch that `pick` was given."""

GATE = threading.Event()
"""`wait` answers when it is set."""


def pick(requests: Sequence[StageRequest]) -> list[tuple[str, str]]:
    """The model `other` for what asks for `auto`, and else what was asked."""
    SEEN.append(list(requests))
    return [("other" if request.model == "auto" else request.model, "as a test wants it") for request in requests]


def fail(requests: Sequence[StageRequest]) -> list[str]:
    """Raise."""
    raise RuntimeError(f"cannot decide on {len(requests)} requests")


def nonsense(requests: Sequence[StageRequest]) -> list[int]:
    """Answer what is no model."""
    return [1 for _ in requests]


def too_few(requests: Sequence[StageRequest]) -> list[str]:
    """Answer for one request less than were given."""
    return ["other" for _ in requests][1:]


def unknown(requests: Sequence[StageRequest]) -> list[str]:
    """Name a model that does not exist."""
    return ["no-such-model" for _ in requests]


def wait(requests: Sequence[StageRequest]) -> list[str]:
    """Answer only when the gate is open."""
    GATE.wait(20)
    return ["other" for _ in requests]


def leave(requests: Sequence[StageRequest]) -> list[str]:
    """End the thread, as a careless script does."""
    raise SystemExit(len(requests))
