"""An unchanged `tritonclient.http` against the batch service in front of a real Triton, and against Triton itself.

Every question is asked of both, and the answers must say the same. The service stands alone here, with a fixed table of
ids instead of a decision, and speaks HTTP/1 as the client does; behind Envoy it is HTTP/2.
"""

from __future__ import annotations

import gzip
import http.client
import json
import math
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from forebay._core import BatchServer
from forebay.batching import BatchQueue, PoolServers, Sender, Serving
from forebay.lab.triton import TritonServer, running_triton

VENV = Path(os.environ.get("FOREBAY_TRITON_VENV", Path(__file__).parents[2] / ".venv-triton"))
ID = f"{12:032x}"
INFER = "/v2/models/identity/infer"


def marked() -> dict[str, str]:
    """The decision's mark, fresh: the client writes into the headers that it is given."""
    return {"x-forebay-internal-id": ID}


@dataclass(frozen=True)
class Sides:
    """The batch service, the Triton behind it, and a client of each."""

    service: str
    triton: str
    to_service: Any
    to_triton: Any


@dataclass(frozen=True)
class Answer:
    """An HTTP answer without any client's reading."""

    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(scope="module")
def triton() -> Iterator[TritonServer]:
    with running_triton(VENV, ("identity", "cost")) as server:
        yield server


@pytest.fixture(scope="module")
def sides(triton: TritonServer) -> Iterator[Sides]:
    batches = BatchQueue()
    sender = Sender(batches, Serving({"pool": PoolServers((triton.grpc_address,))}))
    sender.start()
    front = BatchServer(batches, "127.0.0.1:0", {ID: "pool"})
    own = f"127.0.0.1:{triton.ports.http}"
    to_service = triton_http.InferenceServerClient(front.address, concurrency=8)
    to_triton = triton_http.InferenceServerClient(own)
    yield Sides(front.address, own, to_service, to_triton)
    to_service.close()
    to_triton.close()
    sender.stop()
    front.stop()


def ask(address: str, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None) -> Answer:
    """One request as it is written here, as curl would send it."""
    if not isinstance(body, bytes):
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request(method, path, body, {**marked(), **(headers or {})})
    response = connection.getresponse()
    answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    connection.close()
    return answer


def both(sides: Sides, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None) -> list[Answer]:
    return [ask(address, method, path, body, headers) for address in (sides.service, sides.triton)]


def values_of(answer: Answer) -> dict[str, Any]:
    """An inference's answer as values: every output with its shape and elements, whether they came as JSON or bytes."""
    split = int(answer.headers.get("inference-header-content-length", len(answer.body)))
    read = json.loads(answer.body[:split])
    tail = answer.body[split:]
    outputs = {}
    for output in read.pop("outputs"):
        size = output.get("parameters", {}).get("binary_data_size")
        content: Any
        if size is not None:
            content, tail = tail[:size], tail[size:]
        elif output["datatype"] == "FP32":
            content = np.array(output["data"], np.float32).tobytes()
        else:
            content = output["data"]
        outputs[output["name"]] = (output["datatype"], output["shape"], content)
    assert tail == b""
    return {**read, "outputs": outputs}


def tensors(arrays: dict[str, np.ndarray], form: str = "binary") -> list[Any]:
    """`form` mixed: every other tensor is binary."""
    made = []
    for at, (name, array) in enumerate(arrays.items()):
        tensor = triton_http.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, binary_data=form == "binary" or (form == "mixed" and at % 2 == 0))
        made.append(tensor)
    return made


ARRAYS: dict[str, np.ndarray] = {
    "values": np.array([[0.1, -0.0, 1e-45], [3.4028235e38, 16777217, 2e-7]], np.float32),
    "numbers": np.array([[2**53 + 1, -(2**63)], [2**63 - 1, 0]], np.int64),
    "texts": np.array([["a", 'é"\\\n\u2028'], ["", "\U0001f600"]], np.object_),
}


