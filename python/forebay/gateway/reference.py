"""The reference of the Rust `ext_proc` server: the same engine behind the same protocol, in `grpc.aio`.

Owns: the order of messages on a decide stream, told plainly. Must not know: why a decision is what it is.
On failure: closed; a stream without an answer ends with a gRPC error, never OK (Envoy would let the request go on).

It is the oracle that the fast server is held against (recorded streams must get the same answers from both), and not
for production: it takes the GIL for every message. It needs the package `xds-protos`.

    request headers ─► answer                             nothing more comes
                    ─► forward                            decided by its headers alone
                    ─► send the body ─► body ─► answer    nothing more comes
                                             ─► forward   a slot is held until the stream closes
                                             ─► [hold] an equal request is in flight: wait for it, decide again
                                             ─► [hold] the route has a Python stage: ask it, decide again
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc
from grpc import aio

from forebay.gateway import frames
from forebay.gateway.reference_sinks import take_entry, take_response
from forebay.gateway.stages import Stages

if TYPE_CHECKING:
    from forebay.gateway.seam import Decision, Engine, Session

__all__ = ["ReferenceServer"]

_EOF: object = aio.EOF  # type: ignore[attr-defined]  # the stubs lack it
_FILTER = "x-forebay-filter"
_ID = "x-forebay-internal-id"
# Added to an announced hold, so that we end it and not Envoy.
_HOLD_MARGIN_NS = 500_000_000
# A wait is looked at this often, so that one whose client has left ends soon.
_SLICE_NS = 50_000_000
_WAITERS = 16
_MAX_MESSAGE_BYTES = 33 << 20


class ReferenceServer:
    """`ext_proc` and access log over an engine. Make, start and stop it in one event loop.

    Shape: `address` is `host:port`, port 0 for any free one; `start` gives the one that it got.
    Cost: some 300 µs a request, the GIL held except in the engine.
    """

    def __init__(
        self, engine: Engine, address: str = "127.0.0.1:0", max_message_bytes: int = _MAX_MESSAGE_BYTES
    ) -> None:
        self._engine = engine
        self._address = address
        self._stages = Stages()
        # One thread, as in the gateway, so a stage need not be safe for threads.
        self._stage_thread = ThreadPoolExecutor(1, "forebay-stage")
        self._wait_threads = ThreadPoolExecutor(_WAITERS, "forebay-wait")
        self._server = aio.server(
            options=[("grpc.max_receive_message_length", max_message_bytes), ("grpc.so_reuseport", 0)]
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "envoy.service.ext_proc.v3.ExternalProcessor",
                    {
                        "Process": grpc.stream_stream_rpc_method_handler(
                            self._process,
                            request_deserializer=ext_proc.ProcessingRequest.FromString,
                            response_serializer=ext_proc.ProcessingResponse.SerializeToString,
                        )
                    },
                ),
                grpc.method_handlers_generic_handler(
                    "envoy.service.accesslog.v3.AccessLogService",
                    {
                        "StreamAccessLogs": grpc.stream_unary_rpc_method_handler(
                            self._access_log,
                            request_deserializer=als_pb2.StreamAccessLogsMessage.FromString,
                            response_serializer=als_pb2.StreamAccessLogsResponse.SerializeToString,
                        )
                    },
                ),
            )
        )

    async def start(self) -> str:
        """Serve.

        Returns: `host:port` that it listens on.
        Raises: RuntimeError when the address is taken.
        """
        port = self._server.add_insecure_port(self._address)
        await self._server.start()
        return f"{self._address.rpartition(':')[0]}:{port}"

    async def stop(self) -> None:
        """Refuse new requests, break open streams, and end; none of them ends OK without an answer."""
        self._engine.drain()
        await self._server.stop(None)
        self._stage_thread.shutdown(wait=False, cancel_futures=True)
        self._wait_threads.shutdown(wait=False, cancel_futures=True)

    async def _process(
        self, _requests: AsyncIterator[Any], context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        metadata = cast("tuple[tuple[str, str | bytes], ...]", context.invocation_metadata() or ())
        service = next((value for name, value in metadata if name == _FILTER), "")
        inbound = _Inbound(context)
        if service == "decide":
            async for response in self._decide(inbound, context):
                yield response
        elif service == "capture":
            named = next((value for name, value in metadata if name == _ID), "")
            await take_response(self._engine, str(named), inbound.messages())
        else:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"`{_FILTER}` is `{service!s}`; the filter's initial metadata must say `decide` or `capture`",
            )

    async def _access_log(self, requests: AsyncIterator[Any], _context: aio.ServicerContext[Any, Any]) -> Any:
        async for message in requests:
            for entry in message.http_logs.log_entry:
                take_entry(self._engine, entry)
        return als_pb2.StreamAccessLogsResponse()

    async def _decide(self, inbound: _Inbound, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        message = await inbound.expect("request_headers", context)
        headers = frames.pairs(message.request_headers)
        session = self._engine.head(headers, message.request_headers.end_of_stream)
        decision = session.decision
        if decision.action == "answer":
            # Headers that cannot be read are not read for this either.
            grpc_caller = frames.is_grpc(headers) and decision.code != "invalid_header"
            yield frames.answer(decision, decision.grpc if grpc_caller else None)
            await inbound.expect_end(context)
            return
        if decision.action == "forward":
            yield frames.forward_at_headers(decision)
            # That this stream ends is no end of the request.
            await inbound.expect_end(context)
            return

        yield frames.send_body()
        message = await inbound.expect("request_body", context)
        if not message.request_body.end_of_stream:
            # Not the whole body: Envoy ignored our override.
            yield frames.internal_error(decision.id)
            await inbound.expect_end(context)
            return
        async for response in self._decide_on_body(session, message.request_body.body, inbound, context):
            yield response

    async def _decide_on_body(
        self, session: Session, body: bytes, inbound: _Inbound, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        message_timeout_ns, longest_ns = session.message_timeouts_ns
        longest_ns -= _HOLD_MARGIN_NS
        held = False
        decision = session.body(body)
        while decision.action in ("follow", "lease", "resolve"):
            wait_ns = decision.wait_ns
            if decision.action == "lease":
                # Envoy waits longer than for any lease, so nothing is announced.
                await asyncio.get_running_loop().run_in_executor(self._wait_threads, session.wait, wait_ns)
            elif decision.action == "follow" and not held:
                held, wait_ns = True, min(wait_ns, longest_ns)
                yield frames.hold(wait_ns + _HOLD_MARGIN_NS)
                if not await self._follow(session, wait_ns, inbound):
                    await context.abort(grpc.StatusCode.CANCELLED, "the stream ended before a decision")
            elif decision.action == "follow":
                # Envoy honours one announcement a message, so nobody is held twice.
                session.wait(0)
            else:
                if wait_ns + _HOLD_MARGIN_NS > message_timeout_ns:
                    held, wait_ns = True, min(wait_ns, longest_ns)
                    yield frames.hold(wait_ns + _HOLD_MARGIN_NS)
                await self._resolve(session, decision, wait_ns)
            decision = session.body(body)
        if decision.action == "answer":
            yield frames.answer(decision, None)
            await inbound.expect_end(context)
            return
        try:
            yield frames.forward_at_body(decision)
            await inbound.expect_end(context)
        finally:
            # The response of a buffered request is over when its stream is, in whatever way.
            self._engine.stream_closed(decision.id)

    async def _follow(self, session: Session, wait_ns: int, inbound: _Inbound) -> bool:
        """Wait for the request in flight, or until the time is over; False: the client left."""
        loop = asyncio.get_running_loop()
        until_ns = time.monotonic_ns() + wait_ns
        left = inbound.next()
        while (rest_ns := until_ns - time.monotonic_ns()) > 0:
            told = loop.run_in_executor(self._wait_threads, session.wait, min(rest_ns, _SLICE_NS))
            await asyncio.wait((told, left), return_when=asyncio.FIRST_COMPLETED)
            # Anything from Envoy now is the end of the stream.
            if left.done():
                return False
            if told.result():
                return True
        session.wait(0)
        return True

    async def _resolve(self, session: Session, decision: Decision, wait_ns: int) -> None:
        request = decision.request
        if request is None:
            session.resolved(None)
            return
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self._stage_thread, self._stages.choose, decision.target, [request])
        try:
            (choice,) = await asyncio.wait_for(asked, wait_ns / 10**9)
        except asyncio.TimeoutError:
            choice = None
        if choice is None:
            session.resolved(None)
        else:
            session.resolved(*choice)


class _Inbound:
    """What Envoy sends on one stream. A message that is waited for is never lost when the waiting is given up."""

    def __init__(self, context: aio.ServicerContext[Any, Any]) -> None:
        self._context = context
        self._next: asyncio.Future[Any] | None = None

    def next(self) -> asyncio.Future[Any]:
        """The next message, or `_EOF` where Envoy has closed its side."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._context.read())
        return self._next

    async def messages(self) -> AsyncIterator[Any]:
        """All messages until Envoy closes its side."""
        while (message := await self._take()) is not _EOF:
            yield message

    async def expect(self, kind: str, context: aio.ServicerContext[Any, Any]) -> Any:
        """The next message, which must be of this kind; the stream fails otherwise."""
        message = await self._take()
        if message is _EOF:
            await context.abort(grpc.StatusCode.CANCELLED, "the stream ended before a decision")
        if message.WhichOneof("request") != kind:
            await _unexpected(context, message)
        return message

    async def expect_end(self, context: aio.ServicerContext[Any, Any]) -> None:
        """Nothing must come any more until Envoy closes its side; the stream fails otherwise."""
        message = await self._take()
        if message is not _EOF:
            await _unexpected(context, message)

    async def _take(self) -> Any:
        message = await self.next()
        self._next = None
        return message


async def _unexpected(context: aio.ServicerContext[Any, Any], message: Any) -> NoReturn:
    """A message that decide's processing mode never asks for. It cannot be answered, so the stream fails."""
    kind = message.WhichOneof("request")
    if kind is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a message without a request")
    name = kind.replace("_", " ")
    name = f"a {name}" if name.endswith("body") else name
    await context.abort(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"decide does not take {name} here; check the processing mode",
    )
