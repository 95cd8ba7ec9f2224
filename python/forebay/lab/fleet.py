"""A simulated fleet: a real HTTP server with OpenAI's and Anthropic's APIs and the latency of a model.

Owns endpoints, counters and books. Must not know the gateway, or that there is one, or how an answer is made.
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

from forebay.lab import anthropic_shapes, fleet_work
from forebay.lab import openai_shapes as shapes
from forebay.lab.fleet_ledger import FleetLedger
from forebay.lab.fleet_spec import FleetSpec, FleetSpecError, faults_from
from forebay.lab.fleet_stats import FleetStats, HeaderLog
from forebay.lab.fleet_work import InjectedReset, Work
from forebay.lab.http1 import Http1Server, Reply, Request
from forebay.lab.openai_shapes import Refusal


class Fleet:
    """The endpoints of one fleet, over one spec and one set of counters."""

    def __init__(self, spec: FleetSpec) -> None:
        self.spec = spec
        self.faults = spec.faults
        self.stats = FleetStats()
        self.headers = HeaderLog(spec.headers_kept)
        self.ledger = FleetLedger()
        self.server = Http1Server(self.handle)
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
            of_anthropic = request.path == "/v1/messages"
            await reply.send_json(
                refusal.status, anthropic_shapes.error_body(refusal) if of_anthropic else refusal.body
            )

    # --- endpoints of the lab itself

    async def _lab(self, request: Request, reply: Reply) -> None:
        match request.method, request.path:
            case "GET", "/health":
                await reply.send_json(200, {"status": "ok", "name": self.spec.name})
            case "GET", "/lab/stats":
                await reply.send_json(200, {"name": self.spec.name, **self.stats.json()})
            case "GET", "/lab/headers":
                await reply.send_json(200, self.headers.json())
            case "GET", "/lab/ledger":
                await reply.send_json(200, self.ledger.json())
            case "PUT", "/lab/faults":
                try:
                    self.faults = faults_from(shapes.parse(request.body))
                except FleetSpecError as error:
                    raise Refusal(400, "invalid_value", str(error)) from None
                await reply.send_json(200, {"status": "ok"})
            case _:
                raise Refusal(404, "unknown_url", f"no such endpoint: {request.method} {request.path}")

    # --- the models' endpoints

    async def _v1(self, request: Request, reply: Reply) -> None:
        if not self._admits(request):
            self.stats.refused += 1
            self.stats.requests += 1
            raise Refusal(401, "invalid_api_key", "this fleet needs its own credential")
        if (request.method, request.path) == ("GET", "/v1/models"):
            cards = [
                {"id": m, "object": "model", "created": self._started_at, "owned_by": "lab"} for m in self.spec.models
            ]
            await reply.send_json(200, {"object": "list", "data": cards})
            return
        if request.method != "POST" or request.path not in fleet_work.PATHS:
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
        """Lets a model answer. A kind of fleet may refine it."""
        await Work(self.spec, self.faults, self.stats, self.ledger).run(request, reply)

    def _admits(self, request: Request) -> bool:
        wanted = self.spec.credential
        return wanted is None or wanted in (
            request.header("x-api-key"),
            (request.header("authorization") or "").removeprefix("Bearer "),
        )


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
