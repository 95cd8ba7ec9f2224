"""The real Triton with the lab's models: MiniLM against its reference, batches against single rows, errors.

`minilm_reference.json` was made once with transformers 4.30.2 on torch 1.12.1 and tokenizers 0.13.3 from the same
weights: the token ids, and the first 16 values of the mean-pooled unit vector.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from forebay.lab.triton import TritonServer, running_triton
from forebay.lab.triton_install import find_install
from forebay.lab.wordpiece import WordPiece

VENV = Path(os.environ.get("FOREBAY_TRITON_VENV", Path(__file__).parents[2] / ".venv-triton"))
REFERENCE = json.loads((Path(__file__).parent / "minilm_reference.json").read_text())


@pytest.fixture(scope="module")
def triton() -> Iterator[TritonServer]:
    with running_triton(VENV, ("minilm", "identity", "cost")) as server:
        yield server


@pytest.fixture(scope="module")
def client(triton: TritonServer) -> Iterator[Any]:
    opened = triton_grpc.InferenceServerClient(triton.grpc_address)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def tokenizer() -> WordPiece:
    return WordPiece(find_install(VENV).minilm / "vocab.txt")


def infer(client: Any, model: str, **arrays: Any) -> Any:
    inputs = []
    for name, array in arrays.items():
        tensor = triton_grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return client.infer(model, inputs)


def embed(client: Any, tokenizer: WordPiece, texts: list[str]) -> Any:
    batch = tokenizer.batch(texts)
    answer = infer(client, "minilm", input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    return answer.as_numpy("embedding")


@pytest.mark.parametrize("case", REFERENCE, ids=range(len(REFERENCE)))
def test_tokens_are_those_of_the_reference(case: Any, tokenizer: WordPiece) -> None:
    assert tokenizer.encode(case["text"]) == case["ids"]


def test_vectors_are_those_of_the_reference(client: Any, tokenizer: WordPiece) -> None:
    vectors = embed(client, tokenizer, [case["text"] for case in REFERENCE])
    assert vectors.shape == (len(REFERENCE), 384)
    assert vectors.dtype == np.float32
    expected = np.array([case["vector_head"] for case in REFERENCE])
    assert np.abs(vectors[:, :16] - expected).max() < 1e-5
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5


def test_a_padded_batch_equals_its_rows_alone(client: Any, tokenizer: WordPiece) -> None:
    texts = ["How do I freeze my card?", "cancel", "The hotel charged me twice for one night, whom do I write to? " * 4]
    together = embed(client, tokenizer, texts)
    alone = np.concatenate([embed(client, tokenizer, [text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-5


def test_meaning_orders_similarity(client: Any, tokenizer: WordPiece) -> None:
    asked, same, near, far = embed(
        client,
        tokenizer,
        [
            "I lost my credit card, what should I do?",
            "My bank card is missing, what now?",
            "How do I raise the limit of my credit card?",
            "How long do I boil an egg?",
        ],
    )
    assert asked @ same > asked @ near > asked @ far
    assert asked @ same > 0.6
    assert asked @ far < 0.2


def test_a_sequence_that_is_too_long_is_refused_and_the_server_goes_on(client: Any, tokenizer: WordPiece) -> None:
    ids = np.full((1, 513), 2088, np.int64)
    with pytest.raises(InferenceServerException, match="at most 512"):
        infer(client, "minilm", input_ids=ids, attention_mask=np.ones_like(ids))
    with pytest.raises(InferenceServerException, match=r"outside 0\.\.30521"):
        infer(client, "minilm", input_ids=np.array([[99999]]), attention_mask=np.array([[1]]))
    assert embed(client, tokenizer, ["still there"]).shape == (1, 384)


def test_identity_echoes_each_kind_and_counts_rows(client: Any) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    texts = np.array([["a", "é"], ["", "long " * 500]], dtype=object)
    texts = np.vectorize(lambda text: text.encode(), otypes=[object])(texts)
    answer = infer(client, "identity", values=values, texts=texts)
    assert np.array_equal(answer.as_numpy("echo_values"), values)
    assert np.array_equal(answer.as_numpy("echo_texts"), texts)
    assert answer.as_numpy("echo_numbers") is None
    assert answer.as_numpy("batch_rows").tolist() == [[2], [2]]
    numbers = np.array([[1, -(2**62)], [1, -(2**62)], [2, 0]])
    checks = infer(client, "identity", numbers=numbers).as_numpy("check")
    assert checks[0] == checks[1] != checks[2]


def test_cost_gives_each_row_its_own_sum(client: Any) -> None:
    ids = np.arange(12, dtype=np.int64).reshape(3, 4)
    answer = infer(client, "cost", input_ids=ids)
    assert answer.as_numpy("id_sum").tolist() == [[6], [22], [38]]
