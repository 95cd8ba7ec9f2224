"""Takes time as a transformer does: a fixed part for each call and a part for each token that it gets.

Owns the delay. One call costs `call_us` plus `token_ns` for every token of every row, padding included: whoever pads,
pays. Requests of one call may have different lengths, where the configuration allows it (`ragged_cost`).
`id_sum` is the sum of a row's ids, so that a caller can tell that it got its own row back.
"""

from __future__ import annotations

import ctypes
import json
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

PR_SET_TIMERSLACK = 29
# A sleeper wakes up to a tenth of a millisecond late; so it wakes early and looks at the clock for the rest.
EARLY_NS = 100_000


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        self._call_us = int(parameters["call_us"]["string_value"])
        self._token_ns = int(parameters["token_ns"]["string_value"])
        # Linux may wake a sleeper 50 us late to save wake-ups; `execute` runs in this thread.
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)

    def execute(self, requests: list[Any]) -> list[Any]:
        begun_ns = time.monotonic_ns()
        inputs = [pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy() for request in requests]
        tokens = sum(array.size for array in inputs)
        rows = sum(len(array) for array in inputs)
        answers = [_answer(array, rows) for array in inputs]
        # Until a moment and not for a while: what was done above is part of the cost, not beside it.
        ends_ns = begun_ns + self._call_us * 1000 + tokens * self._token_ns
        time.sleep(max(0, ends_ns - EARLY_NS - time.monotonic_ns()) / 1e9)
        while time.monotonic_ns() < ends_ns:
            pass
        return answers


def _answer(array: Any, rows: int) -> Any:
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("id_sum", array.sum(axis=1, keepdims=True)),
            pb_utils.Tensor("batch_rows", np.full((len(array), 1), rows, np.int64)),
        ]
    )
