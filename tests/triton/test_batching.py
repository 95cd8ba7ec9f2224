"""An unchanged `tritonclient` against the batch service in front of a real Triton.

The service stands alone here, with a fixed table of ids instead of a decision; the whole way through Envoy is tested
beside Envoy. Rows carry their own check value, so that no answer can be another's unseen.
"""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from forebay._core import BatchServer
from forebay.batching import (
    BatchQueue,
    LaneSettings,
    ModelRules,
    ModelShape,
    PoolServers,
    RaggedInput,
    RaggedOutput,
    Sender,
    Serving,
)
from forebay.lab.model_repository import CostModel, ModelChoices
from forebay.lab.triton import TritonServer, running_triton

VENV = Path(os.environ.get("FOREBAY_TRITON_VENV", Path(__file__).parents[2] / ".venv-triton"))
ID = f"{11:032x}"
HEADERS = {"x-forebay-internal-id": ID}
WAIT_S = 20


@dataclass
class Service:
    """A batch service in front of one Triton, and a client of it."""

    queue: BatchQueue
    sender: Sender
    address: str
    client: Any

    def infer(self, model: str, arrays: dict[str, np.ndarray], **more: Any) -> Any:
        return self.client.infer(model, tensors(arrays), headers=HEADERS, **more)


def tensors(arrays: dict[str, np.ndarray]) -> list[Any]:
    made = []
    for name, array in arrays.items():
        tensor = triton_grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def check_of(row: list[np.ndarray]) -> int:
    """The check value that the model `identity` gives a row."""
    total = 0
    for item in row:
        data = b"".join(text + b"\0" for text in item) if item.dtype == object else item.tobytes()
        total = zlib.crc32(data, total)
    return total


def until(done: Callable[[], bool]) -> None:
    """Returns when `done` does so; what it looks at has no event of its own."""
    end = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        os.sched_yield()


@pytest.fixture(scope="module")
def triton() -> Iterator[TritonServer]:
    with running_triton(VENV, ("identity", "cost", "checked")) as server:
        yield server


CHECKED = ModelRules(
    ragged_inputs=(RaggedInput("input_ids", 0, 0.0),),
    ragged_outputs=(RaggedOutput("echo", 0),),
    mask_input="attention_mask",
)


@pytest.fixture
def service(triton: TritonServer) -> Iterator[Service]:
    with serving(triton.grpc_address) as service:
        yield service


@contextmanager
def serving(*addresses: str, rules: ModelRules = CHECKED) -> Iterator[Service]:
    """A batch service in front of these Tritons; `rules` are those of the model `checked`."""
    batches = BatchQueue()
    sender = Sender(batches, Serving({"pool": PoolServers(addresses)}, {("pool", "checked"): rules}))
    sender.start()
    front = BatchServer(batches, "127.0.0.1:0", {ID: "pool"})
    client = triton_grpc.InferenceServerClient(front.address)
    yield Service(batches, sender, front.address, client)
    client.close()
    sender.stop()
    front.stop()


def marked(service: Service, number: int) -> None:
    """Asks `checked` for rows of one length that only this number has, and proves that they came back."""
    random = np.random.default_rng(number)
    ids = random.integers(1, 30_000, (int(random.integers(1, 4)), int(random.integers(4, 200))), np.int64)
    answer = service.infer("checked", {"input_ids": ids})
    assert answer.as_numpy("check")[:, 0].tolist() == [zlib.crc32(row.tobytes()) for row in ids]
    assert answer.as_numpy("length")[:, 0].tolist() == [ids.shape[1]] * len(ids)
    assert (answer.as_numpy("echo") == ids).all()


def request_of(random: np.random.Generator, number: int) -> dict[str, np.ndarray]:
    """Rows of one of three forms, of different widths, all values marked with the request's number."""
    rows, width = int(random.integers(1, 5)), int(random.integers(1, 6))
    form = number % 3
    arrays: dict[str, np.ndarray] = {}
    if form in (0, 2):
        arrays["numbers"] = np.full((rows, width), number, np.int64) + np.arange(width)
    if form in (1, 2):
        words = [[b"%d" % number + b"x" * int(random.integers(0, 9)) for _ in range(width)] for _ in range(rows)]
        arrays["texts"] = np.array(words, dtype=np.object_)
    return arrays


