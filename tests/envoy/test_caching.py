"""The exact cache through the whole chain: what is shared, what is never shared, what is forgotten."""

from __future__ import annotations

from chain import Chain


def test_a_repeat_is_a_hit(chain: Chain) -> None:
    first = chain.chat("a repeat is a hit")
    assert first.headers["x-forebay-cache"] == "miss"
