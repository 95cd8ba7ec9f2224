"""Sends what the batch queue gives to Triton, and brings the answers back.

Owns one event loop in a thread of its own, one feeder thread, and the channels. Must not know tensors: messages are
bytes from end to end. On failure: closed; everything that was taken from the queue is ended exactly once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import grpc
from tritonclient.grpc import service_pb2

from forebay.batching import failure
from forebay.batching.channel import ChannelSettings, ClientTls, PoolServers, open_channel
from forebay.batching.endpoints import Endpoint, EndpointGroup
from forebay.batching.seam import BatchQueue, ReadyBatch
from forebay.batching.shape import LearnedModel, learned_model
from forebay.batching.stats import SenderStats

_log = logging.getLogger(__name__)

_SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_FEED_MS = 1000
# A server that left the policy may end what it has within this.
_RETIRE_S = 60.0
# After these the model may not be what it was: its next request has it learned anew.
_DOUBTFUL = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE)

_Key = tuple[str, str, str]
_Server = tuple[str, ClientTls | None]


@dataclass(slots=True)
class _Pools:
    """What the loop's thread alone touches."""

    groups: dict[str, EndpointGroup] = field(default_factory=dict)
    channels: dict[_Server, grpc.aio.Channel] = field(default_factory=dict)
    tls: dict[str, ClientTls | None] = field(default_factory=dict)
    learned: dict[_Key, LearnedModel] = field(default_factory=dict)


