"""What a person says about a model's tensors, beside what its server says.

Owns the form of it. Must not know where it is written. On failure: not applicable.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RaggedInput:
    """An input with a dimension that differs between requests.

    `dim` 0: the first one behind the rows. `pad` 0.0: what it is padded with.
    """

    name: str
    dim: int
    pad: float


@dataclass(frozen=True, slots=True)
class RaggedOutput:
    """An output that has the padded dimension, and is cut back."""

    name: str
    dim: int


@dataclass(frozen=True, slots=True)
class ModelRules:
    """What is chosen for one model; what is 0 or empty is left to the server's own configuration.

    `max_batch_rows` 32: no batch has more rows. `instances` 2: one server runs two batches at once.
    `max_padded_tokens` 16384: rows times padded length of one batch. `preferred_rows` (8, 32): where a batch is cut.
    `length_classes` (32, 128, 512): what lengths are padded to; empty: learned, at most `max_length_classes`.
    `resends` 1: a batch whose server failed is sent once more, to another one; 0: never.
    """

    ragged_inputs: tuple[RaggedInput, ...] = ()
    ragged_outputs: tuple[RaggedOutput, ...] = ()
    mask_input: str = ""
    max_batch_rows: int = 0
    instances: int = 0
    max_padded_tokens: int = 0
    preferred_rows: tuple[int, ...] = ()
    length_classes: tuple[int, ...] = ()
    max_length_classes: int = 32
    resends: int = 1


DEFAULT_RULES = ModelRules()
