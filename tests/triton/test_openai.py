"""An unchanged `openai` client against a real Triton, through Envoy and the whole gateway.

Embeddings by a model that reads token numbers and by one that reads text are held against Triton's own answers to
single rows; chats and completions by a decoupled model are held against what it writes when it is asked alone.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import np_to_triton_dtype

from forebay.control import RenderOptions, install, render
from forebay.lab.envoy import EnvoyServer
from forebay.lab.model_repository import ModelChoices
from forebay.lab.triton import TritonServer, running_triton
from forebay.lab.triton_counts import writer_counts
from forebay.lab.triton_install import find_install
from forebay.lab.wordpiece import WordPiece
from forebay.policy import load

VENV = Path(os.environ.get("FOREBAY_TRITON_VENV", Path(__file__).parents[2] / ".venv-triton"))
REFERENCE = json.loads((Path(__file__).parent / "minilm_reference.json").read_text())
SECRET = "fbk_test_openai"
WAIT_S = 30
CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is a mill?"}]
# What ChatML makes of it.
PROMPT = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nwhat is a mill?<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True)
class Chain:
    """A gateway and an Envoy in front of one Triton, and a client of each."""

    client: openai.OpenAI
    triton: TritonServer
    to_triton: Any
    admin: str
    tokenizer: WordPiece


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("openai")
    with ExitStack() as stack:
        # Slow enough that a client can leave in the middle.
        choices = ModelChoices(token_us=2000)
        triton = stack.enter_context(running_triton(VENV, ("minilm", "encoder", "writer"), choices))
        minilm = find_install(VENV).minilm
        ports = dict(zip(("ext_proc", "admin", "batch", "listen", "envoy"), free_ports(5), strict=True))
        file = folder / "policy.yaml"
        file.write_text(json.dumps(policy(ports, triton.grpc_address, minilm / "tokenizer.json", folder / "ledger")))
        message = load(file).message()
        install(render(message, RenderOptions(directory=str(folder))), folder)
        stack.enter_context(gateway(file, folder))
        stack.enter_context(EnvoyServer(folder / "envoy.yaml", f"127.0.0.1:{ports['envoy']}"))
        base_url = f"http://127.0.0.1:{ports['listen']}/v1"
        client = stack.enter_context(openai.OpenAI(base_url=base_url, api_key=SECRET, max_retries=0, timeout=WAIT_S))
        to_triton = stack.enter_context(triton_grpc.InferenceServerClient(triton.grpc_address))
        yield Chain(client, triton, to_triton, f"127.0.0.1:{ports['admin']}", WordPiece(minilm / "vocab.txt", 512))


def free_ports(count: int) -> list[int]:
    """Ports that are free now, below those that the system gives to outgoing connections."""
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", random.SystemRandom().randrange(12_000, 32_000)))
            except OSError:
                continue
            ports.append(int(probe.getsockname()[1]))
    return ports


def policy(ports: dict[str, int], triton: str, tokenizer_file: Path, ledger: Path) -> dict[str, Any]:
    at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    model = {"revision": "1", "pools": ["triton"], "tokenizer": "o200k_base"}
    embedding = model | {"capabilities": ["EMBEDDINGS"], "context_window_tokens": 512}
    writing = model | {
        "capabilities": ["CHAT", "COMPLETIONS"],
        "context_window_tokens": 4096,
        "max_output_tokens": 2048,
    }
    tokens = {"ids": "input_ids", "mask": "attention_mask", "tokenizer_file": str(tokenizer_file)}
    told = {"finish_reason_output": "finish_reason", "output_tokens_output": "num_output_tokens"}
    operations = {
        "chat": ("/v1/chat/completions", "CHAT_COMPLETIONS"),
        "completions": ("/v1/completions", "TEXT_COMPLETIONS"),
        "embeddings": ("/v1/embeddings", "EMBEDDING"),
    }
    return {
        "name": "openai-on-triton",
        "gateway": {
            "ext_proc_address": at["ext_proc"],
            "admin_address": at["admin"],
            "batch_address": at["batch"],
        },
        "envoy": {"listen_address": at["listen"], "admin_address": at["envoy"], "log_flush_ms": 50},
        # Without books nobody would ask a stream for its usage.
        "ledger": {"directory": str(ledger)},
        "pools": [{"name": "triton", "protocol": "KSERVE_GRPC", "provider": "lab", "endpoints": [{"address": triton}]}],
        "models": [
            embedding
            | {
                "name": "minilm",
                "tensors": {
                    "ragged_inputs": [{"name": "input_ids"}, {"name": "attention_mask"}],
                    "embeddings": {"tokens": tokens, "output": "embedding"},
                },
            },
            embedding
            | {
                "name": "text-minilm",
                "upstream_name": "encoder",
                "tensors": {"embeddings": {"text_input": "text", "output": "embedding"}},
            },
            writing | {"name": "writer", "tensors": {"generation": told}},
            writing | {"name": "silent-writer", "upstream_name": "writer", "tensors": {"generation": {}}},
        ],
        "tiers": [{"name": "pro"}],
        "tenants": [{"name": "acme", "tier": "pro", "models": ["*"]}],
        "keys": [{"id": "acme", "tenant": "acme", "sha256": hashlib.sha256(SECRET.encode()).hexdigest()}],
        "routes": [
            {"name": name, "path": path, "methods": ["POST"], "operation": operation}
            for name, (path, operation) in operations.items()
        ],
    }


@contextmanager
def gateway(policy_file: Path, folder: Path) -> Iterator[None]:
    """`forebay serve` as a process of its own; AssertionError with its log where it does not start."""
    command = [sys.executable, "-m", "forebay.cli", "serve", "--policy", str(policy_file), "--envoy-dir", str(folder)]
    log = folder / "gateway.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr)
    try:
        assert process.stdout is not None
        assert process.stdout.readline(), f"the gateway did not start:\n{log.read_text()[-4000:]}"
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout:
            process.stdout.close()


def until(find: Callable[[], Any]) -> Any:
    """Returns what `find` finds; what it looks at has no event of its own."""
    end = time.monotonic() + WAIT_S
    while True:
        found = find()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen in time"
        os.sched_yield()


def record(chain: Chain, request_id: str) -> dict[str, Any]:
    """The decision record of a request, once it is over."""

    def find() -> Any:
        with closing(http.client.HTTPConnection(chain.admin, timeout=WAIT_S)) as connection:
            connection.request("GET", "/records?limit=500")
            records = json.loads(connection.getresponse().read())
        return next((entry for entry in records if entry["id"] == request_id), None)

    return dict(until(find))


def tensor(name: str, array: Any) -> Any:
    made = triton_grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def vector_alone(chain: Chain, ids: list[int]) -> Any:
    """The vector of one text that Triton gives when it is asked for it alone."""
    row = np.array([ids], np.int64)
    inputs = [tensor("input_ids", row), tensor("attention_mask", np.ones_like(row))]
    return chain.to_triton.infer("minilm", inputs).as_numpy("embedding")[0]


def written_alone(chain: Chain, prompt: str, **sampling: Any) -> str:
    """What the model writes when it is asked without the gateway."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    inputs = [
        tensor("text_input", np.array([prompt.encode()], np.object_)),
        tensor("stream", np.array([True])),
        tensor("sampling_parameters", np.array([json.dumps(sampling).encode()], np.object_)),
    ]
    with triton_grpc.InferenceServerClient(chain.triton.grpc_address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("writer", inputs, enable_empty_final_response=True)
        text = ""
        while True:
            result, error = answers.get(timeout=WAIT_S)
            assert error is None, error
            if result.as_numpy("text_output") is not None:
                text += result.as_numpy("text_output")[0].decode()
            if result.get_response().parameters["triton_final_response"].bool_param:
                client.stop_stream()
                return text


# === embeddings ===


def test_vectors_of_token_numbers_are_those_of_single_rows(chain: Chain) -> None:
    texts = [case["text"] for case in REFERENCE if case["text"]]
    answer = chain.client.embeddings.create(model="minilm", input=texts)
    ids = [chain.tokenizer.encode(text) for text in texts]
    assert [item.index for item in answer.data] == list(range(len(texts)))
    for item, row in zip(answer.data, ids, strict=True):
        np.testing.assert_allclose(item.embedding, vector_alone(chain, row), atol=1e-5)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, ids))
    assert answer.model == "minilm"


