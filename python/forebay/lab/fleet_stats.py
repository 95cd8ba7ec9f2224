"""What a fleet counts of its own work: the other side of every number that a gateway claims.

Owns counters and the last request heads. Must not know how an answer is made.
Counting cannot fail and never decides.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class FleetStats:
    """Counts since the start.

    Every request that reached a model ends in exactly one of
    `completed`, `failures`, `resets`, `aborted` or `refused`; until then it is in `in_flight`.

    `prompt_tokens` and `completion_tokens` count completed requests in full, and of aborted or reset streams
    the tokens that were sent before the end.
    """

    requests: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    completed: int = 0
    streamed: int = 0
    failures: int = 0
    resets: int = 0
    aborted: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    by_model: Counter[str] = field(default_factory=Counter)
    by_path: Counter[str] = field(default_factory=Counter)

    def began(self, path: str) -> None:
        """A request was read whole."""
        self.requests += 1
        self.by_path[path] += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def served(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Tokens were worked on for a model."""
        self.by_model[model] += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def json(self) -> dict[str, Any]:
        """The form of GET /lab/stats."""
        counts = {item.name: getattr(self, item.name) for item in fields(self)}
        return counts | {"by_model": dict(self.by_model), "by_path": dict(self.by_path)}


class HeaderLog:
    """The last request heads, credentials included: it is how a test shows what an upstream was told."""

    def __init__(self, kept: int) -> None:
        self._heads: deque[dict[str, Any]] = deque(maxlen=kept)

    def add(self, path: str, headers: tuple[tuple[str, str], ...]) -> None:
        """Keeps one head."""
        self._heads.append({"path": path, "headers": [list(header) for header in headers]})

    def json(self) -> list[dict[str, Any]]:
        """The form of GET /lab/headers, oldest first."""
        return list(self._heads)
