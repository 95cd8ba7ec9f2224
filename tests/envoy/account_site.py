"""A chain that keeps books: the policy of the chain tests with a ledger, budgets and prices to the nano-USD.

Owns: the policy's changes, prices, and what an upstream's own count costs. Must not know: what a test expects.
On failure: as the chain.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

from account_books import LedgerFolder
from chain import Chain
from chain_fleet import ScriptedFleet
from envoy_rig import until

PROMPT_PRICE, OUTPUT_PRICE = 150_000_001, 600_000_007
"""Nano-USD for a million tokens; odd, so that a wrong rounding shows."""

Change = Callable[[dict[str, Any]], None]


def ledger_of(chain: Chain) -> LedgerFolder:
    """The ledger of a chain under `bookkeeping`."""
    return LedgerFolder(Path(chain.policy["ledger"]["directory"]))


def bookkeeping(folder: Path, *budgets: dict[str, Any], **ledger: Any) -> Change:
    """The change of the chain's policy: a ledger in `folder`, these budgets, prices for all models."""

    def change(policy: dict[str, Any]) -> None:
        policy["ledger"] = {"directory": str(folder / "ledger"), **ledger}
        policy["budgets"] = list(budgets)
        for model in policy["models"]:
            model["prices"] = {
                "prompt_nanousd_per_million_tokens": PROMPT_PRICE,
                "output_nanousd_per_million_tokens": OUTPUT_PRICE,
                "revision": "test-1",
            }

    return change


def both(*changes: Change) -> Change:
    """One change after the other."""

    def change(policy: dict[str, Any]) -> None:
        for one in changes:
            one(policy)

    return change


def budget(name: str, amount: int, scope: str = "TENANT", unit: str = "NANOUSD", **more: Any) -> dict[str, Any]:
    """A hard budget of the month, which does not end while a test runs."""
    return {"name": name, "scope": scope, "unit": unit, "amount": amount, "period": "MONTH", **more}


def price(prompt_tokens: int, output_tokens: int) -> int:
    """What so many tokens cost, in nano-USD, rounded up."""
    return -(-(prompt_tokens * PROMPT_PRICE + output_tokens * OUTPUT_PRICE) // 1_000_000)


def upstream_cost(*fleets: ScriptedFleet) -> int:
    """What the fleets' own count costs."""
    return sum(price(e.prompt_tokens, e.output_tokens) for fleet in fleets for e in fleet.ledger.entries())


def quiet(chain: Chain, still_s: float = 0.0) -> None:
    """Wait until nothing is reserved, and the journal is in the ledger; and for `still_s` nothing more came.

    A gateway that has read the journal of one before it has written more than it made: there only stillness tells.
    """
    seen, since = -1.0, time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen, since
        metrics = chain.metrics()
        total = {name: sum(value for _, value in series) for name, series in metrics.items()}
        written = total["forebay_ledger_records_total"]
        if written != seen:
            seen, since = written, time.monotonic()
        held = total["forebay_open_reservations"] or total["forebay_ledger_lag_bytes"]
        whole = written >= total["forebay_ledger_made_total"]
        return not held and whole and time.monotonic() - since >= still_s

    until(is_quiet, "the books are complete")


def assert_books_agree(chain: Chain) -> None:
    """The ledger's rows, every budget and the metrics have the same sums; nothing is open."""
    quiet(chain)
    rows, ledger = ledger_of(chain).rows(), ledger_of(chain)
    cost = sum(row["cost_nanousd"] for row in rows)
    tokens = sum(row["prompt_tokens"] + row["output_tokens"] for row in rows)
    for bucket in ledger.buckets():
        assert bucket["spent"] <= bucket["drawn"], bucket
    sums: dict[str, int] = {}
    for bucket in ledger.buckets():
        sums[bucket["budget"]] = sums.get(bucket["budget"], 0) + bucket["spent"]
    for name, whole in (("all-money", cost), ("all-tokens", tokens)):
        if name in sums:
            assert sums[name] == whole, (name, sums[name], whole)
    assert chain.metric("forebay_cost_nanousd_total") == cost
    ids = ledger.every_id()
    assert len(ids) == len(set(ids))


def spend_all(chain: Chain, text: str, **fields: Any) -> openai.RateLimitError:
    """Chat, one after the other, until a chat is refused while nothing is reserved; gives that refusal."""
    refused = 0
    for number in range(10_000):
        try:
            chain.chat(f"{text} {number}", **fields)
        except openai.RateLimitError as error:  # noqa: PERF203 - which one is refused is the question
            refused += 1
            if refused == 2:
                return error
            # What is reserved counts as spent until its entry comes.
            until(lambda: chain.metric("forebay_open_reservations") == 0, "nothing is open")
        else:
            refused = 0
    raise AssertionError("the budget never ends")


class Load:
    """Clients that chat without a pause, plain and streamed, and remember what they saw complete."""

    def __init__(self, chain: Chain, clients: int = 8, key: str = "acme") -> None:
        self._chain = chain
        self._key = key
        chain.client(key)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._count = 0
        self.good: list[tuple[float, str]] = []
        self.refused: list[openai.APIStatusError] = []
        self.broken: list[Exception] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    @contextmanager
    def running(self) -> Iterator[Load]:
        """The load runs inside the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def more(self, count: int) -> None:
        """Wait until so many more answers were good."""
        before = len(self.good)
        until(lambda: len(self.good) >= before + count, f"{count} more good answers; refused: {self.refused[-3:]}")

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                self._count += 1
                number = self._count
            try:
                streamed = {"stream": True} if number % 2 else {}
                raw = self._chain.chat(f"load {number}", self._key, max_tokens=16, **streamed)
                parsed = raw.parse()
                if streamed:
                    list(parsed)
                self.good.append((time.monotonic(), raw.headers["x-forebay-request-id"]))
            except openai.APIStatusError as error:
                self.refused.append(error)
            except openai.APIError as error:
                self.broken.append(error)
