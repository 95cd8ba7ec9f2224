"""Owns the cost model of the bench: what one call of the model takes.

Must not know requests, policies or servers.
On failure: nothing here can fail.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CostModel:
    """A call takes `call_ns` and `token_ns` for every token of every row, padding included.

    >>> CostModel().batch_ns(rows=8, length=100)
    5600000
    """

    call_ns: int = 4_000_000
    token_ns: int = 2_000
    max_rows: int = 64

    def batch_ns(self, rows: int, length: int) -> int:
        """Nanoseconds of one call with `rows` rows, padded to `length` tokens each."""
        return self.call_ns + rows * length * self.token_ns


COST = CostModel()
