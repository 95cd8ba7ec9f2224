"""From the journal into the store: each record once, and what the records say is passed on to others.

Owns: the order (commit, then sinks, then deleting segments), the thread that does it, its counters.
Must not know: what sinks do with records; who asks for the counters.
On failure: nothing moves on, so the same records are read again; failures are counted, and logged once a minute.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from forebay.errors import ForebayError
from forebay.ledger._pb.ledger_pb2 import LedgerRecord
from forebay.ledger.events import log_threshold
from forebay.ledger.journal import Journal
from forebay.ledger.rows import decode, row
from forebay.store import JournalPosition, LedgerRow, Store, ThresholdEvent

__all__ = ["Ingest", "IngestResult", "IngestThread", "IngestTotals", "Sink"]

_log = logging.getLogger(__name__)

Sink = Callable[[Sequence[LedgerRecord]], None]
"""Gets the records of one committed batch, oldest first. What it raises is logged and goes no further."""

# More at once no longer fits the processor's cache, and each record then costs more, not less.
_BATCH_RECORDS = 500
_PRUNE_ROWS = 1_000
_PRUNE_INTERVAL_S = 60.0
_PAUSE_S = 0.2
_MAX_BACKOFF_S = 1.0
_LOG_INTERVAL_S = 60.0
_DAY_NS = 86_400_000_000_000


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What one pass did. Units: `lag_bytes` stands in the journal and is not in the store yet."""

    records_read: int = 0
    rows_written: int = 0
    bad_records: int = 0
    bad_frames: int = 0
    torn_frames: int = 0
    skipped_bytes: int = 0
    lag_bytes: int = 0
    sink_failures: int = 0
    segments_deleted: int = 0
    thresholds: tuple[ThresholdEvent, ...] = ()


class Ingest:
    """Reads a journal into a store, one batch at a pass. For one thread."""

    def __init__(self, journal: Journal, store: Store, sinks: Sequence[Sink] = ()) -> None:
        self._journal = journal
        self._store = store
        self._sinks = tuple(sinks)
        self._position: JournalPosition | None = None
        self._cleaned_at = 0
        self._failing_sinks: set[Sink] = set()

    def run_once(self) -> IngestResult:
        """Read, write and pass on at most 500 records.

        Raises: StoreError or JournalUnreadable; nothing has then moved, and the next pass does the same again.
        """
        if self._position is None:
            self._position = self._store.position()
        batch = self._journal.read(self._position, _BATCH_RECORDS)
        records: list[LedgerRecord] = []
        rows: list[LedgerRow] = []
        # One after the other and not in two passes: a record is in the processor's cache right after it was decoded.
        for payload in batch.payloads:
            record = decode(payload)
            if record is not None:
                rows.append(row(record))
                records.append(record)
        events: list[ThresholdEvent] = []
        if batch.position != self._position:
            events = self._store.write(rows, batch.position)
            self._position = batch.position
        return IngestResult(
            records_read=len(batch.payloads),
            rows_written=len(rows),
            bad_records=len(batch.payloads) - len(records),
            bad_frames=batch.bad_frames,
            torn_frames=batch.torn_frames,
            skipped_bytes=batch.skipped_bytes,
            lag_bytes=batch.lag_bytes,
            sink_failures=self._pass_on(records) if records else 0,
            segments_deleted=self._delete_read(batch.position),
            thresholds=tuple(events),
        )

    def prune(self, before_unix_ns: int) -> bool:
        """Delete a bounded number of rows older than that; says whether there may be more."""
        return self._store.prune(before_unix_ns, _PRUNE_ROWS) == _PRUNE_ROWS

    def _pass_on(self, records: Sequence[LedgerRecord]) -> int:
        failures = 0
        for sink in self._sinks:
            try:
                sink(records)
                self._failing_sinks.discard(sink)
            except Exception:  # noqa: BLE001, PERF203 - whatever a sink raises, the ledger goes on
                failures += 1
                if sink not in self._failing_sinks:
                    _log.exception("a sink of the ledger failed; its records are stored and not offered to it again")
                self._failing_sinks.add(sink)
        return failures

    def _delete_read(self, position: JournalPosition) -> int:
        """Delete segments that are read; they outlive a power failure, so what they held must as well."""
        if position.segment == self._cleaned_at:
            return 0
        try:
            self._store.sync()
            deleted = self._journal.delete_before(position)
        except ForebayError as error:
            # The batch itself is written. What cannot be deleted now is deleted after a later one.
            _log.debug("read segments stay for now: %s", error)
            return 0
        self._cleaned_at = position.segment
        return deleted


