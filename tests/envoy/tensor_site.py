"""A chain with a real Triton behind the batch service, and unchanged clients of it.

Owns: the policy's changes, the clients, check values of rows. Must not know: what a test expects.
On failure: as the chain.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from account_site import Change
from chain import Chain, running_chain
from chain_policy import secret_of
from envoy_rig import DEADLINE_S
from forebay.lab.triton import running_triton
from forebay.lab.triton_install import find_install

VENV = Path(os.environ.get("FOREBAY_TRITON_VENV", Path(__file__).parents[2] / ".venv-triton"))
GRPC_PATH = "/inference.GRPCInferenceService/"


def secret_headers(key: str = "acme") -> dict[str, str]:
    """What a client sends of its key."""
    return {"authorization": f"Bearer {secret_of(key)}"}


def tensor_policy(addresses: Sequence[str], **queue: int) -> Change:
    """The change of the chain's policy: a pool of Tritons, the lab's models, routes of both protocols."""

    def change(policy: dict[str, Any]) -> None:
        pool = {"name": "triton", "protocol": "KSERVE_GRPC", "provider": "own"}
        pool |= {"endpoints": [{"address": address} for address in addresses]}
        if queue:
            pool["queue"] = queue
        policy["pools"].append(pool)
        policy["models"] += tensor_models()
        policy["routes"] += [
            {"name": "tensors", "path_prefix": GRPC_PATH, "methods": ["POST"], "operation": "KSERVE", "pool": "triton"},
            {"name": "tensors-http", "path_prefix": "/v2", "operation": "KSERVE", "pool": "triton"},
        ]

    return change


def tensor_models() -> list[dict[str, Any]]:
    """The lab's models as a policy names them."""
    ragged = {
        "ragged_inputs": [{"name": "input_ids"}, {"name": "attention_mask"}],
        "mask_input": "attention_mask",
    }
    tokens = {"ids": "input_ids", "mask": "attention_mask", "tokenizer_file": str(_tokenizer())}
    return [
        _model("identity", "TENSORS"),
        _model("checked", "TENSORS", tensors=ragged | {"ragged_outputs": [{"name": "echo"}]}),
        _model("sure", "TENSORS", upstream_name="checked", tensors=ragged | {"answers": "DETERMINISTIC"}),
        _model("cost", "TENSORS", tensors={"ragged_inputs": [{"name": "input_ids"}]}),
        _model(
            "minilm",
            "TENSORS",
            "EMBEDDINGS",
            context_window_tokens=512,
            tensors=ragged | {"embeddings": {"tokens": tokens, "output": "embedding"}},
        ),
        _model("encoder", "EMBEDDINGS", tensors={"embeddings": {"text_input": "text", "output": "embedding"}}),
        _model("writer", "CHAT", "COMPLETIONS", max_output_tokens=4096, tensors={"generation": {}}),
    ]


def _model(name: str, *capabilities: str, **more: Any) -> dict[str, Any]:
    base = {"name": name, "revision": "1", "tokenizer": "o200k_base"}
    return base | {"capabilities": list(capabilities), "pools": ["triton"]} | more


def _tokenizer() -> Path:
    return Path(find_install(VENV).minilm) / "tokenizer.json"


@dataclass
class TensorSite:
    """A chain with Tritons behind it."""

    chain: Chain

    @contextmanager
    def grpc(self) -> Iterator[Any]:
        """An unchanged gRPC client of the gateway."""
        client = triton_grpc.InferenceServerClient(f"127.0.0.1:{self.chain.ports.listen}")
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def http(self, concurrency: int = 1) -> Iterator[Any]:
        """An unchanged HTTP client of the gateway."""
        url = f"127.0.0.1:{self.chain.ports.listen}"
        timeouts = {"connection_timeout": DEADLINE_S, "network_timeout": DEADLINE_S}
        client = triton_http.InferenceServerClient(url, concurrency=concurrency, **timeouts)
        try:
            yield client
        finally:
            client.close()


@contextmanager
def tensor_site(folder: Path, models: tuple[str, ...], *changes: Change) -> Iterator[TensorSite]:
    """A Triton with these of the lab's models, and the chain in front of it."""
    with running_triton(VENV, models) as triton:

        def change(policy: dict[str, Any]) -> None:
            tensor_policy([triton.grpc_address])(policy)
            for one in changes:
                one(policy)

        with running_chain(folder, change) as chain:
            yield TensorSite(chain)


def inputs(kind: Any, arrays: dict[str, np.ndarray]) -> list[Any]:
    """Arrays as inputs of the gRPC or the HTTP client, whose module `kind` is."""
    made = []
    for name, array in arrays.items():
        tensor = kind.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        made.append(tensor)
    return made


def ids_of(random: np.random.Generator, rows: int, length: int) -> dict[str, np.ndarray]:
    """A request of the model `checked`: random ids, and no mask."""
    return {"input_ids": random.integers(1, 30_000, (rows, length), np.int64)}


def check_of(ids: np.ndarray) -> list[int]:
    """The check values that the model `checked` gives rows without padding."""
    return [zlib.crc32(row.tobytes()) for row in ids]


def refusal(call: Callable[[], Any]) -> InferenceServerException:
    """The error of a call that must fail."""
    try:
        call()
    except InferenceServerException as error:
        return error
    raise AssertionError("it was answered")
