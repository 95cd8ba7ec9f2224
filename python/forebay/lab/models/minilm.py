"""MiniLM-L6 sentence embeddings as a Triton model: token ids and mask in, unit vectors out.

Owns the conversion between Triton's tensors and the encoder. Must not tokenise.
Requests that Triton's batcher put together run as one batch. One that is refused gets its message; the others go on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from bert import Bert, read_safetensors  # type: ignore[import-not-found]


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        self._bert = Bert(read_safetensors(Path(parameters["weights"]["string_value"])))

    def execute(self, requests: list[Any]) -> list[Any]:
        answers: list[Any] = [None] * len(requests)
        # By length; Triton puts only equal shapes together, but a model should not rest on a setting.
        groups: dict[int, list[tuple[int, Any, Any]]] = {}
        for index, request in enumerate(requests):
            ids = pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy()
            mask = pb_utils.get_input_tensor_by_name(request, "attention_mask").as_numpy()
            try:
                if ids.shape != mask.shape:
                    raise ValueError(f"input_ids is {ids.shape}, but attention_mask is {mask.shape}")
                self._bert.check(ids)
            except ValueError as error:
                refusal = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
                answers[index] = pb_utils.InferenceResponse(error=refusal)
            else:
                groups.setdefault(ids.shape[1], []).append((index, ids, mask))
        for group in groups.values():
            numbers, ids, masks = zip(*group)  # noqa: B905 - Python 3.9
            vectors = self._bert.embed(np.concatenate(ids), np.concatenate(masks))
            ends = np.cumsum([len(each) for each in ids])[:-1]
            for number, part in zip(numbers, np.split(vectors, ends)):  # noqa: B905
                answers[number] = pb_utils.InferenceResponse([pb_utils.Tensor("embedding", part)])
        return answers
