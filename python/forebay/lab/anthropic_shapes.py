"""Requests and answers in the shapes of Anthropic's Messages API.

Owns reading of a messages request as a chat, and building of answers, events and errors. Must not know sockets or time.
A request that is wrong raises Refusal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from forebay.lab import openai_shapes as shapes
from forebay.lab.answer_parts import Part, interleaved
from forebay.lab.openai_shapes import Generated, Head, Json, Refusal

_ERROR_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}


def error_body(refusal: Refusal) -> Json:
    """The body of an answer other than 200."""
    kind = _ERROR_KINDS.get(refusal.status, "api_error" if refusal.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": refusal.message}}


def as_chat(body: Json) -> Json:
    """The request as a chat that asks the same. Raises Refusal."""
    turns = shapes.messages(body)
    if shapes.integer(body, "max_tokens", 0, 1) == 0:
        raise Refusal(400, "invalid_value", "max_tokens: Field required", "max_tokens")
    system = shapes.content_text(body.get("system"))
    before = [{"role": "system", "content": system}] if system else []
    chat = {"model": body.get("model"), "messages": [*before, *turns], "max_tokens": body["max_tokens"]}
    stops = body.get("stop_sequences")
    return chat | ({"stop": stops} if stops else {})


@dataclass(frozen=True, slots=True)
class MessagesAnswer:
    """A message. `usage_style` `never` leaves the counts out; any other tells them, as the API always does.

    `repeats_input`: the last event repeats the input counts, and they tell how long they are cached, as newer versions
    of the API do.
    """

    head: Head
    made: Generated
    usage_style: str = "ask"
    repeats_input: bool = False

    def plain(self) -> Json:
        """The whole answer."""
        choice = self.made.choices[0]
        told = {
            "content": [{"type": "text", "text": choice.text}],
            "stop_reason": _STOP_REASONS[choice.finish_reason],
        }
        output = {"output_tokens": self.made.usage.completion_tokens}
        return self._message() | told | self._usage(self._input_counts() | output)

    def parts(self, step: int) -> Iterator[Part]:
        """The events: start with the input's counts, one text block, the end with the output's count."""
        choice, usage = self.made.choices[0], self.made.usage
        begun = self._message() | self._usage(self._input_counts() | {"output_tokens": 1})
        yield _part("message_start", {"message": begun})
        yield _part("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}})
        yield _part("ping", {})
        for _, text, tokens in interleaved([choice.text], step):
            delta = {"index": 0, "delta": {"type": "text_delta", "text": text}}
            yield Part({"type": "content_block_delta", **delta}, tokens, "content_block_delta")
        yield _part("content_block_stop", {"index": 0})
        ended = {"delta": {"stop_reason": _STOP_REASONS[choice.finish_reason], "stop_sequence": None}}
        counts = self._input_counts() if self.repeats_input else {}
        told = self._usage(counts | {"output_tokens": usage.completion_tokens})
        yield Part({"type": "message_delta"} | ended | told, name="message_delta", tells_usage=bool(told))
        yield _part("message_stop", {})

    def _message(self) -> Json:
        return {
            "id": self.head.id,
            "type": "message",
            "role": "assistant",
            "model": self.head.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _input_counts(self) -> Json:
        """The input in three parts that do not overlap; `input_tokens` is what no cache had."""
        usage = self.made.usage
        counts = {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens - usage.cache_write_tokens,
            "cache_creation_input_tokens": usage.cache_write_tokens,
            "cache_read_input_tokens": usage.cached_tokens,
        }
        if not self.repeats_input:
            return counts
        lifetimes = {"ephemeral_5m_input_tokens": usage.cache_write_tokens, "ephemeral_1h_input_tokens": 0}
        return counts | {"cache_creation": lifetimes, "service_tier": "standard"}

    def _usage(self, counts: Json) -> Json:
        return {} if self.usage_style == "never" else {"usage": counts}


def _part(name: str, fields: Json) -> Part:
    return Part({"type": name, **fields}, name=name)
