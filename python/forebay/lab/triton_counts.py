"""What a Triton and its models counted themselves: rows and executions of a model, and what `writer` wrote.

Owns the asking. Must not know who sent the work.
A server that does not answer raises `tritonclient`'s InferenceServerException.
"""

from __future__ import annotations

import json
import queue
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Executions", "WriterCounts", "executions", "writer_counts"]

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Executions:
    """Of one model, since its server started. `compute_ns`: the time inside the model, all executions together."""

    rows: int
    executions: int
    compute_ns: int

    def since(self, before: Executions) -> Executions:
        """What came after `before`."""
        return Executions(
            self.rows - before.rows, self.executions - before.executions, self.compute_ns - before.compute_ns
        )

    @property
    def mean_rows(self) -> float:
        """Rows that ran together, on average."""
        return self.rows / self.executions if self.executions else 0.0


@dataclass(frozen=True, slots=True)
class WriterCounts:
    """What the model `writer` did; `words` include those of requests that were cancelled."""

    started: int
    finished: int
    cancelled: int
    refused: int
    failed: int
    words: int


def executions(grpc_address: str, model: str) -> Executions:
    """Asks a Triton for its statistics of a model."""
    import tritonclient.grpc as triton

    with triton.InferenceServerClient(grpc_address) as client:
        (statistics,) = client.get_inference_statistics(model).model_stats
    compute_ns = int(statistics.inference_stats.compute_infer.ns)
    return Executions(int(statistics.inference_count), int(statistics.execution_count), compute_ns)


def writer_counts(grpc_address: str) -> WriterCounts:
    """Asks the model `writer` what it has done; the asking itself is not counted."""
    import tritonclient.grpc as triton

    inputs = []
    for name, value in (("text_input", b"stats"), ("sampling_parameters", b'{"stats": true}')):
        tensor = triton.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(np.array([value], np.object_))
        inputs.append(tensor)
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    with triton.InferenceServerClient(grpc_address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("writer", inputs)
        result, error = answers.get(timeout=_TIMEOUT_S)
        client.stop_stream()
    if error is not None:
        raise error
    counts = json.loads(result.as_numpy("text_output")[0])
    return WriterCounts(**{name: int(counts.get(name, 0)) for name in WriterCounts.__dataclass_fields__})