@dataclass(frozen=True, slots=True)
class IngestTotals:
    """What a thread has done since it began; `lag_bytes` and `failing`, a slug, are of its last pass."""

    records: int = 0
    failures: int = 0
    bad_frames: int = 0
    bad_records: int = 0
    sink_failures: int = 0
    pruned_steps: int = 0
    lag_bytes: int = 0
    failing: str = ""
    thresholds: Mapping[tuple[str, int], int] = field(default_factory=dict)


class IngestThread:
    """Runs an Ingest until it is stopped: full batches one after the other; otherwise it looks every 200 ms.

    So the next batch gathers meanwhile: a commit costs as much as 20 records.
    After a failure it waits longer each time, up to a second. `retention_days` 0 keeps rows for ever.

    Cost: one thread; asleep it lists the journal's folder 5 times a second, about 20 µs each.
    """

    def __init__(self, ingest: Ingest, *, retention_days: int = 90, unix_ns: Callable[[], int] = time.time_ns) -> None:
        self._ingest = ingest
        self._retention_ns = retention_days * _DAY_NS
        self._unix_ns = unix_ns
        self._stopping = threading.Event()
        self._give_up_at_s = float("inf")
        self._totals = IngestTotals()
        self._thresholds: Counter[tuple[str, int]] = Counter()
        self._logged_s: dict[str, float] = {}
        self._prune_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name="forebay-ledger", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Read what the journal holds by now, and end; at most `timeout_s`.

        Returns: whether the thread has ended. What it has not read is read by the next process.
        """
        self._give_up_at_s = time.monotonic() + timeout_s
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def totals(self) -> IngestTotals:
        """Give the counters; from any thread."""
        return self._totals

    def _run(self) -> None:
        backoff_s = _PAUSE_S
        while True:
            stopping = self._stopping.is_set()
            if stopping and time.monotonic() >= self._give_up_at_s:
                return
            try:
                result = self._ingest.run_once()
                self._count(result)
                if not stopping:
                    self._prune()
            except Exception as error:  # noqa: BLE001 - the ledger's thread must outlive whatever a pass meets
                self._fail(error)
                if stopping:
                    # One more try is made after the signal, not one for each backoff until the deadline.
                    return
                self._stopping.wait(backoff_s)
                backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
                continue
            backoff_s = _PAUSE_S
            if result.records_read >= _BATCH_RECORDS:
                continue
            found = result.records_read or result.bad_frames or result.torn_frames
            if not stopping:
                self._stopping.wait(_PAUSE_S)
            elif not found:
                return

    def _count(self, result: IngestResult) -> None:
        for event in result.thresholds:
            self._thresholds[event.budget, event.percent] += 1
            log_threshold(_log, event)
        if result.bad_frames or result.torn_frames or result.bad_records:
            self._log_rarely("damage", f"the journal is damaged: {result}")
        before = self._totals
        self._totals = IngestTotals(
            records=before.records + result.rows_written,
            failures=before.failures,
            bad_frames=before.bad_frames + result.bad_frames + result.torn_frames,
            bad_records=before.bad_records + result.bad_records,
            sink_failures=before.sink_failures + result.sink_failures,
            pruned_steps=before.pruned_steps,
            lag_bytes=result.lag_bytes,
            thresholds=dict(self._thresholds) if result.thresholds else before.thresholds,
        )

    def _fail(self, error: Exception) -> None:
        slug = error.slug if isinstance(error, ForebayError) else type(error).__name__
        self._totals = replace(self._totals, failures=self._totals.failures + 1, failing=slug)
        self._log_rarely(slug, f"the ledger waits in its journal: {error}")

    def _log_rarely(self, kind: str, text: str) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s.get(kind, -_LOG_INTERVAL_S) >= _LOG_INTERVAL_S:
            self._logged_s[kind] = now_s
            _log.warning("%s", text)

    def _prune(self) -> None:
        now_s = time.monotonic()
        if self._retention_ns and now_s >= self._prune_at_s:
            more = self._ingest.prune(self._unix_ns() - self._retention_ns)
            self._totals = replace(self._totals, pruned_steps=self._totals.pruned_steps + 1)
            self._prune_at_s = now_s if more else now_s + _PRUNE_INTERVAL_S
