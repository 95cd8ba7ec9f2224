"""The balance of each bucket: what its owners have drawn, and what their records say they have spent.

Owns: the arithmetic of drawn, granted, settled and spent. Must not know: transactions, rows of the ledger.
On failure: it runs within the caller's transaction, which is rolled back; `forget` then drops what was remembered.

A bucket's `drawn` is the sum over its owners of max(granted, settled). So a record within its lease changes nothing,
whenever it comes and whoever is still alive; what an upstream charged above its bound, or a budget without leases
spent, raises it by just the excess; and a lease whose owner died stays counted in full.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from forebay.store.interface import BudgetPlan, LeaseAsk, LeaseBalance, LeaseGrant, StrandedLease, ThresholdEvent

__all__ = ["Buckets", "close_orphans", "stranded"]

_MAX_SUM = (1 << 63) - 1
_MAX_REMEMBERED = 50_000

# As few statements as there can be, for the reason that stands in `records.py`.
_AT_ONCE = 250
_STATE = """
    SELECT id, budget, value, period_start_s, drawn, spent, coalesce(granted, 0), coalesce(settled, 0)
    FROM bucket LEFT JOIN lease ON bucket_id = id AND owner_id = ? WHERE id IN
"""
_SETTLE = """
    INSERT INTO lease VALUES {} ON CONFLICT (bucket_id, owner_id) DO UPDATE SET settled = excluded.settled
