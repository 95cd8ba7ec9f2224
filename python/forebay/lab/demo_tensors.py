"""Real sentences to MiniLM by several ways, straight to Triton and through the gateway, and the vectors compared.

Owns the tensor clients' side. Must not know how batches are assembled; Triton's and the gateway's own counters tell it.
An error of a client ends the comparison and is reported as its text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from forebay.lab import demo_sources as sources
from forebay.lab.demo_pass import Counts, Pass, Way, run_pass
from forebay.lab.tensor_traffic import sentences
from forebay.lab.triton_counts import executions
from forebay.lab.wordpiece import TokenBatch, WordPiece

__all__ = ["TensorResult", "TensorTarget", "compare"]

BY_TRITON = "Triton and its own batcher"
BY_FOREBAY = "forebay, tritonclient"
TEXTS_A_CALL = 4
TIMEOUT_S = 60.0
_MASKED = ("input_ids", "attention_mask")


@dataclass(frozen=True, slots=True)
class TensorTarget:
    """Where to send tensors, and how many.

    `triton_grpc` and `gateway_grpc`: `host:port`, the first straight to Triton. `base_url`: the gateway's, without a
    path. `key`: the client's. `vocabulary`: MiniLM's `vocab.txt`. `clients` 32 wait for an answer each.
    `costly_sentences` 512 go to the model that pretends a GPU's cost, from `costly_clients` 48.
    """

    triton_grpc: str
    gateway_grpc: str
    base_url: str
    admin_url: str
    vocabulary: Path
    key: str = field(repr=False)
    sentences: int = 96
    clients: int = 32
    costly_sentences: int = 512
    costly_clients: int = 48

    @property
    def headers(self) -> dict[str, str]:
        """What the gateway wants to see."""
        return {"authorization": f"Bearer {self.key}"}


@dataclass(frozen=True, slots=True)
class TensorResult:
    """The comparison; `error` is empty when every pass was complete.

    `passes` are of MiniLM, `costly` of the model `cost`. `differences`: of the vectors of each way through the gateway
    from those of single calls straight to Triton, the largest of any value, by the way's name.
    """

    shortest_tokens: int
    longest_tokens: int
    passes: list[Pass] = field(default_factory=list)
    costly: list[Pass] = field(default_factory=list)
    differences: dict[str, float] = field(default_factory=dict)
    wrong_sums: int = 0
    error: str = ""


async def compare(target: TensorTarget) -> TensorResult:
    """Runs every pass, one after the other."""
    import openai
    from tritonclient.utils import InferenceServerException

    tokenizer = WordPiece(target.vocabulary)
    texts = sentences(max(target.sentences, target.costly_sentences))
    rows = [tokenizer.batch([text]) for text in texts]
    sizes = [row.input_ids.shape[1] for row in rows]
    result = TensorResult(min(sizes), max(sizes))
    try:
        await _vectors(target, result, texts[: target.sentences], rows[: target.sentences])
        wrong = await _costs(target, result, rows[: target.costly_sentences])
    except InferenceServerException as error:
        return replace(result, error=f"{error.status() or ''} {error.message()}".strip())
    except openai.APIError as error:
        return replace(result, error=error.message)
    except _OtherShapes as error:
        return replace(result, error=str(error))
    return replace(result, wrong_sums=wrong)


async def _vectors(target: TensorTarget, result: TensorResult, texts: list[str], rows: list[TokenBatch]) -> None:
    """MiniLM: alone as the truth, behind Triton's own batcher, through the gateway by either protocol."""
    import openai
    import tritonclient.grpc.aio as triton

    async with triton.InferenceServerClient(target.triton_grpc) as client:
        alone = Way("Triton, one call at a time", 1, _by_triton(target, "minilm"))
        send = await _opened(_Infer(client, _Question("minilm", _MASKED, "embedding")))
        done, expected = await run_pass(alone, rows, send)
        result.passes.append(done)
        queued = Way(BY_TRITON, target.clients, _by_triton(target, "queued_minilm"))
        send = await _opened(_Infer(client, _Question("queued_minilm", _MASKED, "embedding")))
        done, _ = await run_pass(queued, rows, send)
        result.passes.append(done)
    counts = _by_gateway(target, "minilm")
    async with triton.InferenceServerClient(target.gateway_grpc) as client:
        send = await _opened(_Infer(client, _Question("minilm", _MASKED, "embedding"), target.headers))
        done, received = await run_pass(Way(BY_FOREBAY, target.clients, counts), rows, send)
        result.passes.append(done)
        result.differences[done.way] = _difference(expected, received)
    async with openai.AsyncOpenAI(
        base_url=f"{target.base_url}/v1", api_key=target.key, max_retries=0, timeout=TIMEOUT_S
    ) as client:

        async def embed(part: list[str]) -> Any:
            answer = await client.embeddings.create(model="minilm", input=part)
            return np.array([item.embedding for item in answer.data], np.float32)

        await embed(["this opens the connection"])
        way = Way(f"forebay, openai, {TEXTS_A_CALL} a call", max(1, target.clients // TEXTS_A_CALL), counts)
        calls = [texts[at : at + TEXTS_A_CALL] for at in range(0, len(texts), TEXTS_A_CALL)]
        done, received = await run_pass(way, calls, embed)
        result.passes.append(done)
        result.differences[done.way] = _difference(expected, received)


async def _costs(target: TensorTarget, result: TensorResult, rows: list[TokenBatch]) -> int:
    """The same token ids to a model that costs as on a GPU. Returns how many got another's answer."""
    import tritonclient.grpc.aio as triton

    queued = Way(BY_TRITON, target.costly_clients, _by_triton(target, "queued_cost"))
    through = Way(BY_FOREBAY, target.costly_clients, _by_gateway(target, "cost"))
    headers: tuple[dict[str, str], ...] = ({}, target.headers)
    addresses, models = (target.triton_grpc, target.gateway_grpc), ("queued_cost", "cost")
    wrong = 0
    for way, address, model, sent in zip((queued, through), addresses, models, headers, strict=True):
        async with triton.InferenceServerClient(address) as client:
            send = await _opened(_Infer(client, _Question(model, ("input_ids",), "id_sum"), sent))
            done, sums = await run_pass(way, rows, send)
        result.costly.append(done)
        wrong += sum(int(found[0, 0]) != int(row.input_ids.sum()) for found, row in zip(sums, rows, strict=True))
    return wrong


@dataclass(frozen=True, slots=True)
class _Question:
    """What a model is asked: the inputs that are sent to it, and the output that is read."""

    model: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, slots=True)
class _Infer:
    """Sends one sentence at its own length."""

    client: Any
    question: _Question
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, row: TokenBatch) -> Any:
        from tritonclient.grpc import InferInput

        inputs = []
        for name in self.question.inputs:
            array = getattr(row, name)
            tensor = InferInput(name, list(array.shape), "INT64")
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        answer = await self.client.infer(
            self.question.model, inputs, headers=dict(self.headers), client_timeout=TIMEOUT_S
        )
        return answer.as_numpy(self.question.output)


