"""Requests and answers in OpenAI's shapes: what was asked, and the JSON to say it in.

Owns parsing of the three request kinds and building of answers and events. Must not know sockets, time or failures.
A request that is wrong raises Refusal, which carries status and OpenAI's error body.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


class Refusal(Exception):
    """An answer other than 200, in OpenAI's error shape."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.status = status
        self.body: Json = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished choice: either a text or one tool call."""

    text: str
    finish_reason: str
    tool_name: str | None = None
    tool_id: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """The fleet's own count for one request, in tokens."""

    prompt_tokens: int
    completion_tokens: int

    def json(self) -> Json:
        """OpenAI's `usage` object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


@dataclass(frozen=True, slots=True)
class Head:
    """What every object and event of one answer repeats."""

    id: str
    model: str
    created: int
    chat: bool

    def fields(self, object_name: str) -> Json:
        """The common fields, with the object name for this kind of answer."""
        return {"id": self.id, "object": object_name, "created": self.created, "model": self.model}


def parse(body: bytes) -> Json:
    """The request body as an object. Raises Refusal."""
    try:
        value = json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise Refusal(400, "invalid_json", f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refusal(400, "invalid_type", "the body must be a JSON object")
    return value


def integer(body: Json, name: str, default: int, least: int) -> int:
    """An optional integer field. Raises Refusal."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Refusal(400, "invalid_value", f"`{name}` must be an integer of at least {least}", name)
    return value


def content_text(content: object) -> str:
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    return ""


def messages(body: Json) -> list[Json]:
    """The chat's messages. Raises Refusal."""
    value = body.get("messages")
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        raise Refusal(400, "invalid_value", "`messages` must be a list of at least one message", "messages")
    return value


def stop_texts(body: Json) -> tuple[str, ...]:
    """The `stop` field as a tuple. Raises Refusal."""
    value = body.get("stop")
    items = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise Refusal(400, "invalid_value", "`stop` must be a string or a list of strings", "stop")
    return tuple(items)


def wants_usage_event(body: Json) -> bool:
    """Whether a stream ends with a usage event."""
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def answer(head: Head, choices: list[Choice], usage: Usage) -> Json:
    """A whole, plain answer."""
    if head.chat:
        name, shaped = "chat.completion", [_chat_choice(index, choice) for index, choice in enumerate(choices)]
    else:
        name, shaped = "text_completion", [_text_choice(index, choice) for index, choice in enumerate(choices)]
    return {**head.fields(name), "choices": shaped, "usage": usage.json()}


def _chat_choice(index: int, choice: Choice) -> Json:
    message: Json = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool_name is not None:
        call = {
            "id": choice.tool_id,
            "type": "function",
            "function": {"name": choice.tool_name, "arguments": choice.text},
        }
        message |= {"content": None, "tool_calls": [call]}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish_reason}


def _text_choice(index: int, choice: Choice) -> Json:
    return {"index": index, "text": choice.text, "logprobs": None, "finish_reason": choice.finish_reason}


def event(head: Head, choices: list[Json], usage: Usage | None) -> bytes:
    """One server-sent event."""
    value = {**head.fields("chat.completion.chunk" if head.chat else "text_completion"), "choices": choices}
    if usage is not None:
        value["usage"] = usage.json()
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE_EVENT = b"data: [DONE]\n\n"


def first_delta(head: Head, index: int, choice: Choice) -> Json | None:
    """The choice entry that opens a chat stream; None for text completions, which have no role."""
    if not head.chat:
        return None
    delta: Json = {"role": "assistant", "content": ""}
    if choice.tool_name is not None:
        function = {"name": choice.tool_name, "arguments": ""}
        call = {"index": 0, "id": choice.tool_id, "type": "function", "function": function}
        delta = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def text_delta(head: Head, index: int, choice: Choice, text: str) -> Json:
    """The choice entry that carries a piece of text or of a tool's arguments."""
    if not head.chat:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}
    delta: Json = {"content": text}
    if choice.tool_name is not None:
        delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def last_delta(head: Head, index: int, choice: Choice) -> Json:
    """The choice entry that gives the finish reason."""
    payload: Json = {"delta": {}} if head.chat else {"text": ""}
    return {"index": index, **payload, "logprobs": None, "finish_reason": choice.finish_reason}
