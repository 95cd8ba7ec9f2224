"""Takes time as a transformer does: a fixed part for each call and a part for each padded token.

Owns the delay. One call costs `call_us` plus `token_ns` for every token of every row, padding included.
`id_sum` is the sum of a row's ids, so that a caller can tell that it got its own row back.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        self._call_us = int(parameters["call_us"]["string_value"])
        self._token_ns = int(parameters["token_ns"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        inputs = [pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy() for request in requests]
        padded_tokens = sum(array.size for array in inputs)
        time.sleep((self._call_us * 1000 + padded_tokens * self._token_ns) / 1e9)
        rows = sum(len(array) for array in inputs)
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor("id_sum", array.sum(axis=1, keepdims=True)),
                    pb_utils.Tensor("batch_rows", np.full((len(array), 1), rows, np.int64)),
                ]
            )
            for array in inputs
        ]
