"""MiniLM-L6 as a Triton model that takes texts: it has its tokenizer inside.

Owns the conversion between Triton's tensors, the tokenizer and the encoder.
Texts of one call are padded to the longest of them; a longer text than the model takes is cut.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from bert import Bert, read_safetensors  # type: ignore[import-not-found]
from wordpiece import WordPiece  # type: ignore[import-not-found]


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        self._bert = Bert(read_safetensors(Path(parameters["weights"]["string_value"])))
        self._tokenizer = WordPiece(Path(parameters["vocabulary"]["string_value"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        texts = [pb_utils.get_input_tensor_by_name(request, "text").as_numpy()[:, 0] for request in requests]
        batch = self._tokenizer.batch([text.decode(errors="replace") for text in np.concatenate(texts)])
        vectors = self._bert.embed(batch.input_ids, batch.attention_mask)
        ends = np.cumsum([len(each) for each in texts])[:-1]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("embedding", part)]) for part in np.split(vectors, ends)]
