"""Owns the requests as bytes: encoded before the clock starts, so that the generator only sends.

Must not know who sends them or when.
On failure: an answer that is no `ModelInferResponse` raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2

Array = npt.NDArray[Any]
_DATATYPES = {"int64": "INT64", "float32": "FP32"}
_DTYPES: dict[str, type[np.generic]] = {"INT64": np.int64, "FP32": np.float32}


def encode(model: str, arrays: Mapping[str, Array]) -> bytes:
    """One `ModelInferRequest`."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in arrays.items():
        request.inputs.add(name=name, datatype=_DATATYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return bytes(request.SerializeToString())


def decode(answer: bytes) -> dict[str, Array]:
    """The outputs of one `ModelInferResponse`."""
    response = service_pb2.ModelInferResponse.FromString(answer)
    pairs = zip(response.outputs, response.raw_output_contents, strict=True)
    return {out.name: np.frombuffer(raw, _DTYPES[out.datatype]).reshape(tuple(out.shape)) for out, raw in pairs}


def wider(array: Array, length: int) -> Array:
    """Rows padded with zeros at their ends."""
    return np.pad(array, ((0, 0), (0, length - array.shape[1])))
