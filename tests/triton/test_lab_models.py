"""The lab's models on a real Triton do what benches and tests rest on: their cost, their marks, their streams."""

from __future__ import annotations

import json
import os
import queue
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from forebay.lab.model_repository import MODELS, CostModel, ModelChoices
from forebay.lab.tensor_traffic import lengths, token_ids
from forebay.lab.triton import TritonServer, running_triton
from forebay.lab.triton_counts import Executions, executions, writer_counts
from forebay.lab.triton_install import find_install
from forebay.lab.wordpiece import WordPiece

VENV = Path(os.environ.get("FOREBAY_TRITON_VENV", Path(__file__).parents[2] / ".venv-triton"))
WAIT_S = 20
CALL_US, TOKEN_NS = 4000, 2000
# Long enough that all requests of a test are there before Triton's own batcher stops waiting.
CHOICES = ModelChoices(cost=CostModel(CALL_US, TOKEN_NS), control_queue_delay_us=300_000, checked_call_us=0)


@pytest.fixture(scope="module")
def triton() -> Iterator[TritonServer]:
    with running_triton(VENV, MODELS, CHOICES) as server:
        yield server


@pytest.fixture(scope="module")
def client(triton: TritonServer) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(triton.grpc_address) as opened:
        yield opened


def tensors(**arrays: Any) -> list[Any]:
    made = []
    for name, value in arrays.items():
        array = np.asarray(value)
        tensor = triton_grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def at_once(client: Any, model: str, rows: list[dict[str, Any]]) -> list[Any]:
    """Sends all and then reads all; the answers in the order of the rows."""
    answers: queue.SimpleQueue[tuple[int, Any, Any]] = queue.SimpleQueue()
    for number, row in enumerate(rows):
        client.async_infer(model, tensors(**row), lambda result, error, n=number: answers.put((n, result, error)))
    found = sorted((answers.get(timeout=WAIT_S) for _ in rows), key=lambda answer: answer[0])
    assert [error for _, _, error in found if error] == []
    return [result for _, result, _ in found]


def counted(triton: TritonServer, model: str, before: Executions, rows: int) -> Executions:
    """What the model did since, once these rows are counted: a server answers first and counts then."""
    end = time.monotonic() + WAIT_S
    while (done := executions(triton.grpc_address, model).since(before)).rows < rows:
        assert time.monotonic() < end, done
    return done


@pytest.mark.parametrize("model", ["cost", "queued_cost", "ragged_cost"])
def test_a_call_costs_no_less_than_was_agreed(triton: TritonServer, client: Any, model: str) -> None:
    rows, length = 16, 256
    before = executions(triton.grpc_address, model)
    client.infer(model, tensors(input_ids=np.ones((rows, length), np.int64)))
    done = counted(triton, model, before, rows)
    assert (done.rows, done.executions) == (rows, 1)
    assert done.compute_ns >= CALL_US * 1000 + rows * length * TOKEN_NS


def test_ragged_requests_of_all_lengths_run_as_one_and_pay_for_what_is_real(triton: TritonServer, client: Any) -> None:
    sizes = lengths(3, 64, median=32, sigma=1.0)
    rows = [{"input_ids": token_ids(3, number, size)} for number, size in enumerate(sizes)]
    before = executions(triton.grpc_address, "ragged_cost")
    answers = at_once(client, "ragged_cost", rows)
    done = counted(triton, "ragged_cost", before, 64)
    assert (done.rows, done.executions) == (64, 1)
    assert {int(answer.as_numpy("batch_rows")[0, 0]) for answer in answers} == {64}
    assert [answer.as_numpy("id_sum").item() for answer in answers] == [int(row["input_ids"].sum()) for row in rows]
    assert done.compute_ns >= CALL_US * 1000 + sum(sizes) * TOKEN_NS
    assert sum(sizes) < max(sizes) * 64


def test_triton_alone_does_not_put_lengths_together(triton: TritonServer, client: Any) -> None:
    before = executions(triton.grpc_address, "queued_cost")
    at_once(client, "queued_cost", [{"input_ids": token_ids(4, size, size)} for size in range(4, 36)])
    done = counted(triton, "queued_cost", before, 32)
    assert (done.rows, done.executions) == (32, 32)
    before = executions(triton.grpc_address, "queued_cost")
    at_once(client, "queued_cost", [{"input_ids": token_ids(4, number, 16)} for number in range(64)])
    assert counted(triton, "queued_cost", before, 64).executions == 1


def test_checked_marks_what_is_real_of_each_row(client: Any) -> None:
    ids = np.array([[5, 6, 7, 0], [9, 8, 0, 0]])
    mask = (ids > 0).astype(np.int64)
    answer = client.infer("checked", tensors(input_ids=ids, attention_mask=mask))
    marks = [zlib.crc32(np.array(row, np.int64).tobytes()) for row in ([5, 6, 7], [9, 8])]
    assert answer.as_numpy("check").tolist() == [[mark] for mark in marks]
    assert answer.as_numpy("length").tolist() == [[3], [2]]
    assert (answer.as_numpy("echo") == ids).all()
    assert answer.as_numpy("padded_length").tolist() == [[4], [4]]
    assert answer.as_numpy("batch_rows").tolist() == [[2], [2]]