def test_concurrent_clients_of_mixed_shapes_get_their_own_rows(service: Service) -> None:
    random = np.random.default_rng(3)
    requests = [request_of(random, number) for number in range(200)]

    def ask(number: int) -> None:
        arrays = requests[number]
        answer = service.infer("identity", arrays, request_id=f"r{number}")
        for name, array in arrays.items():
            assert (answer.as_numpy(f"echo_{name}") == array).all()
        rows = zip(*arrays.values(), strict=True)
        assert answer.as_numpy("check")[:, 0].tolist() == [check_of(list(row)) for row in rows]
        assert answer.get_response().id == f"r{number}"
        assert answer.get_response().model_name == "identity"

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(len(requests))))
    stats = service.queue.stats()
    assert (stats.requests, stats.in_flight) == (200, 0)
    assert stats.rows == sum(len(next(iter(each.values()))) for each in requests)


def test_requests_of_equal_shape_share_batches(service: Service) -> None:
    ids = np.arange(16, dtype=np.int64)

    def ask(number: int) -> int:
        answer = service.infer("cost", {"input_ids": (ids + number)[None]})
        assert answer.as_numpy("id_sum").tolist() == [[int((ids + number).sum())]]
        return int(answer.as_numpy("batch_rows")[0, 0])

    with ThreadPoolExecutor(32) as pool:
        batch_rows = list(pool.map(ask, range(256)))
    assert max(batch_rows) > 8
    assert service.queue.stats().batches < 128


def test_only_the_asked_outputs_come(service: Service) -> None:
    wanted = [triton_grpc.InferRequestedOutput("check")]
    answer = service.infer("identity", {"values": np.ones((2, 2), np.float32)}, outputs=wanted)
    assert [output.name for output in answer.get_response().outputs] == ["check"]
    assert answer.as_numpy("echo_values") is None


def test_large_tensors_pass(service: Service) -> None:
    values = np.random.default_rng(1).random((4, 2_000_000), np.float32)
    answer = service.infer("identity", {"values": values})
    assert (answer.as_numpy("echo_values") == values).all()


def test_the_other_calls_of_the_client_work(service: Service) -> None:
    client = service.client
    assert client.is_server_live(headers=HEADERS)
    assert client.is_server_ready(headers=HEADERS)
    assert client.is_model_ready("identity", headers=HEADERS)
    assert not client.is_model_ready("nowhere", headers=HEADERS)
    assert client.get_server_metadata(headers=HEADERS).name == "triton"
    assert client.get_model_metadata("cost", headers=HEADERS).inputs[0].name == "input_ids"
    assert client.get_model_config("cost", headers=HEADERS).config.max_batch_size == 64
    assert {model.name for model in client.get_model_repository_index(headers=HEADERS).models} == {
        "cost",
        "checked",
        "identity",
    }
    service.infer("cost", {"input_ids": np.ones((1, 1), np.int64)})
    (statistics,) = client.get_inference_statistics("cost", headers=HEADERS).model_stats
    assert statistics.inference_count >= 1


ONE = np.ones((1, 1), np.int64)


@pytest.mark.parametrize(
    ("model", "arrays", "words"),
    [
        ("cost", {"input_ids": ONE.astype(np.int32)}, "is INT32, but the model takes INT64"),
        ("cost", {"input_ids": ONE[0]}, r"shape \[1\], but the model takes `input_ids` INT64 \[1 to 64 rows, any\]"),
        ("cost", {"ids": ONE}, r"no input `ids`; it takes `input_ids` INT64 \[1 to 64 rows, any\]"),
        ("cost", {}, "`input_ids` is missing"),
        ("cost", {"input_ids": np.ones((0, 4), np.int64)}, "has no rows"),
        ("identity", {"numbers": ONE, "values": np.ones((2, 1), np.float32)}, "needs? the same"),
        ("identity", {}, r"has no input; the model takes `values` FP32 \[1 to 64 rows, any\] \(optional\)"),
        ("nowhere", {"input_ids": ONE}, "nowhere"),
    ],
)
def test_bad_input_is_told_what_the_model_takes(
    service: Service, model: str, arrays: dict[str, np.ndarray], words: str
) -> None:
    with pytest.raises(InferenceServerException, match=words):
        service.infer(model, arrays)
    service.infer("cost", {"input_ids": ONE})


def test_an_unknown_version_and_an_unknown_output_are_refused(service: Service) -> None:
    with pytest.raises(InferenceServerException, match="version"):
        service.infer("cost", {"input_ids": ONE}, model_version="9")
    with pytest.raises(InferenceServerException, match="no output `logits`; it has `id_sum`, `batch_rows`"):
        service.infer("cost", {"input_ids": ONE}, outputs=[triton_grpc.InferRequestedOutput("logits")])
    service.infer("cost", {"input_ids": ONE}, model_version="1")


