"""Owns one slice: a load on one variant, and what it gave.

Must not know what slices are compared.
On failure: an answer that is another request's stops the run; calls that fail are counted, and are no throughput.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import numpy.typing as npt

from bench.batch.generator import Calls, Group, Sent
from bench.batch.site import Site
from bench.batch.traffic import Traffic
from bench.batch.variants import Variant

_CODES = {1: "cancelled", 3: "invalid", 4: "deadline", 8: "exhausted", 13: "internal", 14: "unavailable", 255: "late"}


@dataclass(frozen=True)
class Window:
    """Which part of a slice counts, in seconds from its start."""

    begin_s: float
    end_s: float

    def answered(self, calls: Calls) -> npt.NDArray[np.bool_]:
        """Calls that were answered well inside it."""
        ended_s = calls["ended_ns"] / 1e9
        inside: npt.NDArray[np.bool_] = (calls["code"] == 0) & (ended_s > self.begin_s) & (ended_s <= self.end_s)
        return inside

    def due(self, calls: Calls) -> npt.NDArray[np.bool_]:
        """Calls that should begin inside it."""
        due_s = calls["due_ns"] / 1e9
        inside: npt.NDArray[np.bool_] = (due_s >= self.begin_s) & (due_s < self.end_s)
        return inside

    def per_s(self, count: float) -> float:
        """A count as a rate."""
        return count / (self.end_s - self.begin_s)


@dataclass(frozen=True)
class Slice:
    """What one slice gave. Latencies count from when a call was due, so that waiting for the generator is in them."""

    per_s: float
    p50_ms: float
    p99_ms: float
    # Calls that were not answered well, by reason.
    failed: dict[str, int]
    # Rows of one call of the model, on average, and how long that took.
    call_rows: float
    call_ms: float
    # Padded tokens over real ones, less one; None where nobody tells.
    waste: float | None
    # CPU microseconds a request, by role, where a gateway is in the way.
    cpu_us: dict[str, float]
    generator_busy: float

    def to_json(self) -> dict[str, object]:
        """For a row's detail."""
        rounded = {name: round(value, 3) for name, value in vars(self).items() if isinstance(value, float)}
        return rounded | {"failed": self.failed, "cpu_us": {role: round(us, 1) for role, us in self.cpu_us.items()}}


@dataclass(frozen=True)
class Taken:
    """A slice with its calls and answers."""

    slice: Slice
    sent: Sent


def closed(site: Site, variant: Variant, traffic: Traffic, clients: int, window: Window) -> Taken:
    """`clients` that send as soon as they are answered, over all requests in their order, again and again."""
    turns = np.arange(max(200_000, len(traffic.messages))) % len(traffic.messages)
    return _take(site, variant, traffic, Group(clients, turns, metadata=variant.metadata), window)


def opened(site: Site, variant: Variant, traffic: Traffic, due_ns: npt.NDArray[np.int64], window: Window) -> Taken:
    """Requests that begin when they are due, whatever has been answered."""
    turns = np.arange(len(due_ns)) % len(traffic.messages)
    return _take(site, variant, traffic, Group(0, turns, due_ns, variant.metadata), window)


def _take(site: Site, variant: Variant, traffic: Traffic, group: Group, window: Window) -> Taken:
    gateway = variant.gateway
    cpu_before = gateway.cpu_ns() if gateway else {}
    tokens_before = batch_tokens(gateway.metrics()) if gateway else None
    counts_before = site.triton_counts(variant.model)
    sent = site.generator.send(variant.address, traffic.messages, [group], window.end_s)
    counts = [after - before for after, before in zip(site.triton_counts(variant.model), counts_before, strict=True)]
    tokens_after = batch_tokens(gateway.metrics()) if gateway else None
    cpu_after = gateway.cpu_ns() if gateway else {}
    _check(variant, traffic, sent)
    answered = window.answered(sent.calls)
    latencies_ms = latencies(sent.calls, window)
    waste = waste_between(tokens_before, tokens_after) if gateway else client_waste(traffic, sent.calls)
    return Taken(
        Slice(
            per_s=window.per_s(int(answered.sum())),
            p50_ms=float(np.percentile(latencies_ms, 50)),
            p99_ms=float(np.percentile(latencies_ms, 99)),
            failed=failures(sent.calls),
            call_rows=counts[0] / max(counts[1], 1),
            call_ms=counts[2] / max(counts[1], 1) / 1e6,
            waste=waste,
            cpu_us={role: (cpu_after[role] - ns) / 1e3 / len(sent.calls) for role, ns in cpu_before.items()},
            generator_busy=sent.generator_busy,
        ),
        sent,
    )


def latencies(calls: Calls, window: Window) -> npt.NDArray[np.float64]:
    """Milliseconds of the calls that were due inside a window; one that failed took as long as the whole slice."""
    inside = calls[window.due(calls)]
    elapsed_ms = (inside["ended_ns"] - inside["due_ns"]) / 1e6
    return np.where(inside["code"] == 0, elapsed_ms, window.end_s * 1e3)


def failures(calls: Calls) -> dict[str, int]:
    """How many calls were not answered well, by reason."""
    codes = Counter(calls["code"][calls["code"] != 0].tolist())
    return {_CODES.get(code, str(code)): count for code, count in sorted(codes.items())}


def client_waste(traffic: Traffic, calls: Calls) -> float:
    """Padding by the client."""
    asked = calls["message"]
    return float(traffic.padded[asked].sum() / traffic.tokens[asked].sum() - 1)


def batch_tokens(metrics: str) -> tuple[float, float] | None:
    """Tokens as they came and padded, over all batches so far; None where the gateway does not tell."""
    found = [_sum_of(metrics, name) for name in ("forebay_batch_tokens_total", "forebay_batch_padded_tokens_total")]
    return None if None in found else (found[0] or 0.0, found[1] or 0.0)


def waste_between(before: tuple[float, float] | None, after: tuple[float, float] | None) -> float | None:
    """Padding by the gateway between two readings."""
    if before is None or after is None or after[0] == before[0]:
        return None
    return (after[1] - before[1]) / (after[0] - before[0]) - 1


def _sum_of(metrics: str, name: str) -> float | None:
    values = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", metrics, re.MULTILINE)
    return sum(map(float, values)) if values else None


def _check(variant: Variant, traffic: Traffic, sent: Sent) -> None:
    if variant.model.endswith("cost"):
        good: Sequence[bool] = (sent.calls["code"] == 0).tolist()
        traffic.check_sums(list(compress(sent.calls["message"].tolist(), good)), list(compress(sent.answers, good)))