"""


class Buckets:
    """Works on the tables `bucket`, `lease`, `threshold` and `owner`; remembers a bounded number of ids."""

    def __init__(self) -> None:
        # Read by `Records` for every charge, without a call; only `bucket` adds to it.
        self.known: dict[tuple[str, str, int], int] = {}
        self._owners: dict[str, int] = {}
        self._crossed: set[tuple[int, int]] = set()

    def forget(self) -> None:
        """Drop remembered ids: those made in a transaction that was rolled back are not there."""
        self.known.clear()
        self._owners.clear()
        self._crossed.clear()

    def owner(self, db: sqlite3.Connection, name: str) -> int:
        """Give the id of an owner, made where it is new."""
        found = self._owners.get(name)
        if found is None:
            db.execute("INSERT OR IGNORE INTO owner (name) VALUES (?)", (name,))
            found = int(db.execute("SELECT id FROM owner WHERE name = ?", (name,)).fetchone()[0])
            self._owners[name] = found
        return found

    def bucket(self, db: sqlite3.Connection, budget: str, value: str, period_start_s: int) -> int:
        """Give the id of a bucket, made where it is new."""
        key = (budget, value, period_start_s)
        found = self.known.get(key)
        if found is None:
            db.execute("INSERT OR IGNORE INTO bucket (budget, value, period_start_s) VALUES (?, ?, ?)", key)
            row = db.execute(
                "SELECT id FROM bucket WHERE budget = ? AND value = ? AND period_start_s = ?", key
            ).fetchone()
            if len(self.known) >= _MAX_REMEMBERED:
                self.known.clear()
            found = self.known[key] = int(row[0])
        return found

    def draw(self, db: sqlite3.Connection, owner: int, ask: LeaseAsk) -> LeaseGrant:
        """Grant what is wanted as far as it is left."""
        bucket = self._known(db, ask)
        drawn = _drawn(db, bucket)
        granted = max(0, min(ask.want, ask.amount - drawn))
        drawn += self._grant(db, bucket, owner, granted)
        return LeaseGrant(token=ask.token, granted=granted, left=max(0, ask.amount - drawn))

    def adopt(self, db: sqlite3.Connection, owner: int, ask: LeaseAsk) -> None:
        """Write down a grant that was given already."""
        self._grant(db, self._known(db, ask), owner, max(0, ask.want))

    def give_back(self, db: sqlite3.Connection, owner: int, balance: LeaseBalance) -> None:
        """Take back what was not used; the records of what was may still be on their way."""
        bucket = self.bucket(db, balance.budget, balance.value, balance.period_start_s)
        granted, settled = _lease(db, bucket, owner)
        kept = min(max(0, granted - balance.granted + balance.used), _MAX_SUM)
        db.execute("INSERT OR REPLACE INTO lease VALUES (?, ?, 'closed', ?, ?)", (bucket, owner, kept, settled))
        _add_drawn(db, bucket, max(kept, settled) - max(granted, settled))

    def settle(
        self, db: sqlite3.Connection, changes: Mapping[tuple[int, int], int], plans: Mapping[str, BudgetPlan]
    ) -> list[ThresholdEvent]:
        """Add what records say to the buckets, by (bucket, owner).

        Returns: the thresholds that are reached for the first time ever.
        Cost: about 5 µs for each bucket.
        """
        events: list[ThresholdEvent] = []
        by_owner: defaultdict[int, dict[int, int]] = defaultdict(dict)
        for (bucket, owner), amount in changes.items():
            by_owner[owner][bucket] = amount
        for owner, amounts in by_owner.items():
            for some in _in_parts(list(amounts), _AT_ONCE):
                events += self._settle(db, owner, {bucket: amounts[bucket] for bucket in some}, plans)
        return events

    def _settle(
        self, db: sqlite3.Connection, owner: int, amounts: Mapping[int, int], plans: Mapping[str, BudgetPlan]
    ) -> list[ThresholdEvent]:
        """Settle buckets of one owner. One that is not found is of a row older than the retention: it is gone."""
        events: list[ThresholdEvent] = []
        sums: list[tuple[int, int, int]] = []
        leases: list[int] = []
        marks = ", ".join("?" * len(amounts))
        found = db.execute(_STATE + f"({marks})", (owner, *amounts)).fetchall()
        for bucket, budget, value, start, drawn, spent, granted, before in found:
            settled = min(max(0, before + amounts[bucket]), _MAX_SUM)
            spends = min(max(0, spent + settled - before), _MAX_SUM)
            draws = min(max(0, drawn + max(granted, settled) - max(granted, before)), _MAX_SUM)
            sums.append((draws, spends, bucket))
            leases += (bucket, owner, settled)
            plan = plans.get(budget)
            if plan is not None:
                events += [
                    ThresholdEvent(budget, value, start, percent, spends, plan.amount)
                    for percent in plan.percents
                    if spends * 100 >= plan.amount * percent and self._crosses(db, bucket, percent)
                ]
        if sums:
            db.executemany("UPDATE bucket SET drawn = ?, spent = ? WHERE id = ?", sums)
            db.execute(_SETTLE.format(", ".join(["(?, ?, 'closed', 0, ?)"] * len(sums))), leases)
        return events

    def _crosses(self, db: sqlite3.Connection, bucket: int, percent: int) -> bool:
        """Say whether this is the first time, and remember it for ever."""
        if (bucket, percent) in self._crossed:
            return False
        if len(self._crossed) >= _MAX_REMEMBERED:
            self._crossed.clear()
        self._crossed.add((bucket, percent))
        return db.execute("INSERT OR IGNORE INTO threshold VALUES (?, ?)", (bucket, percent)).rowcount > 0

    def _known(self, db: sqlite3.Connection, ask: LeaseAsk) -> int:
        """Give the bucket of an ask, which is also what tells its end, its unit and its present amount."""
        bucket = self.bucket(db, ask.budget, ask.value, ask.period_start_s)
        db.execute(
            "UPDATE bucket SET period_end_s = :end, unit = :unit, amount = :amount WHERE id = :id "
            "AND (period_end_s IS NOT :end OR unit IS NOT :unit OR amount IS NOT :amount)",
            {"end": ask.period_end_s, "unit": ask.unit, "amount": ask.amount, "id": bucket},
        )
        return bucket

    def _grant(self, db: sqlite3.Connection, bucket: int, owner: int, amount: int) -> int:
        """Add a grant to a lease; gives how much it changes what is drawn."""
        if not amount:
            return 0
        granted, settled = _lease(db, bucket, owner)
        now = min(granted + amount, _MAX_SUM)
        db.execute("INSERT OR REPLACE INTO lease VALUES (?, ?, 'open', ?, ?)", (bucket, owner, now, settled))
        more = max(now, settled) - max(granted, settled)
        _add_drawn(db, bucket, more)
        return more


def close_orphans(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """Close all open leases, whose owners must be dead.

    Returns: (bucket, owner) of those from which something was still to be spent.
    """
    orphans = db.execute("SELECT bucket_id, owner_id, granted > settled FROM lease WHERE state = 'open'").fetchall()
    db.execute(
        "UPDATE lease SET state = CASE WHEN granted > settled THEN 'stranded' ELSE 'closed' END WHERE state = 'open'"
    )
    return [(bucket, owner) for bucket, owner, left in orphans if left]


def stranded(db: sqlite3.Connection, leases: Sequence[tuple[int, int]]) -> list[StrandedLease]:
    """Tell how these leases stand now."""
    told = []
    for bucket, owner in leases:
        row = db.execute(
            "SELECT owner.name, budget, value, coalesce(unit, ''), period_start_s, coalesce(period_end_s, 0), "
            "granted, settled FROM lease JOIN bucket ON bucket.id = bucket_id JOIN owner ON owner.id = owner_id "
            "WHERE bucket_id = ? AND owner_id = ?",
            (bucket, owner),
        ).fetchone()
        if row is not None:
            told.append(StrandedLease(*row))
    return told


def _lease(db: sqlite3.Connection, bucket: int, owner: int) -> tuple[int, int]:
    row = db.execute(
        "SELECT granted, settled FROM lease WHERE bucket_id = ? AND owner_id = ?", (bucket, owner)
    ).fetchone()
    return (0, 0) if row is None else (row[0], row[1])


def _drawn(db: sqlite3.Connection, bucket: int) -> int:
    return int(db.execute("SELECT drawn FROM bucket WHERE id = ?", (bucket,)).fetchone()[0])


def _add_drawn(db: sqlite3.Connection, bucket: int, amount: int) -> None:
    if amount:
        drawn = min(max(0, _drawn(db, bucket) + amount), _MAX_SUM)
        db.execute("UPDATE bucket SET drawn = ? WHERE id = ?", (drawn, bucket))


def _in_parts(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
