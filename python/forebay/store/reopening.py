"""A store that cannot be opened yet: a corrupt or locked file does not keep a gateway from starting.

Owns: opening on the first use that succeeds, at most once in a while. Must not know: which store it is.
On failure: every call raises the StoreError that opening raised, until opening succeeds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from forebay.errors import StoreClosed, StoreError, StoreInUse
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

__all__ = ["ReopeningStore"]

_log = logging.getLogger(__name__)


class ReopeningStore:
    """A Store that `opening` gives, tried now and later once in `retry_ms`.

    Raises: StoreInUse when constructed: another gateway on the same folder is a person's error, and does not pass.
    """

    def __init__(self, opening: Callable[[], Store], *, now_ns: Callable[[], int], retry_ms: int = 5_000) -> None:
        self._opening = opening
        self._now_ns = now_ns
        self._retry_ns = retry_ms * 1_000_000
        self._retry_at_ns = 0
        self._store: Store | None = None
        self._error: StoreError | None = None
        self._plans: Mapping[str, BudgetPlan] | None = None
        self._turn = threading.Lock()
        try:
            self._opened()
        except StoreInUse:
            raise
        except StoreError as error:
            _log.error("the ledger cannot be opened, and is tried again: %s", error)

    def _opened(self) -> Store:
        with self._turn:
            if self._store is not None:
                return self._store
            if self._error is not None and self._now_ns() < self._retry_at_ns:
                raise type(self._error)(str(self._error))
            try:
                store = self._opening()
                if self._plans is not None:
                    store.set_budgets(self._plans)
            except StoreError as error:
                self._error = error
                self._retry_at_ns = self._now_ns() + self._retry_ns
                raise
            self._store = store
            return store

    def draw(self, asks: Sequence[LeaseAsk]) -> list[LeaseGrant]:
        """See `Store.draw`."""
        return self._opened().draw(asks)

    def adopt(self, asks: Sequence[LeaseAsk]) -> None:
        """See `Store.adopt`."""
        self._opened().adopt(asks)

    def give_back(self, balances: Sequence[LeaseBalance]) -> None:
        """See `Store.give_back`."""
        self._opened().give_back(balances)

    def stranded(self) -> list[StrandedLease]:
        """See `Store.stranded`."""
        return self._opened().stranded()

    def set_budgets(self, plans: Mapping[str, BudgetPlan]) -> None:
        """See `Store.set_budgets`; plans that come too early are kept for the opening."""
        with self._turn:
            self._plans = dict(plans)
        self._opened().set_budgets(plans)

    def spent_ratios(self, now_s: int) -> dict[str, float]:
        """See `Store.spent_ratios`."""
        return self._opened().spent_ratios(now_s)

    def write(self, rows: Sequence[LedgerRow], position: JournalPosition) -> list[ThresholdEvent]:
        """See `Store.write`."""
        return self._opened().write(rows, position)

    def position(self) -> JournalPosition:
        """See `Store.position`."""
        return self._opened().position()

    def sync(self) -> None:
        """See `Store.sync`."""
        self._opened().sync()

    def prune(self, before_unix_ns: int, limit: int) -> int:
        """See `Store.prune`."""
        return self._opened().prune(before_unix_ns, limit)

    def close(self) -> None:
        """Close what was opened; later calls raise StoreClosed."""
        with self._turn:
            if self._store is not None:
                self._store.close()
            else:
                self._error = StoreClosed("the store is closed")
                self._retry_at_ns = 1 << 63
