"""What is kept across restarts: leases of budgets, the ledger's rows, and how far the journal was read.

Owns: the nouns of the store and its Protocol. Must not know: SQLite, the journal's form, protobuf.
On failure: every method raises a StoreError and has then changed nothing; the caller tries again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

__all__ = [
    "KIND_COLUMNS",
    "MAX_AMOUNT",
    "NUMBER_COLUMNS",
    "TEXT_COLUMNS",
    "BudgetPlan",
    "Charge",
    "JournalPosition",
    "LeaseAsk",
    "LeaseBalance",
    "LeaseGrant",
    "LedgerRow",
    "Store",
    "StrandedLease",
    "ThresholdEvent",
]

KIND_COLUMNS = (
    "tenant",
    "key",
    "route",
    "operation",
    "model",
    "pool",
    "provider",
    "endpoint",
    "reason",
    "outcome",
    "code",
    "status",
    "cache",
    "stream",
    "usage",
    "cost_known",
    "price_revision",
    "policy",
)
"""What many rows have in common: values that the policy bounds. Each combination is written once."""

TEXT_COLUMNS = ("user", "feature", "run", "eval", "model_asked")
"""What clients may choose freely, so every row holds its own."""

BATCH_COLUMNS = ("rows", "batch_rows", "tensor_tokens", "padded_tokens", "service_ns")
"""What the batch service tells of a request."""

NUMBER_COLUMNS = (
    "unix_ns",
    "prompt_tokens",
    "cached_prompt_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_nanousd",
    "reserved_nanousd",
    "reserved_tokens",
    "saved_by_cache_nanousd",
    "saved_by_routing_nanousd",
    "queue_ns",
    "first_byte_ns",
    "first_token_ns",
    "last_byte_ns",
    "duration_ns",
    "attempts",
    *BATCH_COLUMNS,
)


MAX_AMOUNT = (1 << 53) - 1
"""The most that one request is written down with: 9 million USD. A thousand of them still fit SQLite's integers."""


@dataclass(frozen=True, slots=True)
class LeaseAsk:
    """A share that is wanted from one bucket, which is (`budget`, `value`, `period_start_s`).

    Units: `amount` (the budget's) and `want` in `unit`, which is `nanousd` or `tokens`; times in seconds since 1970.
    """

    token: int
    budget: str
    value: str
    unit: str
    period_start_s: int
    period_end_s: int
    amount: int
    want: int


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """The answer to the ask with the same token; `left` is what the bucket could still give after it."""

    token: int
    granted: int
    left: int


@dataclass(frozen=True, slots=True)
class LeaseBalance:
    """What an owner that stops in order has drawn from one bucket in all, and what of it was used."""

    budget: str
    value: str
    period_start_s: int
    granted: int
    used: int


@dataclass(frozen=True, slots=True)
class StrandedLease:
    """What a process that died had drawn. It stays counted as drawn; `settled` of it is known from its records."""

    owner: str
    budget: str
    value: str
    unit: str
    period_start_s: int
    period_end_s: int
    granted: int
    settled: int

    @property
    def stranded(self) -> int:
        """What nobody can spend any more, although it was perhaps not spent."""
        return max(0, self.granted - self.settled)


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """What the policy says of a budget now: its amount in `unit`, and the spent shares that raise an event."""

    unit: str
    amount: int
    percents: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ThresholdEvent:
    """One bucket's spend has reached `percent` of `amount`; raised once in the bucket's life."""

    budget: str
    value: str
    period_start_s: int
    percent: int
    spent: int
    amount: int


class JournalPosition(NamedTuple):
    """Where to read on: the segment's number (from 1; 0: nothing was read) and the offset in it, in bytes."""

    segment: int = 0
    offset: int = 0


class Charge(NamedTuple):
    """What one bucket is charged for one request; a plain tuple in this order does as well."""

    budget: str
    value: str
    period_start_s: int
    amount: int


class LedgerRow(NamedTuple):
    """One request as it is stored. A row with the id of an earlier one replaces it.

    Shape: `kind`, `texts` and `numbers` follow `KIND_COLUMNS`, `TEXT_COLUMNS` and `NUMBER_COLUMNS`.
    """

    id: bytes
    kind: tuple[str | int | bool, ...]
    texts: tuple[str, ...]
    numbers: tuple[int, ...]
    decide_ns: int
    stage_ns: str
    trace_id: bytes
    owner: str
    charges: Sequence[Charge]


class Store(Protocol):
    """Leases for one thread and the ledger's rows for another; every method is atomic and safe for threads."""

    def draw(self, asks: Sequence[LeaseAsk]) -> list[LeaseGrant]:
        """Grant min(want, amount - drawn) of each bucket.

        Returns: one grant for each ask, in order; they are durable. What is granted never sums up above the amount.
        """
        ...

    def adopt(self, asks: Sequence[LeaseAsk]) -> None:
        """Write down what was granted without the store: `want` of each, whatever is left."""
        ...

    def give_back(self, balances: Sequence[LeaseBalance]) -> None:
        """Take back what this owner has not used: drawn -= granted - used."""
        ...

    def stranded(self) -> list[StrandedLease]:
        """Give the leases that were found without a living owner when the store was opened, as they stand now."""
        ...

    def set_budgets(self, plans: Mapping[str, BudgetPlan]) -> None:
        """Replace what is known of the budgets, by name; later writes raise events by it."""
        ...

    def spent_ratios(self, now_s: int) -> dict[str, float]:
        """Give for each known budget the largest spent share of its values in the present period."""
        ...

    def write(self, rows: Sequence[LedgerRow], position: JournalPosition) -> list[ThresholdEvent]:
        """Write rows, the sums of their buckets and the position in one transaction.

        Returns: the thresholds that were crossed for the first time.
        """
        ...

    def position(self) -> JournalPosition:
        """Give the position of the last write."""
        ...

    def sync(self) -> None:
        """Bring everything written so far through a power failure; a write alone outlives only the process."""
        ...

    def prune(self, before_unix_ns: int, limit: int) -> int:
        """Delete at most `limit` rows older than `before_unix_ns`; the buckets' sums stay as they are.

        Returns: how many were deleted.
        """
        ...

    def close(self) -> None:
        """Release everything; closing twice is well."""
        ...