def test_checked_refuses_a_batch_with_one_bad_row(client: Any) -> None:
    ids = np.array([[5, 6], [7, -1]])
    with pytest.raises(InferenceServerException, match="has the id -1") as refused:
        client.infer("checked", tensors(input_ids=ids, attention_mask=np.ones_like(ids)))
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_minilm_runs_requests_of_equal_length_as_one_batch(triton: TritonServer, client: Any) -> None:
    ids = [token_ids(5, number, 12) for number in range(64)]
    alone = client.infer("minilm", tensors(input_ids=ids[7], attention_mask=np.ones_like(ids[7])))
    before = executions(triton.grpc_address, "queued_minilm")
    together = at_once(
        client, "queued_minilm", [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in ids]
    )
    assert executions(triton.grpc_address, "queued_minilm").since(before).executions == 1
    assert np.abs(together[7].as_numpy("embedding") - alone.as_numpy("embedding")).max() < 1e-5


def test_the_encoder_gives_the_vectors_of_minilm(client: Any) -> None:
    texts = ["How do I freeze my card?", "Größe 水", "", "cancel " * 300]
    batch = WordPiece(find_install(VENV).minilm / "vocab.txt").batch(texts)
    expected = client.infer("minilm", tensors(input_ids=batch.input_ids, attention_mask=batch.attention_mask))
    column = np.array([[text.encode()] for text in texts], np.object_)
    answer = client.infer("encoder", tensors(text=column))
    assert np.abs(answer.as_numpy("embedding") - expected.as_numpy("embedding")).max() < 1e-5


class Stream:
    """A stream to `writer`."""

    def __init__(self, address: str) -> None:
        self._client = triton_grpc.InferenceServerClient(address)
        self._answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))

    def ask(self, prompt: str, sampling: dict[str, Any], **more: bool) -> None:
        arrays: dict[str, Any] = {
            "text_input": np.array([prompt.encode()], np.object_),
            "sampling_parameters": np.array([json.dumps(sampling).encode()], np.object_),
            **{name: np.array([value]) for name, value in more.items()},
        }
        self._client.async_stream_infer("writer", tensors(**arrays), enable_empty_final_response=True)

    def read(self) -> tuple[dict[str, Any], bool]:
        result, error = self._answers.get(timeout=WAIT_S)
        if error is not None:
            raise error
        response = result.get_response()
        outputs = {output.name: result.as_numpy(output.name)[0] for output in response.outputs}
        return outputs, response.parameters["triton_final_response"].bool_param

    def rest(self) -> list[dict[str, Any]]:
        found = []
        last = False
        while not last:
            outputs, last = self.read()
            found.append(outputs)
        return found

    def leave(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


@pytest.fixture
def stream(triton: TritonServer) -> Iterator[Stream]:
    opened = Stream(triton.grpc_address)
    yield opened
    opened.leave()


def text_of(answers: list[dict[str, Any]]) -> str:
    return b"".join(answer["text_output"] for answer in answers).decode()


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        os.sched_yield()


def test_the_writer_gives_a_word_a_response_and_says_why_it_ended(stream: Stream) -> None:
    stream.ask("What is a forebay?", {"max_tokens": 50}, stream=True)
    answers = stream.rest()
    assert len(answers) == 50
    assert [answer["finish_reason"] for answer in answers] == [b"None"] * 49 + [b"length"]
    assert [int(answer["num_output_tokens"]) for answer in answers] == [1] * 50
    said = text_of(answers)
    assert len(said.split()) == 50
    stream.ask("What is a forebay?", {"max_tokens": 50}, exclude_input_in_output=True)
    (whole,) = stream.rest()
    assert (whole["text_output"].decode(), int(whole["num_output_tokens"])) == (said, 50)
    stream.ask("What is a forebay?", {"max_tokens": 50})
    assert stream.read()[0]["text_output"].decode() == "What is a forebay?" + said


def test_the_writer_stops_at_a_stop_text(stream: Stream) -> None:
    stream.ask("hi", {"max_tokens": 12}, stream=True, return_finish_reason=False, return_num_output_tokens=False)
    answers = stream.rest()
    assert {tuple(answer) for answer in answers} == {("text_output",)}
    said = text_of(answers)
    stop = said.split()[5]
    stream.ask("hi", {"max_tokens": 12, "stop": [stop]}, stream=True)
    stopped = stream.rest()
    assert text_of(stopped) == said[: said.index(stop)]
    assert stopped[-1]["finish_reason"] == b"stop"


@pytest.mark.parametrize(
    ("sampling", "words"), [({"max_tokens": 0}, "must be at least 1, not 0"), ({"fail_after": 2}, "the model failed")]
)
def test_the_writer_says_what_went_wrong(stream: Stream, sampling: dict[str, Any], words: str) -> None:
    stream.ask("hi", sampling, stream=True)
    with pytest.raises(InferenceServerException, match=words):
        stream.rest()


def test_a_writer_whose_client_left_stops_and_counts_it(triton: TritonServer) -> None:
    before = writer_counts(triton.grpc_address)
    leaving = Stream(triton.grpc_address)
    leaving.ask("hi", {"max_tokens": 1_000_000}, stream=True)
    for _ in range(5):
        leaving.read()
    leaving.leave()
    until(lambda: writer_counts(triton.grpc_address).cancelled == before.cancelled + 1)
    after = writer_counts(triton.grpc_address)
    assert (after.started, after.finished) == (before.started + 1, before.finished)
    assert 5 <= after.words - before.words < 1_000_000
