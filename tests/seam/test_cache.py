"""The exact cache, the collector and the reader as Python sees them; the `openai` client reads what they render.

Owns: the server that sends stored bytes as they are. Must not know: the gateway.
On failure: a stored answer would reach a client as something else than the upstream said.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState

from forebay._core import AnswerCollector, AnswerLabels, AnswerRefused, ExactCache, SseReader

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = bytes(range(32))
TEXT = "Grüße, 世界! " * 60 + "\n\ndata: [DONE]\n\n"
LOGPROBS = {
    "content": [{"token": "a", "logprob": -0.12345678901234567, "bytes": [97], "top_logprobs": []}],
    "refusal": None,
}
CALLS = [
    {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"c":"Zürich"}' + " " * 300}},
    {"id": "call_b", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
]
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None},
            "logprobs": LOGPROBS,
            "finish_reason": "stop",
        },
        {
            "index": 1,
            "message": {"role": "assistant", "content": None, "refusal": None, "tool_calls": CALLS},
            "logprobs": None,
            "finish_reason": "tool_calls",
        },
        {
            "index": 2,
            "message": {"role": "assistant", "content": None, "refusal": "no"},
            "logprobs": None,
            "finish_reason": "stop",
        },
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    "system_fingerprint": "fp",
}
COMPLETION: dict[str, Any] = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "length"},
        {"index": 1, "text": "", "logprobs": None, "finish_reason": "stop"},
    ],
}


class Stored(ThreadingHTTPServer):
    """Sends the stored answer in the form that the request asks for."""

    def __init__(self, answer: dict[str, Any], kind: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        cache = ExactCache(1 << 20)
        labels = AnswerLabels("acme", "m", kind=kind)
        outcome = cache.store(KEY, json.dumps(answer).encode(), labels, ticket=cache.begin_fill(), ttl_ns=10, now_ns=0)
        assert outcome == "stored"
        found = cache.lookup(KEY, now_ns=1)
        assert found is not None
        self.plain = found.body
        self.stream = cache.stream(KEY, found)
        self.stream_with_usage = cache.stream_with_usage(KEY, found) if "usage" in answer else b""


class Handler(BaseHTTPRequestHandler):
    """One request: body in, stored bytes out."""

    server: Stored

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Says nothing: the test's assertions speak."""

    def do_POST(self) -> None:
        """Answers as the cache would."""
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        streamed = bool(asked.get("stream"))
        usage = bool((asked.get("stream_options") or {}).get("include_usage"))
        body = self.server.plain
        if streamed:
            body = self.server.stream_with_usage if usage else self.server.stream
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if streamed else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(params=["chat", "completion"])
def stored(request: pytest.FixtureRequest) -> Iterator[tuple[str, Stored, openai.OpenAI]]:
    """A server with one stored answer, and the client that asks it."""
    server = Stored(CHAT if request.param == "chat" else COMPLETION, request.param)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    with openai.OpenAI(api_key="none", base_url=url, max_retries=0) as client:
        yield request.param, server, client
    server.shutdown()
    server.server_close()
    thread.join()


def spoken(choice: Any) -> dict[str, Any]:
    """What a choice says, without what the client adds while it accumulates a stream."""
    said: dict[str, Any] = choice.model_dump()
    message = {name: value for name, value in said["message"].items() if value is not None}
    message.pop("parsed", None)
    for call in message.get("tool_calls", ()):
        call.pop("index", None)
        call["function"].pop("parsed_arguments", None)
    return {**said, "message": message}


def test_the_client_reads_the_same_from_a_stream_as_from_a_plain_answer(
    stored: tuple[str, Stored, openai.OpenAI],
) -> None:
    kind, _, client = stored
    if kind == "completion":
        plain = client.completions.create(model="m", prompt="x")
        texts: dict[int, str] = {}
        reasons: dict[int, str | None] = {}
        for event in client.completions.create(model="m", prompt="x", stream=True):
            for choice in event.choices:
                texts[choice.index] = texts.get(choice.index, "") + choice.text
                reasons[choice.index] = choice.finish_reason
        assert texts == {choice.index: choice.text for choice in plain.choices}
        assert reasons == {choice.index: choice.finish_reason for choice in plain.choices}
        return
    messages: Any = [{"role": "user", "content": "x"}]
    answer = client.chat.completions.create(model="m", messages=messages)
    assert answer.choices[0].message.content == TEXT
    for options in (None, {"include_usage": True}):
        state = ChatCompletionStreamState()
        extra: Any = {"stream_options": options} if options else {}
        for chunk in client.chat.completions.create(model="m", messages=messages, stream=True, **extra):
            state.handle_chunk(chunk)
        streamed = state.get_final_completion()
        assert [spoken(choice) for choice in streamed.choices] == [spoken(choice) for choice in answer.choices]
        assert streamed.usage == (answer.usage if options else None)
        assert (streamed.id, streamed.model, streamed.created) == (answer.id, answer.model, answer.created)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_collecting_a_rendered_stream_gives_the_answer_back(
    stored: tuple[str, Stored, openai.OpenAI], size: int
) -> None:
    kind, server, _ = stored
    collector = AnswerCollector("chat" if kind == "chat" else "completion", 200, "text/event-stream")
    for at in range(0, len(server.stream), size):
        collector.push(server.stream[at : at + size])
    expected = {name: value for name, value in json.loads(server.plain).items() if name != "usage"}
    assert json.loads(collector.finish()) == expected


def test_refusals_carry_a_slug() -> None:
    cache = ExactCache(1 << 20)
    with pytest.raises(ValueError, match=r"^cache_key_length: "):
        cache.lookup(b"short", now_ns=0)
    with pytest.raises(ValueError, match=r"^answer_kind_unknown: "):
        AnswerLabels("acme", "m", kind="image")  # type: ignore[arg-type]
    collector = AnswerCollector("chat", 500, "application/json")
    assert collector.refusal == "answer_status"
    with pytest.raises(AnswerRefused, match=r"^answer_status: "):
        collector.finish()
    with pytest.raises(ValueError, match=r"^answer_ended: "):
        collector.finish()
    cut = AnswerCollector("chat", 200, "application/json")
    cut.push(json.dumps(CHAT).encode())
    with pytest.raises(AnswerRefused, match=r"^answer_cut: "):
        cut.cut()
    reader = SseReader(max_event_bytes=4)
    with pytest.raises(ValueError, match=r"^sse_event_too_large: "):
        reader.feed(b"data: too long")


def test_an_invalidation_refuses_the_fill_that_began_before_it() -> None:
    cache = ExactCache(1 << 20)
    labels = AnswerLabels("acme", "m", revision="1", tags=("faq",))
    ticket = cache.begin_fill()
    assert cache.invalidate_tag("faq") == 0
    assert cache.store(KEY, b"{}", labels, ticket=ticket, ttl_ns=10, now_ns=0) == "stale"
    assert cache.store(KEY, b"{}", labels, ticket=cache.begin_fill(), ttl_ns=10, now_ns=0) == "stored"
    assert cache.invalidate_model("m", "2") == 0
    assert cache.invalidate_model("m", "1") == 1
    assert cache.stats()["refused_stale"] == 1