def test_what_was_embedded_is_settled_by_the_model_s_own_count(chain: Chain) -> None:
    raw = chain.client.embeddings.with_raw_response.create(model="minilm", input=["предложение", "turn"])
    spent = record(chain, raw.headers["x-forebay-request-id"])["spent"]
    assert spent["prompt_tokens"] == raw.parse().usage.prompt_tokens
    assert spent["usage"] == "exact"


def test_vectors_of_texts_are_the_same(chain: Chain) -> None:
    texts = ["A mill stands by the river.", "Großmutter!", "水"]
    by_text = chain.client.embeddings.create(model="text-minilm", input=texts)
    for item, text in zip(by_text.data, texts, strict=True):
        np.testing.assert_allclose(item.embedding, vector_alone(chain, chain.tokenizer.encode(text)), atol=1e-5)
    assert by_text.usage.prompt_tokens > 0


def test_every_form_of_input_and_answer(chain: Chain) -> None:
    ids = chain.tokenizer.encode("turn")
    expected = vector_alone(chain, ids)
    asked: list[Any] = ["turn", ["turn"], ids, [ids]]
    for form in asked:
        for encoding in ("float", "base64"):
            raw = chain.client.embeddings.with_raw_response.create(model="minilm", input=form, encoding_format=encoding)  # type: ignore[call-overload]
            vector = raw.http_response.json()["data"][0]["embedding"]
            if encoding == "base64":
                vector = np.frombuffer(base64.b64decode(vector), np.float32)
            np.testing.assert_allclose(vector, expected, atol=1e-5)
    chain.client.embeddings.create(model="minilm", input="turn", dimensions=384)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"input": "turn", "dimensions": 16}, "`dimensions` is 16, but the model's vectors have 384"),
        ({"input": ["turn", ""]}, "`input[1]` must not be empty"),
        ({"input": [30522]}, "has the token number 30522, but the model knows 30522 tokens"),
        ({"input": "turn", "extra_body": {"truncate": True}}, "`truncate` is not offered"),
        # Few tokens by the gateway's count, many by the model's own.
        ({"input": " ".join(["предложение"] * 60)}, "the model reads at most 512"),
        ({"input": [1, 2], "model": "text-minilm"}, "the model reads text"),
    ],
)
def test_what_cannot_be_embedded_is_refused(chain: Chain, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chain.client.embeddings.create(**({"model": "minilm"} | asked))
    assert said in refused.value.message
    assert refused.value.type == "invalid_request_error"


# === chats and completions ===


@pytest.mark.parametrize("model", ["writer", "silent-writer"])
def test_a_chat_is_what_the_model_writes(chain: Chain, model: str) -> None:
    expected = written_alone(chain, PROMPT, max_tokens=40)
    whole = chain.client.chat.completions.create(model=model, messages=CHAT, max_tokens=40)  # type: ignore[arg-type]
    assert whole.choices[0].message.content == expected
    assert whole.usage is not None
    chunks = list(
        chain.client.chat.completions.create(
            model=model,
            messages=CHAT,  # type: ignore[arg-type]
            max_tokens=40,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected
    assert len(chunks) >= 40, "the words did not come one by one"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    if model == "writer":
        assert whole.choices[0].finish_reason == "length"
        assert whole.usage.completion_tokens == 40


def test_no_usage_chunk_for_those_who_did_not_ask(chain: Chain) -> None:
    with chain.client.chat.completions.with_streaming_response.create(
        model="writer",
        messages=CHAT,  # type: ignore[arg-type]
        max_tokens=5,
        stream=True,
    ) as raw:
        request_id = raw.headers["x-forebay-request-id"]
        events = [line.removeprefix("data: ") for line in raw.iter_lines() if line]
    assert events[-1] == "[DONE]"
    assert all(json.loads(event)["choices"] for event in events[:-1])
    # The gateway asked for it, and settled by it.
    spent = record(chain, request_id)["spent"]
    assert (spent["usage"], spent["output_tokens"]) == ("exact", 5)


def test_a_completion_stops_where_it_is_told_to(chain: Chain) -> None:
    text = written_alone(chain, "once", max_tokens=20)
    stop = text.split(" ")[7]
    answer = chain.client.completions.create(model="writer", prompt="once", max_tokens=20, stop=[stop])
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    streamed = chain.client.completions.create(model="writer", prompt="once", max_tokens=20, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed if chunk.choices) == text


def test_a_client_that_leaves_stops_the_model(chain: Chain) -> None:
    before = writer_counts(chain.triton.grpc_address)
    stream = chain.client.chat.completions.create(model="writer", messages=CHAT, max_tokens=2000, stream=True)  # type: ignore[arg-type]
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    until(lambda: writer_counts(chain.triton.grpc_address).cancelled == before.cancelled + 1)
    assert writer_counts(chain.triton.grpc_address).words - before.words < 2000


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"n": 2}, "`n` must be 1"),
        ({"logprobs": True}, "`logprobs` is not offered"),
        ({"temperature": 3}, "it must be from 0 to 2"),
        ({"extra_body": {"fail_after": 1}}, "`fail_after` is not offered"),
    ],
)
def test_what_the_model_has_no_place_for_is_refused(chain: Chain, asked: dict[str, Any], said: str) -> None:
    for streamed in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            chain.client.chat.completions.create(model="writer", messages=CHAT, stream=streamed, **asked)  # type: ignore[call-overload]
        assert said in refused.value.message