@pytest.mark.parametrize("inputs", ["binary", "json", "mixed"])
@pytest.mark.parametrize("outputs", ["all", "binary", "json"])
def test_an_unchanged_client_reads_the_same_from_both(sides: Sides, inputs: str, outputs: str) -> None:
    names = [*(f"echo_{name}" for name in ARRAYS), "check"]
    chosen = [triton_http.InferRequestedOutput(name, binary_data=outputs == "binary") for name in names]
    wanted = None if outputs == "all" else chosen
    read = [
        client.infer("identity", tensors(ARRAYS, inputs), outputs=wanted, request_id="r1", headers=marked())
        for client in (sides.to_service, sides.to_triton)
    ]
    for name in names:
        ours, theirs = (result.as_numpy(name) for result in read)
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert ours.tolist() == theirs.tolist()
    ours, theirs = (result.get_response() for result in read)
    for same in ("id", "model_name", "model_version"):
        assert ours[same] == theirs[same]


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("answer_coding", [None, "gzip", "deflate"])
def test_the_clients_compression_works(sides: Sides, request_coding: str | None, answer_coding: str | None) -> None:
    array = np.arange(4096, dtype=np.float32).reshape(4, 1024)
    answer = sides.to_service.infer(
        "identity",
        tensors({"values": array}),
        headers=marked(),
        request_compression_algorithm=request_coding,
        response_compression_algorithm=answer_coding,
    )
    assert (answer.as_numpy("echo_values") == array).all()


def test_compressed_answers_open_to_what_plain_ones_say(sides: Sides) -> None:
    body = {"inputs": [{"name": "values", "datatype": "FP32", "shape": [1, 999], "data": [0.5] * 999}]}
    plain = ask(sides.service, "POST", INFER, body)
    for coding, opened in (("gzip", gzip.decompress), ("deflate", zlib.decompress)):
        for answer in both(sides, "POST", INFER, body, {"Accept-Encoding": coding}):
            assert answer.headers["content-encoding"] == coding
            assert json.loads(opened(answer.body)) == json.loads(plain.body)


def json_numbers(address: str, array: np.ndarray) -> Any:
    body = one("INT64", array.tolist(), list(array.shape))
    return values_of(ask(address, "POST", INFER, body))["outputs"]["echo_numbers"][2]


def binary_numbers(address: str, array: np.ndarray) -> Any:
    described: dict[str, Any] = {"name": "numbers", "datatype": "INT64", "shape": array.shape}
    described["parameters"] = {"binary_data_size": array.nbytes}
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    length = {"Inference-Header-Content-Length": str(len(head))}
    answer = values_of(ask(address, "POST", INFER, head + array.tobytes(), length))
    return np.frombuffer(answer["outputs"]["echo_numbers"][2], np.int64).tolist()


@pytest.mark.parametrize(("form", "width"), [("binary", 1_000_000), ("json", 50_000)])
def test_large_tensors_pass(sides: Sides, form: str, width: int) -> None:
    values = np.random.default_rng(1).random((4, width), np.float32)
    wanted = [triton_http.InferRequestedOutput("echo_values", binary_data=form == "binary")]
    for coding in (None, "gzip"):
        answer = sides.to_service.infer(
            "identity",
            tensors({"values": values}, form),
            outputs=wanted,
            headers=marked(),
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
        assert (answer.as_numpy("echo_values") == values).all()


def test_concurrent_clients_get_their_own_rows(sides: Sides) -> None:
    def once(number: int) -> None:
        array = np.full((number % 4 + 1, 3), number, np.int64)
        read = json_numbers if number % 2 else binary_numbers
        assert read(sides.service, array) == array.ravel().tolist()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(once, range(200)))


def one(datatype: str, data: Any, shape: list[int], **more: Any) -> dict[str, Any]:
    name = {"FP32": "values", "INT64": "numbers", "BYTES": "texts"}.get(datatype, "values")
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}], **more}


