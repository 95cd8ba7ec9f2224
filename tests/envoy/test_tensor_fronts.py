"""Unchanged clients of Triton and of OpenAI, through a real Envoy, to a real Triton."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openai
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from envoy_rig import until
from tensor_site import TensorSite, check_of, ids_of, inputs, refusal, secret_headers, tensor_site

MODELS = ("identity", "checked", "minilm", "encoder", "writer")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TensorSite]:
    with tensor_site(tmp_path_factory.mktemp("tensors"), MODELS) as site:
        yield site


@pytest.fixture(autouse=True)
def nothing_is_left(site: TensorSite) -> Iterator[None]:
    before = site.chain.held()
    yield
    site.chain.assert_quiet(before)


def test_rows_of_any_length_come_back_as_their_own(site: TensorSite) -> None:
    random = np.random.default_rng(5)
    requests = [ids_of(random, int(random.integers(1, 5)), int(random.integers(1, 200))) for _ in range(120)]
    with site.grpc() as client:

        def ask(number: int) -> None:
            ids = requests[number]["input_ids"]
            answer = client.infer("checked", inputs(triton_grpc, requests[number]), headers=secret_headers())
            assert answer.as_numpy("check")[:, 0].tolist() == check_of(ids)
            assert (answer.as_numpy("length") == ids.shape[1]).all()
            assert (answer.as_numpy("echo") == ids).all()
            assert answer.get_response().model_name == "checked"

        results = site.chain.at_once([lambda n=n: ask(n) for n in range(len(requests))])
    assert [result for result in results if result is not None] == []
    assert site.chain.metric("forebay_batch_requests_total", model="checked") >= len(requests)
    assert site.chain.metric("forebay_batch_batches_total") < site.chain.metric("forebay_batch_requests_total")


@pytest.mark.parametrize("form", ["binary", "json"])
def test_the_http_client_gets_what_the_grpc_client_gets(site: TensorSite, form: str) -> None:
    binary = form == "binary"
    arrays = ids_of(np.random.default_rng(1), 3, 7)
    with site.http() as client:
        asked = []
        for name, array in arrays.items():
            tensor = triton_http.InferInput(name, list(array.shape), "INT64")
            tensor.set_data_from_numpy(array, binary_data=binary)
            asked.append(tensor)
        wanted = [triton_http.InferRequestedOutput(name, binary_data=binary) for name in ("check", "echo")]
        answer = client.infer("checked", asked, outputs=wanted, request_id="r7", headers=secret_headers())
    assert answer.as_numpy("check")[:, 0].tolist() == check_of(arrays["input_ids"])
    assert (answer.as_numpy("echo") == arrays["input_ids"]).all()
    assert answer.get_response()["id"] == "r7"
    assert answer.get_response()["model_name"] == "checked"


def test_texts_pass_both_fronts(site: TensorSite) -> None:
    texts = np.array([["ein Wort", "日本語", ""], ["a", "b", "c" * 1000]], dtype=np.object_)
    with site.grpc() as grpc_client, site.http() as http_client:
        one = grpc_client.infer("identity", inputs(triton_grpc, {"texts": texts}), headers=secret_headers())
        other = http_client.infer("identity", inputs(triton_http, {"texts": texts}), headers=secret_headers())
    expected = [[text.encode() for text in row] for row in texts.tolist()]
    assert one.as_numpy("echo_texts").tolist() == expected
    assert other.as_numpy("echo_texts").tolist() == expected


def test_calls_beside_inference_are_forwarded(site: TensorSite) -> None:
    headers = secret_headers()
    with site.grpc() as client:
        assert client.is_server_live(headers=headers)
        assert client.is_server_ready(headers=headers)
        assert client.is_model_ready("minilm", headers=headers)
        assert client.get_server_metadata(headers=headers).name == "triton"
        assert [tensor.name for tensor in client.get_model_metadata("minilm", headers=headers).inputs]
        assert client.get_model_config("minilm", headers=headers).config.max_batch_size == 64
        assert client.get_inference_statistics("minilm", headers=headers).model_stats[0].name == "minilm"
    with site.http() as client:
        assert client.is_server_live(headers=headers)
        assert client.is_server_ready(headers=headers)
        assert client.is_model_ready("minilm", headers=headers)
        assert client.get_server_metadata(headers=headers)["name"] == "triton"
        assert client.get_model_metadata("minilm", headers=headers)["name"] == "minilm"
        assert client.get_model_config("minilm", headers=headers)["max_batch_size"] == 64


def test_a_model_under_another_name_answers_under_its_own(site: TensorSite) -> None:
    arrays = ids_of(np.random.default_rng(2), 1, 9)
    with site.grpc() as client:
        answers = [client.infer("sure", inputs(triton_grpc, arrays), headers=secret_headers()) for _ in range(2)]
        assert client.get_model_metadata("sure", headers=secret_headers()).name == "sure"
    for answer in answers:
        assert answer.get_response().model_name == "sure"
        assert answer.as_numpy("check")[:, 0].tolist() == check_of(arrays["input_ids"])


def test_equal_requests_of_a_deterministic_model_run_once(site: TensorSite) -> None:
    arrays = ids_of(np.random.default_rng(3), 1, 50)
    before = site.chain.metric("forebay_batch_requests_total", model="checked")
    with site.grpc() as client:

        def ask() -> None:
            answer = client.infer("sure", inputs(triton_grpc, arrays), headers=secret_headers())
            assert answer.as_numpy("check")[:, 0].tolist() == check_of(arrays["input_ids"])

        assert site.chain.at_once([ask] * 12) == [None] * 12
        ask()
    assert site.chain.metric("forebay_batch_requests_total", model="checked") == before + 1


def test_a_stream_of_inferences_passes(site: TensorSite) -> None:
    random = np.random.default_rng(4)
    requests = [ids_of(random, 1, length) for length in (3, 90, 17)]
    answers: list[tuple[object, object]] = []
    with site.grpc() as client:
        client.start_stream(callback=lambda result, error: answers.append((result, error)), headers=secret_headers())
        for number, arrays in enumerate(requests):
            masked = arrays | {"attention_mask": np.ones_like(arrays["input_ids"])}
            client.async_stream_infer("checked", inputs(triton_grpc, masked), request_id=str(number))
        until(lambda: len(answers) == len(requests), "every answer of the stream")
        client.stop_stream()
    for result, error in answers:
        assert error is None
        number = int(result.get_response().id)
        assert result.as_numpy("check")[:, 0].tolist() == check_of(requests[number]["input_ids"])


def test_a_stream_for_a_model_that_the_key_may_not_use_is_refused(site: TensorSite) -> None:
    answers: list[tuple[object, object]] = []
    with site.grpc() as client:
        headers = secret_headers("narrow")
        client.start_stream(callback=lambda result, error: answers.append((result, error)), headers=headers)
        client.async_stream_infer("checked", inputs(triton_grpc, ids_of(np.random.default_rng(0), 1, 3)))
        until(lambda: answers, "an answer")
        client.stop_stream()
    assert answers[0][0] is None
    assert "checked" in str(answers[0][1])


def test_embeddings_by_token_ids_are_the_models_own(site: TensorSite) -> None:
    texts = ["a short one", "the quick brown fox jumps over the lazy dog, again and again and again", "x"]
    client = site.chain.client()
    together = client.embeddings.create(model="minilm", input=texts)
    alone = [client.embeddings.create(model="minilm", input=text).data[0].embedding for text in texts]
    by_text = client.embeddings.create(model="encoder", input=texts)
    assert [item.index for item in together.data] == [0, 1, 2]
    for item, other, third in zip(together.data, alone, by_text.data, strict=True):
        np.testing.assert_allclose(item.embedding, other, atol=1e-5)
        np.testing.assert_allclose(item.embedding, third.embedding, atol=1e-5)
    assert together.usage.prompt_tokens == together.usage.total_tokens > 20
    plain = client.embeddings.create(model="minilm", input="a short one", encoding_format="float")
    np.testing.assert_allclose(plain.data[0].embedding, alone[0], atol=1e-5)


def test_a_decoupled_model_writes_a_chat(site: TensorSite) -> None:
    client = site.chain.client()
    asked = {"model": "writer", "messages": [{"role": "user", "content": "write"}], "max_tokens": 12}
    whole = client.chat.completions.create(**asked)
    assert whole.usage is not None
    assert whole.choices[0].finish_reason == "length"
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == whole.choices[0].message.content
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert client.completions.create(model="writer", prompt="write", max_tokens=5).choices[0].text


def test_a_client_that_leaves_stops_the_writing(site: TensorSite) -> None:
    client = site.chain.client()
    asked = {"model": "writer", "messages": [{"role": "user", "content": "write on"}], "max_tokens": 4000}
    stream = client.chat.completions.create(**asked, stream=True)
    first = next(iter(stream))
    assert first.id
    stream.close()
    # What is reserved is free again long before 4,000 words are written.
    until(lambda: site.chain.metric("forebay_open_reservations") == 0, "the request is over")


def test_errors_have_the_shape_of_their_protocol(site: TensorSite) -> None:
    with site.grpc() as client:
        stranger = refusal(lambda: client.infer("checked", inputs(triton_grpc, ids_of(np.random.default_rng(0), 1, 3))))
        assert "UNAUTHENTICATED" in str(stranger.status())
    answer = site.chain.send("GET", "/v2/models/checked", None, None)
    assert answer.status == 401
    assert set(answer.json) == {"error"}
    answer = site.chain.send("GET", "/v2/models/nobody/ready", None)
    assert answer.status in (400, 404)
    assert "nobody" in answer.json["error"]
    with pytest.raises(openai.NotFoundError):
        site.chain.client().embeddings.create(model="nobody", input="x")


def test_many_clients_at_once_leave_nothing_behind(site: TensorSite) -> None:
    random = np.random.default_rng(9)
    requests = [ids_of(random, 1, int(random.integers(1, 400))) for _ in range(64)]
    with site.grpc() as client:
        calls = [
            client.async_infer(
                "checked", inputs(triton_grpc, arrays), headers=secret_headers(), callback=lambda result, error: None
            )
            for arrays in requests
        ]
        for call in calls[::2]:
            call.cancel()
