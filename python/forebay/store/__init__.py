"""What is kept across restarts: leases of budgets, and the ledger.

Owns: the `Store` Protocol and its SQLite implementation. Must not know: policy, the engine, telemetry.
On failure: StoreError, one slug for each kind; `FallbackStore` goes on in memory where the policy wants that.
"""

from __future__ import annotations

from forebay.store.fallback import FallbackStore
from forebay.store.interface import (
    BudgetPlan,
    Charge,
    JournalPosition,
    LeaseAsk,
    LeaseBalance,
    LeaseGrant,
    LedgerRow,
    Store,
    StrandedLease,
    ThresholdEvent,
)
from forebay.store.reader import LedgerReader
from forebay.store.reopening import ReopeningStore
from forebay.store.sqlite import FILE_NAME, SqliteStore

__all__ = [
    "FILE_NAME",
    "BudgetPlan",
    "Charge",
    "FallbackStore",
    "JournalPosition",
    "LeaseAsk",
    "LeaseBalance",
    "LeaseGrant",
    "LedgerReader",
    "LedgerRow",
    "ReopeningStore",
    "SqliteStore",
    "Store",
    "StrandedLease",
    "ThresholdEvent",
]
