"""What telemetry counts of itself.

Owns: three counters that outlive a change of the collector. Must not know: who shows them.
On failure: nothing here can fail.
"""

from __future__ import annotations

from threading import Lock

__all__ = ["TelemetryCounts"]


class TelemetryCounts:
    """Counters that several threads add to.

    Units: `spans` counts spans that a collector took; `dropped` counts requests whose spans were dropped, and spans
    that a collector rejected; `failures` counts calls.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._spans = self._dropped = self._failures = 0

    def add_spans(self, number: int) -> None:
        """Count spans that were taken."""
        with self._lock:
            self._spans += number

    def add_dropped(self, number: int) -> None:
        """Count what was dropped."""
        with self._lock:
            self._dropped += number

    def add_failure(self) -> None:
        """Count a call that failed, or that a collector took only in part."""
        with self._lock:
            self._failures += 1

    def values(self) -> dict[str, int]:
        """Give each counter by its Prometheus name."""
        with self._lock:
            return {
                "forebay_spans_total": self._spans,
                "forebay_spans_dropped_total": self._dropped,
                "forebay_telemetry_failures_total": self._failures,
            }
