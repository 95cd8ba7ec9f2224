"""What a sender has done, as plain numbers.

Owns the counters. Must not know metrics systems. On failure: not applicable.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class SenderStats:
    """Counters since the start. Counted in the sender's thread; read anywhere, each number by itself is exact.

    `failures` counts batches and calls by the name of their gRPC status, such as `UNAVAILABLE`.
    """

    batches: int = 0
    rows: int = 0
    requests: int = 0
    calls: int = 0
    learned: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def mean_batch_rows(self) -> float:
        """Rows of a batch on average; 0.0 before the first."""
        return self.rows / self.batches if self.batches else 0.0

    @property
    def mean_batch_requests(self) -> float:
        """Requests of a batch on average; 0.0 before the first."""
        return self.requests / self.batches if self.batches else 0.0
