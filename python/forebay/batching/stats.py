"""What a sender has learned, as a plain number.

Owns the counter. Must not know metrics systems; what was sent is counted by the queue. On failure: not applicable.
"""

from __future__ import annotations

import threading


class SenderStats:
    """Counters since the start, safe for threads: `learned` are models that a client's request had read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.learned = 0

    def learnt(self) -> None:
        """Count a model that was read."""
        with self._lock:
            self.learned += 1
