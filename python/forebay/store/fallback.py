"""Going on while the store is away: budgets count in memory, from what was last known.

Owns: what is known of each bucket, and what was granted without the store. Must not know: which store it is.
On failure: open, as the policy asked (`COUNT_IN_MEMORY`): a budget then still ends at its amount, as far as this
process has seen it. A policy that says `REFUSE` uses the store without this class, and grants nothing meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from forebay.errors import StoreError
from forebay.store.interface import (
    BudgetPlan,
    JournalPosition,
    LeaseAsk,
    LeaseBalance,
    LeaseGrant,
    LedgerRow,
    Store,
    StrandedLease,
    ThresholdEvent,
)

__all__ = ["FallbackStore"]

_log = logging.getLogger(__name__)
_MAX_REMEMBERED = 100_000

_Key = tuple[str, str, int]


@dataclass(slots=True)
class _Known:
    """One bucket as this process has seen it: `drawn` in all, and of it `pending`, which the store has not."""

    ask: LeaseAsk
    drawn: int = 0
    pending: int = 0


class FallbackStore:
    """A Store that answers draws from memory while `primary` fails, and brings it up to date when it is back.

    Everything but draws goes to `primary` as it is, with its errors: rows wait in the journal, which loses nothing.
    A bucket that was never drawn from before the failure counts as untouched. While the store is away it is tried
    once in `retry_ms`, so a draw does not wait for its deadline each time.
    """

    def __init__(self, primary: Store, *, now_ns: Callable[[], int], retry_ms: int = 1_000) -> None:
        self._primary = primary
        self._now_ns = now_ns
        self._retry_ns = retry_ms * 1_000_000
        self._retry_at_ns = 0
        self._known: dict[_Key, _Known] = {}
        self._failures = 0
        # Only draws and give_back take it; rows go past it.
        self._drawing = threading.Lock()

    @property
    def failures(self) -> int:
        """How many draws were answered from memory because the store failed."""
        return self._failures

    @property
    def pending(self) -> int:
        """How many buckets have grants that the store has not written down yet."""
        return sum(known.pending > 0 for known in list(self._known.values()))

    def draw(self, asks: Sequence[LeaseAsk]) -> list[LeaseGrant]:
        """See `Store.draw`; a grant given while the store is away is not durable. It never raises a StoreError."""
        with self._drawing:
            if self._now_ns() >= self._retry_at_ns:
                try:
                    self._write_pending()
                    grants = self._primary.draw(asks)
                except StoreError as error:
                    if not self._retry_at_ns:
                        _log.warning("leases are counted in memory until the store is back: %s", error)
                    self._retry_at_ns = self._now_ns() + self._retry_ns
                else:
                    if self._retry_at_ns:
                        _log.warning("the store is back, and has what was granted in memory")
                        self._retry_at_ns = 0
                    self._learn(asks, grants)
                    return grants
            self._failures += 1
            return [self._draw_in_memory(ask) for ask in asks]

    def adopt(self, asks: Sequence[LeaseAsk]) -> None:
        """See `Store.adopt`."""
        self._primary.adopt(asks)

    def give_back(self, balances: Sequence[LeaseBalance]) -> None:
        """See `Store.give_back`; what is pending is written first."""
        with self._drawing:
            self._write_pending()
            self._primary.give_back(balances)
            for balance in balances:
                known = self._known.get((balance.budget, balance.value, balance.period_start_s))
                if known is not None:
                    known.drawn = max(0, known.drawn - balance.granted + balance.used)

    def stranded(self) -> list[StrandedLease]:
        """See `Store.stranded`."""
        return self._primary.stranded()

    def set_budgets(self, plans: Mapping[str, BudgetPlan]) -> None:
        """See `Store.set_budgets`."""
        self._primary.set_budgets(plans)

    def spent_ratios(self, now_s: int) -> dict[str, float]:
        """See `Store.spent_ratios`."""
        return self._primary.spent_ratios(now_s)

    def write(self, rows: Sequence[LedgerRow], position: JournalPosition) -> list[ThresholdEvent]:
        """See `Store.write`."""
        return self._primary.write(rows, position)

    def position(self) -> JournalPosition:
        """See `Store.position`."""
        return self._primary.position()

    def sync(self) -> None:
        """See `Store.sync`."""
        self._primary.sync()

    def prune(self, before_unix_ns: int, limit: int) -> int:
        """See `Store.prune`."""
        return self._primary.prune(before_unix_ns, limit)

    def close(self) -> None:
        """Write down what is pending, if that is possible now, and close."""
        with self._drawing:
            try:
                self._write_pending()
            except StoreError as error:
                _log.warning("grants of %d buckets were never written down: %s", self.pending, error)
        self._primary.close()

    def _draw_in_memory(self, ask: LeaseAsk) -> LeaseGrant:
        key = (ask.budget, ask.value, ask.period_start_s)
        known = self._known.get(key)
        if known is None:
            known = self._remember(key, ask)
        known.ask = ask
        granted = max(0, min(ask.want, ask.amount - known.drawn))
        known.drawn += granted
        known.pending += granted
        return LeaseGrant(token=ask.token, granted=granted, left=max(0, ask.amount - known.drawn))

    def _learn(self, asks: Sequence[LeaseAsk], grants: Sequence[LeaseGrant]) -> None:
        for ask, grant in zip(asks, grants, strict=True):
            key = (ask.budget, ask.value, ask.period_start_s)
            known = self._known.get(key) or self._remember(key, ask)
            known.ask = ask
            known.drawn = ask.amount - grant.left

    def _remember(self, key: _Key, ask: LeaseAsk) -> _Known:
        if len(self._known) >= _MAX_REMEMBERED:
            # The earliest periods first; what the store has not written down yet is never dropped.
            idle = sorted((k for k, known in self._known.items() if not known.pending), key=lambda k: k[2])
            for old in idle[: max(1, len(idle) // 2)]:
                del self._known[old]
        known = self._known[key] = _Known(ask)
        return known

    def _write_pending(self) -> None:
        pending = [known for known in self._known.values() if known.pending]
        if pending:
            self._primary.adopt([replace(known.ask, want=known.pending) for known in pending])
            for known in pending:
                known.pending = 0
