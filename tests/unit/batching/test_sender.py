"""The sender between a real queue and a real gRPC server whose answers the tests write."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from forebay._core import BatchServer
from forebay.batching import BatchQueue, ClientTls, ModelRules, PoolServers, RaggedInput, Sender, Serving

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
    """A server of one model, `echo`; `infer` is what it does, `config` how it is configured."""

    infer: Infer = echo
    config: str = ECHO
    ready: bool = True
    asked: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    rows: list[int] = field(default_factory=list)

    def ServerReady(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=self.ready)

    def ModelReady(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=request.name == "echo")

    def ModelStatistics(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        counts = service_pb2.ModelStatistics(name="echo", execution_count=len(self.rows))
        return service_pb2.ModelStatisticsResponse(model_stats=[counts])

    def ModelConfig(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
        if request.name != "echo":
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{request.name}'")
        self.asked.release()
        config = text_format.Parse(self.config, model_config_pb2.ModelConfig())
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


@contextmanager
def served(model: Model) -> Iterator[tuple[grpc.Server, str]]:
    """A server of the model, and its address."""
    server = grpc.server(futures.ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(model, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield server, f"127.0.0.1:{port}"
    server.stop(None)


@contextmanager
def sending(*models: Model, rules: dict[tuple[str, str], ModelRules] | None = None) -> Iterator[Service]:
    """A batch service in front of servers of these models; the first one is `service.model`."""
    with ExitStack() as stack:
        servers = [stack.enter_context(served(model)) for model in models]
        queue = BatchQueue()
        pools = {"pool": PoolServers(tuple(address for _, address in servers))}
        sender = Sender(queue, Serving(pools, rules or {}))
        sender.start()
        front = BatchServer(queue, "127.0.0.1:0", {ID: "pool"})
        with grpc.insecure_channel(front.address) as channel:
            yield Service(models[0], servers[0][0], queue, sender, service_pb2_grpc.GRPCInferenceServiceStub(channel))
        sender.stop(drain_ms=0)
        front.stop()


@pytest.fixture
def service() -> Iterator[Service]:
    with sending(Model()) as service:
        yield service


def until(done: Callable[[], bool]) -> None:
    """Returns when `done` does so; what it looks at has no event of its own."""
    end = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        os.sched_yield()


def ready(service: Service) -> list[bool | None]:
    return [each.health.ready for each in service.sender.endpoints()["pool"]]


def instances(service: Service) -> list[int]:
    return [each for _, each in service.sender.models.ready("pool", ("echo", ""))]


def code(call: grpc.Future) -> tuple[grpc.StatusCode, str]:
    error = call.exception(WAIT_S)
    assert isinstance(error, grpc.RpcError)
    return error.code(), error.details()


def test_a_model_is_learned_once_and_answers_come_back(service: Service) -> None:
    calls = [service.call(value) for value in range(30)]
    for value, call in enumerate(calls):
        assert call.result(WAIT_S).raw_output_contents == [value.to_bytes(4, "little") * 2]
    stats = service.queue.stats()
    assert service.sender.stats.learned == 1
    assert (stats.requests, stats.rows, stats.batches) == (30, 30, len(service.model.rows))


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
    assert service.queue.stats().in_flight <= 2  # one instance and one more
    leave.set()
    for value, call in enumerate(calls):
        assert call.result(WAIT_S).raw_output_contents == [value.to_bytes(4, "little") * 4]
    assert max(service.model.rows) == 8
    assert service.queue.stats().batches < 21


def test_an_error_of_the_server_is_passed_on_and_the_model_is_read_again(service: Service) -> None:
    def refuse(_: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the model says no")
        raise AssertionError

    service.call(1).result(WAIT_S)
    while service.model.asked.acquire(blocking=False):
        pass
    service.model.infer = refuse
    assert code(service.call(1)) == (grpc.StatusCode.INVALID_ARGUMENT, "the model says no")
    assert service.model.asked.acquire(timeout=WAIT_S), "a model that refused was not read again"
    assert code(service.call(1, model="nowhere")) == (grpc.StatusCode.NOT_FOUND, "unknown model 'nowhere'")
    assert service.queue.stats().failures == {"INVALID_ARGUMENT": 1, "NOT_FOUND": 1}


def test_models_of_the_policy_are_learned_before_anybody_asks() -> None:
    with sending(Model(), rules={("pool", "echo"): ModelRules()}) as service:
        until(lambda: service.sender.models.published("pool", ("echo", "")) is not None)
        service.call(1).result(WAIT_S)
        assert service.sender.stats.learned == 0


def test_a_changed_model_is_learned_anew(service: Service) -> None:
    service.call(1).result(WAIT_S)
    service.model.config = ECHO.replace('"x"', '"y"')

    def refuse(_: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unexpected inference input 'x'")
        raise AssertionError

    service.model.infer = refuse
    until(lambda: "it takes `y` INT32" in code(service.call(1))[1])


def test_rules_that_do_not_fit_are_told_to_clients_until_they_do() -> None:
    wrong = ModelRules(ragged_inputs=(RaggedInput("ids", 0, 0.0),))
    right = ModelRules(ragged_inputs=(RaggedInput("x", 0, 0.0),))
    with sending(Model(), rules={("pool", "echo"): wrong}) as service:
        status, words = code(service.call(1))
        assert status is grpc.StatusCode.FAILED_PRECONDITION
        assert words == (
            "model `echo` of pool `pool` is not served: the policy names input `ids`, but the model has `x` INT32 [any]"
        )
        assert service.sender.models.mismatches().keys() == {("pool", "echo")}
        service.sender.serve(Serving(service.sender.serving.pools, {("pool", "echo"): right}))
        service.call(1).result(WAIT_S)
        assert service.sender.models.mismatches() == {}


def away(_: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
    context.abort(grpc.StatusCode.UNAVAILABLE, "")
    raise AssertionError


def test_a_batch_whose_server_failed_is_answered_by_another() -> None:
    first, second = Model(infer=away), Model(infer=away)
    with sending(first, second) as service:
        until(lambda: ready(service) == [True, True])
        second.infer = echo
        for value in range(10):
            service.call(value).result(WAIT_S)
        assert service.queue.stats().failures == {}
        assert service.queue.stats().resends == len(first.rows)
        second.infer = away
        assert code(service.call(1))[0] is grpc.StatusCode.UNAVAILABLE


def test_a_model_that_must_not_see_a_request_twice_does_not() -> None:
    first, second = Model(infer=away), Model(infer=away)
    with sending(first, second, rules={("pool", "echo"): ModelRules(resends=0)}) as service:
        assert code(service.call(1))[0] is grpc.StatusCode.UNAVAILABLE
        assert (len(first.rows) + len(second.rows), service.queue.stats().resends) == (1, 0)


def test_a_server_that_is_not_ready_gets_nothing_and_counts_for_nothing() -> None:
    first, second = Model(), Model()
    with sending(first, second, rules={("pool", "echo"): ModelRules()}) as service:
        until(lambda: instances(service) == [1, 1])
        first.ready = False
        until(lambda: ready(service) == [False, True])
        until(lambda: instances(service) == [1])
        for value in range(10):
            service.call(value).result(WAIT_S)
        assert (len(first.rows), sum(second.rows)) == (0, 10)
        first.ready = True
        until(lambda: ready(service) == [True, True])


def served_datatype(service: Service) -> str | None:
    published = service.sender.models.published("pool", ("echo", ""))
    return published[0].declared.inputs[0].datatype if published else None


def test_a_server_whose_model_takes_other_tensors_gets_none_of_its_batches() -> None:
    first, second = Model(), Model(config=ECHO.replace("INT32", "INT64"), ready=False)
    with sending(first, second, rules={("pool", "echo"): ModelRules()}) as service:
        _, other = service.sender.endpoints()["pool"]
        # The one that is known first says what is served.
        until(lambda: served_datatype(service) == "INT32" and ready(service) == [True, False])
        second.ready = True
        until(lambda: other.health.unlike == {("echo", "")})
        for value in range(10):
            service.call(value).result(WAIT_S)
        assert (sum(first.rows), sum(second.rows)) == (10, 0)


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
    service.sender.serve(Serving({}))
    status, words = code(service.call(1))
    assert status is grpc.StatusCode.UNAVAILABLE
    assert "has no server" in words


def test_servers_are_replaced_while_it_runs(service: Service) -> None:
    service.call(1).result(WAIT_S)
    before = service.sender.serving
    service.sender.serve(Serving({"pool": PoolServers(("127.0.0.1:1",))}))
    assert code(service.call(1))[0] is grpc.StatusCode.UNAVAILABLE
    service.sender.serve(before)
    service.call(1).result(WAIT_S)


def test_what_is_in_flight_ends_on_a_server_that_was_taken_away(service: Service) -> None:
    service.call(0).result(WAIT_S)
    entered, leave = threading.Event(), threading.Event()

    def hold(request: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        entered.set()
        assert leave.wait(WAIT_S)
        return echo(request, context)

    service.model.infer = hold
    call = service.call(5)
    assert entered.wait(WAIT_S)
    service.sender.serve(Serving({}))
    leave.set()
    assert call.result(WAIT_S).raw_output_contents == [(5).to_bytes(4, "little") * 2]


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
    with pytest.raises(ValueError, match="32 hex digits"):
        BatchServer(queue, "127.0.0.1:0", {"7": "pool"})
    with pytest.raises(ValueError, match="no `host:port`"):
        BatchServer(queue, "nowhere", {})


def test_a_sender_whose_authority_cannot_be_read_does_not_start(tmp_path: Path) -> None:
    servers = {"pool": PoolServers(("127.0.0.1:1",), ClientTls(ca_file=tmp_path / "absent.pem"))}
    sender = Sender(BatchQueue(), Serving(servers))
    with pytest.raises(FileNotFoundError):
        sender.start()
    sender.stop()
    Sender(BatchQueue(), Serving(servers)).stop()