class Sender:
    """The sending side of a `BatchQueue`: start it, change its servers at any time, stop it.

    Cost: two threads; per batch one wake-up and one gRPC call. The GIL is released while a message is built or cut.
    """

    def __init__(
        self,
        queue: BatchQueue,
        servers: Mapping[str, PoolServers],
        settings: ChannelSettings | None = None,
    ) -> None:
        self.stats = SenderStats()
        self._queue = queue
        self._settings = settings or ChannelSettings()
        self._pools = _Pools()
        self._tasks: set[asyncio.Task[None]] = set()
        self._first_servers = dict(servers)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start both threads; return once the sender knows its servers.

        Raises: OSError when an authority's file cannot be read; nothing runs then.
        """
        self._loop = asyncio.new_event_loop()
        self._run(self._loop.run_forever, "forebay-sender")
        try:
            self.set_servers(self._first_servers)
        except OSError:
            self.stop(0)
            raise
        self._run(self._feed, "forebay-feeder")

    def set_servers(self, servers: Mapping[str, PoolServers]) -> None:
        """Replace the servers of all pools. What is in flight ends where it is.

        Raises: OSError when an authority's file cannot be read; the servers are then the old ones.
        """
        if self._loop is None:
            self._first_servers = dict(servers)
            return
        asyncio.run_coroutine_threadsafe(self._replace(dict(servers)), self._loop).result()

    def stop(self, drain_ms: int = 10_000) -> None:
        """Close the queue, wait at most `drain_ms` for what is in flight, fail the rest. Safe to call twice."""
        self._queue.close()
        loop, self._loop = self._loop, None
        if loop is None:
            return
        for feeder in self._threads[1:]:
            feeder.join()
        asyncio.run_coroutine_threadsafe(self._drain(drain_ms / 1000), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._threads[0].join()
        loop.close()

    def _run(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _feed(self) -> None:
        """Carry work from the queue into the loop, until the queue is closed."""
        loop = self._loop
        while loop is not None and not self._queue.closed:
            ready = self._queue.next(_FEED_MS)
            if ready is not None:
                loop.call_soon_threadsafe(self._take, ready)

    def _take(self, ready: ReadyBatch) -> None:
        self._keep(asyncio.get_running_loop().create_task(self._do(ready)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it ends, since the loop holds it weakly."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, ready: ReadyBatch) -> None:
        """End one piece of work, whatever happens."""
        try:
            response = await self._call(ready)
            if ready.kind == "learn":
                self._learn(ready, response)
            else:
                self._queue.complete(ready.id, response)
        except grpc.aio.AioRpcError as error:
            self._fail(ready, failure.of_error(error, ready.pool))
        except failure.Refused as refused:
            self._fail(ready, refused.failure)
        except asyncio.CancelledError:
            self._fail(ready, failure.stopped())
        except ValueError as error:
            self._fail(ready, failure.broken(str(error)))
        except Exception:  # noqa: BLE001 - a client must not wait for a fault of ours
            _log.exception("a batch could not be sent")
            self._fail(ready, failure.broken("the gateway failed to send this request"))

    async def _call(self, ready: ReadyBatch) -> bytes:
        key = (ready.pool, ready.model, ready.version)
        endpoint = self._pick(ready, key)
        if endpoint is None:
            raise failure.Refused(failure.unreached(ready.pool))
        self._count(ready)
        channel = self._pools.channels[endpoint.address, self._pools.tls[ready.pool]]
        call = channel.unary_unary(f"/{_SERVICE}/{ready.method}", request_serializer=None, response_deserializer=None)
        with endpoint.holding(key[1:], ready.rows):
            try:
                response: bytes = await call(ready.request, timeout=max(ready.timeout_ns, 1_000_000) / 1e9)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    endpoint.rest(time.monotonic_ns())
                raise
        return response

    def _pick(self, ready: ReadyBatch, key: _Key) -> Endpoint | None:
        group = self._pools.groups.get(ready.pool)
        if group is None:
            return None
        learned = self._pools.learned.get(key) if ready.kind == "infer" else None
        return group.pick(key[1:], learned.instances + 1 if learned else None, time.monotonic_ns())

    def _count(self, ready: ReadyBatch) -> None:
        if ready.kind == "infer":
            self.stats.batches += 1
            self.stats.rows += ready.rows
            self.stats.requests += ready.requests
        elif ready.kind == "call":
            self.stats.calls += 1

    def _learn(self, ready: ReadyBatch, response: bytes) -> None:
        learned = learned_model(response)
        self._pools.learned[ready.pool, ready.model, ready.version] = learned
        instances, slots = self._capacity(ready.pool, learned)
        self.stats.learned += 1
        self._queue.learned(ready.id, learned.shape, instances=instances, slots=slots)

    def _capacity(self, pool: str, learned: LearnedModel) -> tuple[int, int]:
        servers = max(1, len(self._pools.groups[pool].endpoints)) if pool in self._pools.groups else 1
        return learned.instances * servers, (learned.instances + 1) * servers

    def _fail(self, ready: ReadyBatch, reason: failure.Failure) -> None:
        self.stats.failures[reason.code.name] += 1
        if ready.kind == "infer" and reason.code in _DOUBTFUL:
            self._queue.forget(ready.pool, ready.model, ready.version)
        self._queue.fail(ready.id, reason.number, reason.message)

    async def _replace(self, servers: Mapping[str, PoolServers]) -> None:
        pools = self._pools
        wanted = {(address, pool.tls) for pool in servers.values() for address in pool.addresses}
        opened = {server: pools.channels.get(server) or open_channel(*server, self._settings) for server in wanted}
        retired = [channel for server, channel in pools.channels.items() if server not in wanted]
        known = {endpoint.address: endpoint for group in pools.groups.values() for endpoint in group.endpoints}
        pools.channels = opened
        pools.tls = {name: pool.tls for name, pool in servers.items()}
        pools.groups = {
            name: EndpointGroup([known.setdefault(address, Endpoint(address)) for address in pool.addresses])
            for name, pool in servers.items()
        }
        for key, learned in pools.learned.items():
            instances, slots = self._capacity(key[0], learned)
            self._queue.set_model(*key, learned.shape, instances=instances, slots=slots)
        for channel in retired:
            self._keep(asyncio.get_running_loop().create_task(channel.close(grace=_RETIRE_S)))

    async def _drain(self, drain_s: float) -> None:
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=drain_s)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        for channel in self._pools.channels.values():
            await channel.close(grace=None)
