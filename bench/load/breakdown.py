"""Owns where the time of a governed request goes: Envoy, the service's stream handling, and each stage of the decision.

Must not know how slices are sent.
On failure: a metrics page without stages gives an empty breakdown, and the row shows that it is empty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.load.slices import Slice
from bench.load.variants import Variant

_STAGE = re.compile(r'^forebay_stage_ns_total\{stage="(\w+)"\} (\d+)$', re.MULTILINE)
_BODY_MESSAGES = re.compile(r"^forebay_response_body_messages_total (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class StageClock:
    """The gateway's stage counters at one moment."""

    stage_ns: dict[str, int]

    @staticmethod
    def read(variant: Variant) -> StageClock:
        """The counters now."""
        return StageClock({name: int(total_ns) for name, total_ns in _STAGE.findall(variant.gateway_metrics())})

    def since(self, before: StageClock, requests: int) -> dict[str, float]:
        """Microseconds of each stage a request since `before`."""
        return {
            name: round((total_ns - before.stage_ns.get(name, 0)) / 1e3 / requests, 2)
            for name, total_ns in self.stage_ns.items()
        }


def body_messages(variant: Variant) -> int:
    """Response body messages that the gateway says it was sent."""
    found = _BODY_MESSAGES.search(variant.gateway_metrics())
    return int(found.group(1)) if found else 0


def shares(slices: Sequence[Slice], base: Sequence[Slice]) -> dict[str, float]:
    """What was added, split by process, with the latency beside it.

    Units: microseconds a request; medians over the rounds.
    """
    pairs = list(zip(slices, base, strict=True))
    return {
        "envoy_us": round(median(one.role_us("envoy") - less.role_us("envoy") for one, less in pairs), 2),
        "service_us": round(median(one.role_us("service") for one in slices), 2),
        "p50_us": round(median(one.p50_us for one in slices), 1),
    }


def inner(stages: dict[str, float], service_us: float, log_service_us: float) -> dict[str, float]:
    """The service's own time: its stages, the log it takes, and the rest, which is the stream and the messages."""
    rest = service_us - sum(stages.values()) - log_service_us
    return {**stages, "access_log": round(log_service_us, 2), "stream": round(rest, 2)}
