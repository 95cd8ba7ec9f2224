"""A simulated chat fleet: a real HTTP server with OpenAI's API and the latency of a model.

Owns endpoints, delays, faults and the life of a request. Must not know the gateway, or that there is one.
It fails only as its spec says; a defect of its own is a 500 whose traceback is kept in the server's `errors`.

    python -m forebay.lab.fleet --spec '{"name":"small","models":["small-chat"]}' --port 0
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from random import Random

from forebay.lab import generation
from forebay.lab import openai_shapes as shapes
from forebay.lab.fleet_spec import FleetSpec, FleetSpecError, Latency, faults_from
from forebay.lab.fleet_stats import FleetStats, HeaderLog
from forebay.lab.generation import Generated
from forebay.lab.http1 import Http1Server, Reply, Request
from forebay.lab.openai_shapes import Head, Json, Refusal
from forebay.lab.writing import pieces

STREAM_HEADERS = (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache"))


class InjectedReset(Exception):
    """The request was drawn to be cut by a TCP reset."""


class Fleet:
    """The endpoints of one fleet, over one spec and one set of counters."""

    def __init__(self, spec: FleetSpec) -> None:
        self.spec = spec
        self.faults = spec.faults
        self.stats = FleetStats()
        self.headers = HeaderLog(spec.headers_kept)
        self.server = Http1Server(self.handle)
        self._random = Random(spec.seed)
        self._started_at = int(time.time())

    @property
    def base_url(self) -> str:
        """Where the fleet listens, without a path."""
        return f"http://127.0.0.1:{self.server.port}"

    async def handle(self, request: Request, reply: Reply) -> None:
        """Answers one request."""
        try:
            if request.path.startswith("/v1/"):
                self.headers.add(request.path, request.headers)
                await self._v1(request, reply)
            else:
                await self._lab(request, reply)
        except Refusal as refusal:
            await reply.send_json(refusal.status, refusal.body)

    # --- endpoints of the lab itself

    async def _lab(self, request: Request, reply: Reply) -> None:
        match request.method, request.path:
            case "GET", "/health":
                await reply.send_json(200, {"status": "ok", "name": self.spec.name})
            case "GET", "/lab/stats":
                await reply.send_json(200, {"name": self.spec.name, **self.stats.json()})
            case "GET", "/lab/headers":
                await reply.send_json(200, self.headers.json())
            case "PUT", "/lab/faults":
                try:
                    self.faults = faults_from(shapes.parse(request.body))
                except FleetSpecError as error:
                    raise Refusal(400, "invalid_value", str(error)) from None
                await reply.send_json(200, {"status": "ok"})
            case _:
                raise Refusal(404, "unknown_url", f"no such endpoint: {request.method} {request.path}")

    # --- OpenAI's endpoints

    async def _v1(self, request: Request, reply: Reply) -> None:
        if self.spec.credential is not None and request.header("authorization") != f"Bearer {self.spec.credential}":
            self.stats.refused += 1
            self.stats.requests += 1
            raise Refusal(401, "invalid_api_key", "this fleet needs its own credential")
        if (request.method, request.path) == ("GET", "/v1/models"):
            cards = [
                {"id": m, "object": "model", "created": self._started_at, "owned_by": "lab"} for m in self.spec.models
            ]
            await reply.send_json(200, {"object": "list", "data": cards})
            return
        if request.method != "POST" or request.path not in (
            "/v1/chat/completions",
            "/v1/completions",
            "/v1/embeddings",
        ):
            raise Refusal(404, "unknown_url", f"no such endpoint: {request.method} {request.path}")
        self.stats.began(request.path)
        try:
            await self._model(request, reply)
            self.stats.completed += 1
        except Refusal as refusal:
            if refusal.status >= 500:
                self.stats.failures += 1
            else:
                self.stats.refused += 1
            raise
        except InjectedReset:
            self.stats.resets += 1
            reply.reset()
        except BaseException:  # the client left, or the server is closing
            self.stats.aborted += 1
            raise
        finally:
            self.stats.in_flight -= 1

    async def _model(self, request: Request, reply: Reply) -> None:
        body = shapes.parse(request.body)
        model = body.get("model")
        if model not in self.spec.models:
            raise Refusal(404, "model_not_found", f"the model `{model}` is not served here", "model")
        pace = _Pace(self.spec.latency, self._random)
        failed = self._random.random() < self.faults.failure_ratio
        reset = self._random.random() < self.faults.reset_ratio
        if self._random.random() < self.faults.slow_ratio:
            pace.factor *= self.faults.slow_factor
        if failed:
            await pace.first_token()
            status = self._random.choice(self.faults.failure_statuses)
            raise Refusal(status, "overloaded" if status == 503 else "internal_error", "the model failed to answer")
        if request.path == "/v1/embeddings":
            answer = generation.embeddings(body, self.spec.embedding_dims)
            await pace.first_token()
            if reset:
                raise InjectedReset
            self.stats.served(model, answer["usage"]["prompt_tokens"], 0)
            await reply.send_json(200, answer)
            return
        is_chat = request.path == "/v1/chat/completions"
        generate = generation.chat if is_chat else generation.completion
        made = generate(body, self.spec.latency.output_tokens)
        identity = f"{'chatcmpl' if is_chat else 'cmpl'}-{self.spec.name}-{self.stats.requests:08d}"
        head = Head(identity, model, int(time.time()), is_chat)
        if body.get("stream") is True:
            await self._stream(_Stream(head, made, body, pace, reset), reply)
            return
        await pace.first_token()
        await pace.tokens(made.usage.completion_tokens)
        if reset:
            raise InjectedReset
        self.stats.served(model, made.usage.prompt_tokens, made.usage.completion_tokens)
        await reply.send_json(200, shapes.answer(head, made.choices, made.usage))

    async def _stream(self, stream: _Stream, reply: Reply) -> None:
        self.stats.streamed += 1
        head, made, pace = stream.head, stream.made, stream.pace
        await pace.first_token()
        self.stats.served(head.model, made.usage.prompt_tokens, 0)
        await reply.start(200, STREAM_HEADERS)
        openings = [shapes.first_delta(head, i, choice) for i, choice in enumerate(made.choices)]
        opened = b"".join(shapes.event(head, [entry], None) for entry in openings if entry is not None)
        if opened:
            await reply.part(opened)
        step = self.spec.latency.tokens_per_event
        sent = 0
        for index, text, tokens in _interleaved(made, step):
            if stream.reset and sent * 2 >= made.usage.completion_tokens:
                raise InjectedReset
            if sent:
                await pace.tokens(tokens)
            await reply.part(shapes.event(head, [shapes.text_delta(head, index, made.choices[index], text)], None))
            sent += tokens
            self.stats.completion_tokens += tokens
        ending = [shapes.event(head, [shapes.last_delta(head, i, c)], None) for i, c in enumerate(made.choices)]
        if shapes.wants_usage_event(stream.body):
            ending.append(shapes.event(head, [], made.usage))
        await reply.part(b"".join(ending) + shapes.DONE_EVENT)
        await reply.end()


class _Pace:
    """The delays of one request, drawn at its start so that equal seeds give equal runs."""

    def __init__(self, latency: Latency, random: Random) -> None:
        self._ttft_ms = latency.ttft_ms.draw(random)
        self._gap_ms = latency.gap_ms.draw(random)
        self.factor = latency.time_scale

    async def first_token(self) -> None:
        await asyncio.sleep(self._ttft_ms * self.factor / 1e3)

    async def tokens(self, count: int) -> None:
        await asyncio.sleep(self._gap_ms * count * self.factor / 1e3)


@dataclass(frozen=True, slots=True)
class _Stream:
    """What one streamed answer needs; `reset` says that it was drawn to be cut half way."""

    head: Head
    made: Generated
    body: Json
    pace: _Pace
    reset: bool


def _interleaved(made: Generated, step: int) -> Iterator[tuple[int, str, int]]:
    """Events of all choices in turn: choice index, text, tokens."""
    waiting = [(index, pieces(choice.text)) for index, choice in enumerate(made.choices)]
    position = 0
    while any(position < len(tokens) for _, tokens in waiting):
        for index, tokens in waiting:
            part = tokens[position : position + step]
            if part:
                yield index, "".join(part), len(part)
        position += step


@contextlib.asynccontextmanager
async def running_fleet(spec: FleetSpec, kind: type[Fleet] = Fleet, port: int = 0) -> AsyncIterator[Fleet]:
    """A fleet that listens on loopback inside the block, in this event loop; `kind` may refine how it answers."""
    fleet = kind(spec)
    async with fleet.server.listening("127.0.0.1", port):
        yield fleet


@contextlib.contextmanager
def fleet_in_thread(spec: FleetSpec, kind: type[Fleet] = Fleet) -> Iterator[Fleet]:
    """A fleet that listens on loopback inside the block, in a thread of its own; for callers without an event loop."""
    ready = threading.Event()
    box: list[tuple[Fleet, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with running_fleet(spec, kind) as fleet:
            done = asyncio.Event()
            box.append((fleet, asyncio.get_running_loop(), done))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name=f"fleet-{spec.name}", daemon=True)
    thread.start()
    if not ready.wait(10):
        raise RuntimeError(f"the fleet `{spec.name}` did not start within 10 s")
    fleet, loop, done = box[0]
    try:
        yield fleet
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()


async def _serve_until_told(spec: FleetSpec, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running_fleet(spec, port=port) as fleet:
        ready = {"ready": True, "name": spec.name, "port": fleet.server.port, "base_url": fleet.base_url}
        print(json.dumps(ready), flush=True)
        await stop.wait()


def main(arguments: list[str] | None = None) -> int:
    """Runs one fleet until SIGINT or SIGTERM; prints one JSON line with the bound port when it listens."""
    parser = argparse.ArgumentParser(prog="python -m forebay.lab.fleet", description=main.__doc__)
    parser.add_argument(
        "--spec", default="{}", help="the fleet as JSON: name, models, seed, latency, faults, credential"
    )
    parser.add_argument("--port", type=int, default=0, help="port on loopback; 0 picks a free one")
    options = parser.parse_args(arguments)
    try:
        spec = FleetSpec.from_json(options.spec)
    except FleetSpecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        asyncio.run(_serve_until_told(spec, options.port))
    except OSError as error:
        print(f"error: cannot listen on 127.0.0.1:{options.port}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
