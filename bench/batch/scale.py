"""Owns how long a run sends: seconds of its slices and how many rounds it takes.

Must not know what is measured with them.
On failure: nothing here can fail.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Sizes of a run."""

    rounds: int
    # Of one slice, and how much of its beginning does not count.
    slice_s: float
    warm_s: float
    # With one client.
    single_s: float
    # Of the real model, which is slow.
    sentence_s: float
    sentences: int
    flood_s: float
    # Of each case of the assembler alone.
    assemble_s: float
    # Requests of a virtual run.
    virtual_requests: int


FULL = Scale(
    rounds=3,
    slice_s=6.0,
    warm_s=1.5,
    single_s=3.0,
    sentence_s=12.0,
    sentences=1_000,
    flood_s=8.0,
    assemble_s=1.0,
    virtual_requests=12_000,
)
# Two minutes: shows that everything runs; its numbers are rough.
QUICK = Scale(
    rounds=1,
    slice_s=3.0,
    warm_s=1.0,
    single_s=1.5,
    sentence_s=6.0,
    sentences=300,
    flood_s=4.0,
    assemble_s=0.3,
    virtual_requests=6_000,
)
