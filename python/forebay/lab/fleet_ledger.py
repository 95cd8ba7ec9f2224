"""A fleet's own books: for each request what the model read and wrote, and whether the other side was told.

Owns one entry a request, from its arrival to its end. Must not know a gateway's ids or prices.
Counting cannot fail and never decides.

What counts as used: nothing where the request failed; otherwise the prompt, which a model reads at once, and of the
output what was generated until the end, also where nobody read it any more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

TRIAL_HEADER = "x-trial-id"
KEPT = 200_000


@dataclass(slots=True)
class FleetEntry:
    """One request.

    `trial`: what the client sent in `x-trial-id`. `outcome`: `ok`, `failed`, `reset`, `aborted` or `refused`; empty
    while it runs. `usage_told`: the final usage was written, if the connection lived. Tokens as in `Usage`.
    """

    trial: str
    request_id: str
    path: str
    model: str = ""
    streamed: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    usage_told: bool = False
    outcome: str = ""


class FleetLedger:
    """The entries in order of arrival, the last `kept` of them."""

    def __init__(self, kept: int = KEPT) -> None:
        self._entries: deque[FleetEntry] = deque(maxlen=kept)

    def begin(self, path: str, trial: str | None, request_id: str | None) -> FleetEntry:
        """Opens an entry; whoever asked fills it."""
        entry = FleetEntry(trial or "", request_id or "", path)
        self._entries.append(entry)
        return entry

    def entries(self) -> list[FleetEntry]:
        """All of them."""
        return list(self._entries)

    def json(self) -> list[dict[str, Any]]:
        """The form of GET /lab/ledger."""
        return [asdict(entry) for entry in self._entries]
