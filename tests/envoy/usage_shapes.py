"""Streams as servers write them, and what the usage filter must make of each.

Owns: bytes and expectations. Must not know: Envoy. On failure: it is data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["SHAPES", "USAGE", "Shape", "compact"]


def compact(value: Any) -> str:
    """Give JSON as servers write it."""
    return json.dumps(value, separators=(",", ":"))


USAGE = compact({"prompt_tokens": 19, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 3}})
EARLIER = compact({"prompt_tokens": 19, "completion_tokens": 1})
LARGE = compact({"prompt_tokens": 1, "why": "x" * 2048})


@dataclass(frozen=True)
class Shape:
    """`events` with whether each is the extra one; `noted` is the metadata that it leaves."""

    events: list[tuple[bytes, bool]]
    noted: dict[str, str]

    @property
    def stream(self) -> bytes:
        """What the upstream sends."""
        return b"".join(event for event, _ in self.events)

    @property
    def without_extra(self) -> bytes:
        """What a client gets that did not ask for usage."""
        return b"".join(event for event, extra in self.events if not extra)

    def lines(self, ending: bytes) -> Shape:
        """Give the same with other line breaks."""
        return Shape([(event.replace(b"\n", ending), extra) for event, extra in self.events], self.noted)


def _event(data: str, *, extra: bool = False, begins: str = "data: ") -> tuple[bytes, bool]:
    return f"{begins}{data}\n\n".encode(), extra


def _chunk(text: str, more: str = "") -> str:
    return f'{{"id":"c","choices":[{{"index":0,"delta":{{"content":{json.dumps(text)}}}}}]{more}}}'


def _only(usage: str) -> str:
    return f'{{"id":"c","choices":[],"usage":{usage}}}'


DONE = _event("[DONE]")


def _chat() -> Shape:
    words = [_event(_chunk(word, ',"usage":null')) for word in ("Hel", "lo", " \u00e9\U0001f600")]
    return Shape([*words, _event(_only(USAGE), extra=True), DONE], {"last": USAGE})


def _comments() -> Shape:
    events = [
        (b": keep-alive\n\n", False),
        (b"id: 1\nretry: 10\n" + _event(_chunk("a"), begins="data:")[0], False),
        (b": data: not data\n\n:\n\n", False),
        (b": before\n" + _event(_only(USAGE), begins="data:")[0], True),
        (b"event: end\ndata:[DONE]\n\n", False),
    ]
    return Shape(events, {"last": USAGE})


def _every_chunk() -> Shape:
    words = [_event(_chunk("a", f',"usage":{EARLIER}')), _event(_chunk("b", f',"usage":{EARLIER}'))]
    return Shape([*words, _event(_only(USAGE), extra=True), DONE], {"so_far": EARLIER, "last": USAGE})


def _with_choices() -> Shape:
    over = f'{{"choices":[{{"index":0,"delta":{{}},"finish_reason":"stop"}}],"usage":{USAGE}}}'
    return Shape([_event(_chunk("a")), _event(over), DONE], {"last": USAGE})


def _filtered_first() -> Shape:
    first = _event('{"choices":[],"prompt_filter_results":[{"index":0}]}')
    null = _event('{"choices":[],"usage":null}')
    spaced = _event('{ "choices" : [ ] , "usage" : ' + USAGE + " }", extra=True)
    return Shape([first, null, _event(_chunk("a")), spaced, DONE], {"last": USAGE})


def _usage_first() -> Shape:
    behind = r',"note":"}}{\\\"}\"}","choices":[],"x":{"a":[{}]}}'
    return Shape([_event(_chunk("a")), _event(f'{{"usage":{USAGE}{behind}', extra=True), DONE], {"last": USAGE})


def _spoken() -> Shape:
    """A model that talks about usage, in text and in a tool's arguments."""
    said = _event(_chunk('"usage":{"prompt_tokens":1}}'))
    call = compact({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": '{"usage":{"a":1}}'}}]}}]})
    nested = compact({"choices": [{"delta": {}, "usage": {"a": 1}}]})
    return Shape([said, _event(call), _event(nested), _event('{"choices":[{"usage":"usage"}]}'), DONE], {})


def _responses() -> Shape:
    tools = [{"type": "function", "parameters": {"properties": {"usage": {"type": "object"}}, "usage": {"a": 1}}}]
    created = compact({"type": "response.created", "response": {"tools": tools, "usage": None}})
    delta = compact({"type": "response.output_text.delta", "delta": '"usage":{'})
    usage = {"input_tokens": 5, "output_tokens": 6, "output_tokens_details": {"reasoning_tokens": 2}}
    end = {"type": "response.completed", "response": {"status": "completed", "usage": usage, "tools": tools, "user": 1}}
    events = [(name, data) for name, data in (("created", created), ("output_text.delta", delta))]
    events.append(("completed", compact(end)))
    written = [_event(data, begins=f"event: response.{name}\ndata: ") for name, data in events]
    return Shape(written, {"last": compact(usage)})


def _messages() -> Shape:
    start = {"input_tokens": 25, "cache_read_input_tokens": 4, "output_tokens": 1}
    end = {"output_tokens": 15}
    events = [
        ("message_start", {"message": {"content": [], "usage": start}}),
        ("content_block_start", {"content_block": {"type": "tool_use", "input": {"usage": {"a": 1}}}}),
        ("ping", {}),
        ("content_block_delta", {"delta": {"type": "input_json_delta", "partial_json": '{"usage":{"a":1}}'}}),
        ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": end}),
        ("message_stop", {}),
    ]
    written = [_event(compact({"type": name} | more), begins=f"event: {name}\ndata: ") for name, more in events]
    return Shape(written, {"start": compact(start), "last": compact(end)})


def _sorted_messages() -> Shape:
    """Keys in another order, as some servers write them."""
    start = '{"message":{"type":"message","usage":{"input_tokens":2}},"type":"message_start"}'
    return Shape([_event(start)], {"start": '{"input_tokens":2}'})


def _many_lines() -> Shape:
    pretty = '{\ndata:  "choices": [],\ndata:  "usage": {"prompt_tokens": 1,\ndata:   "completion_tokens": 2}\ndata: }'
    noted = '{"prompt_tokens": 1,\n   "completion_tokens": 2}'
    return Shape([_event(_chunk("a")), _event(pretty, extra=True), DONE], {"last": noted})


def _unfinished() -> Shape:
    """The empty line behind the last event is missing."""
    return Shape([_event(_chunk("a")), (f"data: {_only(USAGE)}\n".encode(), True)], {"last": USAGE})


def _unfinished_text() -> Shape:
    return Shape([_event(_chunk("a")), (b'data: {"id":"c","object":"x"', False)], {})


def _large() -> Shape:
    return Shape([_event(_chunk("a")), _event(_only(LARGE), extra=True), DONE], {"bad": "1"})


def _no_text() -> Shape:
    odd = '{"prompt_tokens":1,"name":"\u00e9"}'
    return Shape([_event(_only(odd), extra=True), DONE], {"bad": "1"})


def _broken() -> Shape:
    """A usage object that does not close, and one that is no object."""
    return Shape([_event('{"choices":[],"usage":{"a":1}'), _event('{"choices":[],"usage":[{"a":1}]}'), DONE], {})


_MAKERS: dict[str, Callable[[], Shape]] = {
    "chat": _chat,
    "comments": _comments,
    "every chunk": _every_chunk,
    "with choices": _with_choices,
    "filtered first": _filtered_first,
    "usage first": _usage_first,
    "spoken": _spoken,
    "responses": _responses,
    "messages": _messages,
    "sorted messages": _sorted_messages,
    "many lines": _many_lines,
    "unfinished": _unfinished,
    "unfinished text": _unfinished_text,
    "large": _large,
    "no text": _no_text,
    "broken": _broken,
}
SHAPES = {name: make() for name, make in _MAKERS.items()}
SHAPES |= {
    f"{name}, {breaks}": SHAPES[name].lines(ending)
    for breaks, ending in (("CRLF", b"\r\n"), ("CR", b"\r"))
    for name in ("chat", "comments", "messages", "every chunk")
}
