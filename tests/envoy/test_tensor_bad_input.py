"""Wrong tensors through the whole chain: a clear error with what the model expects, and nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tensor_site import TensorSite, check_of, ids_of, inputs, refusal, secret_headers, tensor_site

MODELS = ("identity", "checked")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TensorSite]:
    with tensor_site(tmp_path_factory.mktemp("wrong"), MODELS) as site:
        yield site


@pytest.fixture(autouse=True)
def nothing_is_left(site: TensorSite) -> Iterator[None]:
    before = site.chain.held()
    yield
    site.chain.assert_quiet(before)


def ids(rows: int = 1, length: int = 3) -> np.ndarray:
    return np.arange(1, rows * length + 1, dtype=np.int64).reshape(rows, length)


def infer(site: TensorSite, arrays: dict[str, np.ndarray], model: str = "checked", **more: Any) -> Any:
    with site.grpc() as client:
        return client.infer(model, inputs(triton_grpc, arrays), headers=secret_headers(), **more)


def wrong(site: TensorSite, arrays: dict[str, np.ndarray], model: str = "checked", **more: Any) -> tuple[str, str]:
    error = refusal(lambda: infer(site, arrays, model, **more))
    return str(error.status()).removeprefix("StatusCode."), str(error.message())


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"input_ids": ids().astype(np.int32)}, ["`input_ids`", "INT32", "INT64"]),
        ({"input_ids": ids().astype(np.float32)}, ["`input_ids`", "FP32", "INT64"]),
        ({"input_ids": ids()[0]}, ["`input_ids`", "[3]", "any"]),
        ({"attention_mask": ids()}, ["`input_ids`", "missing"]),
        ({"input_ids": ids(), "more": ids()}, ["`more`", "`input_ids`"]),
        ({"input_ids": ids(0, 3)}, ["`input_ids`", "rows"]),
        ({"input_ids": ids(2, 3), "attention_mask": ids(1, 3)}, ["`attention_mask`", "rows"]),
    ],
)
def test_tensors_that_do_not_fit(site: TensorSite, arrays: dict[str, np.ndarray], words: list[str]) -> None:
    status, message = wrong(site, arrays)
    assert status == "INVALID_ARGUMENT"
    assert all(word in message for word in words), message


def test_models_and_versions_that_are_not_there(site: TensorSite) -> None:
    status, message = wrong(site, {"input_ids": ids()}, "nobody")
    assert status == "NOT_FOUND"
    assert "`nobody`" in message
    status, message = wrong(site, {"input_ids": ids()}, model_version="77")
    assert status in ("NOT_FOUND", "INVALID_ARGUMENT", "UNAVAILABLE")
    assert "77" in message
    assert infer(site, {"input_ids": ids()}).as_numpy("check")[0, 0] == check_of(ids())[0]


def test_outputs_that_are_not_there(site: TensorSite) -> None:
    status, message = wrong(site, {"input_ids": ids()}, outputs=[triton_grpc.InferRequestedOutput("vector")])
    assert status == "INVALID_ARGUMENT"
    assert "`vector`" in message
    assert "`check`" in message


def test_more_rows_than_a_batch_are_split_and_joined(site: TensorSite) -> None:
    arrays = ids_of(np.random.default_rng(1), 150, 20)
    answer = infer(site, arrays)
    assert answer.as_numpy("check")[:, 0].tolist() == check_of(arrays["input_ids"])
    assert (answer.as_numpy("echo") == arrays["input_ids"]).all()
    assert answer.as_numpy("batch_rows").max() <= 64


def test_one_bad_row_does_not_fail_its_neighbours(site: TensorSite) -> None:
    random = np.random.default_rng(2)
    good = [ids_of(random, 1, 30) for _ in range(40)]
    bad = {"input_ids": np.full((1, 30), -1, np.int64)}

    def ask(number: int) -> None:
        if number % 10 == 7:
            status, _ = wrong(site, bad)
            assert status == "INVALID_ARGUMENT"
        else:
            answer = infer(site, good[number])
            assert answer.as_numpy("check")[:, 0].tolist() == check_of(good[number]["input_ids"])

    results = site.chain.at_once([lambda n=n: ask(n) for n in range(40)])
    assert [result for result in results if result is not None] == []


def test_shared_memory_is_refused(site: TensorSite) -> None:
    tensor = triton_grpc.InferInput("input_ids", [1, 3], "INT64")
    tensor.set_shared_memory("region", 24)
    with site.grpc() as client:
        error = refusal(lambda: client.infer("checked", [tensor], headers=secret_headers()))
        assert "shared memory" in str(error.message())
        error = refusal(lambda: client.register_system_shared_memory("region", "/key", 24, headers=secret_headers()))
        assert "UNIMPLEMENTED" in str(error.status())


def test_large_tensors_pass_and_too_large_ones_are_refused(site: TensorSite) -> None:
    values = np.random.default_rng(3).random((1, 6 << 18), np.float32)  # 6 MiB, below the policy's bound of 8
    answer = infer(site, {"values": values}, "identity")
    assert (answer.as_numpy("echo_values") == values).all()
    status, message = wrong(site, {"values": np.zeros((1, 16 << 20), np.float32)}, "identity")  # 64 MiB
    assert status in ("OUT_OF_RANGE", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")
    assert message


def test_a_deadline_that_has_passed(site: TensorSite) -> None:
    status, _ = wrong(site, {"input_ids": ids()}, client_timeout=0.000_001)
    assert status == "DEADLINE_EXCEEDED"


def test_bytes_that_are_no_message(site: TensorSite) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{site.chain.ports.listen}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        metadata = tuple(secret_headers().items())
        for body in (b"\xff" * 40, b"\x0a", b"\x0a\x05ab"):
            with pytest.raises(grpc.RpcError) as caught:
                call(body, metadata=metadata, timeout=20)
            assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        short = service_pb2.ModelInferRequest(model_name="checked")
        short.inputs.add(name="input_ids", datatype="INT64", shape=[1, 3])
        short.raw_input_contents.append(b"\x00" * 23)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(short, metadata=metadata, timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "24 bytes" in str(caught.value.details())


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[]", ""),
        (b'{"inputs": []}', ""),
        (b'{"inputs": [{"name": "input_ids", "shape": [1, 2], "datatype": "INT64", "data": [1]}]}', "input_ids"),
        (b'{"inputs": [{"name": "input_ids", "shape": [1, 1], "datatype": "INT64", "data": ["x"]}]}', "input_ids"),
        (b'{"inputs": [{"name": "input_ids", "shape": [1, 1], "datatype": "INT65", "data": [1]}]}', "INT65"),
        (b'{"inputs": [{"name": "input_ids", "shape": [1, -1], "datatype": "INT64", "data": [1]}]}', "-1"),
    ],
)
def test_json_that_is_wrong(site: TensorSite, body: bytes, words: str) -> None:
    answer = site.chain.send("POST", "/v2/models/checked/infer", body)
    assert answer.status == 400, answer
    assert set(json.loads(answer.body)) == {"error"}
    assert words.lower() in answer.json["error"].lower()


def test_binary_lengths_that_are_wrong(site: TensorSite) -> None:
    head = json.dumps(
        {
            "inputs": [
                {"name": "input_ids", "shape": [1, 2], "datatype": "INT64", "parameters": {"binary_data_size": 16}}
            ]
        }
    ).encode()
    for length, tail in (("999999", b"\0" * 16), ("x", b"\0" * 16), (str(len(head)), b"\0" * 15), ("-1", b"")):
        answer = site.chain.send(
            "POST",
            "/v2/models/checked/infer",
            head + tail,
            inference_header_content_length=length,
            content_type="application/octet-stream",
        )
        assert answer.status == 400, (length, answer)
        assert answer.json["error"]
