"""A BERT encoder's forward pass in numpy, and the reader for its safetensors weights.

Owns the arithmetic. Must not know Triton or text: it takes token ids. float32 throughout.
A file or a length that does not fit raises ValueError.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

HEADS = 12
LAYER_NORM_EPSILON = np.float32(1e-12)
_MASKED = np.float32(-1e9)


def read_safetensors(path: Path) -> dict[str, Array]:
    """All float32 and int64 tensors of a file.

    Source: the safetensors format: 8 bytes of header length, a JSON header with offsets, then the data.
    """
    data = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<Q", data)
    if header_bytes > len(data) - 8:
        raise ValueError(f"`{path}` is not a safetensors file")
    header = json.loads(data[8 : 8 + header_bytes])
    kinds = {"F32": "<f4", "I64": "<i8"}
    tensors: dict[str, Array] = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in kinds:
            begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
            kind = np.dtype(kinds[entry["dtype"]])
            flat = np.frombuffer(data, kind, (end - begin) // kind.itemsize, begin)
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


class Bert:
    """A BERT encoder with mean pooling and unit-length output, as the sentence-transformers models use it."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self._words = weights["embeddings.word_embeddings.weight"]
        self._positions = weights["embeddings.position_embeddings.weight"]
        self._type = weights["embeddings.token_type_embeddings.weight"][0]
        self._norm = _norm_of(weights, "embeddings.LayerNorm")
        count = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
        self._layers = [_Layer(weights, f"encoder.layer.{index}.") for index in range(count)]

    @property
    def max_length(self) -> int:
        """The longest sequence, in tokens."""
        return int(self._positions.shape[0])

    def check(self, input_ids: Array) -> None:
        """Raises ValueError when the sequence is too long or an id is not in the vocabulary."""
        length = input_ids.shape[1]
        if length > self.max_length:
            raise ValueError(f"{length} tokens, but the model takes at most {self.max_length}")
        if input_ids.size and (input_ids.min() < 0 or input_ids.max() >= len(self._words)):
            raise ValueError(f"a token id is outside 0..{len(self._words) - 1}")

    def embed(self, input_ids: Array, attention_mask: Array) -> Array:
        """Sentence vectors.

        Shape: both int64 (rows, length); mask 1 for a token, 0 for padding, at least one token a row.
        Returns: float32 (rows, width), unit norm. Padding changes no value beyond rounding.
        Raises: ValueError as `check` does.
        """
        self.check(input_ids)
        states = self._words[input_ids] + self._positions[: input_ids.shape[1]] + self._type
        states = _layer_norm(states, self._norm)
        masked = np.where(attention_mask[:, None, None, :] == 1, np.float32(0), _MASKED)
        for layer in self._layers:
            states = layer.forward(states, masked)
        mask = attention_mask[:, :, None].astype(np.float32)
        pooled = (states * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), np.float32(1e-9))
        unit: Array = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), np.float32(1e-12))
        return unit.astype(np.float32)


class _Layer:
    def __init__(self, weights: dict[str, Array], prefix: str) -> None:
        def linear(name: str) -> tuple[Array, Array]:
            return np.ascontiguousarray(weights[f"{prefix}{name}.weight"].T), weights[f"{prefix}{name}.bias"]

        parts = [linear(f"attention.self.{name}") for name in ("query", "key", "value")]
        self._qkv = np.concatenate([part[0] for part in parts], axis=1), np.concatenate([part[1] for part in parts])
        self._out = linear("attention.output.dense")
        self._out_norm = _norm_of(weights, f"{prefix}attention.output.LayerNorm")
        self._up = linear("intermediate.dense")
        self._down = linear("output.dense")
        self._down_norm = _norm_of(weights, f"{prefix}output.LayerNorm")

    def forward(self, states: Array, masked: Array) -> Array:
        """Shape: states float32 (rows, length, width); masked float32 (rows, 1, 1, length)."""
        rows, length, width = states.shape
        # All tokens of all rows are one matrix, so that the weights are read once; numpy would loop over the rows.
        states = states.reshape(rows * length, width)
        qkv = (states @ self._qkv[0] + self._qkv[1]).reshape(rows, length, 3, HEADS, width // HEADS)
        query, key, value = qkv.transpose(2, 0, 3, 1, 4)
        scores = query @ key.transpose(0, 1, 3, 2) * np.float32((width // HEADS) ** -0.5) + masked
        mixed = (_softmax(scores) @ value).transpose(0, 2, 1, 3).reshape(rows * length, width)
        states = _layer_norm(states + (mixed @ self._out[0] + self._out[1]), self._out_norm)
        inner = _gelu(states @ self._up[0] + self._up[1])
        states = _layer_norm(states + (inner @ self._down[0] + self._down[1]), self._down_norm)
        return states.reshape(rows, length, width)


def _norm_of(weights: dict[str, Array], name: str) -> tuple[Array, Array]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _layer_norm(states: Array, norm: tuple[Array, Array]) -> Array:
    centred = states - states.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    normed: Array = centred / np.sqrt(variance + LAYER_NORM_EPSILON) * norm[0] + norm[1]
    return normed


def _softmax(scores: Array) -> Array:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: Array = raised / raised.sum(axis=-1, keepdims=True)
    return shares


def _gelu(x: Array) -> Array:
    """The exact GELU, with erf to 1.5e-7 (Abramowitz and Stegun 7.1.26); numpy has no erf."""
    z = np.abs(x) * np.float32(0.7071067811865476)
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * z)
    poly = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly = (poly + np.float32(factor)) * t
    erf = np.copysign(np.float32(1) - poly * np.exp(-z * z), x)
    gelu: Array = np.float32(0.5) * x * (np.float32(1) + erf)
    return gelu
