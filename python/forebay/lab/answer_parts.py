"""What a streamed answer is made of, whatever the API: parts with the tokens that they carry.

Owns the part, and the order in which several choices speak. Must not know an API's fields, sockets or time.
It cannot fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from forebay.lab.writing import pieces


@dataclass(frozen=True, slots=True)
class Part:
    """One server-sent event.

    `name`: its `event` field; empty: none. `data`: a JSON object, or a text such as `[DONE]`. `tokens`: visible output
    that it carries; parts without any are sent with the next ones. `tells_usage`: the final usage stands in it.
    """

    data: dict[str, Any] | str
    tokens: int = 0
    name: str = ""
    tells_usage: bool = False


class Answer(Protocol):
    """A finished answer in one API's shapes."""

    def plain(self) -> dict[str, Any]:
        """The whole answer."""

    def parts(self, step: int) -> Iterator[Part]:
        """The same as events of `step` tokens each."""


def interleaved(texts: list[str], step: int) -> Iterator[tuple[int, str, int]]:
    """Pieces of all texts in turn: index, text, tokens."""
    waiting = [(index, pieces(text)) for index, text in enumerate(texts)]
    position = 0
    while any(position < len(tokens) for _, tokens in waiting):
        for index, tokens in waiting:
            part = tokens[position : position + step]
            if part:
                yield index, "".join(part), len(part)
        position += step
