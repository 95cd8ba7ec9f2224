"""Owns what clients send to one model: rows, how they are padded, the bytes, and whether an answer is theirs.

Must not know who serves it.
On failure: an answer with another request's value is a BenchError: a fast batcher that mixes rows up is worth nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.batch.lengths import Lengths, power_of_two
from bench.batch.messages import Array, decode, encode, wider
from bench.load.process import BenchError
from forebay.lab.tensor_traffic import token_ids

Rows = dict[str, Array]
Padding = Callable[[Rows], Rows]


def as_it_is(rows: Rows) -> Rows:
    """No padding by the client."""
    return rows


def to_power_of_two(rows: Rows) -> Rows:
    """Every input padded with zeros to the next power of two, as clients do that know of no batches."""
    return {name: wider(array, int(power_of_two(np.array(array.shape[1])))) for name, array in rows.items()}


def token_rows(lengths: Lengths, seed: int, rows: int = 1) -> list[Rows]:
    """Requests of token ids, all of them different."""
    flat = [token_ids(seed, number, rows * int(length)) for number, length in enumerate(lengths)]
    return [{"input_ids": ids.reshape(rows, -1)} for ids in flat]


@dataclass(frozen=True)
class Traffic:
    """Requests of one model as bytes, in their order.

    Shape: `tokens`, int64 (requests,), counts what is real; `padded` what the client made of it.
    """

    messages: list[bytes]
    tokens: npt.NDArray[np.int64]
    padded: npt.NDArray[np.int64]
    requests: list[Rows]

    @classmethod
    def of(cls, model: str, requests: Sequence[Rows], padding: Padding = as_it_is) -> Traffic:
        """Pads and encodes."""
        padded = [padding(rows) for rows in requests]
        return cls(
            [encode(model, rows) for rows in padded],
            np.array([rows["input_ids"].size for rows in requests]),
            np.array([rows["input_ids"].size for rows in padded]),
            list(requests),
        )

    def check_sums(self, messages: Sequence[int], answers: Sequence[bytes]) -> None:
        """Holds every answer's `id_sum` against its request; padding with zeros changes no sum.

        Raises: BenchError for an answer that belongs to another request.
        """
        for message, answer in zip(messages, answers, strict=True):
            sums = decode(answer)["id_sum"]
            expected = self.requests[message]["input_ids"].sum(axis=1, keepdims=True)
            if not np.array_equal(sums, expected):
                raise BenchError(f"request {message} was answered with {sums.tolist()}, but its sums are other")
