"""The gateway's books as rows with the ledger's field names, out of the file that the gateway writes.

Owns which columns are read. Must not know what they are compared with.
On failure: the store's errors, such as StoreMissing where nothing was written yet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forebay.store import LedgerReader

_COLUMNS = (
    "id",
    "tenant",
    "run",
    "eval",
    "operation",
    "model",
    "outcome",
    "status",
    "usage",
    "prompt_tokens",
    "cached_prompt_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_known",
    "cost_nanousd",
    "attempts",
)
_NAMED_BY = ("budget", "value", "period_start_s")
_BUCKETS = """
    SELECT bucket.id, bucket.budget, bucket.value, bucket.period_start_s, COALESCE(bucket.unit, plan.unit), bucket.spent
    FROM bucket LEFT JOIN plan ON plan.budget = bucket.budget
"""


def read_books(directory: str | Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The ledger and the budgets as they were at one moment.

    Returns: one mapping for each request, `id` in hex and `charges` as in the ledger's message; and what each value of
    each budget has spent, as `budget`, `value`, `period_start_s`, `unit`, `spent`.
    """
    reader = LedgerReader(directory)
    try:
        found = reader.rows(_BUCKETS)
        buckets = {row[0]: dict(zip(_NAMED_BY, row[1:4], strict=True)) for row in found}
        charges = dict(reader.rows("SELECT lower(hex(id)), charges FROM record"))
        rows = []
        for row in reader.rows(f"SELECT {', '.join(_COLUMNS)} FROM request"):
            named = dict(zip(_COLUMNS, row, strict=True))
            parts = [part.split(":") for part in charges[named["id"]].split(",") if part]
            rows.append(named | {"charges": [buckets[int(key)] | {"amount": int(amount)} for key, amount in parts]})
        return rows, [buckets[row[0]] | {"unit": row[4], "spent": row[5]} for row in found]
    finally:
        reader.close()
