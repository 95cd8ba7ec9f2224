"""Requests and answers in the shapes of OpenAI's Responses API.

Owns reading of a responses request as a chat, and building of answers and events. Must not know sockets or time.
A request that is wrong raises Refusal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from forebay.lab import openai_shapes as shapes
from forebay.lab.answer_parts import Part, interleaved
from forebay.lab.openai_shapes import Generated, Head, Json, Refusal


def as_chat(body: Json) -> Json:
    """The request as a chat that asks the same. Raises Refusal."""
    value = body.get("input")
    turns = [{"role": "user", "content": value}] if isinstance(value, str) else value
    if not isinstance(turns, list) or not turns or not all(isinstance(item, dict) for item in turns):
        raise Refusal(400, "invalid_value", "`input` must be a string or a list of items", "input")
    instructions = body.get("instructions")
    before = [{"role": "system", "content": instructions}] if isinstance(instructions, str) else []
    limit = shapes.integer(body, "max_output_tokens", 0, 1)
    chat = {"model": body.get("model"), "messages": [*before, *turns]}
    return chat | ({"max_tokens": limit} if limit else {})


@dataclass(frozen=True, slots=True)
class ResponsesAnswer:
    """A response. `usage_style` `never` leaves the counts out; any other tells them, as the API always does."""

    head: Head
    made: Generated
    usage_style: str = "ask"

    def plain(self) -> Json:
        """The whole answer."""
        choice = self.made.choices[0]
        cut = choice.finish_reason == "length"
        output = [self._message("completed", [_text(choice.text)])]
        if self.made.usage.reasoning_tokens:
            output.insert(0, self._reasoning())
        ended = {
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": output,
        }
        return self._response() | ended | {"usage": self._usage()}

    def parts(self, step: int) -> Iterator[Part]:
        """The events, numbered; the last one carries the whole response."""
        for number, part in enumerate(self._unnumbered(step)):
            assert isinstance(part.data, dict)
            yield Part({**part.data, "sequence_number": number}, part.tokens, part.name, part.tells_usage)

    def _unnumbered(self, step: int) -> Iterator[Part]:
        yield _part("response.created", {"response": self._response()})
        yield _part("response.in_progress", {"response": self._response()})
        at = 0
        if self.made.usage.reasoning_tokens:
            yield _part("response.output_item.added", {"output_index": at, "item": self._reasoning()})
            yield _part("response.output_item.done", {"output_index": at, "item": self._reasoning()})
            at += 1
        text = self.made.choices[0].text
        place = {"output_index": at, "content_index": 0, "item_id": self._message_id()}
        yield _part("response.output_item.added", {"output_index": at, "item": self._message("in_progress", [])})
        yield _part("response.content_part.added", {**place, "part": _text("")})
        for _, piece, tokens in interleaved([text], step):
            name = "response.output_text.delta"
            yield Part({"type": name, **place, "delta": piece, "logprobs": []}, tokens, name)
        yield _part("response.output_text.done", {**place, "text": text, "logprobs": []})
        yield _part("response.content_part.done", {**place, "part": _text(text)})
        done = self._message("completed", [_text(text)])
        yield _part("response.output_item.done", {"output_index": at, "item": done})
        whole = self.plain()
        name = f"response.{whole['status']}"
        yield Part({"type": name, "response": whole}, name=name, tells_usage=whole["usage"] is not None)

    def _response(self) -> Json:
        return {
            "id": self.head.id,
            "object": "response",
            "created_at": self.head.created,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": self.head.model,
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": None,
        }

    def _usage(self) -> Json | None:
        usage = self.made.usage
        if self.usage_style == "never":
            return None
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }

    def _message_id(self) -> str:
        return f"msg_{self.head.id}"

    def _message(self, status: str, content: list[Json]) -> Json:
        return {
            "id": self._message_id(),
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _reasoning(self) -> Json:
        return {"id": f"rs_{self.head.id}", "type": "reasoning", "summary": []}


def _part(name: str, fields: Json) -> Part:
    return Part({"type": name, **fields}, name=name)


def _text(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
