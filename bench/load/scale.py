"""Owns how much a run sends: the sizes of its slices and how many rounds it takes.

Must not know what is measured with them.
On failure: nothing here can fail.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Sizes of a run."""

    rounds: int
    # A slice of 5,000 requests at 120 us is 0.6 s of CPU; the clock is exact to nanoseconds.
    requests: int
    single_requests: int
    large_requests: int
    # Streams of a slice, each of `chunks` content chunks.
    streams: int
    chunks: int
    open_streams: int
    memory_decisions: int
    # Keys that take turns where each has a budget of its own; fewer than `requests`, so that the warm-up meets all.
    budget_keys: int
    # Requests of the soak in a second, and for how long.
    soak_per_second: int
    soak_s: int


FULL = Scale(
    rounds=12,
    requests=5_000,
    single_requests=1_500,
    large_requests=400,
    streams=64,
    chunks=200,
    open_streams=2_000,
    memory_decisions=1_000_000,
    budget_keys=1_000,
    soak_per_second=100,
    soak_s=600,
)
# Seconds instead of minutes: shows that everything runs; its numbers are rough.
QUICK = Scale(
    rounds=2,
    requests=1_000,
    single_requests=300,
    large_requests=64,
    streams=16,
    chunks=50,
    open_streams=2_000,
    memory_decisions=20_000,
    budget_keys=200,
    soak_per_second=100,
    soak_s=30,
)
