"""Limits and budgets on tensors, through a real Envoy to a real Triton: taken when they are read, settled exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from account_site import assert_books_agree, bookkeeping, budget, ledger_of, price, quiet
from tensor_site import TensorSite, ids_of, inputs, refusal, secret_headers, tensor_site

# Of one model and tenant, for longer than a test runs.
LIMIT_TOKENS = 1_000
MONEY, TOKENS = budget("all-money", 10**12), budget("all-tokens", 10**9, unit="TOKENS")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TensorSite]:
    folder = tmp_path_factory.mktemp("tensor-books")

    def limited(policy: dict[str, Any]) -> None:
        limit = {"name": "sure-tokens", "scope": "TENANT", "unit": "TOKENS", "amount": LIMIT_TOKENS}
        policy["limits"].append(limit | {"window_ms": 86_400_000, "models": ["sure"]})

    with tensor_site(folder, ("checked", "minilm"), bookkeeping(folder, MONEY, TOKENS), limited) as site:
        yield site


def as_json(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """A request in the JSON form of the HTTP protocol."""
    tensors = [
        {"name": name, "datatype": "INT64", "shape": list(array.shape), "data": array.tolist()}
        for name, array in arrays.items()
    ]
    return {"inputs": tensors}


def test_health_needs_a_key_and_errors_have_the_protocol_s_shape(site: TensorSite) -> None:
    ready = site.chain.send("GET", "/v2/health/ready", None)
    assert ready.status == 200, ready.body
    for key, words in ((None, "no API key was sent"), ("nobody", "the API key is not known")):
        refused = site.chain.send("GET", "/v2/health/ready", None, key)
        assert refused.status == 401
        assert list(refused.json) == ["error"]
        assert refused.json["error"].startswith(words)


def test_a_limit_in_tokens_counts_what_the_tensors_have(site: TensorSite) -> None:
    random = np.random.default_rng(3)
    with site.grpc() as client:

        def infer(rows: int, length: int) -> Any:
            tensors = inputs(triton_grpc, ids_of(random, rows, length))
            return client.infer("sure", tensors, headers=secret_headers())

        assert infer(2, 300).as_numpy("check").shape == (2, 1)
        refused = refusal(lambda: infer(1, LIMIT_TOKENS - 599))
        assert refused.status() == "StatusCode.RESOURCE_EXHAUSTED"
        assert "`sure-tokens`" in refused.message()
        # What fails at the model gives its tokens back.
        bad = {"input_ids": np.full((1, 400), -1, np.int64)}
        assert "INVALID_ARGUMENT" in str(
            refusal(lambda: client.infer("sure", inputs(triton_grpc, bad), headers=secret_headers())).status()
        )
        quiet(site.chain)
        infer(1, 400)
    over = site.chain.ask(as_json(ids_of(random, 1, 1)), "/v2/models/sure/infer")
    assert over.status == 429, over.body
    assert list(over.json) == ["error"]
    assert int(over.headers["retry-after"]) > 0
    quiet(site.chain)
    (row,) = ledger_of(site.chain).rows("model = 'sure' AND status = 429")
    assert (row["outcome"], row["code"], row["cost_nanousd"]) == ("refused", "rate_limit_exceeded", 0)


def test_a_request_costs_its_tokens_whatever_they_were_padded_to(site: TensorSite) -> None:
    random = np.random.default_rng(4)
    shapes = [(int(random.integers(1, 5)), int(random.integers(1, 120))) for _ in range(40)]
    run = {"x-forebay-run": "padded"}

    def over_grpc(rows: int, length: int) -> None:
        tensors = inputs(triton_grpc, ids_of(random, rows, length))
        with site.grpc() as client:
            client.infer("checked", tensors, headers=secret_headers() | run)

    def over_http(rows: int, length: int) -> None:
        tensors = inputs(triton_http, ids_of(random, rows, length))
        with site.http() as client:
            client.infer("checked", tensors, headers=secret_headers() | run)

    calls = [lambda shape=shape, call=(over_grpc, over_http)[at % 2]: call(*shape) for at, shape in enumerate(shapes)]
    assert [result for result in site.chain.at_once(calls) if result is not None] == []
    assert_books_agree(site.chain)
    rows = ledger_of(site.chain).rows("run = 'padded'")
    taken = sorted(rows * length for rows, length in shapes)
    assert sorted(row["prompt_tokens"] for row in rows) == taken
    assert sorted(row["cost_nanousd"] for row in rows) == sorted(price(tokens, 0) for tokens in taken)
    for row in rows:
        assert (row["outcome"], row["usage"], row["model"]) == ("ok", 1, "checked")
        assert row["padded_tokens"] >= row["tensor_tokens"] == row["prompt_tokens"]
        assert row["batch_rows"] >= row["rows"] >= 1
        assert row["service_ns"] > 0


def test_embeddings_are_paid_by_what_their_answer_tells(site: TensorSite) -> None:
    client = site.chain.client()
    texts = ["one short text", "another text, which is a little longer than the first"]
    answer = client.embeddings.create(
        model="minilm", input=texts, encoding_format="float", extra_headers={"x-forebay-run": "vectors"}
    )
    assert [len(each.embedding) for each in answer.data] == [384, 384]
    assert_books_agree(site.chain)
    row = ledger_of(site.chain).row_of_run("vectors")
    assert (row["prompt_tokens"], row["usage"]) == (answer.usage.prompt_tokens, 1)
    assert row["cost_nanousd"] == price(answer.usage.prompt_tokens, 0)
    assert row["operation"] == "embedding"


def test_who_is_refused_by_the_service_pays_nothing(site: TensorSite) -> None:
    run = {"x-forebay-run": "wrong"}
    with site.grpc() as client:
        wrong = inputs(triton_grpc, {"input_ids": np.ones((1, 4), np.float32)})
        refusal(lambda: client.infer("checked", wrong, headers=secret_headers() | run))
    assert_books_agree(site.chain)
    row = ledger_of(site.chain).row_of_run("wrong")
    assert (row["outcome"], row["cost_nanousd"], row["prompt_tokens"], row["usage"]) == ("refused", 0, 0, 0)
    assert row["code"] == "model_datatype"