def test_shared_memory_and_control_are_refused_clearly(service: Service) -> None:
    tensor = triton_grpc.InferInput("input_ids", [1, 1], "INT64")
    tensor.set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match="lies in shared memory"):
        service.client.infer("cost", [tensor], headers=HEADERS)
    with pytest.raises(InferenceServerException, match="not offered"):
        service.client.register_system_shared_memory("region", "/r", 8, headers=HEADERS)
    with pytest.raises(InferenceServerException, match="server's own settings"):
        service.client.unload_model("cost", headers=HEADERS)


def test_a_stream_is_passed_on(service: Service) -> None:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    service.client.start_stream(lambda result, error: answers.put(error or result), headers=HEADERS)
    for number in range(1, 4):
        service.client.async_stream_infer("cost", tensors({"input_ids": ONE * number}))
        assert answers.get(timeout=WAIT_S).as_numpy("id_sum").tolist() == [[number]]
    service.client.stop_stream()


def test_without_a_mark_nothing_is_read(service: Service) -> None:
    for headers in ({}, {"x-forebay-internal-id": "0" * 32}):
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            service.client.infer("cost", tensors({"input_ids": ONE}), headers=headers)


def test_requests_of_mixed_lengths_share_batches_and_get_their_own_rows(service: Service) -> None:
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda number: marked(service, number), range(300)))
    stats = service.queue.stats()
    assert stats.requests == 300
    assert stats.batches < 150


def test_more_rows_than_a_batch_has_are_answered_as_one(service: Service) -> None:
    ids = np.arange(130 * 4, dtype=np.int64).reshape(130, 4)
    answer = service.infer("cost", {"input_ids": ids})
    assert (answer.as_numpy("id_sum")[:, 0] == ids.sum(axis=1)).all()


def test_rules_that_do_not_fit_the_model_are_told(triton: TritonServer) -> None:
    for rules, words in [
        (ModelRules(ragged_inputs=(RaggedInput("ids", 0, 0.0),)), r"names input `ids`, but the model has `input_ids`"),
        (ModelRules(ragged_outputs=(RaggedOutput("check", 0),)), r"dimension 0 of output `check` is 1 in the model"),
        (ModelRules(max_batch_rows=65), r"`max_batch_rows` 65, but the model takes at most 64"),
    ]:
        with serving(triton.grpc_address, rules=rules) as one:
            with pytest.raises(InferenceServerException, match=f"FAILED_PRECONDITION.*{words}"):
                marked(one, 1)
            one.infer("cost", {"input_ids": ONE})


def outstanding(service: Service) -> list[str]:
    return [line for line in service.queue.metrics_text().splitlines() if line.startswith("forebay_endpoint_tokens{")]


def test_a_client_that_leaves_is_taken_out_of_the_queue() -> None:
    batches = BatchQueue()
    shape = ModelShape([("input_ids", "INT64", [-1], "required")], ["id_sum"], max_batch_rows=64)
    batches.set_model("pool", "cost", "", shape, LaneSettings(instances=1, slots=1))
    front = BatchServer(batches, "127.0.0.1:0", {ID: "pool"})
    with socket.create_server(("127.0.0.1", 0)) as silent, triton_grpc.InferenceServerClient(front.address) as client:
        # The first request takes the only slot of a server that never answers, so that the second stays queued.
        batches.set_endpoints("pool", [(f"127.0.0.1:{silent.getsockname()[1]}", "", None, True)])
        client.async_infer("cost", tensors({"input_ids": ONE}), lambda *_: None, headers=HEADERS)
        until(lambda: batches.stats().in_flight == 1)
        call = client.async_infer("cost", tensors({"input_ids": ONE}), lambda *_: None, headers=HEADERS)
        until(lambda: batches.waiting("pool")[0] == 1)
        call.cancel()
        until(lambda: batches.stats().cancelled == 1)
        assert batches.waiting("pool") == (0, 0, 0, 0)
        assert batches.next(0) is None
    batches.close()
    front.stop()


def killed(server: TritonServer) -> Callable[[], None]:
    """Kills a Triton with all its processes. Returns what starts it again, at the same address."""
    process = Path("/proc") / str(server.pid)
    command = process.joinpath("cmdline").read_bytes().split(b"\0")[:-1]
    environment = dict(line.split(b"=", 1) for line in process.joinpath("environ").read_bytes().split(b"\0") if line)
    os.killpg(server.pid, signal.SIGKILL)

    def again() -> None:
        RESTARTED.append(
            subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )  # fmt: skip

    return again


RESTARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def _restarted_end() -> Iterator[None]:
    yield
    while RESTARTED:
        process = RESTARTED.pop()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_killed_triton_is_unavailable_and_is_used_again_when_it_is_back() -> None:
    with running_triton(VENV, ("cost",)) as server, serving(server.grpc_address) as one:
        one.infer("cost", {"input_ids": ONE})
        again = killed(server)
        for _ in range(3):
            with pytest.raises(InferenceServerException, match=r"UNAVAILABLE.*no server of pool `pool` is available"):
                one.infer("cost", {"input_ids": ONE})
        (endpoint,) = one.sender.endpoints()["pool"]
        until(lambda: endpoint.health.ready is False)
        again()
        until(lambda: endpoint.health.ready is True)
        one.infer("cost", {"input_ids": ONE})


def test_a_model_that_changed_while_its_triton_was_away_is_learned_anew() -> None:
    with running_triton(VENV, ("cost",)) as server, serving(server.grpc_address) as one:
        one.infer("cost", {"input_ids": ONE})
        config = Path(repository_of(server), "cost", "config.pbtxt")
        again = killed(server)
        text = config.read_text()
        assert "max_batch_size: 64" in text
        config.write_text(text.replace("max_batch_size: 64", "max_batch_size: 2"))
        (endpoint,) = one.sender.endpoints()["pool"]
        until(lambda: endpoint.health.ready is False)
        again()
        until(lambda: endpoint.health.ready is True)
        with pytest.raises(InferenceServerException, match="1 to 2 rows"):
            one.infer("cost", {"ids": ONE})
        one.infer("cost", {"input_ids": ONE})


def repository_of(server: TritonServer) -> str:
    command = Path("/proc", str(server.pid), "cmdline").read_bytes().split(b"\0")
    (argument,) = [part for part in command if part.startswith(b"--model-repository=")]
    return argument.partition(b"=")[2].decode()


def test_every_request_is_answered_or_told_to_come_again_when_one_of_two_tritons_dies() -> None:
    choices = ModelChoices(cost=CostModel())
    with (
        running_triton(VENV, ("checked",), choices) as first,
        running_triton(VENV, ("checked",), choices) as second,
        serving(first.grpc_address, second.grpc_address) as one,
    ):
        endpoints = one.sender.endpoints()["pool"]
        until(lambda: all(each.health.ready for each in endpoints))
        died, back = threading.Event(), threading.Event()

        def ask(number: int) -> bool:
            try:
                marked(one, number)
            except InferenceServerException as error:
                if "UNAVAILABLE" not in str(error):
                    raise
                return False
            return True

        def kill_and_restart() -> None:
            until(lambda: one.queue.stats().requests > 200)
            again = killed(first)
            until(lambda: endpoints[0].health.ready is False)
            died.set()
            again()
            until(lambda: endpoints[0].health.ready is True)
            back.set()

        with ThreadPoolExecutor(17) as pool:
            killing = pool.submit(kill_and_restart)
            answered, number = [], 0
            while not back.is_set() or number < 600:
                answered += pool.map(ask, range(number, number + 100))
                number += 100
                assert not killing.done() or killing.exception() is None
        killing.result()
        # A batch goes to the other server, so that hardly anybody notices; who does may come again.
        assert answered.count(False) <= 64
        assert one.queue.stats().resends > 0
        assert one.queue.stats().in_flight == 0
        assert {line.rpartition(" ")[2] for line in outstanding(one)} == {"0"}
        marked(one, number)


def test_every_request_in_flight_is_told_when_the_only_triton_dies() -> None:
    with running_triton(VENV, ("checked",)) as server, serving(server.grpc_address) as one:

        def ask(number: int) -> bool:
            if number == 100:
                os.killpg(server.pid, signal.SIGKILL)
            try:
                marked(one, number)
            except InferenceServerException as error:
                if "UNAVAILABLE" not in str(error):
                    raise
                return False
            return True

        with ThreadPoolExecutor(16) as pool:
            answered = list(pool.map(ask, range(200)))
        assert any(answered)
        assert not all(answered)


def test_tritons_own_times_are_read(service: Service) -> None:
    service.infer("cost", {"input_ids": ONE})
    until(lambda: any(model == "cost" for _, model in service.sender.observed.sums()))
