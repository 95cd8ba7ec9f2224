"""Owns the cheapest way to cut waiting requests into batches, where all of them were sent at once.

Must not know which batch goes first, or when.
On failure: nothing here can fail.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.batch.cost import CostModel


def cheapest(lengths: Sequence[int], cost: CostModel) -> list[int]:
    """Cuts sorted lengths into runs with the least sum of call times.

    Some cheapest partition has runs of the sorted lengths only: two batches whose lengths overlap can swap rows until
    they do not, and neither gets longer.

    Shape: `lengths` rise.
    Returns: where each batch ends, rising; the last end is `len(lengths)`.
    Cost: `len(lengths)` times `max_rows`.

    >>> cheapest([10, 10, 500, 500], CostModel(call_ns=100_000, token_ns=1_000))
    [2, 4]
    """
    count = len(lengths)
    best = [0] * (count + 1)
    starts = [0] * (count + 1)
    call, token, most = cost.call_ns, cost.token_ns, cost.max_rows
    for end in range(1, count + 1):
        row_ns = lengths[end - 1] * token
        # From the nearest start outwards, so that of equal partitions the one with more batches' rows together wins.
        least, least_start, taken = -1, 0, 0
        for start in range(end - 1, max(end - most, 0) - 1, -1):
            taken += row_ns
            total = best[start] + taken
            if least < 0 or total <= least:
                least, least_start = total, start
        best[end] = least + call
        starts[end] = least_start
    ends = []
    end = count
    while end:
        ends.append(end)
        end = starts[end]
    return ends[::-1]
