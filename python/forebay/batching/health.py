"""Whether a server and its models can be called, told from what calls and probes brought.

Owns the state of one server. Must not know the network; `now_ns` is an argument.
On failure: a server is not ready until it says so itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

# A probe that was late once may have met a busy machine.
LATE_PROBES = 2
# A model that failed everything on one server is tried there again after this.
FAILING_REST_NS = 10_000_000_000

Lane = tuple[str, str]
"""Model and version."""


class Standing(IntEnum):
    """How good a choice a server is for a model; smaller is better."""

    READY = 0
    UNKNOWN = 1
    MODEL_AWAY = 2
    AWAY = 3

    @property
    def usable(self) -> bool:
        """Whether batches go there while there is any choice."""
        return self <= Standing.UNKNOWN


@dataclass(slots=True)
class Health:
    """One server. `ready` is None until its first probe ended.

    `away` are models that it says are not ready; `unlike` those that take other tensors here than what is served.
    """

    ready: bool | None = None
    away: set[Lane] = field(default_factory=set)
    unlike: set[Lane] = field(default_factory=set)
    _failed_ns: int = -1
    _late: int = 0
    _failing: dict[str, int] = field(default_factory=dict)

    def standing(self, lane: Lane, now_ns: int) -> Standing:
        """Tell how good a choice it is for a model now."""
        if self.ready is False:
            return Standing.AWAY
        failing = self._failing.get(lane[0], now_ns) > now_ns
        if failing or lane in self.away or lane in self.unlike:
            return Standing.MODEL_AWAY
        return Standing.UNKNOWN if self.ready is None else Standing.READY

    def failed(self, now_ns: int) -> None:
        """Remember that a call did not reach it or broke: it rests until a later probe finds it ready."""
        self.ready = False
        self._failed_ns = now_ns

    def said_ready(self, asked_ns: int) -> None:
        """Take a probe's answer. One that was asked before a call failed says nothing."""
        self._late = 0
        if asked_ns > self._failed_ns:
            self.ready = True

    def said_away(self) -> None:
        """Take a probe that was not answered, or answered with no."""
        self._late = 0
        self.ready = False

    def was_late(self) -> None:
        """Take a probe that was not answered in time; the second one in a row means that it is away."""
        self._late += 1
        if self._late >= LATE_PROBES:
            self.ready = False

    def model_here(self, lane: Lane) -> None:
        """Take that a model is ready."""
        self.away.discard(lane)

    def model_away(self, lane: Lane) -> None:
        """Take that a model is not ready."""
        self.away.add(lane)

    def failing(self, model: str, now_ns: int) -> None:
        """Remember that its statistics show nothing but failures of a model."""
        self._failing[model] = now_ns + FAILING_REST_NS
