"""The life of one request in a simulated fleet: faults drawn, tokens made in their time, everything booked.

Owns delays, faults, and which API's shapes answer. Must not know connections, or who asks.
It ends by an answer, a Refusal, an InjectedReset, or by the cancellation that a leaving client causes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from forebay.lab import anthropic_shapes, generation, responses_shapes
from forebay.lab import openai_shapes as shapes
from forebay.lab.answer_parts import Answer, Part
from forebay.lab.anthropic_shapes import MessagesAnswer
from forebay.lab.fleet_ledger import TRIAL_HEADER, FleetEntry, FleetLedger
from forebay.lab.fleet_spec import Accounting, Faults, FleetSpec, Latency
from forebay.lab.fleet_stats import FleetStats
from forebay.lab.fleet_wire import WireReply
from forebay.lab.http1 import Reply, Request
from forebay.lab.openai_shapes import Generated, Head, Json, OpenAiAnswer, Refusal, Usage
from forebay.lab.responses_shapes import ResponsesAnswer

EMBEDDINGS = "/v1/embeddings"
_CODES = {429: "rate_limit_exceeded", 503: "overloaded"}


class InjectedReset(Exception):
    """The request was drawn to be cut by a TCP reset."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that a model will answer."""

    body: Json
    head: Head
    accounting: Accounting
    lengths: Latency
    random: Random


def _chat(asked: _Asked) -> tuple[Generated, Answer]:
    made = _accounted(asked, generation.chat(asked.body, asked.lengths.output_tokens), 0.0)
    return made, _openai(asked, made, "chatcmpl-", chat=True)


def _completion(asked: _Asked) -> tuple[Generated, Answer]:
    made = _accounted(asked, generation.completion(asked.body, asked.lengths.output_tokens), 0.0)
    return made, _openai(asked, made, "cmpl-", chat=False)


def _openai(asked: _Asked, made: Generated, prefix: str, *, chat: bool) -> Answer:
    head = Head(prefix + asked.head.id, asked.head.model, asked.head.created, chat)
    return OpenAiAnswer(head, made, asked.accounting.usage, shapes.wants_usage_event(asked.body))


def _response(asked: _Asked) -> tuple[Generated, Answer]:
    chat = responses_shapes.as_chat(asked.body)
    made = _accounted(asked, generation.chat(chat, asked.lengths.output_tokens), 0.0)
    head = Head("resp_" + asked.head.id, asked.head.model, asked.head.created)
    return made, ResponsesAnswer(head, made, asked.accounting.usage)


def _message(asked: _Asked) -> tuple[Generated, Answer]:
    chat = anthropic_shapes.as_chat(asked.body)
    made = _accounted(asked, generation.chat(chat, asked.lengths.output_tokens), asked.accounting.cache_write_ratio)
    head = Head("msg_" + asked.head.id, asked.head.model, asked.head.created)
    return made, MessagesAnswer(head, made, asked.accounting.usage, repeats_input=asked.random.random() < 0.5)


def _accounted(asked: _Asked, made: Generated, cache_write_ratio: float) -> Generated:
    if asked.random.random() < asked.accounting.quote_ratio:
        made = generation.quoting(made)
    return generation.accounted(made, asked.accounting, cache_write_ratio=cache_write_ratio)


_ANSWERS: dict[str, Callable[[_Asked], tuple[Generated, Answer]]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": _response,
    "/v1/messages": _message,
}
PATHS = frozenset(_ANSWERS) | {EMBEDDINGS}


