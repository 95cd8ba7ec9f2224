"""Bodies that no upstream must ever see, each with its own clear error; the fixture shows that nothing leaks."""

from __future__ import annotations

import gzip
import json
import socket
from typing import Any

import openai
import pytest

from chain import Chain
from chain_policy import CHAT, MAX_BODY_BYTES, WINDOW_TOKENS, secret_of
from envoy_rig import DEADLINE_S, until

CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"
GOOD: dict[str, Any] = {"model": "small-chat", "messages": [{"role": "user", "content": "hello"}], "temperature": 0}


def good(**fields: Any) -> bytes:
    return json.dumps(GOOD | fields).encode()


BROKEN = {
    "malformed": (b'{"model": small-chat}', "is not JSON"),
    "truncated": (good()[:-9], "is not JSON"),
    "two documents": (good() + good(), "is not JSON"),
    "a lone surrogate": (b'{"model":"small-chat","messages":"\\ud800"}', "is not JSON"),
    "a bad number": (good(temperature=0).replace(b'"temperature": 0', b'"temperature": 0.'), "is not JSON"),
    "NaN": (good().replace(b'"temperature": 0', b'"temperature": NaN'), "is not JSON"),
    "no object": (b"[1, 2]", "must be a JSON object"),
    "not UTF-8": (good().replace(b"hello", b"hel\xfflo"), "is not UTF-8"),
    "an overlong NUL": (good().replace(b"hello", b"\xc0\x80"), "is not UTF-8"),
    "UTF-16": (good().decode().encode("utf-16"), "is not UTF-8"),
    "too deep": (good(metadata=0).replace(b'"metadata": 0', b'"metadata": ' + b"[" * 90 + b"]" * 90), "deeper than 64"),
    "very deep": (b'{"a":' * 100_000, "deeper than 64"),
    "a duplicate key": (good()[:-1] + b', "model": "large-chat"}', "`model` occurs twice"),
    "an escaped duplicate": (good()[:-1] + b', "m\\u006fdel": "large-chat"}', "`model` occurs twice"),
    "a duplicate inside": (good().replace(b'"role"', b'"role": "system", "role"'), "`role` occurs twice"),
}

