"""Sends a session plan through the real `openai` client and notes what came back, request by request.

Owns the client's side of a chat request. Must not know policy or how the gateway decides.
An error of the gateway or a fleet is an outcome, never an exception; a defect of the demo itself is raised.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from forebay.lab.traffic import Ask

NO_SUCH_KEY = "fb-0000-this-key-was-never-issued"
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ChatTarget:
    """Where and as whom to send.

    `base_url`: the listener, such as `http://127.0.0.1:10000`. `keys`: tenant to key.
    `models`: kind of question to model name; `plain` stands for every kind that is not listed.
    `max_tokens` 512 bounds every answer, so that the gateway can reserve. `concurrency` 8 requests are in flight.
    """

    base_url: str
    keys: Mapping[str, str] = field(repr=False)
    models: Mapping[str, str]
    max_tokens: int = 512
    concurrency: int = 8
    timeout_s: float = TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to one request.

    `status` 0: the connection failed. `code` is the error's code, empty for an answer.
    `cache` is the gateway's word for it (`hit`, `follow`, `miss`, `bypass`), empty if it gave none.
    """

    ask: Ask
    status: int
    code: str
    latency_ms: float
    ttft_ms: float | None = None
    text: str = ""
    tool_arguments: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the answer came and was complete."""
        return self.status == 200 and not self.code

    @property
    def cache(self) -> str:
        """The gateway's word for how the cache took part."""
        return self.headers.get("x-forebay-cache", "")

    @property
    def model(self) -> str:
        """The model that the gateway chose."""
        return self.headers.get("x-forebay-model", "")

    @property
    def from_cache(self) -> bool:
        """Whether no fleet worked for this answer."""
        return self.ok and self.cache in ("hit", "follow")


async def send_all(asks: tuple[Ask, ...], target: ChatTarget) -> list[Outcome]:
    """Sends the plan in its order with a bounded number in flight; the outcomes are in the plan's order."""
    import openai  # a development dependency, so only the demo itself needs it

    outcomes: list[Outcome | None] = [None] * len(asks)
    waiting = iter(enumerate(asks))
    async with AsyncExitStack() as stack:
        clients: dict[str | None, Any] = {}
        for tenant, key in [(None, NO_SUCH_KEY), *target.keys.items()]:
            client = openai.AsyncOpenAI(
                base_url=f"{target.base_url}/v1", api_key=key, max_retries=0, timeout=target.timeout_s
            )
            clients[tenant] = await stack.enter_async_context(client)

        async def worker() -> None:
            for index, ask in waiting:
                outcomes[index] = await _send(clients[ask.tenant], ask, target)

        await asyncio.gather(*(worker() for _ in range(target.concurrency)))
    return [outcome for outcome in outcomes if outcome is not None]


async def _send(client: Any, ask: Ask, target: ChatTarget) -> Outcome:
    import openai

    fields: dict[str, Any] = {
        "model": target.models.get(ask.question.kind, target.models["plain"]),
        "max_tokens": target.max_tokens,
        "temperature": 0,
        **ask.question.request(),
    }
    if ask.streamed:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    begun = time.perf_counter()
    headers: Mapping[str, str] = {}
    try:
        raw = await client.chat.completions.with_raw_response.create(**fields)
        headers = {
            name: value for name, value in raw.headers.items() if name.startswith(("x-forebay-", "x-ratelimit-"))
        }
        answer = raw.parse()
        if ask.streamed:
            return await _read_stream(ask, answer, begun, headers)
        choice, usage = answer.choices[0], answer.usage
        calls = choice.message.tool_calls or []
        return Outcome(
            ask,
            200,
            "",
            _since_ms(begun),
            text=choice.message.content or "",
            tool_arguments=calls[0].function.arguments if calls else None,
            finish_reason=choice.finish_reason,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            headers=headers,
        )
    except openai.APIStatusError as error:
        seen = {name: value for name, value in error.response.headers.items() if name.startswith("x-forebay-")}
        return Outcome(ask, error.status_code, error.code or type(error).__name__, _since_ms(begun), headers=seen)
    except ValueError:  # from the client's JSON parser
        return Outcome(ask, 200, "unreadable_answer", _since_ms(begun), headers=headers)
    except openai.APIConnectionError as error:
        return Outcome(ask, 0, type(error).__name__, _since_ms(begun), headers=headers)


async def _read_stream(ask: Ask, events: AsyncIterator[Any], begun: float, headers: Mapping[str, str]) -> Outcome:
    ttft_ms: float | None = None
    texts: list[str] = []
    arguments: list[str] = []
    finish_reason: str | None = None
    usage: Any = None
    code = ""
    try:
        async for event in events:
            usage = event.usage or usage
            for choice in event.choices:
                finish_reason = choice.finish_reason or finish_reason
                texts.append(choice.delta.content or "")
                arguments += [call.function.arguments or "" for call in choice.delta.tool_calls or ()]
                if ttft_ms is None and (choice.delta.content or choice.delta.tool_calls):
                    ttft_ms = _since_ms(begun)
    except Exception as error:  # whatever the HTTP library underneath raises when a stream is cut
        code = f"stream_cut ({type(error).__name__})"
    if not code and finish_reason is None:
        code = "stream_incomplete"
    return Outcome(
        ask,
        200,
        code,
        _since_ms(begun),
        ttft_ms=ttft_ms,
        text="".join(texts),
        tool_arguments="".join(arguments) if arguments else None,
        finish_reason=finish_reason,
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
        headers=headers,
    )


def _since_ms(begun: float) -> float:
    return (time.perf_counter() - begun) * 1e3