class Work:
    """Answers requests of one fleet and keeps its books."""

    def __init__(self, spec: FleetSpec, faults: Faults, stats: FleetStats, ledger: FleetLedger) -> None:
        self._spec = spec
        self._faults = faults
        self._stats = stats
        self._ledger = ledger

    async def run(self, request: Request, reply: Reply) -> None:
        """Answers one request. Raises Refusal, InjectedReset."""
        trial = request.header(TRIAL_HEADER)
        entry = self._ledger.begin(request.path, trial, request.header("x-request-id"))
        # A trial's fate is its own, whatever runs beside it.
        random = Random(f"{self._spec.seed} {trial or self._stats.requests}")
        try:
            await self._answer(request, WireReply(self._spec.wire, request, reply, random), entry, random)
            entry.outcome = "ok"
        except Refusal as refusal:
            entry.outcome = "failed" if refusal.status >= 500 or refusal.status == 429 else "refused"
            raise
        except InjectedReset:
            entry.outcome = "reset"
            raise
        except BaseException:  # the client left, or the server is closing
            entry.outcome = "aborted"
            raise
        finally:
            entry.reasoning_tokens = min(entry.reasoning_tokens, entry.output_tokens)

    async def _answer(self, request: Request, wire: WireReply, entry: FleetEntry, random: Random) -> None:
        body = shapes.parse(request.body)
        model = body.get("model")
        if model not in self._spec.models:
            raise Refusal(404, "model_not_found", f"the model `{model}` is not served here", "model")
        pace = _Pace(self._spec.latency, random)
        fate = _Fate(self._faults, random)
        pace.factor *= fate.slowness
        entry.model, entry.streamed = model, body.get("stream") is True
        if fate.hangs:
            await asyncio.Event().wait()
        if fate.failure_status:
            await pace.first_token()
            code = _CODES.get(fate.failure_status, "internal_error")
            raise Refusal(fate.failure_status, code, "the model failed to answer")
        books = _Books(entry)
        if request.path == EMBEDDINGS:
            answer = generation.embeddings(body, self._spec.embedding_dims)
            books.read(Usage(answer["usage"]["prompt_tokens"], 0))
            await pace.first_token()
            if fate.is_reset:
                raise InjectedReset
            self._stats.served(model, entry.prompt_tokens, 0)
            entry.usage_told = self._spec.accounting.usage != "never"
            await wire.send_json(answer if entry.usage_told else answer | {"usage": None})
            return
        head = Head(f"{self._spec.name}-{self._stats.requests:08d}", model, int(time.time()))
        asked = _Asked(body, head, self._spec.accounting, self._spec.latency, random)
        made, shaped = _ANSWERS[request.path](asked)
        work = self._streamed if entry.streamed else self._plain
        await work(_Job(made, shaped, pace, fate, books), wire)

    async def _plain(self, job: _Job, wire: WireReply) -> None:
        usage = job.made.usage
        job.books.read(usage)
        await job.pace.first_token()
        until = usage.reasoning_tokens + job.cut_tokens if job.fate.is_reset else usage.completion_tokens
        await job.pace.tokens(until, job.books.wrote)
        if job.fate.is_reset:
            raise InjectedReset
        self._stats.served(job.books.entry.model, usage.prompt_tokens, usage.completion_tokens)
        job.books.entry.usage_told = self._spec.accounting.usage != "never"
        await wire.send_json(job.shaped.plain())

    async def _streamed(self, job: _Job, wire: WireReply) -> None:
        self._stats.streamed += 1
        usage, books = job.made.usage, job.books
        books.read(usage)
        await job.pace.first_token()
        books.wrote(usage.reasoning_tokens)
        self._stats.served(books.entry.model, usage.prompt_tokens, usage.reasoning_tokens)
        await wire.start()
        sent = 0
        waiting: list[Part] = []
        for part in job.shaped.parts(self._spec.latency.tokens_per_event):
            if not part.tokens:
                waiting.append(part)
                continue
            if waiting:
                await _send(waiting, wire, books)
                waiting = []
            if job.fate.is_reset and sent >= job.cut_tokens:
                raise InjectedReset
            await job.pace.tokens(part.tokens if sent else 0, books.wrote)
            if not sent:
                books.wrote(part.tokens)
            self._stats.completion_tokens += part.tokens
            await _send([part], wire, books)
            sent += part.tokens
        if job.fate.is_reset:
            raise InjectedReset
        await _send(waiting, wire, books)
        await wire.end()


async def _send(parts: list[Part], wire: WireReply, books: _Books) -> None:
    await wire.events(parts)
    books.entry.usage_told = books.entry.usage_told or any(part.tells_usage for part in parts)


class _Books:
    """Where the tokens of one request are counted."""

    def __init__(self, entry: FleetEntry) -> None:
        self.entry = entry

    def read(self, usage: Usage) -> None:
        """The model reads the prompt; what a cache saves or keeps is settled with it."""
        self.entry.prompt_tokens = usage.prompt_tokens
        self.entry.cached_tokens = usage.cached_tokens
        self.entry.cache_write_tokens = usage.cache_write_tokens
        self.entry.reasoning_tokens = usage.reasoning_tokens

    def wrote(self, tokens: int) -> None:
        """The model has made tokens."""
        self.entry.output_tokens += tokens


class _Fate:
    """What was drawn for one request; the draws are the same whatever the ratios are."""

    def __init__(self, faults: Faults, random: Random) -> None:
        failed, self.is_reset = random.random() < faults.failure_ratio, random.random() < faults.reset_ratio
        self.slowness = faults.slow_factor if random.random() < faults.slow_ratio else 1.0
        self.hangs = random.random() < faults.hang_ratio
        status = random.choice(faults.failure_statuses)
        self.failure_status = status if failed else 0
        self.reset_after_tokens = faults.reset_after_tokens


class _Pace:
    """The delays of one request, drawn at its start so that equal seeds give equal runs."""

    def __init__(self, latency: Latency, random: Random) -> None:
        self._ttft_ms = latency.ttft_ms.draw(random)
        self._gap_ms = latency.gap_ms.draw(random)
        self.factor = latency.time_scale

    async def first_token(self) -> None:
        """Waits for the first token."""
        await asyncio.sleep(self._ttft_ms * self.factor / 1e3)

    async def tokens(self, count: int, wrote: Callable[[int], None]) -> None:
        """Waits for so many tokens and books them; those that were made when the client left are booked too."""
        gap_s = self._gap_ms * self.factor / 1e3
        began = time.monotonic()
        try:
            await asyncio.sleep(gap_s * count)
        except asyncio.CancelledError:
            wrote(min(count, int((time.monotonic() - began) / gap_s)) if gap_s else count)
            raise
        wrote(count)


@dataclass(frozen=True, slots=True)
class _Job:
    """One answer to be sent."""

    made: Generated
    shaped: Answer
    pace: _Pace
    fate: _Fate
    books: _Books

    @property
    def cut_tokens(self) -> int:
        """After how many visible tokens a reset comes."""
        visible = self.made.usage.completion_tokens - self.made.usage.reasoning_tokens
        return min(self.fate.reset_after_tokens or (visible + 1) // 2, visible)
