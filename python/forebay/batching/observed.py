"""What servers say that they have done, summed over their restarts, and models that only fail.

Owns the sums. Must not know the network. On failure: not applicable.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import astuple

from forebay.batching.triton import ModelCounts

# So many failures and no success between two looks: the model is broken there, and not one client's input.
MIN_FAILURES = 5


class Observed:
    """Sums by server and model. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], ModelCounts] = {}
        self._sums: dict[tuple[str, str], ModelCounts] = {}

    def take(self, address: str, counts: Mapping[str, ModelCounts]) -> list[str]:
        """Add what a server says; a count below the last one means that the server started anew.

        Returns: models that have only failed since the last look.
        """
        failing = []
        with self._lock:
            for model, now in counts.items():
                key = (address, model)
                last = self._last.get(key)
                grown = now if last is None else _grown(last, now)
                self._last[key] = now
                self._sums[key] = _added(self._sums.get(key, ModelCounts()), grown)
                if last is not None and grown.failed >= MIN_FAILURES and not grown.succeeded:
                    failing.append(model)
        return failing

    def keep(self, addresses: set[str]) -> None:
        """Forget servers that are no longer there."""
        with self._lock:
            for table in (self._last, self._sums):
                for key in [key for key in table if key[0] not in addresses]:
                    del table[key]

    def sums(self) -> dict[tuple[str, str], ModelCounts]:
        """All sums, by address and model."""
        with self._lock:
            return dict(self._sums)


def _grown(last: ModelCounts, now: ModelCounts) -> ModelCounts:
    pairs = list(zip(astuple(now), astuple(last), strict=True))
    if any(new < old for new, old in pairs):
        return now
    return ModelCounts(*(new - old for new, old in pairs))


def _added(left: ModelCounts, right: ModelCounts) -> ModelCounts:
    return ModelCounts(*(a + b for a, b in zip(astuple(left), astuple(right), strict=True)))