WRONG = {
    "no model": ({"messages": GOOD["messages"]}, "model"),
    "model a number": (GOOD | {"model": 7}, "model"),
    "model empty": (GOOD | {"model": ""}, "model"),
    "model endless": (GOOD | {"model": "m" * 5_000}, "model"),
    "no messages": ({"model": "small-chat"}, "messages"),
    "messages empty": (GOOD | {"messages": []}, "messages"),
    "messages a string": (GOOD | {"messages": "hello"}, "messages"),
    "a message a string": (GOOD | {"messages": ["hello"]}, "messages[0]"),
    "no role": (GOOD | {"messages": [{"content": "hello"}]}, "messages[0].role"),
    "content a number": (GOOD | {"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    "stream a string": (GOOD | {"stream": "true"}, "stream"),
    "temperature a string": (GOOD | {"temperature": "hot"}, "temperature"),
    "max_tokens negative": (GOOD | {"max_tokens": -1}, "max_tokens"),
    "max_tokens a fraction": (GOOD | {"max_tokens": 1.5}, "max_tokens"),
    "max_tokens above 64 bits": (GOOD | {"max_tokens": 10**30}, "max_tokens"),
    "n zero": (GOOD | {"n": 0}, "n"),
    "tools an object": (GOOD | {"tools": {}}, "tools"),
    "response_format a string": (GOOD | {"response_format": "json"}, "response_format"),
    "stream_options a list": (GOOD | {"stream": True, "stream_options": []}, "stream_options"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_body_is_400_and_says_what_is_broken(chain: Chain, name: str) -> None:
    body, words = BROKEN[name]
    error = chain.refusal(body)
    assert isinstance(error, openai.BadRequestError)
    assert (error.code, error.type) == ("invalid_json", "invalid_request_error")
    assert words in error.body["message"]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_400_and_named(chain: Chain, name: str) -> None:
    body, param = WRONG[name]
    error = chain.refusal(body)
    assert isinstance(error, openai.BadRequestError)
    assert (error.code, error.param) == ("invalid_value", param)


def test_completions_and_embeddings_are_read_as_strictly(chain: Chain) -> None:
    wrong = [
        ("/v1/completions", {"model": "small-chat"}, "prompt"),
        ("/v1/completions", {"model": "small-chat", "prompt": ["a", 1]}, "prompt"),
        ("/v1/completions", {"model": "small-chat", "prompt": ["a"] * 100, "n": 100}, "n"),
        ("/v1/embeddings", {"model": "small-embed", "input": []}, "input"),
        ("/v1/embeddings", {"model": "small-embed", "input": {"text": "a"}}, "input"),
    ]
    for path, body, param in wrong:
        error = chain.refusal(body, path)
        assert (error.status_code, error.param) == (400, param), body


def test_an_empty_body_is_400(chain: Chain) -> None:
    answer = chain.ask(b"")
    assert (answer.status, answer.code) == (400, "invalid_json")
    assert "empty" in answer.json["error"]["message"]


def test_a_prompt_beyond_the_window_is_400_with_both_numbers(chain: Chain) -> None:
    error = chain.refusal(GOOD | {"messages": [{"role": "user", "content": "word " * 5_000}]})
    assert isinstance(error, openai.BadRequestError)
    assert (error.code, error.param) == ("context_length_exceeded", "messages")
    assert f"{WINDOW_TOKENS} tokens" in error.body["message"]
    counted = 5_000 + 4 + 4  # a word and its space are one token; the chat's own overhead stands around them
    assert any(f"({n} in the prompt)" in error.body["message"] for n in range(counted - 4, counted + 4)), error.body
    asked = chain.refusal(GOOD | {"max_tokens": 64, "messages": [{"role": "user", "content": "word " * 4_050}]})
    assert asked.code == "context_length_exceeded"


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
def test_an_encoded_body_is_415(chain: Chain, encoding: str) -> None:
    error = chain.refusal(gzip.compress(good()), content_encoding=encoding)
    assert (error.status_code, error.code) == (415, "unsupported_encoding")
    assert encoding in error.body["message"]


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/jsonl"])
def test_another_content_type_is_415(chain: Chain, kind: str) -> None:
    answer = chain.ask(good(), content_type=kind)
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


def test_five_megabytes_of_json_work(chain: Chain) -> None:
    """The text lies beside the messages, so the window has nothing against it."""
    answer = chain.ask(
        good(metadata={"note": "x" * 5_000_000}, messages=[{"role": "user", "content": "five megabytes"}])
    )
    assert answer.status == 200, answer
    assert answer.json["choices"][0]["message"]["content"]
    assert max(map(len, chain.small.bodies)) > 5_000_000
    deep = good(metadata=[{"k": [index, "text", None]} for index in range(60_000)])
    assert chain.ask(deep).status == 200


def test_too_large_by_its_length_is_413_before_the_body(chain: Chain) -> None:
    head = _head(f"content-length: {MAX_BODY_BYTES + 1}")
    answer = _raw(chain, head)
    assert answer.startswith(b"HTTP/1.1 413 "), answer
    assert b'"code":"request_too_large"' in answer
    assert str(MAX_BODY_BYTES).encode() in answer


def test_too_large_in_chunks_is_413(chain: Chain) -> None:
    """Nobody says how much is coming; Envoy's buffer ends it."""
    streams = chain.metric("forebay_decide_streams_total")
    with socket.create_connection(("127.0.0.1", chain.ports.listen), timeout=DEADLINE_S) as connection:
        connection.sendall(_head("transfer-encoding: chunked"))
        # Envoy 1.40 sees an excess only after the answer to the headers has asked for the body.
        until(lambda: chain.metric("forebay_decide_streams_total") > streams, "decide has the headers")
        answer = _send_until_answered(connection, CHUNK, MAX_BODY_BYTES // 65536 + 64)
    assert b"HTTP/1.1 413 " in answer, answer[:300]
    assert b'"code":"request_too_large"' in answer


def test_a_body_that_never_ends_is_given_up_with_its_client(chain: Chain) -> None:
    reset = chain.metric("forebay_streams_reset_total")
    with socket.create_connection(("127.0.0.1", chain.ports.listen), timeout=DEADLINE_S) as connection:
        connection.sendall(_head("content-length: 1000") + b'{"model":')
    until(lambda: chain.metric("forebay_streams_reset_total") > reset, "the stream is reset")


def _head(*lines: str) -> bytes:
    fields = [f"POST {CHAT} HTTP/1.1", "host: x", "content-type: application/json"]
    fields += [f"authorization: Bearer {secret_of('acme')}", *lines]
    return ("\r\n".join(fields) + "\r\n\r\n").encode()


def _raw(chain: Chain, data: bytes) -> bytes:
    """Send bytes and read one whole answer; the body that was announced is never sent."""
    with socket.create_connection(("127.0.0.1", chain.ports.listen), timeout=DEADLINE_S) as connection:
        connection.sendall(data)
        answer = b""
        while b"}}" not in answer:
            part = connection.recv(65536)
            if not part:
                break
            answer += part
        return answer


def _send_until_answered(connection: socket.socket, chunk: bytes, most: int) -> bytes:
    connection.settimeout(0)
    answer, sent = b"", 0
    waiting = memoryview(chunk)

    def step() -> bytes:
        nonlocal answer, sent, waiting
        try:
            answer += connection.recv(65536)
        except BlockingIOError:
            pass
        except ConnectionError:
            return answer or b"reset without an answer"
        try:
            while sent < most and b"}}" not in answer:
                waiting = waiting[connection.send(waiting) :]
                if not waiting:
                    sent, waiting = sent + 1, memoryview(chunk)
        except (BlockingIOError, ConnectionError):
            pass
        return answer if b"}}" in answer else b""

    return bytes(until(step, "an answer to what is too large"))
