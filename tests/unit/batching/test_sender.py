"""The sender between a real queue and a real gRPC server whose answers the tests write."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from forebay._core import BatchServer
from forebay.batching import BatchQueue, ClientTls, PoolServers, Sender

WAIT_S = 20
ID = f"{7:032x}"
ECHO = """
name: "echo" max_batch_size: 8
input [ { name: "x" data_type: TYPE_INT32 dims: [ -1 ] } ]
output [ { name: "x" data_type: TYPE_INT32 dims: [ -1 ] } ]
"""

Infer = Callable[[service_pb2.ModelInferRequest, grpc.ServicerContext], service_pb2.ModelInferResponse]


def echo(request: service_pb2.ModelInferRequest, _: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
    """Answers with the inputs."""
    outputs = [
        service_pb2.ModelInferResponse.InferOutputTensor(name=each.name, datatype=each.datatype, shape=each.shape)
        for each in request.inputs
    ]
    return service_pb2.ModelInferResponse(
        model_name=request.model_name, outputs=outputs, raw_output_contents=request.raw_input_contents
    )


@dataclass
class Model(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A server of one model, `echo`; `infer` is what it does."""

    infer: Infer = echo
    configs: int = 0
    rows: list[int] = field(default_factory=list)

    def ModelConfig(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        if request.name != "echo":
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{request.name}'")
        self.configs += 1
        config = text_format.Parse(ECHO, model_config_pb2.ModelConfig())
        return service_pb2.ModelConfigResponse(config=config)

    def ModelInfer(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        self.rows.append(request.inputs[0].shape[0])
        return self.infer(request, context)


@dataclass
class Service:
    """A model server, and a client's way to it through a batch service."""

    model: Model
    server: grpc.Server
    queue: BatchQueue
    sender: Sender
    stub: service_pb2_grpc.GRPCInferenceServiceStub

    def call(self, value: int, rows: int = 1, model: str = "echo", timeout: float = 20) -> grpc.Future:
        """Asks for rows of two times `value`, at once."""
        request = service_pb2.ModelInferRequest(
            model_name=model,
            inputs=[service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="INT32", shape=[rows, 2])],
            raw_input_contents=[value.to_bytes(4, "little") * rows * 2],
        )
        return self.stub.ModelInfer.future(request, timeout=timeout, metadata=[("x-forebay-internal-id", ID)])


@pytest.fixture
def service() -> Iterator[Service]:
    model = Model()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(model, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    queue = BatchQueue()
    sender = Sender(queue, {"pool": PoolServers((f"127.0.0.1:{port}",))})
    sender.start()
    front = BatchServer(queue, "127.0.0.1:0", {ID: "pool"})
    with grpc.insecure_channel(front.address) as channel:
        yield Service(model, server, queue, sender, service_pb2_grpc.GRPCInferenceServiceStub(channel))
    sender.stop(drain_ms=0)
    front.stop()
    server.stop(None)


def code(call: grpc.Future) -> tuple[grpc.StatusCode, str]:
    error = call.exception(WAIT_S)
    assert isinstance(error, grpc.RpcError)
    return error.code(), error.details()


def test_a_model_is_learned_once_and_answers_come_back(service: Service) -> None:
    calls = [service.call(value) for value in range(30)]
    for value, call in enumerate(calls):
        assert call.result(WAIT_S).raw_output_contents == [value.to_bytes(4, "little") * 2]
    stats = service.sender.stats
    assert service.model.configs == 1
    assert (stats.requests, stats.rows, stats.learned) == (30, 30, 1)
    assert stats.batches == len(service.model.rows)
    assert stats.mean_batch_rows == 30 / stats.batches


def test_requests_that_wait_share_a_batch_and_slots_are_bounded(service: Service) -> None:
    service.call(0).result(WAIT_S)
    entered, leave = threading.Semaphore(0), threading.Event()
    echo = service.model.infer

    def hold(request: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        entered.release()
        assert leave.wait(WAIT_S)
        return echo(request, context)

    service.model.infer = hold
    calls = [service.call(value, rows=2) for value in range(20)]
    assert entered.acquire(timeout=WAIT_S)
    assert entered.acquire(timeout=WAIT_S)
    assert service.queue.stats().in_flight == 2  # one instance and one more
    leave.set()
    for value, call in enumerate(calls):
        assert call.result(WAIT_S).raw_output_contents == [value.to_bytes(4, "little") * 4]
    assert max(service.model.rows) == 8
    assert service.sender.stats.batches < 21


def test_an_error_of_the_server_is_passed_on(service: Service) -> None:
    def refuse(_: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the model says no")
        raise AssertionError

    service.model.infer = refuse
    assert code(service.call(1)) == (grpc.StatusCode.INVALID_ARGUMENT, "the model says no")
    assert code(service.call(1)) == (grpc.StatusCode.INVALID_ARGUMENT, "the model says no")
    assert service.model.configs == 2, "a model that refused was not learned anew"
    assert code(service.call(1, model="nowhere")) == (grpc.StatusCode.NOT_FOUND, "unknown model 'nowhere'")
    assert service.sender.stats.failures == {"INVALID_ARGUMENT": 2, "NOT_FOUND": 1}


def test_a_server_that_is_away_is_unavailable_without_its_address(service: Service) -> None:
    service.call(1).result(WAIT_S)
    service.server.stop(None).wait(WAIT_S)
    for _ in range(2):
        status, words = code(service.call(1))
        assert status is grpc.StatusCode.UNAVAILABLE
        assert "127.0.0.1" not in words


def test_a_deadline_ends_the_wait(service: Service) -> None:
    service.call(0).result(WAIT_S)
    leave = threading.Event()

    def hold(request: service_pb2.ModelInferRequest, _: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        leave.wait(WAIT_S)
        return service_pb2.ModelInferResponse(model_name=request.model_name)

    service.model.infer = hold
    status, _ = code(service.call(1, timeout=0.1))
    leave.set()
    assert status is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_pool_without_servers_is_unavailable(service: Service) -> None:
    service.call(1).result(WAIT_S)
    service.sender.set_servers({})
    status, words = code(service.call(1))
    assert status is grpc.StatusCode.UNAVAILABLE
    assert "has no server" in words


def test_servers_are_replaced_while_it_runs(service: Service) -> None:
    service.call(1).result(WAIT_S)
    endpoint = next(iter(service.sender._pools.groups["pool"].endpoints))
    service.sender.set_servers({"pool": PoolServers(("127.0.0.1:1",))})
    assert code(service.call(1))[0] is grpc.StatusCode.UNAVAILABLE
    service.sender.set_servers({"pool": PoolServers((endpoint.address,))})
    service.call(1).result(WAIT_S)


def test_stopping_answers_what_waits_and_what_is_in_flight(service: Service) -> None:
    service.call(0).result(WAIT_S)
    entered, leave = threading.Event(), threading.Event()

    def hold(request: service_pb2.ModelInferRequest, _: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        entered.set()
        leave.wait(WAIT_S)
        return service_pb2.ModelInferResponse(model_name=request.model_name)

    service.model.infer = hold
    calls = [service.call(value, rows=8) for value in range(5)]
    assert entered.wait(WAIT_S)
    service.sender.stop(drain_ms=0)
    assert {code(call)[0] for call in calls} == {grpc.StatusCode.UNAVAILABLE}
    assert code(service.call(1))[0] is grpc.StatusCode.UNAVAILABLE
    leave.set()
    service.sender.stop()


def test_a_queue_without_a_sender_answers_when_it_closes() -> None:
    queue = BatchQueue()
    front = BatchServer(queue, "127.0.0.1:0", {})
    assert queue.next(1) is None
    queue.close()
    assert queue.closed
    assert queue.next(1) is None
    front.stop()
    front.stop()


def test_wrong_words_are_refused() -> None:
    queue = BatchQueue()
    with pytest.raises(ValueError, match="no gRPC error"):
        queue.fail(1, 0, "ok is no failure")
    assert not queue.fail(1, 14, "nobody waits for it")
    assert not queue.complete(1, b"")
    with pytest.raises(ValueError, match="32 hex digits"):
        BatchServer(queue, "127.0.0.1:0", {"7": "pool"})
    with pytest.raises(ValueError, match="no `host:port`"):
        BatchServer(queue, "nowhere", {})


def test_a_sender_whose_authority_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    servers = {"pool": PoolServers(("127.0.0.1:1",), ClientTls(ca_file=tmp_path / "absent.pem"))}
    sender = Sender(BatchQueue(), servers)
    with pytest.raises(FileNotFoundError):
        sender.start()
    sender.stop()
    Sender(BatchQueue(), servers).stop()
