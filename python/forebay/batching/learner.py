"""Has models read that somebody asks for, and servers looked at that failed.

Owns the threads that wait for both. Must not know batches.
On failure: closed; everything that was taken from the queue is ended exactly once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from forebay.batching import failure, triton
from forebay.batching.channel import Link
from forebay.batching.endpoints import EndpointTable
from forebay.batching.models import Models
from forebay.batching.seam import BatchQueue, UnknownModel
from forebay.batching.stats import SenderStats

_log = logging.getLogger(__name__)

_WAIT_MS = 1000
# A server that says nothing holds one of them up, and no model of another server.
_THREADS = 4


@dataclass(frozen=True, slots=True)
class LearnerParts:
    """What learning needs; `doubt` has a pool's server looked at after a call to it ended so."""

    queue: BatchQueue
    table: EndpointTable[Link]
    models: Models
    stats: SenderStats
    doubt: Callable[[str, str, int], None]


class Learner:
    """Takes what the queue does not know until it is closed.

    Cost: five threads, asleep but for a model that is new and a server that failed.
    """

    def __init__(self, parts: LearnerParts) -> None:
        self._parts = parts
        targets = [*[self._learn_all] * _THREADS, self._doubt_all]
        self._threads = [
            threading.Thread(target=target, name=f"forebay-learner-{number}", daemon=True)
            for number, target in enumerate(targets)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all ended, which they do when the queue is closed and their work ended."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _learn_all(self) -> None:
        queue = self._parts.queue
        while True:
            unknown = queue.next(_WAIT_MS)
            if unknown is not None:
                self._end(unknown)
            elif queue.closed:
                return

    def _doubt_all(self) -> None:
        queue = self._parts.queue
        while not queue.closed:
            for pool, address, grpc_code in queue.doubted(_WAIT_MS):
                self._parts.doubt(pool, address, grpc_code)

    def _end(self, unknown: UnknownModel) -> None:
        """End one piece of work, whatever happens."""
        try:
            self._learn(unknown)
        except failure.Refused as refused:
            self._fail(unknown, refused.failure)
        except ValueError as error:
            self._fail(unknown, failure.broken(str(error)))
        except Exception:  # noqa: BLE001 - a client must not wait for a fault of ours
            _log.exception("a model could not be learned")
            self._fail(unknown, failure.broken("the gateway failed to learn this model"))

    def _learn(self, unknown: UnknownModel) -> None:
        """Answer with a model's shape; what is known to be wrong about it is said without a call."""
        models, pool, lane = self._parts.models, unknown.pool, (unknown.model, unknown.version)
        refusal = models.refusal(pool, lane)
        if refusal is not None:
            raise failure.Refused(refusal)
        endpoint = self._parts.table.best(pool, lane)
        if endpoint is None:
            raise failure.Refused(failure.unreached(pool))
        try:
            models.declare(endpoint, lane, triton.model_config(endpoint.link, lane, unknown.timeout_ns / 1e9))
        except grpc.RpcError as error:
            raise failure.Refused(failure.of_error(error, pool)) from error
        self._parts.stats.learnt()
        models.want(pool, lane)
        models.publish(pool, lane)
        published = models.published(pool, lane)
        if published is None:
            raise failure.Refused(models.refusal(pool, lane) or failure.away(pool))
        served, settings = published
        self._parts.queue.learned(unknown.id, served.shape(), settings)

    def _fail(self, unknown: UnknownModel, reason: failure.Failure) -> None:
        self._parts.queue.fail(unknown.id, reason.number, reason.message)
