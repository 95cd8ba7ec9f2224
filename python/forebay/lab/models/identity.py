"""Returns its inputs, a checksum of each row, and how many rows ran in one call.

Owns nothing but the echo. Any of the three inputs may be absent, not all.
`check` is the CRC-32 of the row's bytes in the order values, numbers, texts (each text followed by a zero byte).
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

INPUTS = ("values", "numbers", "texts")


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in INPUTS}
        arrays = {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}
        if not arrays:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"send at least one of {', '.join(INPUTS)}"))
        rows = len(next(iter(arrays.values())))
        check = np.zeros((rows, 1), np.int64)
        for row in range(rows):
            total = 0
            for array in arrays.values():
                item = array[row]
                data = b"".join(text + b"\0" for text in item) if item.dtype == object else item.tobytes()
                total = zlib.crc32(data, total)
            check[row] = total
        outputs = [pb_utils.Tensor(f"echo_{name}", array) for name, array in arrays.items()]
        outputs.append(pb_utils.Tensor("check", check))
        outputs.append(pb_utils.Tensor("batch_rows", np.full((rows, 1), rows, np.int64)))
        return pb_utils.InferenceResponse(outputs)
