"""The way of telemetry to one collector: a bounded queue, and a thread that empties it.

Owns: the thread, the queue, deadlines, pauses after failures. Must not know: which records are traced, policies.
On failure: open; a collector that is away, slow or refusing costs telemetry, never the ledger. What is dropped is
counted, and said once per interval.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from forebay.ledger import semconv
from forebay.ledger._pb.ledger_pb2 import LedgerRecord
from forebay.ledger.aggregate import Aggregate
from forebay.ledger.counts import TelemetryCounts
from forebay.ledger.otlp import Collector, SendError
from forebay.ledger.points import metrics
from forebay.ledger.spans import SpanBuilder

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

__all__ = ["Pipe", "PipeSettings"]

_log = logging.getLogger(__name__)
# A thread whose call was ended needs no longer to see it.
_END_S = 2.0


@dataclass(frozen=True, slots=True)
class PipeSettings:
    """How one collector is served.

    `endpoint` `http://127.0.0.1:4317`; `metrics_interval_s` 15: how often metrics go. `queue_records` 4096: records
    that may wait, the oldest of which go first. `batch_records` 256: about 1 MiB of spans, under a collector's usual
    bound of 4 MiB. `linger_s` 1: how long a record waits for others. `timeout_s` 5: the most that one call may take.
    `pause_s` 1 to `max_pause_s` 30: the wait after a failure, doubled by each. `say_s` 60: failures are logged at most
    this often.
    """

    endpoint: str
    resource: Resource
    version: str = ""
    metrics_interval_s: float = 15.0
    queue_records: int = 4_096
    batch_records: int = 256
    linger_s: float = 1.0
    timeout_s: float = 5.0
    pause_s: float = 1.0
    max_pause_s: float = 30.0
    say_s: float = 60.0


class Pipe:
    """Sends what it is given, in a thread of its own. `start` once, `put` at any time, `stop` once.

    Raises: ValueError for an endpoint that cannot be one.
    """

    def __init__(self, settings: PipeSettings, aggregate: Aggregate, counts: TelemetryCounts) -> None:
        self._settings = settings
        self._aggregate = aggregate
        self._counts = counts
        self._collector = Collector(settings.endpoint)
        scope = InstrumentationScope(semconv.SCOPE, settings.version, semconv.SCHEMA_URL)
        self._scope = scope
        self._builder = SpanBuilder(settings.resource, scope)
        self._waiting: deque[LedgerRecord] = deque()
        self._wake = threading.Condition()
        self._stop_at: float | None = None
        self._pause_s = 0.0
        self._said_at: float | None = None
        self._unsaid = 0
        self._thread = threading.Thread(target=self._run, name="forebay-telemetry", daemon=True)

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def put(self, records: Sequence[LedgerRecord]) -> None:
        """Hand over records whose spans are to be sent; never waits. What has no room is dropped and counted."""
        with self._wake:
            before = len(self._waiting)
            room = max(self._settings.queue_records - before, 0)
            self._waiting.extend(islice(records, room))
            after = len(self._waiting)
            if before == 0 or after >= self._settings.batch_records:
                self._wake.notify()
        if len(records) > room:
            self._counts.add_dropped(len(records) - room)

    def stop(self, deadline_s: float) -> None:
        """Send what waits, once and within the deadline; then end. What is left is dropped and counted."""
        with self._wake:
            self._stop_at = time.monotonic() + deadline_s
            self._wake.notify()
        self._thread.join(deadline_s)
        # Ends a call that is still in flight.
        self._collector.close()
        self._thread.join(_END_S)
        with self._wake:
            left = len(self._waiting)
            self._waiting.clear()
        self._counts.add_dropped(left)

    def _run(self) -> None:
        interval_s = self._settings.metrics_interval_s
        next_metrics = time.monotonic() + interval_s
        while not self._ending():
            self._wait(next_metrics)
            if time.monotonic() >= next_metrics and not self._ending():
                self._try(self._send_metrics)
                next_metrics = time.monotonic() + interval_s
            # Only whole batches follow at once: the rest may linger, and metrics are not kept waiting.
            more = bool(self._waiting) and not self._ending()
            while more and self._try(self._send_batch):
                full = len(self._waiting) >= self._settings.batch_records
                more = full and not self._ending() and time.monotonic() < next_metrics
        # What is left; a collector that fails now is not tried again.
        while self._waiting and self._left_s() > 0 and self._try(self._send_batch):
            pass
        if self._left_s() > 0:
            self._try(self._send_metrics)

    def _wait(self, next_metrics: float) -> None:
        """Sleep until a batch is full, records have lingered, metrics are due, a pause is over, or the end."""
        full = self._settings.batch_records
        with self._wake:
            if self._pause_s:
                self._wake.wait_for(self._ending, min(next_metrics - time.monotonic(), self._pause_s))
                return
            # Idle, it sleeps through; the first record wakes it, and others get the chance to join.
            self._wake.wait_for(lambda: self._ending() or self._waiting, next_metrics - time.monotonic())
            until = min(next_metrics, time.monotonic() + self._settings.linger_s)
            self._wake.wait_for(lambda: self._ending() or len(self._waiting) >= full, until - time.monotonic())

    def _ending(self) -> bool:
        return self._stop_at is not None

    def _left_s(self) -> float:
        left_s = self._settings.timeout_s
        return left_s if self._stop_at is None else min(left_s, self._stop_at - time.monotonic())

    def _try(self, send: Callable[[], None]) -> bool:
        """Send, and count and say a failure. Gives whether it succeeded."""
        try:
            send()
        except SendError as error:
            self._counts.add_failure()
            settings = self._settings
            self._pause_s = min(max(self._pause_s * 2, settings.pause_s), settings.max_pause_s)
            self._say(error)
            return False
        except Exception as error:  # noqa: BLE001 - a record that cannot be encoded must not end the thread
            self._counts.add_failure()
            self._say(error)
            return False
        self._pause_s = 0.0
        return True

    def _send_batch(self) -> None:
        """Send the oldest records. They leave the queue first, and come back where another try may help."""
        with self._wake:
            batch = [self._waiting.popleft() for _ in range(min(self._settings.batch_records, len(self._waiting)))]
        try:
            spans = self._builder.spans(batch)
            rejected = self._collector.send_spans(spans, self._left_s()) if spans else 0
        except Exception as error:
            if isinstance(error, SendError) and error.retryable:
                self._put_back(batch)
            else:
                self._counts.add_dropped(len(batch))
            raise
        self._counts.add_spans(len(spans) - rejected)
        if rejected:
            self._counts.add_dropped(rejected)

    def _put_back(self, batch: list[LedgerRecord]) -> None:
        with self._wake:
            room = max(self._settings.queue_records - len(self._waiting), 0)
            self._waiting.extendleft(reversed(batch[:room]))
        self._counts.add_dropped(len(batch[room:]))

    def _send_metrics(self) -> None:
        made = metrics(self._aggregate.totals(), time.time_ns())
        if made and self._collector.send_metrics(made, self._settings.resource, self._scope, self._left_s()):
            self._counts.add_failure()

    def _say(self, error: Exception) -> None:
        self._unsaid += 1
        now = time.monotonic()
        if self._said_at is not None and now - self._said_at < self._settings.say_s:
            return
        fields = {"slug": "telemetry_failed", "failures": self._unsaid}
        trace = None if isinstance(error, SendError) else error
        _log.warning("telemetry for `%s` failed: %s", self._settings.endpoint, error, extra=fields, exc_info=trace)
        self._said_at, self._unsaid = now, 0
