"""Sends real sentences to MiniLM twice, straight to Triton and through the gateway, and compares the vectors.

Owns the tensor client's side. Must not know how batches are assembled; Triton's own counters say how large they were.
A gRPC error ends the comparison and is reported as its text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from forebay.lab.wordpiece import TokenBatch, WordPiece

MODEL = "minilm"
PAD_TO_TOKENS = 8


@dataclass(frozen=True, slots=True)
class TensorTarget:
    """Where to send tensors.

    `triton_grpc` and `gateway_grpc`: `host:port`, the first straight to Triton. `headers`: gRPC metadata for the
    gateway, such as the authorization. `vocabulary`: MiniLM's `vocab.txt`. `concurrency` 16 calls are in flight.
    """

    triton_grpc: str
    gateway_grpc: str
    vocabulary: Path
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    concurrency: int = 16
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over all sentences, one call each. `mean_batch_rows`: rows that Triton ran together, on average."""

    p50_ms: float
    p95_ms: float
    wall_s: float
    mean_batch_rows: float


@dataclass(frozen=True, slots=True)
class TensorResult:
    """The comparison; `error` is empty when both passes were complete."""

    sentences: int
    error: str = ""
    direct: Pass | None = None
    gateway: Pass | None = None
    max_abs_difference: float | None = None


async def compare(sentences: list[str], target: TensorTarget) -> TensorResult:
    """Embeds every sentence both ways."""
    import tritonclient.grpc.aio as triton
    from tritonclient.utils import InferenceServerException

    tokenizer = WordPiece(target.vocabulary)
    rows = [_padded(tokenizer.batch([sentence])) for sentence in sentences]
    async with triton.InferenceServerClient(target.triton_grpc) as straight:
        try:
            direct, expected = await _pass(straight, straight, rows, target, {})
            async with triton.InferenceServerClient(target.gateway_grpc) as client:
                gateway, received = await _pass(client, straight, rows, target, target.headers)
        except InferenceServerException as error:
            return TensorResult(len(sentences), f"{error.status() or ''} {error.message()}".strip())
    if any(a.shape != b.shape for a, b in zip(expected, received, strict=True)):
        return TensorResult(len(sentences), "the gateway answered with other shapes than Triton", direct, gateway)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(expected, received, strict=True))
    return TensorResult(len(sentences), "", direct, gateway, difference)


def _padded(batch: TokenBatch) -> TokenBatch:
    """Padded to a multiple of eight tokens, as clients do so that more requests have equal shapes."""
    missing = -batch.input_ids.shape[1] % PAD_TO_TOKENS
    wide = ((0, 0), (0, missing))
    return TokenBatch(np.pad(batch.input_ids, wide), np.pad(batch.attention_mask, wide))


async def _pass(
    client: Any, straight: Any, rows: list[TokenBatch], target: TensorTarget, headers: Mapping[str, str]
) -> tuple[Pass, list[Any]]:
    from tritonclient.grpc import InferInput

    vectors: list[Any] = [None] * len(rows)
    latencies_ms = [0.0] * len(rows)
    waiting: Iterator[tuple[int, TokenBatch]]

    async def worker() -> None:
        for index, row in waiting:
            inputs = []
            for name, array in (("input_ids", row.input_ids), ("attention_mask", row.attention_mask)):
                tensor = InferInput(name, list(array.shape), "INT64")
                tensor.set_data_from_numpy(array)
                inputs.append(tensor)
            begun = time.perf_counter()
            answer = await client.infer(MODEL, inputs, headers=dict(headers), client_timeout=target.timeout_s)
            latencies_ms[index] = (time.perf_counter() - begun) * 1e3
            vectors[index] = answer.as_numpy("embedding")

    waiting = iter([(0, rows[0])])
    await worker()  # opens the connection and warms the model, so that neither pass pays for it
    waiting = iter(enumerate(rows))
    before = await _counters(straight)
    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(target.concurrency)))
    wall_s = time.perf_counter() - begun
    after = await _counters(straight)
    executions = after[1] - before[1]
    p50, p95 = np.percentile(latencies_ms, (50, 95))
    return Pass(float(p50), float(p95), wall_s, (after[0] - before[0]) / executions if executions else 0.0), vectors


async def _counters(straight: Any) -> tuple[int, int]:
    """Rows inferred and executions so far, by Triton's own count."""
    statistics = await straight.get_inference_statistics(MODEL)
    model = statistics.model_stats[0]
    return int(model.inference_count), int(model.execution_count)