@pytest.mark.parametrize(
    "body",
    [
        one("FP32", [[1, 2], [3, 4]], [2, 2]),
        one("FP32", [[[1, 2, 3, 4]]], [2, 2]),
        one("FP32", [1, [2, [3, 4]]], [2, 2], id="flattened"),
        one("FP32", [math.nan, math.inf, -math.inf, 1e-45], [1, 4]),
        one("INT64", [2**53 + 1, 2**63 - 1, -(2**63)], [1, 3]),
        one("BYTES", ["a", "é", "\u0000", "", '\U0001f600"\\/\n\u007f\u2028<'], [1, 5]),
        one("FP32", [1, 2], [1, 2], parameters={"binary_data_output": True, "custom": "x", "flag": True}),
        one(
            "FP32",
            [1, 2],
            [1, 2],
            parameters={"binary_data_output": True},
            outputs=[{"name": "echo_values", "parameters": {"binary_data": False}}, {"name": "check"}],
        ),
        one("FP32", [1, 2], [1, 2], outputs=[{"name": "check"}], extra={"nobody": ["reads", 1]}),
        one("FP32", [1, 2], [1, 2], outputs=[{"name": "echo_values", "parameters": {"classification": 2}}]),
        one("FP32", [1, 2], [1, 2], parameters={"timeout": 9_000_000, "priority": 2}),
    ],
)
def test_a_request_of_any_form_is_answered_as_triton_does(sides: Sides, body: dict[str, Any]) -> None:
    ours, theirs = both(sides, "POST", INFER, body)
    assert ours.status == theirs.status == 200, ours.body
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert values_of(ours) == values_of(theirs)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[]", "must be an object"),
        ("{}", "`inputs` is missing"),
        ('{"inputs":{}}', "must be an array"),
        ('{"inputs":[]}', "has no input"),
        (one("FP32", [1], [1, 2]), "asks for 2 values, but 1 came"),
        (one("FP32", [1, 2, 3], [1, 2]), "asks for 2 values, but more came"),
        (one("FP32", ["1"], [1, 1]), "must hold a number, not a string"),
        (one("FP32", 1, [1, 1]), "must be an array, not a number"),
        (one("FP32", [1, 2], [1, -2]), "not negative, not -2"),
        (one("INT64", [1.5], [1, 1]), "carries 1.5, which INT64 cannot hold"),
        (one("INT64", [2**63], [1, 1]), "which INT64 cannot hold"),
        (one("FP16", [1], [1, 1]), "which JSON does not carry"),
        (one("NOPE", [1], [1, 1]), "unknown datatype `NOPE`"),
        (one("INT32", [1], [1, 1]), "is INT32, but the model takes FP32"),
        (one("FP32", [1], [1, 1], outputs=[{"name": "nope"}]), "nope"),
        (one("FP32", [1], [1, 1], id=5), "`id` must be a string"),
        (one("FP32", [1], [1, 1], parameters={"p": {}}), "must be a number, a string or a boolean"),
        ({"inputs": [{"name": "values", "datatype": "FP32", "shape": [1, 1]}]}, "neither of `data`"),
    ],
)
def test_what_triton_refuses_is_refused_with_a_reason(sides: Sides, body: Any, words: str) -> None:
    ours, theirs = both(sides, "POST", INFER, body)
    assert theirs.status >= 400
    assert ours.status == 400
    assert words in json.loads(ours.body)["error"]


@pytest.mark.parametrize("split", [-1, 0, 1, 107, 109, 113, 10_000])
def test_a_wrong_split_is_refused(sides: Sides, split: int) -> None:
    described = {"name": "texts", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 6}}
    head = json.dumps({"inputs": [described]}).encode()
    assert len(head) == 108
    body = head + b"\x02\0\0\0\xff\xfe"
    right = ask(sides.service, "POST", INFER, body, {"Inference-Header-Content-Length": "108"})
    assert "no UTF-8 text" in json.loads(right.body)["error"]
    wrong = ask(sides.service, "POST", INFER, body, {"Inference-Header-Content-Length": str(split)})
    assert wrong.status == 400
    assert "UTF-8 text" not in json.loads(wrong.body)["error"]


