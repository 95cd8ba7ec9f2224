"""Owns forebay's own assembler as a policy of a virtual run: what its decisions alone cost, without any overhead.

Must not know how it decides.
On failure: `BatchRefused` when its queue is full.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bench.batch.cost import CostModel
from bench.batch.virtual import Batch
from forebay._core import AssembledBatch, BatchAssembler, LaneSettings, ModelShape


@dataclass(frozen=True)
class _Running(Batch):
    """A batch with what ends it."""

    assembled: AssembledBatch


@dataclass
class OwnAssembler:
    """`forebay._core.BatchAssembler` over the bench's model, with one batch more in flight than instances."""

    cost: CostModel
    instances: int = 1
    _assembler: BatchAssembler = field(init=False)
    _requests: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = ModelShape(
            [("input_ids", "INT64", [-1], "required")],
            ["id_sum"],
            max_batch_rows=self.cost.max_rows,
            ragged_inputs=[("input_ids", 0, 0.0)],
        )
        settings = LaneSettings(instances=self.instances, slots=self.instances + 1)
        self._assembler = BatchAssembler(shape, settings)

    def arrive(self, request: int, length: int, now_ns: int) -> None:
        tensor: tuple[Any, ...] = ("input_ids", "INT64", [1, length], bytes(8 * length))
        self._requests[self._assembler.push([tensor], now_ns)] = request

    def take(self, now_ns: int) -> Batch | None:
        assembled = self._assembler.take(now_ns)
        if assembled is None:
            return None
        return _Running([self._requests.pop(ticket) for ticket in assembled.tickets], assembled.length, assembled)

    def ended(self, batch: Batch, now_ns: int) -> None:
        assert isinstance(batch, _Running)
        rows = len(batch.requests)
        batch.assembled.split([("id_sum", "INT8", [rows], bytes(rows))], now_ns)

    def wake_at_ns(self, now_ns: int) -> int | None:
        return self._assembler.wake_at_ns(now_ns)
