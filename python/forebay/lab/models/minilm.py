"""MiniLM-L6 sentence embeddings as a Triton model: token ids and mask in, unit vectors out.

Owns the conversion between Triton's tensors and the encoder. Must not tokenise.
A request that the encoder refuses gets its message; the others go on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from bert import Bert, read_safetensors  # type: ignore[import-not-found]


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        self._bert = Bert(read_safetensors(Path(parameters["weights"]["string_value"])))

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        input_ids = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy()
        attention_mask = pb_utils.get_input_tensor_by_name(request, "attention_mask").as_numpy()
        try:
            if input_ids.shape != attention_mask.shape:
                raise ValueError(f"input_ids is {input_ids.shape}, but attention_mask is {attention_mask.shape}")
            vectors = self._bert.embed(input_ids, attention_mask)
        except ValueError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
        return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", vectors)])
