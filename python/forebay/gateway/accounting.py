"""What a gateway runs to keep its books: leases for budgets, the journal's way into the ledger, telemetry.

Owns: the order in which these start and stop, and their counters' names. Must not know: how a lease is granted, what
a row holds. On failure: requests go on; what is not written waits in the journal, and budgets go on as the policy says.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from forebay.errors import StoreError
from forebay.gateway.exposition import Family, exposition
from forebay.gateway.seam import Engine, Gateway
from forebay.ledger import Ingest, IngestThread, Journal
from forebay.ledger.telemetry import Telemetry
from forebay.policy._pb.policy_pb2 import Budget, Ledger
from forebay.store import (
    BudgetPlan,
    FallbackStore,
    LeaseAsk,
    LeaseBalance,
    ReopeningStore,
    SqliteStore,
    Store,
)

if TYPE_CHECKING:
    from forebay.policy._pb.policy_pb2 import Policy

__all__ = ["Accounting", "journal_directory"]

_log = logging.getLogger(__name__)

_DIRECTORY = "forebay-ledger"
_RETENTION_DAYS = 90
_PERCENTS = (50, 80, 100)
_LEASE_WAIT_MS = 500
_MESSAGE_TIMEOUT_MS = 1_000
_STOP_S = 5.0
_TELEMETRY_HELP = {
    "forebay_spans_total": "spans sent to the collector",
    "forebay_spans_dropped_total": "requests whose spans were dropped, and spans that the collector rejected",
    "forebay_telemetry_failures_total": "calls of the collector that failed",
}
# What a process that died wrote last is read within this.
_CATCH_UP_S = 10.0
# Many stranded leases are said in one line, not in hundreds.
_SAID_STRANDED = 20


def journal_directory(policy: Policy) -> Path | None:
    """Give the folder of journal and ledger, or None where the policy has no ledger."""
    if not policy.HasField("ledger"):
        return None
    return Path(policy.ledger.directory or _DIRECTORY)


class Accounting:
    """The books of one gateway process. `start` it once, `swap` its policy at any time, `stop` it once.

    Raises: StoreInUse where another gateway keeps its books in the same folder.
    """

    def __init__(self, engine: Engine, policy: Policy, owner: str) -> None:
        directory = Path(policy.ledger.directory or _DIRECTORY)
        self._engine = engine
        self._policy = policy
        # A request waits half of its message timeout for a lease. A locked file must be given up well before, or the
        # answer from memory comes too late; twice, since rows may hold the file's turn as long.
        timeout_ms = max(1, (policy.gateway.message_timeout_ms or _MESSAGE_TIMEOUT_MS) // 8)
        opened = ReopeningStore(lambda: SqliteStore(directory, owner, timeout_ms=timeout_ms), now_ns=time.monotonic_ns)
        self._fallback: FallbackStore | None = None
        self._store: Store = opened
        if policy.ledger.on_failure != Ledger.REFUSE:
            self._fallback = FallbackStore(opened, now_ns=time.monotonic_ns)
            self._store = self._fallback
        self._lease_failures = 0
        self._say_at_s: float | None = None
        self._set_budgets(policy)
        self._telemetry = Telemetry.from_policy(
            policy.telemetry,
            {"service.name": "forebay", "service.version": version("forebay"), "service.instance.id": owner},
        )
        self._ingest = IngestThread(
            Ingest(Journal(directory), self._store, [self._telemetry.sink]),
            retention_days=policy.ledger.retention_days or _RETENTION_DAYS,
        )
        self._leases = threading.Thread(target=self._draw, name="forebay-leases", daemon=True)
        self._gateway: Gateway | None = None

    def start(self, gateway: Gateway) -> None:
        """Start the threads that serve this gateway, and say what the process before left open."""
        self._gateway = gateway
        self._telemetry.start()
        self._ingest.start()
        self._leases.start()

    def swap(self, policy: Policy) -> None:
        """Go on under another policy. The folder and what happens on a failure need a new process."""
        self._policy = policy
        self._set_budgets(policy)
        self._telemetry.swap(policy.telemetry)

    def stop(self) -> None:
        """Write what the journal holds, give unused leases back, and close. The gateway is shut down before."""
        self._leases.join(_STOP_S)
        if not self._ingest.stop(_STOP_S):
            _log.warning("the ledger is behind; the next process reads on where this one stops")
        try:
            self._store.give_back([LeaseBalance(*balance) for balance in self._engine.lease_balances()])
        except StoreError as error:
            _log.error("leases that are not used stay counted as spent: %s", error)
        self._telemetry.stop(_STOP_S)
        self._store.close()

    def abandon(self) -> None:
        """Close what was opened where the gateway does not start; nothing else runs yet."""
        self._store.close()

    def metrics(self) -> str:
        """Give what is counted here, as Prometheus text."""
        totals = self._ingest.totals()
        failures = self._lease_failures + (self._fallback.failures if self._fallback else 0)
        families = [
            Family("forebay_ledger_records_total", "counter", "records written into the ledger", totals.records),
            Family(
                "forebay_ledger_failures_total",
                "counter",
                "times that the ledger could not be written",
                totals.failures,
            ),
            Family(
                "forebay_ledger_lag_bytes", "gauge", "bytes of the journal that are not in the ledger", totals.lag_bytes
            ),
            Family(
                "forebay_ledger_bad_frames_total",
                "counter",
                "frames of the journal that could not be read",
                totals.bad_frames + totals.bad_records,
            ),
            Family("forebay_lease_failures_total", "counter", "draws that the ledger could not serve", failures),
            Family(
                "forebay_stranded_leases", "gauge", "leases of dead processes, not known to be spent", self._stranded()
            ),
            Family(
                "forebay_budget_spent_ratio",
                "gauge",
                "largest spent share of a budget's values in the present period",
                {f'budget="{name}"': ratio for name, ratio in self._spent_ratios().items()},
            ),
            Family(
                "forebay_budget_threshold_total",
                "counter",
                "times that a value of a budget crossed a share",
                self._thresholds(totals.thresholds),
            ),
        ]
        sent = self._telemetry.counts()
        families += [Family(name, "counter", _TELEMETRY_HELP[name], value) for name, value in sent.items()]
        return exposition(families)

    def _thresholds(self, crossed: Mapping[tuple[str, int], int]) -> Mapping[str, float]:
        # Every series begins at 0, or its first event would be no increase.
        known = {(b.name, p): 0 for b in self._policy.budgets for p in b.threshold_percents or _PERCENTS}
        return {f'budget="{b}",percent="{p}"': n for (b, p), n in sorted((known | dict(crossed)).items())}

    def _spent_ratios(self) -> Mapping[str, float]:
        try:
            return self._store.spent_ratios(int(time.time()))
        except StoreError:
            # The failure is counted where it was met first.
            return {}

    def _set_budgets(self, policy: Policy) -> None:
        plans = {
            budget.name: BudgetPlan(
                unit="tokens" if budget.unit == Budget.TOKENS else "nanousd",
                amount=budget.amount,
                percents=tuple(budget.threshold_percents) or _PERCENTS,
            )
            for budget in policy.budgets
        }
        try:
            self._store.set_budgets(plans)
        except StoreError as error:
            _log.error("the ledger does not know the budgets yet: %s", error)

    def _stranded(self) -> int:
        try:
            return len(self._store.stranded())
        except StoreError:
            return 0

    def _say_stranded(self) -> None:
        """Say what the process before left open, once what it wrote last is in the ledger."""
        now_s = time.monotonic()
        if self._say_at_s is None:
            self._say_at_s = now_s + _CATCH_UP_S
        if self._ingest.totals().lag_bytes and now_s < self._say_at_s:
            return
        self._say_at_s = float("inf")
        try:
            stranded = self._store.stranded()
        except StoreError:
            return
        for lease in stranded[:_SAID_STRANDED]:
            _log.warning(
                "a process that died left a lease of `%s` for `%s` open: %d %s drawn, %d known to be spent, so %d stay "
                "counted as spent",
                *(lease.budget, lease.value, lease.granted, lease.unit, lease.settled, lease.stranded),
            )
        if len(stranded) > _SAID_STRANDED:
            _log.warning("%d more leases were left open", len(stranded) - _SAID_STRANDED)

    def _draw(self) -> None:
        while True:
            asked = self._gateway.next_leases(_LEASE_WAIT_MS) if self._gateway else None
            if asked is None:
                return
            if self._say_at_s != float("inf"):
                self._say_stranded()
            if asked:
                self._serve([LeaseAsk(*ask) for ask in asked])

    def _serve(self, asks: list[LeaseAsk]) -> None:
        try:
            grants = self._store.draw(asks)
        except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever went wrong
            self._lease_failures += 1
            _log.warning("no lease could be drawn: %s", error)
            for ask in asks:
                self._engine.lease_failed(ask.token)
            return
        for grant in grants:
            self._engine.grant(grant.token, grant.granted, grant.left)
