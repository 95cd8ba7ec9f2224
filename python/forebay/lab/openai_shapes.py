"""Requests and answers in OpenAI's shapes: what was asked, and the JSON to say it in.

Owns parsing of chats, completions and embeddings, and building of answers and events. Must not know sockets or time.
A request that is wrong raises Refusal, which carries status and OpenAI's error body.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from forebay.lab.answer_parts import Part, interleaved

Json = dict[str, Any]


class Refusal(Exception):
    """An answer other than 200; `body` has OpenAI's error shape."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.status = status
        self.message = message
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
    """The fleet's own count for one request, in tokens.

    `cached_tokens` and `cache_write_tokens` are parts of `prompt_tokens`, `reasoning_tokens` of `completion_tokens`.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def after(self, visible_tokens: int) -> Usage:
        """The count once so much of the output has been said; what is not said was thought before."""
        return replace(self, completion_tokens=self.reasoning_tokens + visible_tokens)

    def json(self) -> Json:
        """OpenAI's `usage` object. There is no field for what was written into the cache."""
        shown: Json = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }
        if self.cached_tokens:
            shown["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens, "audio_tokens": 0}
        if self.reasoning_tokens:
            shown["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens, "audio_tokens": 0}
        return shown


@dataclass(frozen=True, slots=True)
class Generated:
    """The choices of one answer and what they cost. `limit_tokens`: the most that each could have had; 0: no bound."""

    choices: list[Choice]
    usage: Usage
    limit_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """What every object and event of one answer repeats. `chat`: not a text completion."""

    id: str
    model: str
    created: int
    chat: bool = True

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


@dataclass(frozen=True, slots=True)
class OpenAiAnswer:
    """A chat or a text completion. `usage_style` is the fleet's; `asked`: the client wants the usage event."""

    head: Head
    made: Generated
    usage_style: str = "ask"
    asked: bool = False

    def plain(self) -> Json:
        """The whole answer."""
        shape = _chat_choice if self.head.chat else _text_choice
        name = "chat.completion" if self.head.chat else "text_completion"
        shaped = [shape(index, choice) for index, choice in enumerate(self.made.choices)]
        usage = {} if self.usage_style == "never" else {"usage": self.made.usage.json()}
        return {**self.head.fields(name), "choices": shaped, **usage}

    def parts(self, step: int) -> Iterator[Part]:
        """The events: roles, texts, finish reasons, and the usage where this fleet tells it."""
        choices, usage = self.made.choices, self.made.usage
        said = 0
        if self.head.chat:
            for index, choice in enumerate(choices):
                yield self._part([_first_delta(index, choice)], 0, said)
        for index, text, tokens in interleaved([choice.text for choice in choices], step):
            said += tokens
            yield self._part([_text_delta(self.head, index, choices[index], text)], tokens, said)
        for index, choice in enumerate(choices):
            last = index == len(choices) - 1 and self.usage_style == "last_choice"
            part = self._part([_last_delta(self.head, index, choice)], 0, said)
            yield self._with_usage(part, usage) if last else part
        if self.usage_style == "always" or (self.asked and self.usage_style in ("ask", "every_chunk")):
            yield self._with_usage(self._part([], 0, said), usage)
        yield Part("[DONE]")

    def _part(self, entries: list[Json], tokens: int, said: int) -> Part:
        value = {
            **self.head.fields("chat.completion.chunk" if self.head.chat else "text_completion"),
            "choices": entries,
        }
        if self.usage_style != "every_chunk":
            return Part(value, tokens)
        total = self.made.usage.completion_tokens - self.made.usage.reasoning_tokens
        value["usage"] = self.made.usage.after(said).json()
        return Part(value, tokens, tells_usage=said == total)

    def _with_usage(self, part: Part, usage: Usage) -> Part:
        assert isinstance(part.data, dict)
        return Part(part.data | {"usage": usage.json()}, tells_usage=True)


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


def _first_delta(index: int, choice: Choice) -> Json:
    """The choice entry that opens a chat stream."""
    delta: Json = {"role": "assistant", "content": ""}
    if choice.tool_name is not None:
        function = {"name": choice.tool_name, "arguments": ""}
        call = {"index": 0, "id": choice.tool_id, "type": "function", "function": function}
        delta = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _text_delta(head: Head, index: int, choice: Choice, text: str) -> Json:
    """The choice entry that carries a piece of text or of a tool's arguments."""
    if not head.chat:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}
    delta: Json = {"content": text}
    if choice.tool_name is not None:
        delta = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _last_delta(head: Head, index: int, choice: Choice) -> Json:
    """The choice entry that gives the finish reason."""
    payload: Json = {"delta": {}} if head.chat else {"text": ""}
    return {"index": index, **payload, "logprobs": None, "finish_reason": choice.finish_reason}
