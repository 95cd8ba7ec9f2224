"""Sums over ledger records in the form of OpenTelemetry's metrics.

Owns: which metric shows which sum, with which attributes. Must not know: how sums are made, the wire.
On failure: nothing here can fail.

Values are cumulative: what a collector misses is in the next sending.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)

from forebay.ledger import semconv
from forebay.ledger.aggregate import Key, Series, Sums, Totals

__all__ = ["metrics"]

_NS_PER_S = 1_000_000_000


def metrics(totals: Totals, unix_ns: int) -> list[Metric]:
    """Give all metrics as they stand at `unix_ns`; one without a value is left out."""
    return _Collection(totals, unix_ns).metrics()


class _Collection:
    """The series of one moment as the SDK's data classes."""

    def __init__(self, totals: Totals, unix_ns: int) -> None:
        self._times = (totals.start_unix_ns, unix_ns)
        self._by_error = totals.by_error
        self._by_model = totals.by_model

    def metrics(self) -> list[Metric]:
        token = semconv.TOKEN_TYPE
        prompt, output = {token: semconv.TOKEN_TYPE_INPUT}, {token: semconv.TOKEN_TYPE_OUTPUT}
        usage = [
            *self._points(self._by_model, lambda s: s.prompt, _Scale(semconv.BOUNDS_TOKENS, 1), prompt),
            *self._points(self._by_model, lambda s: s.output, _Scale(semconv.BOUNDS_TOKENS, 1), output),
        ]
        duration = _Scale(semconv.BOUNDS_DURATION_S, _NS_PER_S)
        first = _Scale(semconv.BOUNDS_FIRST_TOKEN_S, _NS_PER_S)
        each = _Scale(semconv.BOUNDS_PER_TOKEN_S, _NS_PER_S)
        wasted = {key: series for key, series in self._by_error.items() if key[3]}
        cache = {semconv.SAVED_BY: semconv.SAVED_BY_CACHE_VALUE}
        routing = {semconv.SAVED_BY: semconv.SAVED_BY_ROUTING_VALUE}
        saved = [
            *self._sums(self._by_model, lambda s: s.saved_cache, cache),
            *self._sums(self._by_model, lambda s: s.saved_routing, routing),
        ]
        made = [
            _histogram(semconv.METRIC_TOKEN_USAGE, semconv.UNIT_TOKENS, usage),
            _histogram(
                semconv.METRIC_REQUEST_DURATION,
                semconv.UNIT_SECONDS,
                self._points(self._by_error, lambda s: s.duration, duration),
            ),
            _histogram(
                semconv.METRIC_FIRST_TOKEN,
                semconv.UNIT_SECONDS,
                self._points(self._by_model, lambda s: s.first, first),
            ),
            _histogram(
                semconv.METRIC_PER_TOKEN,
                semconv.UNIT_SECONDS,
                self._points(self._by_model, lambda s: s.each, each),
            ),
            _sum(semconv.METRIC_COST, self._sums(self._by_model, lambda s: s.cost)),
            _sum(semconv.METRIC_WASTED, self._sums(wasted, lambda s: s.cost)),
            _sum(semconv.METRIC_SAVED, saved),
        ]
        return [metric for metric in made if metric.data.data_points]

    def _points(
        self,
        series: dict[Key, Series],
        of: Callable[[Series], Sums],
        scale: _Scale,
        more: dict[str, str] | None = None,
    ) -> list[HistogramDataPoint]:
        pairs = ((key, of(one)) for key, one in series.items())
        return [
            HistogramDataPoint(
                attributes={**_attributes(key), **(more or {})},
                start_time_unix_nano=self._times[0],
                time_unix_nano=self._times[1],
                count=count,
                sum=histogram.total / scale.divisor,
                bucket_counts=list(histogram.counts),
                explicit_bounds=scale.bounds,
                min=histogram.low / scale.divisor,
                max=histogram.high / scale.divisor,
            )
            for key, histogram in pairs
            if (count := sum(histogram.counts))
        ]

    def _sums(
        self, series: dict[Key, Series], of: Callable[[Series], int], more: dict[str, str] | None = None
    ) -> list[NumberDataPoint]:
        start, now = self._times
        return [
            NumberDataPoint({**_attributes(key), **(more or {})}, start, now, value)
            for key, one in series.items()
            if (value := of(one))
        ]


class _Scale:
    """Bounds in the unit that is sent, and what divides the summed unit to give it."""

    def __init__(self, bounds: Sequence[float], divisor: int) -> None:
        self.bounds = bounds
        self.divisor = divisor


def _attributes(key: Key) -> dict[str, str]:
    operation, provider, model, error = key
    attributes = {semconv.OPERATION_NAME: operation, semconv.PROVIDER_NAME: provider or semconv.UNKNOWN_PROVIDER}
    # The model that served: what a client asked for is its own text, and not bounded.
    if model:
        attributes[semconv.REQUEST_MODEL] = model
        attributes[semconv.RESPONSE_MODEL] = model
    if error:
        attributes[semconv.ERROR_TYPE] = error
    return attributes


def _histogram(name: str, unit: str, points: list[HistogramDataPoint]) -> Metric:
    return Metric(name, "", unit, Histogram(points, AggregationTemporality.CUMULATIVE))


def _sum(name: str, points: list[NumberDataPoint]) -> Metric:
    data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
    return Metric(name, "", semconv.UNIT_NANOUSD, data)
