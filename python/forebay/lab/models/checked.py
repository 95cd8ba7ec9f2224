"""Tells what each row was, so that a test sees a row that came back to somebody else, was cut, or was padded wrongly.

Owns the marks: `check` is the CRC-32 of the row's ids under its mask, `length` the sum of its mask.
A row with the id -1 fails the whole call with INVALID_ARGUMENT, as a model does that checks its batch first.
"""

from __future__ import annotations

import json
import time
import zlib
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

POISON = -1


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        self._call_us = int(parameters["call_us"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        batch = [
            tuple(
                pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("input_ids", "attention_mask")
            )
            for request in requests
        ]
        time.sleep(self._call_us / 1e6)
        for ids, mask in batch:
            if ids.shape != mask.shape:
                return [_refusal(f"input_ids is {ids.shape}, but attention_mask is {mask.shape}")] * len(batch)
            if (ids == POISON).any():
                return [_refusal(f"a row has the id {POISON}")] * len(batch)
        rows = sum(len(ids) for ids, _ in batch)
        return [_answer(ids, mask, rows) for ids, mask in batch]


def _answer(ids: Any, mask: Any, rows: int) -> Any:
    count, length = ids.shape
    checks = [zlib.crc32(row[real == 1].tobytes()) for row, real in zip(ids, mask)]  # noqa: B905 - Python 3.9
    columns = {
        "check": np.array(checks, np.int64).reshape(count, 1),
        "length": mask.sum(axis=1, keepdims=True),
        "echo": ids,
        "batch_rows": np.full((count, 1), rows, np.int64),
        "padded_length": np.full((count, 1), length, np.int64),
    }
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in columns.items()])


def _refusal(message: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
