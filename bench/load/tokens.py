"""Owns the measures of token counting: beside tiktoken on real text, and on text that is the worst for merging.

Must not know how tokens are counted.
On failure: counts that differ from tiktoken's stop the run: a wrong count is no faster.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

from bench.load.process import BenchError
from bench.load.rows import Bar, Row, compare, single
from bench.load.tools import require_release_core

_MEGABYTE = 1_000_000
# One megabyte each, of UTF-8.
_WORST = {"a": "a" * _MEGABYTE, "space": " " * _MEGABYTE, "cjk": "\u6d41" * (_MEGABYTE // 3)}


def token_counting(rounds: int) -> list[Row]:
    """Rows for both encodings that are exact."""
    require_release_core()
    rows: list[Row] = []
    for encoding in ("o200k_base", "cl100k_base"):
        rows += _one(encoding, rounds)
    return rows


def _one(encoding: str, rounds: int) -> list[Row]:
    core = importlib.import_module("forebay._core")
    ours: Callable[[str], int] = core.TokenCounter(encoding).count
    reference = _tiktoken(encoding, dict(core.TokenCounter(encoding).ranks()))
    text = _real_text()
    wanted = len(reference(text))
    if ours(text) != wanted:
        raise BenchError(f"`{encoding}`: counted {ours(text)} tokens, tiktoken {wanted}")
    speeds: list[float] = []
    controls: list[float] = []
    for _ in range(rounds):
        controls.append(len(text) / _seconds(reference, text) / 1e6)
        speeds.append(len(text) / _seconds(ours, text) / 1e6)
    bars = [Bar("ratio", at_least=8.0)]
    detail: dict[str, Any] = {"characters": len(text), "tokens": wanted}
    rows = [compare(f"token_count_speed_{encoding}", "MB/s", speeds, "tiktoken", controls, bars=bars, detail=detail)]
    for name, worst in _WORST.items():
        times_ms = [_seconds(ours, worst) * 1e3 for _ in range(rounds)]
        bars = [Bar("value", at_most=50.0)]
        rows.append(single(f"token_count_megabyte_{name}_{encoding}", "ms", times_ms, bars=bars))
    return rows


def _seconds(count: Callable[[str], object], text: str) -> float:
    started = time.perf_counter()
    count(text)
    return time.perf_counter() - started


def _tiktoken(encoding: str, ranks: dict[bytes, int]) -> Callable[[str], list[int]]:
    """Tiktoken's own encoder, given the vocabulary that it would otherwise download."""
    published: Any = importlib.import_module("tiktoken_ext.openai_public")
    loader = published.load_tiktoken_bpe
    published.load_tiktoken_bpe = lambda *_args, **_options: ranks
    try:
        settings = getattr(published, encoding)()
    finally:
        published.load_tiktoken_bpe = loader
    encode: Callable[[str], list[int]] = importlib.import_module("tiktoken").Encoding(**settings).encode_ordinary
    return encode


def _real_text() -> str:
    """The language reference that every Python carries: 700 KB of prose, tables and code."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return "\n".join(topics.values())
