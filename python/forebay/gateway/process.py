"""One gateway process: engine, servers, stages, batches and admin port, started and stopped in the right order.

Owns: their life and the swap of the policy. Must not know: files, signals, Envoy's configuration.
On failure: closed; a part that cannot be started stops the ones before it, and a refused policy changes nothing.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from forebay.batching import Sender
from forebay.errors import ServeError
from forebay.gateway.accounting import Accounting, journal_directory
from forebay.gateway.admin import AdminServer, AdminSources
from forebay.gateway.exposition import Family, exposition
from forebay.gateway.seam import Engine, Gateway, GatewayError, PolicyRefused
from forebay.gateway.sending import bounds_families, sending_families
from forebay.gateway.stages import StageRunner
from forebay.gateway.tensors import queue_bounds, serving

if TYPE_CHECKING:
    from forebay.policy import LoadedPolicy
    from forebay.policy._pb.policy_pb2 import Policy

__all__ = ["GatewayProcess"]

_log = logging.getLogger(__name__)

_EXT_PROC = "127.0.0.1:9300"
_ADMIN = "127.0.0.1:9301"
_BATCH = "127.0.0.1:9302"
_WORKERS = 1
_MAX_BODY_BYTES = 32 << 20
_DRAIN_MS = 10_000
_MAX_JOURNAL_BYTES = 256 << 20


class GatewayProcess:
    """A gateway under a first policy. `start` it once, `swap` its policy at any time, `stop` it once.

    Raises: `PolicyRefused` for a policy that does not validate; ServeError where an address is taken.
    """

    def __init__(self, policy: LoadedPolicy) -> None:
        message = policy.message()
        gateway = message.gateway
        # Another process may have the same id after this one, in a container always.
        owner = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.engine = Engine(policy.message_bytes, secret=secrets.token_bytes(32), owner=owner)
        self._policy = message
        self._ready = threading.Event()
        self._accounting: Accounting | None = None
        self._logs_dropped = 0
        self._logs_dropped_seen: int | None = None
        directory = journal_directory(message)
        if directory is not None:
            # First, since it holds the folder's lock: a second process must not begin a segment.
            self._accounting = Accounting(self.engine, message, owner)
        try:
            self._server = Gateway(
                self.engine,
                gateway.ext_proc_address or _EXT_PROC,
                gateway.batch_address or _BATCH,
                gateway.workers or _WORKERS,
                gateway.max_body_bytes or _MAX_BODY_BYTES,
                journal=directory,
                max_journal_bytes=message.ledger.max_journal_bytes or _MAX_JOURNAL_BYTES,
            )
        except GatewayError as error:
            self._abandon_books()
            raise ServeError(f"{error}; is another gateway running?") from error
        address = gateway.admin_address or _ADMIN
        host, _, port = address.rpartition(":")
        try:
            self._admin = AdminServer(host.strip("[]"), int(port), self._sources())
        except OSError as error:
            self._server.shutdown(0)
            self._abandon_books()
            reason = (error.strerror or str(error)).lower()
            raise ServeError(f"cannot serve the admin port on `{address}`: {reason}") from error
        self._stages = StageRunner(self._server)
        self._sender = Sender(self._server.batches, serving(message))
        self._bound_queues(message)

    @property
    def addresses(self) -> dict[str, str]:
        """Where it listens: `ext_proc`, `batch` and `admin`, each `host:port`."""
        return {
            "ext_proc": self._server.ext_proc_address,
            "batch": self._server.batch_address,
            "admin": self._admin.address,
        }

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    def start(self) -> None:
        """Start what runs beside the servers, then say ready."""
        self._stages.start()
        self._sender.start()
        if self._accounting is not None:
            self._accounting.start(self._server)
        self._admin.start()
        self._ready.set()

    def swap(self, policy: LoadedPolicy) -> str:
        """Put another policy into force, at once and whole. Addresses and table sizes need a new process.

        Returns: its revision.
        Raises: `PolicyRefused`, ServeError for a ledger where there was none, or `OSError` for a CA file that cannot be
        read; the policy before stays in force.
        """
        message = policy.message()
        if self._accounting is None and message.HasField("ledger"):
            raise ServeError("a ledger begins with a new process; start the gateway again to have one")
        # First, since a CA file that cannot be read must change nothing.
        self._sender.serve(serving(message))
        try:
            revision = self.engine.swap(policy.message_bytes)
        except PolicyRefused:
            self._sender.serve(serving(self._policy))
            raise
        self._policy = message
        self._bound_queues(message)
        if self._accounting is not None:
            self._accounting.swap(message)
        return revision

    def observe_dropped_logs(self, count: int) -> None:
        """Say how many access log entries Envoy has dropped since it started; each is a request settled at its bound.

        What it dropped before this process asked is not counted; an Envoy that starts again begins at 0.
        """
        before, self._logs_dropped_seen = self._logs_dropped_seen, count
        if before is not None:
            self._logs_dropped += count - before if count >= before else count

    def stop(self) -> int:
        """Refuse what is new, wait for what is in flight, stop.

        Returns: requests that were still in flight when the time was over.
        """
        self._ready.clear()
        drain_ms = self._policy.gateway.drain_ms or _DRAIN_MS
        left = self._server.shutdown(drain_ms)
        self._sender.stop(0)
        self._stages.join(2.0)
        if self._accounting is not None:
            self._accounting.stop()
        self._admin.stop()
        return left

    def _bound_queues(self, policy: Policy) -> None:
        for pool, bounds in queue_bounds(policy).items():
            self._server.batches.set_bounds(pool, **bounds._asdict())

    def _abandon_books(self) -> None:
        if self._accounting is not None:
            self._accounting.abandon()

    def _sources(self) -> AdminSources:
        return AdminSources(
            not_ready=self._not_ready,
            metrics=self._metrics,
            policy=lambda: MessageToDict(self._policy, preserving_proto_field_name=True),
            pools=self._pools,
            records=self.engine.records_json,
            invalidate=self._invalidate,
            token_sha256=lambda: self._policy.gateway.admin_token_sha256,
        )

    def _not_ready(self) -> list[str]:
        reasons = []
        if not self._ready.is_set():
            reasons.append("the servers do not run")
        if self.engine.draining:
            reasons.append("the gateway drains")
        return reasons

    def _metrics(self) -> str:
        written, failures = self._server.journal_counts
        rows = [
            ("forebay_journal_bytes", "bytes of records written to the journal", written),
            ("forebay_journal_failures_total", "writes of the journal that failed and were tried again", failures),
            ("forebay_envoy_logs_dropped_total", "access log entries that Envoy dropped", self._logs_dropped),
        ]
        beside = exposition(Family(name, "counter", text, number) for name, text, number in rows)
        books = "" if self._accounting is None else self._accounting.metrics()
        batches = self._server.batches.metrics_text() + exposition(
            [*sending_families(self._sender), *bounds_families(queue_bounds(self._policy))]
        )
        return self.engine.metrics_text() + beside + batches + books

    def _pools(self) -> list[Mapping[str, Any]]:
        names = ("name", "requests", "reserved_tokens", "routable", "healthy")
        return [dict(zip(names, row, strict=True)) for row in self.engine.pools()]

    def _invalidate(self, selector: Mapping[str, str]) -> int:
        count = self.engine.invalidate(**selector)
        _log.info("invalidated %d answers: %s", count, dict(selector) or "all")
        return count