def without_counts(read: Any) -> Any:
    """Statistics without what the other questions of this test changed."""
    if isinstance(read, dict):
        return {key: without_counts(value) for key, value in read.items()}
    if isinstance(read, list):
        return [without_counts(value) for value in read if not (isinstance(value, dict) and "batch_size" in value)]
    return 0 if isinstance(read, int) else read


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2"),
        ("GET", "/v2/models/identity"),
        ("GET", "/v2/models/identity/versions/1"),
        ("GET", "/v2/models/cost/config"),
        ("GET", "/v2/models/identity/config"),
        ("GET", "/v2/models/identity/versions/1/config"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/models/cost/stats"),
        ("POST", "/v2/repository/index"),
    ],
)
def test_descriptions_are_tritons_own(sides: Sides, method: str, path: str) -> None:
    ours, theirs = both(sides, method, path)
    assert (ours.status, theirs.status) == (200, 200), ours.body
    assert ours.headers["content-type"] == "application/json"
    read, expected = json.loads(ours.body), json.loads(theirs.body)
    if path.endswith("/stats"):
        read, expected = without_counts(read), without_counts(expected)
    assert read == expected


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/health/ready", 200),
        ("GET", "/v2/models/identity/ready", 200),
        ("GET", "/v2/models/identity/versions/1/ready", 200),
        ("GET", "/v2/models/identity/versions/9/ready", 400),
        ("GET", "/v2/models/nowhere/ready", 400),
        ("GET", "/v2/models/nowhere", 404),
        ("GET", "/v2/models/nowhere/config", 404),
        ("GET", "/v2/models/identity/versions/9", 404),
        ("GET", "/v2/foo", 404),
        ("GET", "/v2/", 404),
        ("GET", "/v2/models/identity/infer", 405),
        ("PUT", "/v2/models/identity/infer", 405),
        ("GET", "/v2/repository/index", 405),
    ],
)
def test_statuses_are_tritons(sides: Sides, method: str, path: str, status: int) -> None:
    ours, theirs = both(sides, method, path)
    assert (ours.status, theirs.status) == (status, status)
    if status != 200:
        assert json.loads(ours.body)["error"]


def test_an_unknown_model_and_version_are_not_found(sides: Sides) -> None:
    for path in ("/v2/models/nowhere/infer", "/v2/models/identity/versions/9/infer"):
        ours, theirs = both(sides, "POST", path, one("FP32", [1], [1, 1]))
        assert (ours.status, theirs.status) == (404, 404), ours.body
        assert json.loads(ours.body) == json.loads(theirs.body)


def test_the_other_calls_of_the_client_work(sides: Sides) -> None:
    client = sides.to_service
    assert client.is_server_live(headers=marked())
    assert client.is_server_ready(headers=marked())
    assert client.is_model_ready("identity", headers=marked())
    assert not client.is_model_ready("nowhere", headers=marked())
    assert client.get_server_metadata(headers=marked())["name"] == "triton"
    assert client.get_model_metadata("cost", headers=marked())["inputs"][0]["name"] == "input_ids"
    assert client.get_model_config("cost", headers=marked())["max_batch_size"] == 64
    assert {model["name"] for model in client.get_model_repository_index(headers=marked())} == {"cost", "identity"}
    (statistics,) = client.get_inference_statistics("identity", headers=marked())["model_stats"]
    assert statistics["name"] == "identity"
    for refused, status in ((client.unload_model, "403"), (client.unregister_system_shared_memory, "501")):
        with pytest.raises(InferenceServerException) as error:
            refused("identity", headers=marked())
        assert error.value.status() == status
    with pytest.raises(InferenceServerException) as error:
        client.get_log_settings(headers=marked())
    assert error.value.status() == "403"


def test_shared_memory_is_refused(sides: Sides) -> None:
    tensor = triton_http.InferInput("values", [1, 1], "FP32")
    tensor.set_shared_memory("region", 4)
    with pytest.raises(InferenceServerException, match="shared memory"):
        sides.to_service.infer("identity", [tensor], headers=marked())


def test_a_request_without_a_decision_is_refused(sides: Sides) -> None:
    answer = ask(sides.service, "GET", "/v2", headers={"x-forebay-internal-id": f"{99:032x}"})
    assert answer.status == 401
    assert "gateway" in json.loads(answer.body)["error"]
