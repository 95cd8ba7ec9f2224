"""Owns the requests of the bench: their lengths and when they come, from a seed.

Must not know what carries them.
On failure: nothing here can fail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.batch.lengths import Lengths
from forebay.lab import tensor_traffic

Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Workload:
    """Log-normal lengths in tokens; what falls outside `least` to `most` is drawn again.

    `median` 128 and `sigma` 1.0: half of the requests are longer than 128 tokens, one in six longer than 300. With it
    plain Triton serves 64 clients as fast as in the measurement that the bars were set by.
    """

    median: float = 128
    sigma: float = 1.0
    least: int = 4
    most: int = 512
    seed: int = 1

    def lengths(self, count: int) -> Lengths:
        """Lengths of `count` requests.

        Shape: int64 (count,).
        """
        drawn = tensor_traffic.lengths(self.seed, count, self.median, self.sigma, self.least, self.most)
        return np.array(drawn, np.int64)


def poisson_ns(count: int, per_s: float, seed: int) -> Times:
    """When `count` requests come, at a rate.

    Shape: int64 (count,), rising; nanoseconds from the start.
    """
    return np.rint(np.array(tensor_traffic.arrivals_s(seed, count, per_s)) * 1e9).astype(np.int64)
