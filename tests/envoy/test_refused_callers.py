"""Who is refused: strangers before their body is read, keys beyond what they may do; and what they may see."""

from __future__ import annotations

import json
import socket
from typing import Any

import openai
import pytest

from chain import Chain
from chain_policy import CHAT, MAX_BODY_BYTES, secret_of
from envoy_rig import DEADLINE_S

GOOD: dict[str, Any] = {"model": "small-chat", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}


@pytest.mark.parametrize(
    ("credential", "code"),
    [
        ("", "missing_api_key"),
        ("authorization: Bearer fbk_test_stranger", "invalid_api_key"),
        ("authorization: Bearer ", "missing_api_key"),
        ("authorization: Basic Zm9vOmJhcg==", "missing_api_key"),
        (f"authorization: Bearer {secret_of('acme')}x", "invalid_api_key"),
        (f"authorization: Bearer {secret_of('acme').upper()}", "invalid_api_key"),
        ("x-api-key: fbk_test_stranger", "invalid_api_key"),
        (f"authorization: Bearer {secret_of('closed')}", "expired_api_key"),
        (f"authorization: Bearer {secret_of('old')}", "expired_api_key"),
    ],
)
def test_a_stranger_gets_401_before_a_body_of_30_megabytes_is_read(chain: Chain, credential: str, code: str) -> None:
    """Only the head is sent, so an answer can only be made from the head."""
    lines = [f"POST {CHAT} HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {30 << 20}"]
    lines += [credential] if credential else []
    seen = chain.metric("forebay_requests_total", outcome=code)
    with socket.create_connection(("127.0.0.1", chain.ports.listen), timeout=DEADLINE_S) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = connection.recv(65536)
        while b"}}" not in answer:
            answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 401 ")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert (error["code"], error["type"], error["param"]) == (code, "authentication_error", None)
    assert b"fbk_" not in answer
    assert chain.metric("forebay_requests_total", outcome=code) == seen + 1


def test_the_openai_client_knows_a_wrong_key(chain: Chain) -> None:
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{chain.ports.listen}/v1", api_key="sk-stranger", max_retries=0
    ) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model="small-chat", messages=[{"role": "user", "content": "hello"}])


def test_a_key_is_taken_from_each_of_its_headers(chain: Chain) -> None:
    for name in ("authorization", "x-api-key", "api-key"):
        value = secret_of("acme") if name != "authorization" else f"bearer {secret_of('acme')}"
        assert chain.send("GET", "/v1/models", None, None, **{name: value}).status == 200


def test_a_key_without_permission_gets_403(chain: Chain) -> None:
    error = chain.refusal(GOOD | {"model": "large-chat"}, key="narrow")
    assert isinstance(error, openai.PermissionDeniedError)
    assert (error.code, error.type, error.param) == ("model_forbidden", "permission_error", "model")
    assert "`large-chat`" in error.body["message"]
    error = chain.refusal(GOOD, key="narrow", x_forebay_feature="per-user")
    assert isinstance(error, openai.PermissionDeniedError)
    assert error.code == "feature_forbidden"
    assert chain.large.seen("hello") == 0
    assert chain.chat("the narrow key asks for what it may", key="narrow").headers["x-forebay-model"] == "small-chat"


def test_what_does_not_exist_is_said(chain: Chain) -> None:
    error = chain.refusal(GOOD | {"model": "gpt-nobody"})
    assert isinstance(error, openai.NotFoundError)
    assert (error.code, error.param) == ("model_not_found", "model")
    assert "`gpt-nobody`" in error.body["message"]
    error = chain.refusal(GOOD, x_forebay_feature="nonsense")
    assert (error.status_code, error.code) == (400, "feature_not_found")
    error = chain.refusal(GOOD, "/v1/threads")
    assert (error.status_code, error.code) == (404, "unknown_path")
    answer = chain.send("DELETE", CHAT, None)
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    answer = chain.send("GET", CHAT + "/../models", None)
    assert answer.status == 404


def test_a_header_that_is_malformed_is_said(chain: Chain) -> None:
    error = chain.refusal(GOOD, x_forebay_user="u" * 300)
    assert (error.status_code, error.code) == (400, "invalid_header")
    assert "`x-forebay-user`" in error.body["message"]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "images"),
        ({"response_format": {"type": "json_object"}}, "a JSON response format"),
    ],
)
def test_a_model_that_cannot_is_400_and_says_what(chain: Chain, fields: dict[str, Any], what: str) -> None:
    error = chain.refusal(GOOD | fields)
    assert isinstance(error, openai.BadRequestError)
    assert (error.code, error.param) == ("unsupported_capability", "model")
    assert f"`small-chat` does not support {what}" in error.body["message"]
    if what != "images":
        assert chain.ask(GOOD | fields | {"model": "large-chat"}).status == 200


def test_a_model_of_another_kind_is_400(chain: Chain) -> None:
    assert chain.refusal(GOOD | {"model": "small-embed"}).code == "unsupported_capability"
    assert chain.refusal({"model": "large-chat", "prompt": "x"}, "/v1/completions").code == "unsupported_capability"
    assert chain.refusal({"model": "large-chat", "input": "x"}, "/v1/embeddings").code == "unsupported_capability"


def test_models_lists_what_the_key_may_use(chain: Chain) -> None:
    names = [model.id for model in chain.client("acme").models.list()]
    assert names == ["small-chat", "large-chat", "small-embed", "scarce", "lost"]
    narrow = list(chain.client("narrow").models.list())
    assert [(model.id, model.owned_by) for model in narrow] == [("small-chat", "lab")]
    refused = chain.send("POST", "/v1/models", b"{}")
    assert (refused.status, refused.code) == (405, "method_not_allowed")


def test_a_wrong_key_with_too_large_a_body_learns_nothing_about_sizes(chain: Chain) -> None:
    answer = chain.send("POST", CHAT, None, None, content_length=str(MAX_BODY_BYTES * 4))
    assert (answer.status, answer.code) == (401, "missing_api_key")