async def _opened(send: _Infer) -> _Infer:
    """The same, behind a first call that opens the connection and warms the model."""
    one = np.ones((1, 1), np.int64)
    await send(TokenBatch(one, one))
    return send


def _by_triton(target: TensorTarget, model: str) -> Callable[[], Counts]:
    """Triton's own counts. It puts only equal shapes together, so nothing is padded."""

    def counts() -> Counts:
        done = executions(target.triton_grpc, model)
        return Counts(done.rows, done.executions)

    return counts


def _by_gateway(target: TensorTarget, model: str) -> Callable[[], Counts]:
    """Triton's counts of what ran, and the gateway's of what it padded."""

    def counts() -> Counts:
        done = executions(target.triton_grpc, model)
        metrics = sources.read_metrics(target.admin_url)
        tokens, padded = (
            sum(
                int(value)
                for labels, value in metrics.get(f"forebay_batch_{name}_total", ())
                if labels["model"] == model
            )
            for name in ("tokens", "padded_tokens")
        )
        return Counts(done.rows, done.executions, tokens, padded)

    return counts


def _difference(expected: list[Any], received: list[Any]) -> float:
    """The largest difference of any value. Raises _OtherShapes."""
    wanted, found = np.concatenate(expected), np.concatenate(received)
    if wanted.shape != found.shape:
        raise _OtherShapes(f"the gateway answered with {found.shape}, and Triton with {wanted.shape}")
    return float(np.abs(wanted - found).max())


class _OtherShapes(Exception):
    """Vectors that cannot be compared."""
