"""Routing stages for the tests: what a person may write, and what may go wrong with it.

Owns: choices. Must not know: the gateway. On failure: as each function says.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

_NEVER = threading.Event()


def by_length(requests: Sequence[Any]) -> list[tuple[str, str]]:
    """Short bodies to the small model, others to the large one."""
    return [
        ("small-chat", "short") if len(bytes(request.body)) < 1_000 else ("large-chat", "long") for request in requests
    ]


def slow(requests: Sequence[Any]) -> list[str]:
    """Answer long after the deadline."""
    _NEVER.wait(0.3)
    return ["large-chat" for _ in requests]


def raising(requests: Sequence[Any]) -> list[str]:
    """Fail."""
    raise RuntimeError(f"{len(requests)} requests cannot be routed")


def names_a_stranger(requests: Sequence[Any]) -> list[str]:
    """Name a model that no policy has."""
    return ["nobody-has-this" for _ in requests]
