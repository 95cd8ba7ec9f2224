"""64 clients race for one hard budget: never a nano-USD above it, by anybody's count, and nothing is left unused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

from account_books import LedgerFolder, report
from account_site import assert_books_agree, bookkeeping, budget, price, quiet, spend_all, upstream_cost
from chain import Chain
from forebay.errors import StoreError

CLIENTS = 64
AMOUNT = 9_999_991
MAX_TOKENS = 32


class Watch:
    """Looks again and again at what is drawn and spent, and at what the upstream has counted."""

    def __init__(self, chain: Chain, ledger: LedgerFolder) -> None:
        self._chain, self._ledger = chain, ledger
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.looks = 0
        self.most = 0

    def __enter__(self) -> Watch:  # noqa: PYI034 - `Self` is not in Python 3.10
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            seen = [upstream_cost(self._chain.small)]
            try:
                for bucket in self._ledger.buckets():
                    seen += [bucket["drawn"], bucket["spent"]]
            except StoreError:
                pass
            self.most = max(self.most, *seen)
            self.looks += 1


def test_racing_clients_never_pass_a_hard_budget(sites: Callable[..., Chain], tmp_path: Path) -> None:
    chain = sites(bookkeeping(tmp_path, budget("all-money", AMOUNT)))
    ledger = LedgerFolder(tmp_path / "ledger")
    answers: list[Any] = []
    chain.client()

    def client(number: int) -> Callable[[], None]:
        def ask() -> None:
            for turn in range(1_000):
                try:
                    streamed = {"stream": True} if (number + turn) % 2 else {}
                    raw = chain.chat(f"race {number} {turn}", max_tokens=MAX_TOKENS, **streamed)
                    answers.append(raw)
                    if streamed:
                        list(raw.parse())
                except openai.APIStatusError as error:  # noqa: PERF203 - each request may be the refused one
                    answers.append(error)
                    return

        return ask

    with Watch(chain, ledger) as watch:
        results = chain.at_once([client(number) for number in range(CLIENTS)])
        assert [result for result in results if result is not None] == []
        quiet(chain)
        # One after the other: what racing clients had reserved and not used is spent as well.
        last = spend_all(chain, "last", max_tokens=MAX_TOKENS)
    errors = [answer for answer in answers if isinstance(answer, openai.APIStatusError)]
    assert len(errors) == CLIENTS
    for error in [*errors, last]:
        assert (error.status_code, error.code, error.type) == (429, "budget_exhausted", "insufficient_quota"), error
        assert int(error.response.headers["retry-after"]) > 0
    assert watch.looks > 20
    assert watch.most <= AMOUNT
    assert_books_agree(chain)
    bucket = ledger.bucket("all-money")
    rows = ledger.rows()
    upstream = upstream_cost(chain.small)
    assert bucket["spent"] == upstream == sum(row["cost_nanousd"] for row in rows) <= bucket["drawn"] <= AMOUNT
    assert AMOUNT - bucket["spent"] < price(12, MAX_TOKENS), "what is left would have served one more"
    # A client that closes after `[DONE]`, before the last chunk, has left; what it used is exact all the same.
    assert {row["outcome"] for row in rows} <= {"ok", "refused", "aborted"}
    assert sum(row["outcome"] != "refused" for row in rows) == len(chain.small.ledger.entries())
    figures = {"clients": CLIENTS, "amount_nanousd": AMOUNT, "spent_nanousd": bucket["spent"], "most_seen": watch.most}
    report("race", figures | {"upstream_nanousd": upstream, "requests": len(rows), "looks": watch.looks})
