"""Telemetry out of ledger records, as the policy asks for it: nothing, or spans and metrics to a collector.

Owns: the choice of records, and the change from one collector to another. Must not know: the wire, the ledger's file.
On failure: open; a part that fails is counted and said, and the records go on to the ledger untouched.

OpenTelemetry is imported where a collector is named and nowhere else, so that a command without one stays quick.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from forebay.ledger._pb.ledger_pb2 import LedgerRecord
from forebay.ledger.aggregate import Aggregate
from forebay.ledger.counts import TelemetryCounts
from forebay.ledger.sampling import Sampling

if TYPE_CHECKING:
    from forebay.ledger.pipe import Pipe

__all__ = ["Telemetry", "TelemetrySettings"]

_log = logging.getLogger(__name__)
_DEFAULT_INTERVAL_MS = 15_000
_MS_PER_S = 1_000
_SWAP_DEADLINE_S = 2.0


class TelemetrySettings(Protocol):
    """The policy's message `Telemetry`, as far as it is read here; 0 and empty mean the defaults written there."""

    @property
    def otlp_endpoint(self) -> str:
        """`http://host:port`; empty: nothing is sent."""

    @property
    def slow_ms(self) -> int:
        """A request that takes longer is traced."""

    @property
    def metrics_interval_ms(self) -> int:
        """How often metrics are sent."""


class Telemetry:
    """Spans and metrics of a gateway. `start` once, `sink` for each batch of records, `stop` once.

    `resource` says who sends: `{"service.name": "forebay", "service.instance.id": "7"}`.
    """

    def __init__(self, settings: TelemetrySettings, resource: Mapping[str, str]) -> None:
        self._resource = dict(resource)
        self._settings = settings
        self._counts = TelemetryCounts()
        self._aggregate = Aggregate(time.time_ns())
        self._sampling = Sampling.of_slow_ms(settings.slow_ms)
        self._pipe: Pipe | None = None
        self._started = False
        # Held for a change of the collector, never while one is called.
        self._change = threading.Lock()

    @classmethod
    def from_policy(cls, settings: TelemetrySettings, resource: Mapping[str, str]) -> Telemetry:
        """Make it from the policy's `telemetry`; an empty message sends nothing."""
        return cls(settings, resource)

    def start(self) -> None:
        """Start the thread, where a collector is named."""
        with self._change:
            self._started = True
            self._pipe = self._opened(self._settings)

    def sink(self, records: Sequence[LedgerRecord]) -> None:
        """Take a batch of records that the ledger has; never waits for a collector.

        *Cost*: nothing without a collector. With one, a third of a microsecond a record to choose what is traced, and
        two to sum the metrics; the records that are traced are kept until their spans are sent. GIL held.
        """
        pipe = self._pipe
        if pipe is None:
            return
        self._aggregate.add(records)
        kept = self._sampling.kept(records)
        if kept:
            pipe.put(kept)

    def swap(self, settings: TelemetrySettings) -> None:
        """Go on under another policy. Another collector is served at once; the one before gets what waits for it.

        *Cost*: up to two seconds where the collector changes, for the last call to the one before.
        """
        self._sampling = Sampling.of_slow_ms(settings.slow_ms)
        with self._change:
            before, old = self._pipe, self._settings
            self._settings = settings
            same = (old.otlp_endpoint, old.metrics_interval_ms) == (
                settings.otlp_endpoint,
                settings.metrics_interval_ms,
            )
            if same or not self._started:
                return
            self._pipe = self._opened(settings)
        if before is not None:
            before.stop(_SWAP_DEADLINE_S)

    def stop(self, deadline_s: float) -> None:
        """Send what waits, within the deadline; what is left is dropped and counted."""
        with self._change:
            pipe, self._pipe = self._pipe, None
            self._started = False
        if pipe is not None:
            pipe.stop(deadline_s)

    def counts(self) -> dict[str, int]:
        """Give the counters by their Prometheus names: spans taken, dropped, and calls that failed."""
        return self._counts.values()

    def _opened(self, settings: TelemetrySettings) -> Pipe | None:
        if not settings.otlp_endpoint:
            return None
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - only where a collector is named

        from forebay.ledger.pipe import Pipe, PipeSettings  # noqa: PLC0415 - as above

        pipe_settings = PipeSettings(
            endpoint=settings.otlp_endpoint,
            resource=Resource.create(dict(self._resource)),
            version=self._resource.get("service.version", ""),
            metrics_interval_s=_sending(settings)[1] / _MS_PER_S,
        )
        try:
            pipe = Pipe(pipe_settings, self._aggregate, self._counts)
        except ValueError as error:
            self._counts.add_failure()
            _log.error("telemetry is not sent: %s", error, extra={"slug": "telemetry_failed"})
            return None
        pipe.start()
        return pipe


def _sending(settings: TelemetrySettings) -> tuple[str, int]:
    return settings.otlp_endpoint, settings.metrics_interval_ms or _DEFAULT_INTERVAL_MS
