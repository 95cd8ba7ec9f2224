"""A text model in Triton, written to as a chat through the gateway: streamed, whole, and left by its client.

Owns the client's side. Must not know how a chat becomes tensors; the model itself counts what it wrote.
An error of the client ends it and is reported as its text.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import Any

from forebay.lab.demo_chat import TIMEOUT_S
from forebay.lab.triton_counts import WriterCounts, writer_counts

__all__ = ["MODEL", "StreamResult", "StreamTarget", "write"]

MODEL = "writer"
_ASKED: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "What is a forebay for?"}]}
_LEFT_AFTER = 5
_MANY_WORDS = 4000
_PATIENCE_S = 5.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class StreamTarget:
    """Where to send. `base_url`: the gateway's, without a path. `leaving_key` is of the tenant that leaves early."""

    triton_grpc: str
    base_url: str
    key: str = field(repr=False)
    leaving_key: str = field(repr=False)
    words: int = 96


@dataclass(frozen=True, slots=True)
class StreamResult:
    """What came back. `told_tokens`: by the usage of the streamed and the whole answer; `written`: by the model."""

    text: str = ""
    whole_text: str = ""
    pieces: int = 0
    finish_reason: str = ""
    first_ms: float = 0.0
    last_ms: float = 0.0
    told_tokens: int = 0
    written: int = 0
    cancelled: int = 0
    written_for_nobody: int = 0
    error: str = ""


async def write(target: StreamTarget) -> StreamResult:
    """Asks for the same text streamed and whole, then leaves a long one after its first words."""
    import openai

    def client(key: str) -> Any:
        return openai.AsyncOpenAI(base_url=f"{target.base_url}/v1", api_key=key, max_retries=0, timeout=TIMEOUT_S)

    before = await asyncio.to_thread(writer_counts, target.triton_grpc)
    result = StreamResult()
    try:
        async with client(target.key) as staying, client(target.leaving_key) as leaving:
            result = await _streamed(staying, target.words)
            whole = await staying.chat.completions.create(**_ASKED, max_tokens=target.words)
            between = await asyncio.to_thread(writer_counts, target.triton_grpc)
            result = replace(
                result,
                whole_text=whole.choices[0].message.content or "",
                told_tokens=result.told_tokens + whole.usage.completion_tokens,
                written=between.words - before.words,
            )
            await _left(leaving)
            after = await _settled(target, between)
    except openai.APIError as error:
        return replace(result, error=error.message)
    cancelled, written = after.cancelled - between.cancelled, after.words - between.words
    return replace(result, cancelled=cancelled, written_for_nobody=written)


async def _streamed(client: Any, words: int) -> StreamResult:
    begun = time.perf_counter()
    stream = await client.chat.completions.create(
        **_ASKED, max_tokens=words, stream=True, stream_options={"include_usage": True}
    )
    texts: list[str] = []
    first_ms, finish_reason, told_tokens = 0.0, "", 0
    async for event in stream:
        told_tokens = event.usage.completion_tokens if event.usage else told_tokens
        for choice in event.choices:
            finish_reason = choice.finish_reason or finish_reason
            if choice.delta.content:
                first_ms = first_ms or (time.perf_counter() - begun) * 1e3
                texts.append(choice.delta.content)
    last_ms = (time.perf_counter() - begun) * 1e3
    return StreamResult(
        text="".join(texts),
        pieces=len(texts),
        finish_reason=finish_reason,
        first_ms=first_ms,
        last_ms=last_ms,
        told_tokens=told_tokens,
    )


async def _left(client: Any) -> None:
    stream = await client.chat.completions.create(**_ASKED, max_tokens=_MANY_WORDS, stream=True)
    seen = 0
    async for event in stream:
        seen += bool(event.choices and event.choices[0].delta.content)
        if seen == _LEFT_AFTER:
            break
    await stream.close()


async def _settled(target: StreamTarget, before: WriterCounts) -> WriterCounts:
    """The counts once the model saw that its client left, or at the end of the patience."""
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        counts = await asyncio.to_thread(writer_counts, target.triton_grpc)
        if counts.cancelled > before.cancelled or time.monotonic() > give_up:
            return counts
        await asyncio.sleep(_POLL_S)
