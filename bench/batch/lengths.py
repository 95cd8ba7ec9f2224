"""Owns lengths as arrays, and what a client pads to that knows of no batches.

Must not know where lengths come from.
On failure: nothing here can fail.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.int64]


def power_of_two(lengths: Lengths) -> Lengths:
    """The next power of two of each length.

    >>> power_of_two(np.array([4, 5, 512])).tolist()
    [4, 8, 512]
    """
    return np.left_shift(1, np.ceil(np.log2(lengths)).astype(np.int64))
