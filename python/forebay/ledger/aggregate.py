"""What `gen_ai.*` and cost metrics are made of: sums over ledger records.

Owns: the series and their bound. Must not know: OpenTelemetry, when sums are sent.
On failure: series above the bound are summed under one that says so; counting never fails a batch.

The SDK's instruments cost some microseconds a value and a request has five, so records are summed into plain lists;
`points.py` turns them into the SDK's data classes when they are sent. Sums only grow: what a collector misses is in the
next sending. A record that replaces an expired one counts beside it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

from forebay.ledger import semconv
from forebay.ledger._pb.ledger_pb2 import LedgerRecord
from forebay.ledger.sampling import FINE

__all__ = ["Aggregate", "Key", "Series", "Sums", "Totals"]

_MAX_SERIES = 2_000
_OVERFLOW = ("other", "other", "other", "")
_NS_PER_S = 1_000_000_000
_NO_LOW = 1 << 63

_TOKENS = semconv.BOUNDS_TOKENS
_DURATION_NS = tuple(round(bound * _NS_PER_S) for bound in semconv.BOUNDS_DURATION_S)
_FIRST_NS = tuple(round(bound * _NS_PER_S) for bound in semconv.BOUNDS_FIRST_TOKEN_S)
_EACH_NS = tuple(round(bound * _NS_PER_S) for bound in semconv.BOUNDS_PER_TOKEN_S)

Key = tuple[str, str, str, str]
"""Operation, provider, model, error type; the last is empty for what went well."""


class Sums:
    """A histogram: counts between integer bounds. A value that equals a bound is below it."""

    __slots__ = ("bounds", "counts", "high", "low", "total")

    def __init__(self, bounds: Sequence[int]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0
        self.low = _NO_LOW
        self.high = 0

    def add(self, value: int) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
        # Calls of `min` and `max` would double the time of this.
        if value < self.low:  # noqa: PLR1730
            self.low = value
        if value > self.high:  # noqa: PLR1730
            self.high = value

    def merge(self, other: Sums) -> None:
        """Add what another has counted between the same bounds."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)


class Series:
    """The sums of one key. Times are in ns, costs in nano-USD."""

    __slots__ = ("cost", "duration", "each", "first", "output", "prompt", "saved_cache", "saved_routing")

    def __init__(self) -> None:
        self.duration = Sums(_DURATION_NS)
        self.first = Sums(_FIRST_NS)
        self.each = Sums(_EACH_NS)
        self.prompt = Sums(_TOKENS)
        self.output = Sums(_TOKENS)
        self.cost = self.saved_cache = self.saved_routing = 0

    def merge(self, other: Series) -> Series:
        """Add another's sums to these; gives itself."""
        for name in ("duration", "first", "each", "prompt", "output"):
            getattr(self, name).merge(getattr(other, name))
        self.cost += other.cost
        self.saved_cache += other.saved_cache
        self.saved_routing += other.saved_routing
        return self


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums since `start_unix_ns`: by error type, and over all error types (where the key's last part is empty)."""

    start_unix_ns: int
    by_error: dict[Key, Series]
    by_model: dict[Key, Series]


class Aggregate:
    """Sums of all records since `start_unix_ns`. Safe for threads: one adds while another collects."""

    def __init__(self, start_unix_ns: int) -> None:
        self._start_unix_ns = start_unix_ns
        self._series: dict[Key, Series] = {}
        self._lock = Lock()

    def add(self, records: Iterable[LedgerRecord]) -> None:
        """Count records; what is no GenAI operation is left out.

        *Cost*: about two microseconds a record, GIL held.
        """
        with self._lock:
            operations = semconv.OPERATIONS
            for record in records:
                operation = operations.get(record.operation)
                if operation is not None:
                    self._add(operation, record)

    def _add(self, operation: str, record: LedgerRecord) -> None:
        outcome = record.outcome
        error = "" if outcome in FINE else record.code or outcome
        key = (operation, record.provider, record.model, error)
        series = self._series.get(key) or self._new(key)
        duration_ns = record.duration_ns
        series.duration.add(duration_ns)
        if record.usage:
            output = record.output_tokens
            series.prompt.add(record.prompt_tokens)
            series.output.add(output)
            series.cost += record.cost_nanousd
            first_ns = record.first_token_ns
            if first_ns and not error:
                series.first.add(first_ns)
                if output > 1:
                    series.each.add(max((record.last_byte_ns or duration_ns) - first_ns, 0) // (output - 1))
        series.saved_routing += record.saved_by_routing_nanousd
        if outcome != "ok":
            series.saved_cache += record.saved_by_cache_nanousd

    def _new(self, key: Key) -> Series:
        if len(self._series) >= _MAX_SERIES:
            key = _OVERFLOW
        return self._series.setdefault(key, Series())

    def totals(self) -> Totals:
        """Give a copy of the sums as they stand."""
        with self._lock:
            by_error = {key: Series().merge(series) for key, series in self._series.items()}
        by_model: dict[Key, Series] = {}
        for key, series in by_error.items():
            by_model.setdefault((*key[:3], ""), Series()).merge(series)
        return Totals(self._start_unix_ns, by_error, by_model)
